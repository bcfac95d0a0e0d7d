"""Optuna: what was learned of learning rates as first trials of a study, or as a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from learnopt.integrations.optuna_space import fitted
from learnopt.tuner.knowledge import load
from learnopt.tuner.result import TuneResult

NAMES = {"lr": "lr", "schedule": "schedule", "weight_decay": "weight_decay"}
"""What the parameters are called in a study, by what they are called here."""

Settings = dict[str, Any]


def proposals(optimizer: str = "adamw", result: TuneResult | None = None, count: int = 8) -> list[Settings]:
    """`lr`, `schedule` and `weight_decay` in the order in which they should be tried.

    Args:
        optimizer: "adamw" or "sgd": whose learned list of configurations to take.
        result: of `learnopt.tune`: its recommendation comes first, then the two ends of its interval.

    Raises:
        ValueError: `count` is below 1, or the optimizer unknown.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    first: list[Settings] = []
    if result is not None:
        optimizer = result.optimizer
        rest = {"schedule": result.schedule, "weight_decay": result.weight_decay}
        first = [{"lr": lr} | rest for lr in (result.lr, *result.interval)]
    listed: list[Settings] = [c._asdict() for c in load(optimizer).portfolio]
    return (first + [c for c in listed if c not in first])[:count]


def warm_start(
    study: Study, *, optimizer: str = "adamw", result: TuneResult | None = None, count: int = 8,
    names: Mapping[str, str] = NAMES, space: Mapping[str, BaseDistribution] | None = None,
) -> int:  # fmt: skip
    """Enqueue what was learned as the study's next trials; those it has already are left out.

    Args:
        names: what the study calls `lr`, `schedule` and `weight_decay`; what is missing here is left to the sampler.
        space: the ranges and choices that the objective will suggest, by the study's names: what is not among them is
            left to the sampler. Optuna itself takes an enqueued number beyond its range, and fails at a choice that it
            does not know. None: as the study's last trial had them; of a new study everything is enqueued.

    Returns:
        How many trials were enqueued.
    """
    trials = study.get_trials(deepcopy=False)
    known = dict(trials[-1].distributions if trials and space is None else space or {})
    for settings in proposals(optimizer, result, count):
        named = {names[k]: v for k, v in settings.items() if k in names}
        fitting = {name: fitted(v, known[name]) if name in known else v for name, v in named.items()}
        enqueued = {name: v for name, v in fitting.items() if v is not None}
        if enqueued:
            study.enqueue_trial(enqueued, skip_if_exists=True)
    return len(study.get_trials(deepcopy=False)) - len(trials)


class LearnedSampler(BaseSampler):
    """Tries what was learned first, then leaves the study to another sampler, which sees how it went.

    A study that is spread over processes or machines through its storage shares the list: trial number `i` takes its
    `i`-th entry. Parameters that the list says nothing about, or whose range excludes its value, are the other
    sampler's from the start. For studies with one objective and any number of parameters.

    Args:
        base: the other sampler; None: TPE with `seed`.
        optimizer, result, count, names: as in `warm_start`.
    """

    def __init__(
        self, base: BaseSampler | None = None, *, optimizer: str = "adamw", result: TuneResult | None = None,
        count: int = 8, names: Mapping[str, str] = NAMES, seed: int | None = None,
    ) -> None:  # fmt: skip
        self._base = TPESampler(seed=seed) if base is None else base
        settings = proposals(optimizer, result, count)
        self._list = [{names[k]: v for k, v in s.items() if k in names} for s in settings]

    def __str__(self) -> str:
        return f"LearnedSampler({self._base})"

    def reseed_rng(self) -> None:
        """As Optuna asks for, in processes that were forked."""
        self._base.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The other sampler's space, without what the list decides."""
        space = self._base.infer_relative_search_space(study, trial)
        return {name: d for name, d in space.items() if self._listed(trial, name, d) is None}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The other sampler's values."""
        return self._base.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The list's value, or the other sampler's."""
        listed = self._listed(trial, param_name, param_distribution)
        if listed is not None:
            return listed
        return self._base.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """The other sampler's preparation."""
        self._base.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """The other sampler's clearing up."""
        self._base.after_trial(study, trial, state, values)

    def _listed(self, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """The list's value of a parameter if the trial has one and it is in the range; None otherwise."""
        value = self._list[trial.number].get(name) if trial.number < len(self._list) else None
        return fitted(value, distribution)


__all__ = ["NAMES", "LearnedSampler", "proposals", "warm_start"]

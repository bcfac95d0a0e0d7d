"""`LearnedPruner`: prunes Optuna trials that are unlikely to become their study's best."""

from __future__ import annotations

import math
import os
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from learnopt.integrations import optuna_space
from learnopt.stopping import neighbours, peer_features, peer_network
from learnopt.stopping import weights as stored
from learnopt.stopping.neighbours import Neighbours
from learnopt.stopping.peer_features import Peers
from learnopt.stopping.reading import CurveReader
from learnopt.stopping.stopper import check_number, check_whole

_KEPT = 4096
"""Trials whose curves are kept in memory, as far as they have been read."""
_TRUSTED = 128
"""Latest trials that show whether like parameters mean like results."""
_LEADING = 0.02
"""A leading trial is pruned, if at all, where its chance of getting better by `peer_features.MARGIN` is below this."""
_Key = tuple[str, int, datetime | None]
"""Name of a study, number and start of a trial: studies that follow each other may have one name."""


class LearnedPruner(BasePruner):
    """Prunes a trial once it is not worth its remaining steps: unlikely to beat the best one so far.

    Networks that have learned from recorded training runs read the trial's own curve, its standing among the finished
    trials and how those with like parameters fared. Every finished trial counts, pruned ones with what they had, so
    that it can prune from the second trial on; scale and sign of the values do not matter. A trial that is better than
    the best one was at the same step is not pruned, nor are the best twentieth (and the best one) at a step, and one
    that leads only if `prune_leaders` is set.

    Args:
        n_startup_trials: pruning is disabled until this number of trials has completed; 0 is as 1, since there is
            nothing to compare with before.
        n_warmup_steps: pruning is disabled before this step.
        interval_steps: steps between the checks, counted from `n_warmup_steps`; a check without a value is made up for
            at the next one.
        total_steps: last step of a trial that is not pruned; None: the longest completed trial's.
        threshold: prunes where the network's score, from 0 to 1, is below this: higher prunes more; None: as the
            weights were calibrated.
        prune_leaders: whether a trial ahead of all earlier ones is pruned as well when it is unlikely to improve:
            Optuna then has its value as an intermediate one only.
        use_parameters: whether trials with like parameters are looked at; a category that differs counts as far as
            the two ends of a range.
        weights: name of shipped weights or path of an artifact of `learnopt stopper-train`.

    Raises:
        ValueError: an argument is out of its range, or the weights are unknown, damaged or of another version.

    Example:
        >>> study = optuna.create_study(pruner=LearnedPruner())  # doctest: +SKIP
    """

    def __init__(
        self,
        n_startup_trials: int = 1,
        n_warmup_steps: int = 0,
        interval_steps: int = 1,
        *,
        total_steps: int | None = None,
        threshold: float | None = None,
        prune_leaders: bool = False,
        use_parameters: bool = True,
        weights: str | os.PathLike[str] = "default",
    ) -> None:
        self._n_startup_trials = check_whole(n_startup_trials, "n_startup_trials", 0)
        self._n_warmup_steps = check_whole(n_warmup_steps, "n_warmup_steps", 0)
        self._interval_steps = check_whole(interval_steps, "interval_steps", 1)
        self._total_steps = None if total_steps is None else check_whole(total_steps, "total_steps", 1)
        self._loaded = stored.load(weights)
        given = self._loaded.card.get("pruning_threshold", 0.5) if threshold is None else threshold
        self._threshold = check_number(given, "threshold", 0, 1)
        self._prune_leaders, self._use_parameters = bool(prune_leaders), bool(use_parameters)
        self._weights = weights
        self._curves: dict[_Key, _Curve] = {}
        self._readers: dict[_Key, _Reading] = {}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to prune; the trial's last reported step is judged."""
        step = trial.last_step
        if step is None or step < self._n_warmup_steps or not self._is_check(step, trial):
            return False
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        completed = [t for t in finished if t.state == TrialState.COMPLETE]
        if len(completed) < max(1, self._n_startup_trials):
            return False
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        values = _lower_is_better(trial, sign)
        if not any(math.isfinite(v) for v in values.values()):
            return True
        curves = [c for t in finished if (c := self._curve(_key(study, t), t, sign)) is not None]
        if not any(t.intermediate_values for t in completed) or not curves:
            return False
        total = self._total_steps or max(t.last_step for t in completed if t.last_step is not None)
        near = self._neighbours(trial, curves) if self._use_parameters else None
        return self._judge(_key(study, trial), values, curves, near, step, float(total))

    def _is_check(self, step: int, trial: FrozenTrial) -> bool:
        """Whether no value has been reported since the last step at which a check was due."""
        due = (step - self._n_warmup_steps) // self._interval_steps * self._interval_steps + self._n_warmup_steps
        return all(s < due for s in trial.intermediate_values if s != step)

    def _neighbours(self, trial: FrozenTrial, curves: list[_Curve]) -> Neighbours | None:
        """The trial's parameters beside those of finished ones; None where it has none."""
        own = optuna_space.place(trial)
        if not own:
            return None
        unordered = optuna_space.categories(trial).union(*(c.unordered for c in curves))
        places = [c.place for c in curves]
        recent = places[-_TRUSTED:]
        final = torch.tensor([c.best[-1] for c in curves[-_TRUSTED:]], dtype=torch.float64)
        trust = neighbours.reliability(optuna_space.distances(recent, recent, unordered), final)
        return Neighbours(optuna_space.distances([own], places, unordered)[0], trust)

    def _judge(
        self, key: _Key, values: dict[int, float], curves: list[_Curve], near: Neighbours | None, step: int,
        total: float,
    ) -> bool:  # fmt: skip
        reader = self._read(key, values, total)
        leads = reader.best <= min(c.best[-1] for c in curves)
        if leads and self._prune_leaders:
            return float(reader.chance([peer_features.MARGIN * reader.scale("value")])[0]) < _LEADING
        peers = Peers(
            torch.tensor([[c.by(step)] for c in curves], dtype=torch.float64),
            torch.tensor([[c.last >= step] for c in curves]),
            torch.tensor([c.best[-1] for c in curves], dtype=torch.float64),
            torch.tensor([c.completed for c in curves]),
        )
        known, state = reader.moment()
        if leads or bool(peer_features.ahead(state.best, peers)):
            return False
        x = peer_network.inputs(self._loaded.curve, known, state, peers, near, total if step <= total else 0.0)
        with torch.no_grad():
            score = float(torch.sigmoid(self._loaded.peer(x))[0])
        return score < self._threshold

    def _read(self, key: _Key, values: dict[int, float], total: float) -> CurveReader:
        """The trial's curve as the network reads it; goes on where the last check left off."""
        found = self._readers.pop(key, None)
        told = list(values.items())
        if found is None or found.total != total or told[: len(found.told)] != found.told:
            found = _Reading(CurveReader(self._loaded.curve, total, every=True), total, [])
        for step, value in told[len(found.told) :]:
            found.reader.tell(value, step)
        self._readers[key] = found._replace(told=told)
        _forget_oldest(self._readers)
        return found.reader

    def _curve(self, key: _Key, trial: FrozenTrial, sign: float) -> _Curve | None:
        """Best values of a finished trial, None where it has no finite one."""
        curve = self._curves.get(key)
        if curve is None:
            curve = self._curves[key] = _Curve.of(trial, sign)
            _forget_oldest(self._curves)
        return curve if len(curve.steps) else None

    def __getstate__(self) -> dict[str, Any]:
        """Without what is only kept for speed; the weights are read again."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_loaded", "_curves", "_readers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _loaded=stored.load(state["_weights"]), _curves={}, _readers={})


class _Reading(NamedTuple):
    reader: CurveReader
    total: float
    told: list[tuple[int, float]]


class _Curve(NamedTuple):
    """The best values of a finished trial so far, from its first finite value on, and its parameters."""

    steps: NDArray[np.int64]
    best: NDArray[np.float64]
    last: int  # reported
    completed: bool
    place: optuna_space.Place
    unordered: set[str]

    @classmethod
    def of(cls, trial: FrozenTrial, sign: float) -> _Curve:
        finite = [(s, v) for s, v in _lower_is_better(trial, sign).items() if math.isfinite(v)]
        steps, values = (np.array([pair[i] for pair in finite], dtype=np.float64) for i in (0, 1))
        best = np.minimum.accumulate(values)
        last, completed = trial.last_step or 0, trial.state == TrialState.COMPLETE
        place, unordered = optuna_space.place(trial), optuna_space.categories(trial)
        return cls(steps.astype(np.int64), best, last, completed, place, unordered)

    def by(self, step: int) -> float:
        """Best value up to `step`; the first one where that comes later."""
        return float(self.best[max(0, int(np.searchsorted(self.steps, step, side="right")) - 1)])


def _key(study: Study, trial: FrozenTrial) -> _Key:
    return study.study_name, trial.number, trial.datetime_start


def _lower_is_better(trial: FrozenTrial, sign: float) -> dict[int, float]:
    """A trial's values in the order of their steps; NaN where not finite."""
    ordered = sorted(trial.intermediate_values.items())
    return {s: sign * v if math.isfinite(v) else math.nan for s, v in ordered}


def _forget_oldest(kept: dict[Any, Any]) -> None:
    for key in list(kept)[: max(0, len(kept) - _KEPT)]:  # other threads of the study may forget it too
        kept.pop(key, None)

"""Learned against hand-designed optimizers on the L2L paper's problems, each against rivals with tuned rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from learnopt.fewshot.l2l import L2L
from learnopt.fewshot.l2l_report import Row, Setting, crossing, learned_row, rival_rows, shipped_rows
from learnopt.fewshot.lstm_rule import LSTMRule
from learnopt.fewshot.optimizees import DigitsMLP, Problems, Quadratics
from learnopt.fewshot.scaling import RandomScaling


@dataclass(frozen=True)
class Plan:
    """How an optimizer is learned, and what it is judged on.

    Attributes:
        train: problems that it learns on, and is judged on first.
        spread: of `RandomScaling` of these problems while it learns.
        transfer: others that it is judged on, by what differs.
        fit: arguments of `L2L.fit`, at a scale of 1.
        settings: of `L2L`.
        inputs, bound: of `LSTMRule`.
        marks: numbers of steps to report the loss after.
        judged, tuning: problems to be judged on, and to choose the rivals' rates on.
    """

    train: Problems
    meta_steps: int
    meta_batch: int
    settings: dict[str, Any]
    marks: tuple[int, ...]
    judged: int
    tuning: int
    inputs: str = "log"
    bound: float | None = None
    spread: float = 0.0
    transfer: dict[str, Problems] = field(default_factory=dict)

    def lessons(self) -> Problems:
        """The problems as it learns on them."""
        return RandomScaling(self.train, self.spread) if self.spread else self.train

    def entry(self) -> dict[str, Any]:
        """As plain values, for records."""
        told = {name: problems.describe() for name, problems in self.transfer.items()}
        return vars(self) | {"train": self.train.describe(), "transfer": told}


PLANS: Final[dict[str, Plan]] = {
    "quadratics": Plan(
        Quadratics(), 80, 64, {"horizon": 200, "objective": "log-mean", "meta_lr": 5e-3}, (20, 50, 100, 200), 500, 200
    ),
    "digits": Plan(
        DigitsMLP(), 120, 2, {"horizon": 80, "objective": "log-mean", "meta_lr": 1.5e-2}, (20, 30, 40, 50, 100), 8, 4,
        "moments", bound=0.1, spread=3.0,
        transfer={"40 units": DigitsMLP(hidden=40), "ReLU": DigitsMLP(activation="relu")},
    ),
}  # fmt: skip
"""By name of the problem."""


def learned(name: str, seed: int, scale: float, out: Path, progress: bool = True) -> L2L:
    """The LSTM optimizer of one seed, from its checkpoint in a folder of `out` on if there is one."""
    plan = PLANS[name]
    learner = L2L(LSTMRule(seed=seed, inputs=plan.inputs, bound=plan.bound), plan.lessons(), **plan.settings)
    steps = max(1, round(plan.meta_steps * scale))
    learner.fit(steps, meta_batch=plan.meta_batch, seed=seed, out=out / f"{name}-{seed}", progress=progress)
    return learner


def compare(
    name: str, *, seeds: int, scale: float, out: Path, progress: bool = True,
    note: Callable[[str], None] = lambda text: None, keep: Callable[[dict[str, list[Row]]], None] = lambda found: None,
) -> dict[str, list[Row]]:  # fmt: skip
    """Rows by setting: the training problems themselves, then every transfer.

    Args:
        note: told of progress.
        keep: given what there is after every setting.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in PLANS:
        raise ValueError(f"unknown problem {name!r}; choose from: {', '.join(PLANS)}")
    plan = PLANS[name]
    learners = [learned(name, seed, scale, out, progress) for seed in range(seeds)]
    seconds = sum(x.cpu_seconds for x in learners) / seeds
    found = {}
    for title, problems in {name: plan.train, **plan.transfer}.items():
        setting = Setting(problems, plan.marks, plan.judged, plan.tuning)
        own = learned_row(setting, "lstm", learners[0].rule, [x.theta for x in learners], seconds)
        rows = rival_rows(setting, title, note)
        for row in rows:
            row["passes_lstm_at"] = crossing(own["course"], row["course"])
        found[title] = [own, *rows, *shipped_rows(setting)]
        keep(found)
    return found

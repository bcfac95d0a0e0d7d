"""The pretrained `LearnedOptimizer`: nothing to tune, no schedule from outside; and the same used in other ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from learnopt.baselines.base import Baseline, Settings, Stepper


class Learned(Stepper):
    """Passes the loss on and reports what the meta-network chose.

    Args:
        told: share of the true number of steps that is told as `total_steps`; None: it is left unknown.
        loss: whether the loss is passed on.
        weight_decay: as in `LearnedOptimizer`.
        averaged: whether it validates at the averaged weights, by `LearnedOptimizer.eval()`.
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        weights: str,
        *,
        told: float | None = 1.0,
        loss: bool = True,
        weight_decay: float | None = None,
        averaged: bool = False,
    ) -> None:
        from learnopt.optimizer import LearnedOptimizer

        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        parameters = [p for p in model.parameters() if p.requires_grad]
        horizon = None if told is None else max(1, round(told * total_steps))
        self.learned = LearnedOptimizer(parameters, total_steps=horizon, weights=weights, weight_decay=weight_decay)
        self.tells_loss, self.averages = loss, averaged
        super().__init__([self.learned], "constant", total_steps)

    def step(self, loss: Tensor) -> None:
        """Update the parameters from their gradients and, where it is told, the loss."""
        self.learned.step(loss=loss if self.tells_loss else None)

    @contextmanager
    def validating(self) -> Iterator[None]:
        """The weights to validate inside the block."""
        if self.averages:
            self.learned.eval()
        try:
            yield
        finally:
            self.learned.train()

    def observe(self) -> dict[str, Any]:
        """Learning rate per tensor, the schedule's multiplier, the probability that going on is pointless."""
        rates = [_finite(rate) for rate in self.learned.learning_rates()]
        return {
            "learning_rates": dict(zip(self._names, rates, strict=True)),
            "schedule": _finite(self.learned.schedule),
            "stop_probability": _finite(self.learned.stop_probability),
            "should_stop": bool(self.learned.should_stop),
        }


def _finite(value: Any) -> float | None:
    number = float("nan") if value is None else float(value)
    return float(f"{number:.5g}") if math.isfinite(number) else None


def _make(model: nn.Module, settings: Settings, total_steps: int, weights: str, **options: Any) -> Stepper:
    return Learned(model, total_steps, weights, **options)


def _variant(name: str, label: str, **options: Any) -> Baseline:
    make: Callable[..., Stepper] = partial(_make, **options)
    return Baseline(f"learnopt_{name}", f"learnopt, {label}", make, Settings(1.0), learned=True, variant=True)


BASELINES = [
    Baseline("learnopt", "learnopt (no tuning)", _make, Settings(1.0), learned=True),
    _variant("undecayed", "no decay", weight_decay=0.0),
    _variant("untold", "steps unknown", told=None),
    _variant("averaged", "steps unknown, average", told=None, averaged=True),
    _variant("half", "half the steps told", told=0.5),
    _variant("double", "twice the steps told", told=2.0),
    _variant("doubleaveraged", "twice the steps told, average", told=2.0, averaged=True),
    _variant("lossless", "no loss", loss=False),
    _variant("blind", "no loss, steps unknown", told=None, loss=False),
    _variant("blindaveraged", "no loss, steps unknown, average", told=None, loss=False, averaged=True),
]

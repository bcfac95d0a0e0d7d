"""The pretrained `LearnedOptimizer`: nothing to tune, no schedule from outside."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor, nn

from learnopt.baselines.base import Baseline, Settings, Stepper


class Learned(Stepper):
    """Passes the loss on and reports what the meta-network chose; `weight_decay` as in `LearnedOptimizer`."""

    def __init__(self, model: nn.Module, total_steps: int, weights: str, weight_decay: float | None = None) -> None:
        from learnopt.optimizer import LearnedOptimizer

        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.learned = LearnedOptimizer(parameters, total_steps=total_steps, weights=weights, weight_decay=weight_decay)
        super().__init__([self.learned], "constant", total_steps)

    def step(self, loss: Tensor) -> None:
        """Update the parameters from their gradients and the loss."""
        self.learned.step(loss=loss)

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


def _make(
    model: nn.Module, settings: Settings, total_steps: int, weights: str, weight_decay: float | None = None
) -> Stepper:
    return Learned(model, total_steps, weights, weight_decay)


BASELINES = [
    Baseline("learnopt", "learnopt (no tuning)", _make, Settings(1.0), learned=True),
    Baseline(
        "learnopt_undecayed", "learnopt, no decay", partial(_make, weight_decay=0.0), Settings(1.0), learned=True,
        slow=True,
    ),
]  # fmt: skip

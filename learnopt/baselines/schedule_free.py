"""Schedule-Free AdamW from its package, at its defaults [Defazio et al. 2024, arXiv:2405.15682]."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from learnopt.baselines.base import Baseline, Settings, Stepper


class ScheduleFree(Stepper):
    """Validates at the averaged weights, trains at the interpolated ones."""

    averages = True

    @contextmanager
    def validating(self) -> Iterator[None]:
        """The averaged weights inside the block."""
        optimizer = self.optimizers[0]
        optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            optimizer.train()  # type: ignore[attr-defined]


def _make(model: nn.Module, settings: Settings, total_steps: int, weights: str) -> Stepper:
    from schedulefree import AdamWScheduleFree

    parameters = [p for p in model.parameters() if p.requires_grad]
    warmup = max(1, round(0.05 * total_steps))
    optimizer = AdamWScheduleFree(parameters, lr=settings.lr, warmup_steps=warmup)
    optimizer.train()
    return ScheduleFree([optimizer], settings.schedule, total_steps)


BASELINES = [Baseline("schedulefree", "Schedule-Free default", _make, Settings(2.5e-3), package="schedulefree")]

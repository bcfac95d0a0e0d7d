"""How well a learner does on tasks it has not seen: per task, and summarised with its uncertainty."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

GROWN = 2.0
"""Adaptation has failed where the support loss is more than so many times what it was before, or not finite."""

EVALUATED_AT_ONCE = 100
"""Tasks that are held in memory together."""

NORMAL = 1.96
"""Half width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Evaluation:
    """Results on `N` tasks after 0, 1, ... inner steps; learners that take no steps have a single column.

    Attributes:
        losses: query losses, `(N, steps + 1)`.
        support_losses: what adaptation saw, `(N, steps + 1)`.
        accuracies: share of queries classified rightly, `(N, steps + 1)`; None for regression.
    """

    losses: Tensor
    support_losses: Tensor
    accuracies: Tensor | None = None

    @property
    def failed(self) -> list[int]:
        """After each number of steps, the tasks on which adaptation made the support loss grow or overflow."""
        bad = self.support_losses > GROWN * self.support_losses[:, :1]
        return [int(n) for n in (bad | ~self.support_losses.isfinite()).sum(0)]

    def summary(self) -> list[dict[str, Any]]:
        """A row for each number of steps: mean, 95 % interval's half width and median of each figure, tasks failed."""
        rows = []
        for step, failed in enumerate(self.failed):
            row: dict[str, Any] = {"steps": step, "tasks": len(self.losses), "failed": failed}
            row |= {f"loss_{k}": v for k, v in moments(self.losses[:, step]).items()}
            if self.accuracies is not None:
                row |= {f"accuracy_{k}": v for k, v in moments(self.accuracies[:, step]).items()}
            rows.append(row)
        return rows

    def warn(self, who: str) -> None:
        """Warn where adaptation failed on some tasks: a mean hides, or is ruled by, a few that overflow."""
        if failed := self.failed[-1]:
            warnings.warn(
                f"{who} made the support loss grow more than {GROWN:g} times, or overflow, on {failed} of "
                f"{len(self.losses)} tasks after {len(self.failed) - 1} steps: read the median beside the mean, take "
                "fewer steps or a smaller rate",
                RuntimeWarning,
                stacklevel=3,
            )


def moments(values: Tensor) -> dict[str, float | None]:
    """Mean, half width of its 95 % interval (normal, over tasks) and median; None for what is not finite."""
    x = values.double().nan_to_num(nan=math.inf)
    half = NORMAL * float(x.std()) / math.sqrt(len(x)) if len(x) > 1 else math.nan
    found = {"mean": float(x.mean()), "half": half, "median": float(x.median())}
    return {k: v if math.isfinite(v) else None for k, v in found.items()}


def joined(parts: Sequence[tuple[Tensor, Tensor, Tensor]], classified: bool) -> Evaluation:
    """One evaluation of batches of `(query losses, support losses, accuracies)`."""
    losses, support, hits = (torch.cat(values) for values in zip(*parts, strict=True))
    return Evaluation(losses, support, hits if classified else None)

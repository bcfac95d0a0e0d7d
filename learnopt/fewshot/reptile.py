"""Reptile: a learned initialisation without meta-gradients (Nichol, Achiam and Schulman 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from learnopt.fewshot.engine import unroll
from learnopt.fewshot.episode import Episode
from learnopt.fewshot.maml import InnerLoop
from learnopt.fewshot.rules import SGD, Params, Rule


class Reptile(InnerLoop):
    """`phi += meta_lr * (theta_K - phi)`, averaged over tasks; `theta_K` is where `steps` inner steps lead.

    In `fit` the inner loop trains on support and query sets together; `adapt` uses the support set alone.

    Args:
        lr: inner learning rate; ignored where `rule` is given.
        steps: inner steps in `fit`.
        inner_batch: examples per inner step in `fit`, in shuffled passes; None: all.
        rule: another rule for the inner loop; for images the paper takes `Adam(1e-3, betas=(0.0, 0.999))`.
        meta_lr: share of the way to `theta_K` that `phi` goes.
        rest: as in `InnerLoop`.

    Raises:
        ValueError: `rule` has slow weights: there is no gradient to learn them by.
    """

    name = "reptile"

    def __init__(
        self, model: nn.Module, lr: float = 0.02, steps: int = 5, *, inner_batch: int | None = None,
        rule: Rule | None = None, meta_lr: float = 0.1, meta_schedule: str = "linear", **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            model, rule or SGD(lr), steps, second_order=False, meta_lr=meta_lr, meta_schedule=meta_schedule, **rest
        )
        if self.theta:
            raise ValueError(f"Reptile cannot learn the weights of a rule, got {type(self.rule).__name__}")
        if inner_batch is not None and inner_batch < 1:
            raise ValueError(f"inner_batch must be 1 or more, got {inner_batch!r}")
        self.inner_batch = inner_batch

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"inner_batch": self.inner_batch}

    def meta_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(self.slow().values()), lr=self.meta_lr)

    def meta_loss(self, episodes: Episode) -> Tensor:
        """Half the mean squared distance to where the inner loops end; its gradient is `phi - mean(theta_K)`."""

        def one(slow: tuple[Params, Params], batches: tuple[Tensor, Tensor]) -> Params:
            fast, fixed = slow
            steps = list(zip(*(part.unbind(0) for part in batches), strict=True))
            return unroll(self._loss(fixed), self.rule, {}, fast, None, steps, second_order=False).params

        with torch.no_grad():
            ends = self.over_tasks(one, self._initial(), self._batches(episodes))
        fast, _ = self._initial()
        tasks = len(episodes.support_x)
        return sum((0.5 * (p - ends[n]).square().sum() / tasks for n, p in fast.items()), torch.zeros(()))

    def _batches(self, episodes: Episode) -> tuple[Tensor, Tensor]:
        """Examples `(B, steps, inner_batch, ...)` and their labels, in shuffled passes over each task's data."""
        x = torch.cat([episodes.support_x, episodes.query_x], 1)
        y = torch.cat([episodes.support_y, episodes.query_y], 1)
        tasks, points = x.shape[:2]
        size = min(self.inner_batch or points, points)
        passes = -(-self.steps * size // points)
        order = torch.cat([torch.rand(tasks, points).argsort(1) for _ in range(passes)], 1)
        rows = order[:, : self.steps * size].reshape(tasks, self.steps, size).to(x.device)
        task = torch.arange(tasks, device=x.device)[:, None, None]
        return x[task, rows], y[task, rows]

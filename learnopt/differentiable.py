"""`LearnedOptimizer` inside `higher`: an inner loop whose every step can be differentiated.

Importing `learnopt` registers it: `higher.innerloop_ctx(model, LearnedOptimizer(model.parameters()))` works, and
`override={"theta": [theta]}` puts meta-weights in that gradients are wanted for. For many runs at once
`learnopt.unroll.unroll(..., differentiable=True)` is faster.

Source of `higher`: Grefenstette et al. 2019, facebookresearch/higher.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import higher
import torch
from higher.optim import DifferentiableOptimizer
from torch import Tensor

from learnopt import inner_step, memory, meta_network
from learnopt.inner_step import Work
from learnopt.layout import Layout
from learnopt.optimizer import LearnedOptimizer


class DifferentiableLearnedOptimizer(DifferentiableOptimizer):  # type: ignore[misc]
    """The learned rule as `higher` wants it; the loss given to `step` is the one the rule sees.

    Steps are not skipped: a loss or gradient that is not finite makes the run that.
    """

    def __init__(self, other: LearnedOptimizer, *args: Any, **kwargs: Any) -> None:
        self._theta: Tensor = other._meta["theta"]
        self._run: Tensor = other._run().clone()
        self._loss: Tensor | None = None
        super().__init__(other, *args, **kwargs)

    def step(self, loss: Tensor, *args: Any, **kwargs: Any) -> Iterable[Tensor]:
        """One step from `loss`; arguments and result as in `higher`."""
        self._loss = loss.reshape(1)
        moved: Iterable[Tensor] = super().step(loss, *args, **kwargs)
        return moved

    def _update(self, grouped_grads: list[list[Tensor | None]], **kwargs: Any) -> None:
        places = [(i, k) for i, grads in enumerate(grouped_grads) for k, g in enumerate(grads) if g is not None]
        if not places:
            return
        if any(p.is_complex() for group in self.param_groups for p in group["params"]):
            raise ValueError("complex parameters cannot be unrolled with higher")
        self._remember()
        groups = [self.param_groups[i] for i, _ in places]
        sign = -1 if groups[0]["maximize"] else 1
        params = [self.param_groups[i]["params"][k] for i, k in places]
        grads = [sign * g for grads in grouped_grads for g in grads if g is not None]
        loss = None if self._loss is None else self._loss * sign
        work = Work(
            params, [self.state[i][k] for i, k in places], groups, grads, loss, self._run,
            float(self.param_groups[0]["total_steps"] or 0),
        )  # fmt: skip
        theta: Tensor = self.param_groups[0].get("theta", self._theta)
        after, _ = inner_step.functional(work, meta_network.unpack(theta.to(grads[0])))
        self._run = after.run
        for (i, k), p, state in zip(places, after.params, after.states, strict=True):
            self.param_groups[i]["params"][k] = p
            self.state[i][k] = state if self._track_higher_grads else {n: x.detach() for n, x in state.items()}

    def _remember(self) -> None:
        """State before the first step, as `LearnedOptimizer` makes it."""
        places = [(i, k) for i, group in enumerate(self.param_groups) for k in range(len(group["params"]))]
        if all("memory" in self.state[i][k] for i, k in places):
            return
        params = [self.param_groups[i]["params"][k] for i, k in places]
        rms0 = torch.stack([p.float().square().mean().sqrt() for p in params])
        unit = Layout.of([p.shape for p in params]).units(rms0[None])[0]
        for (i, k), p, row in zip(places, params, memory.new_memory(rms0, unit).unbind(0), strict=True):
            if "memory" not in self.state[i][k]:
                self.state[i][k] = {**inner_step.large_state(p), "memory": row}


higher.register_optim(LearnedOptimizer, DifferentiableLearnedOptimizer)

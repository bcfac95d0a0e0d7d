"""L2L: an optimizer's own weights learned by running it, in truncated unrolls that carry parameters and state on.

Source: Andrychowicz et al. 2016; the meta-loss is over all steps, gradients of the problem are taken as constants.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from learnopt.fewshot.engine import OverTasks, Unrolled, detached, unroll
from learnopt.fewshot.fitting import Row
from learnopt.fewshot.meta_trained import MetaTrained, check_whole
from learnopt.fewshot.optimizees import Problems
from learnopt.fewshot.rules import Params, Rule, State
from learnopt.task import seed_of

OBJECTIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda losses: losses.mean(),
    "log-mean": lambda losses: losses.mean(0).log().mean(),
    "log": lambda losses: (losses + 1e-6).log().mean(),
}
"""Meta-loss of all losses of a window, `(B, T)`: their mean, as published; the mean over problems at each step in logs,
so that late steps with small losses count as early ones do; or each problem in logs, so that hard ones do not rule."""


class L2L(MetaTrained):
    """Learns the slow weights of a rule.

    Args:
        rule: with weights of its own, such as `LSTMRule()`.
        problems: that it is to be good at.
        horizon: steps of every run in training.
        window: steps between two updates of the weights; the graph is cut there.
        objective: "mean", "log-mean" or "log", see `OBJECTIVES`.
        meta_lr: of Adam on the weights.
        meta_schedule: its course over `fit`: constant, linear or cosine, to zero.

    Attributes:
        theta: the weights, by name.

    Raises:
        ValueError: the rule has no weights, or a setting is out of its range.
    """

    name = "l2l"

    def __init__(
        self, rule: Rule, problems: Problems, *, horizon: int = 100, window: int = 20, objective: str = "mean",
        meta_lr: float = 3e-3, meta_schedule: str = "linear",
    ) -> None:  # fmt: skip
        super().__init__(meta_lr=meta_lr, meta_schedule=meta_schedule)
        check_whole(horizon=horizon, window=window)
        if horizon % window:
            raise ValueError(f"horizon must be a multiple of window, got {horizon} and {window}")
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        self.rule, self.problems, self.horizon, self.window = rule, problems, horizon, window
        self.objective = objective
        self.theta = weights_of(rule, problems)
        if not self.theta:
            raise ValueError(f"{type(rule).__name__} has no weights to learn")
        self.over_tasks = OverTasks()

    def slow(self) -> dict[str, Tensor]:
        return self.theta

    def settings(self) -> dict[str, Any]:
        own = {"horizon": self.horizon, "window": self.window, "objective": self.objective}
        return super().settings() | {"problems": self.problems.describe()} | own | self.rule.settings()

    def fit(
        self, meta_steps: int = 500, *, meta_batch: int = 16, seed: int = 0, out: str | Path | None = None,
        progress: bool = True,
    ) -> list[Row]:  # fmt: skip
        """Train on `meta_steps` runs of `meta_batch` fresh problems each; arguments and resuming as `Learner.fit`.

        Returns:
            One row per run: `meta_loss` and `gradient_norm` of its last window, `run_loss` the mean loss of the run.
        """
        check_whole(meta_steps=meta_steps, meta_batch=meta_batch)

        def step(k: int, optimizer: torch.optim.Optimizer) -> Row:
            return self.run(seed_of("l2l", seed, k), meta_batch, optimizer)

        return self.outer_loop(step, meta_steps, {"meta_batch": meta_batch}, seed=seed, out=out, progress=progress)

    def run(self, seed: int, count: int, optimizer: torch.optim.Optimizer) -> Row:
        """Run the rule on `count` problems to the horizon and update its weights after every window."""
        params, state = self.problems.start(seed, count), None
        rows, total = [], 0.0
        for first in range(0, self.horizon, self.window):
            batches = self.problems.batches(seed, count, first, self.window)
            end = windows(self.over_tasks, self.problems, self.rule, self.theta, params, state, batches)
            loss = OBJECTIVES[self.objective](end.losses)
            gradients = torch.autograd.grad(loss, list(self.theta.values()))
            rows.append(self.update(float(loss.detach()), gradients, optimizer))
            params, state = detached(end.params), detached(end.state)
            total += float(end.losses.detach().mean()) * self.window / self.horizon
        return rows[-1] | {"run_loss": total} | ({"skipped": n} if (n := sum("skipped" in r for r in rows)) else {})


def weights_of(rule: Rule, problems: Problems) -> Params:
    """A rule's initial weights as leaves that require gradients; empty for a rule that learns nothing."""
    first = {name: x[0] for name, x in problems.start(0, 1).items()}
    return {n: x.detach().clone().requires_grad_() for n, x in rule.theta(first).items()}


def windows(
    over_tasks: OverTasks, problems: Problems, rule: Rule, theta: Params, params: Params, state: State | None,
    batches: Any,
) -> Unrolled:  # fmt: skip
    """`unroll` for stacked problems over all of `batches`, trees of `(B, T, ...)`; losses come back as `(B, T)`."""
    steps = len(torch.utils._pytree.tree_leaves(batches)[0][0])

    def one(weights: Params, each: tuple[Params, tuple[State, ...], Any]) -> Unrolled:
        own, carried, stream = each
        along = [tree_map(lambda x, t=t: x[t], stream) for t in range(steps)]
        return unroll(
            problems.loss, rule, weights, own, carried[0] if carried else None, along,
            second_order=False, keep_losses=True,
        )  # fmt: skip

    return over_tasks(one, theta, (params, () if state is None else (state,), batches))


@torch.no_grad()
def losses(
    rule: Rule, theta: Params, problems: Problems, seed: int, count: int, steps: int, window: int = 20
) -> Tensor:
    """Losses before each of `steps` steps of a rule on `count` problems, `(count, steps)`."""
    params, state, parts, over_tasks = problems.start(seed, count), None, [], OverTasks()
    for first in range(0, steps, window):
        batches = problems.batches(seed, count, first, min(window, steps - first))
        params, state, part = windows(over_tasks, problems, rule, theta, params, state, batches)
        parts.append(part)
    return torch.cat(parts, 1)

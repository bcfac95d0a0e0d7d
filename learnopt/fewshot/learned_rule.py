"""`LearnedOptimizer`'s rule in an inner loop: its meta-weights are the rule's slow weights."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from learnopt import artifact, meta_network, rule
from learnopt.fewshot.rules import Params, Rule, State
from learnopt.layout import Layout


class LearnedRule(Rule):
    """The update that `LearnedOptimizer` makes, with meta-gradients to its weights.

    Args:
        total_steps: number of steps planned; None: unknown.
        weights: name of shipped meta-weights or path of an artifact.

    Raises:
        ValueError: the weights are unknown or damaged, or `total_steps` is not positive.
    """

    def __init__(self, total_steps: int | None = None, weights: str | os.PathLike[str] = "default") -> None:
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be a positive number, got {total_steps!r}")
        self.total_steps, self.weights = total_steps, str(weights)
        self._theta = artifact.load(weights).theta

    def theta(self, params: Params) -> Params:
        return {"theta": self._theta.to(next(iter(params.values())))}

    def init(self, params: Params) -> State:
        return rule.init_state(_layout(params), [p[None] for p in params.values()])

    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        horizon = torch.tensor(float(self.total_steps or 0)).to(loss)
        moved, state, _ = rule.apply(
            meta_network.unpack(theta["theta"]), _layout(params), [p[None] for p in params.values()],
            [grads[name][None] for name in params], state, loss.detach()[None], horizon,
        )  # fmt: skip
        return {name: p[0] for name, p in zip(params, moved, strict=True)}, state


def _layout(params: Params) -> Layout:
    return Layout.of([p.shape for p in params.values()])

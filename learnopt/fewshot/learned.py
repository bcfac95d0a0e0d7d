"""`LearnedOptimizer`'s rule in the inner loop: pretrained, or meta-learned on with the initialisation."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from learnopt import artifact, meta_network
from learnopt import rule as learned
from learnopt.fewshot.rules import Params, Rule, State
from learnopt.layout import Layout


class LearnedRule(Rule):
    """The rule of learned meta-weights; it needs no learning rate, and takes gradients as constants (FOMAML).

    Args:
        steps: the horizon that it is told; 0 for unknown.
        weights: name or path of meta-weights.
        learn: meta-learn them with the rest.
    """

    twice_differentiable = False

    def __init__(self, steps: int = 0, weights: str | os.PathLike[str] = "default", *, learn: bool = False) -> None:
        loaded = artifact.load(weights)
        self.horizon, self.learn, self.digest, self._meta = steps, learn, loaded.digest, loaded.theta

    def theta(self, params: Params) -> Params:
        return {"theta": self._meta.to(next(iter(params.values())))} if self.learn else {}

    def init(self, params: Params) -> State:
        return learned.init_state(_layout(params), _runs(params))

    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        first = next(iter(params.values()))
        w = meta_network.unpack(theta.get("theta", self._meta).to(first))
        told = torch.tensor(float(self.horizon), device=first.device)
        moved, state, _ = learned.apply(w, _layout(params), _runs(params), _runs(grads), state, loss[None], told)
        return {name: p[0] for name, p in zip(params, moved, strict=True)}, state

    def settings(self) -> dict[str, Any]:
        return {k: v for k, v in super().settings().items() if not k.startswith("_")}


def _layout(params: Params) -> Layout:
    return Layout.of([p.shape for p in params.values()])


def _runs(params: Params) -> list[Tensor]:
    """The tensors as those of one run, `(1, *shape)`."""
    return [p[None] for p in params.values()]

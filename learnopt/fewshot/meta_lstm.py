"""Meta-LSTM: an LSTM whose cell state is the fast parameters.

Source: Ravi and Larochelle 2017, Optimization as a model for few-shot learning.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from learnopt.fewshot.coordinatewise import flat, lstm_cell, lstm_weights, named, part, preprocess, shaped
from learnopt.fewshot.maml import InnerLoop
from learnopt.fewshot.rules import Params, Rule, State, checked_rate

KEEP = 5.0
"""Logit of the forget gate before training: 0.993 of a parameter is kept in a step."""


class GateRule(Rule):
    """`p = f p - i g`: gates `f` and `i` of every coordinate, from its gradient, the loss, `p` and the gates before.

    Args:
        lr: the input gate before training, which is a learning rate, below 1.
        hidden: units of the LSTM that reads gradients and losses.
        seed: of the initial weights.
    """

    def __init__(self, lr: float = 0.01, hidden: int = 20, seed: int = 0) -> None:
        if not 0 < checked_rate(lr) < 1:
            raise ValueError(f"lr must be above 0 and below 1, as a gate is, got {lr!r}")
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        self.lr, self.hidden, self.seed = float(lr), hidden, seed

    def theta(self, params: Params) -> Params:
        generator = torch.Generator().manual_seed(self.seed)
        reader = named("reader", lstm_weights(4, self.hidden, generator))
        weights = 0.01 * torch.randn(self.hidden + 2, 2, generator=generator)
        return reader | {"gates": weights, "bias": torch.tensor([KEEP, math.log(self.lr / (1 - self.lr))])}

    def init(self, params: Params) -> State:
        p = flat(params)
        zeros = p.new_zeros(len(p), self.hidden)
        return {"reader": (zeros, zeros), "gates": p.new_zeros(len(p), 2)}

    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        p, g = flat(params), flat(grads)
        seen = torch.cat([preprocess(g), preprocess(loss.detach()).expand(len(p), 2)], -1)
        h, c = lstm_cell(part(theta, "reader"), seen, *state["reader"])
        # both gates see the parameter and, each, itself before
        shared = torch.cat([h, p[:, None]], -1) @ theta["gates"][:-1]
        gates = torch.sigmoid(shared + state["gates"] * theta["gates"][-1] + theta["bias"])
        forget, take = gates.unbind(-1)
        return shaped(forget * p - take * g, params), {"reader": (h, c), "gates": gates}


class MetaLSTM(InnerLoop):
    """Learns gates and initialisation together; gradients enter as constants, as published.

    All coordinates share the gates, which so learn much faster than the initialisation. Before that is one from which
    steps help, gates that learn as fast close, or run away; then nothing is left to learn from.

    Args:
        lr: the input gate, a learning rate, before training.
        steps: inner steps.
        hidden: units of the LSTM that reads gradients and losses.
        seed: of the gates' initial weights.
        gate_share: of `meta_lr`, for the gates.
        rest: as in `InnerLoop`.
    """

    name = "metalstm"

    def __init__(
        self, model: nn.Module, lr: float = 0.01, steps: int = 5, *, hidden: int = 20, seed: int = 0,
        gate_share: float = 0.1, **rest: Any,
    ) -> None:  # fmt: skip
        if not 0 < gate_share < math.inf:
            raise ValueError(f"gate_share must be a positive number, got {gate_share!r}")
        super().__init__(model, GateRule(lr, hidden, seed), steps, second_order=False, **rest)
        self.gate_share = gate_share

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"gate_share": self.gate_share}

    def meta_optimizer(self) -> torch.optim.Optimizer:
        gates = [f"rule.{n}" for n in self.theta]
        slow = self.slow()
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in slow.items() if n not in gates]},
            {"params": [slow[n] for n in gates], "share": self.gate_share},
        ]
        return torch.optim.Adam(groups, lr=self.meta_lr)

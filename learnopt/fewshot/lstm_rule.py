"""L2L: the coordinatewise two-layer LSTM optimizer, as one more rule.

Source: Andrychowicz et al. 2016, Learning to learn by gradient descent by gradient descent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learnopt.fewshot.coordinatewise import flat, lstm_cell, lstm_weights, named, part, preprocess, shaped
from learnopt.fewshot.rules import Params, Rule, State

LAYERS = ("first", "second")


class LSTMRule(Rule):
    """`p += scale * w . h` with `h` of two LSTM layers that read the gradient of each coordinate and remember it.

    All coordinates share the weights and have states of their own, so that networks of any shape can be trained.

    Args:
        hidden: units of each layer.
        scale: of the output, in units of the parameters.
        seed: of the initial weights.
    """

    def __init__(self, hidden: int = 20, scale: float = 0.1, seed: int = 0) -> None:
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        self.hidden, self.scale, self.seed = hidden, scale, seed

    def theta(self, params: Params) -> Params:
        generator = torch.Generator().manual_seed(self.seed)
        weights: Params = {}
        for layer, inputs in zip(LAYERS, (2, self.hidden), strict=True):
            weights |= named(layer, lstm_weights(inputs, self.hidden, generator))
        return weights | {"out": torch.randn(self.hidden, generator=generator) * 0.1 * self.hidden**-0.5}

    def init(self, params: Params) -> State:
        zeros = flat(params).new_zeros(sum(p.numel() for p in params.values()), self.hidden)
        return dict.fromkeys(LAYERS, (zeros, zeros))

    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        x, new = preprocess(flat(grads)), {}
        for layer in LAYERS:
            new[layer] = lstm_cell(part(theta, layer), x, *state[layer])
            x = new[layer][0]
        return shaped(flat(params) + self.scale * (x @ theta["out"]), params), new

"""L2L: the coordinatewise two-layer LSTM optimizer, as one more rule.

Sources: Andrychowicz et al. 2016, Learning to learn by gradient descent by gradient descent; inputs "moments" after Lv,
Jiang and Li 2017, Learning gradient descent: better generalization and longer horizons.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from learnopt.fewshot.coordinatewise import flat, lstm_cell, lstm_weights, named, part, preprocess, shaped
from learnopt.fewshot.rules import Params, Rule, State

LAYERS = ("first", "second")
INPUTS = {"log": 2, "moments": 3}
"""What the first layer can read, and how many numbers that is for each coordinate."""
KEPT = 0.95
"""Share of the old moments that is kept in a step."""
TINY = 1e-30
"""Mean squares of gradients below this count as none."""
LEAST = 5.0
"""Decades by which a gradient can have fallen, as the rule is told."""


class LSTMRule(Rule):
    """`p += scale * w . h` with `h` of two LSTM layers that read the gradient of each coordinate and remember it.

    All coordinates share the weights and have states of their own, so that networks of any shape can be trained.

    Args:
        hidden: units of each layer.
        scale: of the output, in units of the parameters.
        seed: of the initial weights.
        inputs: the gradient's logarithm and sign ("log", as published), or mean gradient and gradient in units of their
            root mean square, with its fall so far ("moments"): the same where all losses are multiplied by a number.
        bound: which no step of a coordinate exceeds: `bound * tanh(scale * w . h / bound)` (Lv, Jiang and Li 2017, who
            take 0.1); None: steps are not bounded, as published.
    """

    def __init__(
        self, hidden: int = 20, scale: float = 0.1, seed: int = 0, inputs: str = "log", bound: float | None = None
    ) -> None:
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        if inputs not in INPUTS:
            raise ValueError(f"inputs must be one of {', '.join(INPUTS)}, got {inputs!r}")
        if bound is not None and not 0 < bound < float("inf"):
            raise ValueError(f"bound must be a positive number or None, got {bound!r}")
        self.hidden, self.scale, self.seed, self.inputs, self.bound = hidden, scale, seed, inputs, bound

    def theta(self, params: Params) -> Params:
        generator = torch.Generator().manual_seed(self.seed)
        weights: Params = {}
        for layer, inputs in zip(LAYERS, (INPUTS[self.inputs], self.hidden), strict=True):
            weights |= named(layer, lstm_weights(inputs, self.hidden, generator))
        return weights | {"out": torch.randn(self.hidden, generator=generator) * 0.1 * self.hidden**-0.5}

    def init(self, params: Params) -> State:
        first = flat(params)
        zeros = first.new_zeros(len(first), self.hidden)
        state: dict[str, State] = dict.fromkeys(LAYERS, (zeros, zeros))
        if self.inputs == "moments":
            none = first.new_zeros(len(first))
            return state | {"moments": Moments(none, none, none, first.new_zeros(()))}
        return state

    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        new = {}
        if self.inputs == "moments":
            new["moments"] = state["moments"].after(flat(grads))
            x = new["moments"].inputs(flat(grads))
        else:
            x = preprocess(flat(grads))
        for layer in LAYERS:
            new[layer] = lstm_cell(part(theta, layer), x, *state[layer])
            x = new[layer][0]
        move = self.scale * (x @ theta["out"])
        if self.bound is not None:
            move = self.bound * torch.tanh(move / self.bound)
        return shaped(flat(params) + move, params), new


class Moments(NamedTuple):
    """Moving means of a coordinate's gradient and of its square, `(P,)`, and the largest that the latter was."""

    mean: Tensor
    square: Tensor
    peak: Tensor
    step: Tensor  # ()

    def after(self, g: Tensor) -> Moments:
        """With one gradient more."""
        mean, square = torch.lerp(g, self.mean, KEPT), torch.lerp(g * g, self.square, KEPT)
        step = self.step + 1
        return Moments(mean, square, torch.maximum(self.peak, square / (1 - KEPT**step)), step)

    def inputs(self, g: Tensor) -> Tensor:
        """Mean gradient and gradient over the root mean square, and the decades that it has fallen by, `(P, 3)`."""
        whole = 1 - KEPT**self.step
        square = self.square / whole
        seen = square > TINY
        scale = torch.where(seen, torch.where(seen, square, 1.0).rsqrt(), 0.0)
        fallen = torch.where(seen, (square / self.peak.clamp_min(TINY)).clamp_min(TINY).log10() / 2, 0.0)
        return torch.stack([self.mean / whole * scale, g * scale, fallen.clamp_min(-LEAST)], -1)

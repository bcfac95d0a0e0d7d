"""What rules that look at one coordinate at a time share: preprocessed inputs, an LSTM cell, flat parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learnopt.fewshot.rules import Params

CUT = 10.0
"""Values below exp(-CUT) are passed on linearly; the logs of larger ones are divided by it."""


def preprocess(values: Tensor) -> Tensor:
    """Size and sign of values of any magnitude, `(...)` to `(..., 2)` (Andrychowicz et al. 2016, appendix A).

    `(log|v| / CUT, sign v)` where `|v| >= exp(-CUT)`, otherwise `(-1, exp(CUT) v)`.
    """
    size = values.abs()
    large = size >= math.exp(-CUT)
    logs = size.clamp_min(math.exp(-CUT)).log() / CUT
    return torch.stack([logs, torch.where(large, values.sign(), math.exp(CUT) * values)], -1)


def lstm_weights(inputs: int, hidden: int, generator: torch.Generator) -> Params:
    """Weights of an LSTM cell, uniform within `hidden ** -0.5` as torch's; a forget bias of 1.

    Columns are the gates for input, forgetting and output, and the new content.
    """
    bound: float = hidden**-0.5

    def uniform(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) * bound

    bias = uniform(4 * hidden)
    bias[hidden : 2 * hidden] += 1
    return {"input": uniform(inputs, 4 * hidden), "hidden": uniform(hidden, 4 * hidden), "bias": bias}


def lstm_cell(w: Params, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM with explicit gates, which `vmap` can map: `x` `(P, inputs)`, `h` and `c` `(P, hidden)`."""
    hidden = h.shape[-1]
    inner = torch.cat([x, h], -1) @ torch.cat([w["input"], w["hidden"]]) + w["bias"]
    i, f, o = torch.split(torch.sigmoid(inner[..., : 3 * hidden]), hidden, -1)
    c = f * c + i * torch.tanh(inner[..., 3 * hidden :])
    return o * torch.tanh(c), c


def flat(params: Params) -> Tensor:
    """All coordinates in one row, `(P,)`."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def shaped(values: Tensor, like: Params) -> Params:
    """`(P,)` values by the names and shapes of `like`."""
    parts = torch.split(values, [p.numel() for p in like.values()])
    return {name: v.reshape(p.shape) for (name, p), v in zip(like.items(), parts, strict=True)}


def part(theta: Params, prefix: str) -> Params:
    """The weights whose names begin with `prefix.`, without it."""
    return {name.removeprefix(prefix + "."): x for name, x in theta.items() if name.startswith(prefix + ".")}


def named(prefix: str, weights: Params) -> Params:
    """The opposite of `part`."""
    return {f"{prefix}.{name}": x for name, x in weights.items()}

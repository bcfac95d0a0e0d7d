"""The meta-network: columns in, raw outputs out, at the global and the tensor level; its weights are one flat theta.

What the outputs do to the parameters is the business of `learnopt.rule`.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import torch
from torch import Tensor

from learnopt import features

STANDARD_WIDTHS = (12, 8, 2)
"""Those of the weights that ship."""
WIDTHS = "LEARNOPT_WIDTHS"
"""Environment variable, read once: `HIDDEN,CONTEXT,WIDTH` of all meta-networks of the process, to try other sizes. The
kernel is compiled for them, states are packed by them, and weights of other widths are refused."""


def parse_widths(text: str | None) -> tuple[int, int, int]:
    """Units of the three levels from the variable's text; the standard ones without.

    Raises:
        ValueError: anything but three numbers of at least 1.
    """
    parts = [part.strip() for part in text.split(",")] if text else [str(n) for n in STANDARD_WIDTHS]
    if len(parts) != len(STANDARD_WIDTHS) or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"{WIDTHS} must be three numbers of at least 1, such as 32,16,8, got {text!r}")
    hidden, context, width = map(int, parts)
    return hidden, context, width


HIDDEN, CONTEXT, WIDTH = parse_widths(os.environ.get(WIDTHS))
"""Units of the per-tensor LSTM, of the global layer and of the per-parameter MLP."""

OUTPUTS = ("log_step", "gradient", "log_decay", "gate", "pull")
"""Raw outputs per tensor: step size and decay as logarithms; logits of the gradient's share beside the momentum, of the
orthogonalised share and of the pull towards the averaged weights."""

SCHEDULED = {"log_step": 1.0, "log_decay": 2 / 3}
"""Outputs that the schedule multiplies, as shares of its logit: steps grow by exp(2 x), decay by exp(3 x)."""

_G, _T, _P, _OUT = len(features.GLOBAL), len(features.TENSOR), len(features.PARAMETER), len(OUTPUTS)

SHAPES: dict[str, tuple[int, int]] = {
    "global_in": (_G, CONTEXT), "global_bias": (1, CONTEXT), "global_out": (CONTEXT, 1), "global_skip": (_G, 1),
    "lstm_in": (_G + _T, 4 * HIDDEN), "lstm_hidden": (HIDDEN, 4 * HIDDEN), "lstm_bias": (1, 4 * HIDDEN),
    "tensor_out": (HIDDEN, _OUT), "tensor_skip": (_G + _T, _OUT), "tensor_bias": (1, _OUT),
    "mlp_in": (_P, WIDTH), "mlp_context": (HIDDEN, WIDTH), "mlp_bias": (1, WIDTH),
    "mlp_out": (WIDTH, 2), "mlp_out_bias": (1, 2),
}  # fmt: skip
"""Meta-weights by name, in their order inside a flat theta."""

LEVELS: dict[str, tuple[str, ...]] = {
    level: tuple(name for name in SHAPES if name.startswith(prefixes))
    for level, prefixes in (("global", "global_"), ("tensor", ("lstm_", "tensor_")), ("parameter", "mlp_"))
}
"""Parts of theta by what they decide for: the run (the schedule), each tensor, each parameter."""

SIZE = sum(a * b for a, b in SHAPES.values())


def initial_theta(generator: torch.Generator) -> Tensor:
    """Random input weights and zero output weights, shape `(SIZE,)`: exactly the hand-designed rule."""
    parts = []
    for name, (a, b) in SHAPES.items():
        drawn = name in ("global_in", "lstm_in", "lstm_hidden", "mlp_in", "mlp_context")
        w = torch.randn(a, b, generator=generator) / a**0.5 if drawn else torch.zeros(a, b)
        if name == "lstm_bias":
            w[0, HIDDEN : 2 * HIDDEN] = 1.0  # forget gate open
        parts.append(w.flatten())
    return torch.cat(parts)


def unpack(theta: Tensor) -> dict[str, Tensor]:
    """Named meta-weights, each `(N, a, b)`, from a flat theta of shape `(SIZE,)` or `(N, SIZE)`."""
    if theta.shape[-1] != SIZE:
        raise ValueError(f"theta has {theta.shape[-1]} meta-weights, this rule has {SIZE}")
    rows = theta.reshape(-1, SIZE)
    parts = torch.split(rows, [a * b for a, b in SHAPES.values()], -1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


def mask(parts: Collection[str]) -> Tensor:
    """`(SIZE,)`: 1 in the named parts of theta, 0 elsewhere."""
    return torch.cat([torch.full((a * b,), float(name in parts)) for name, (a, b) in SHAPES.items()])


def mean_by_part(values: Tensor) -> Tensor:
    """`(SIZE,)` with every value replaced by the mean of its part: a part's weights share their units."""
    sizes = [a * b for a, b in SHAPES.values()]
    return torch.cat([part.mean().expand(len(part)) for part in torch.split(values, sizes)])


def schedule_logit(w: dict[str, Tensor], g: Tensor) -> Tensor:
    """Global level: half the logarithm of the schedule's correction, `(N,)`, from the `GLOBAL` columns `(N, G)`."""
    row = g[:, None]
    context = torch.tanh(row @ w["global_in"] + w["global_bias"])
    return (context @ w["global_out"] + row @ w["global_skip"])[:, 0, 0]


def tensor_outputs(
    w: dict[str, Tensor], g: Tensor, t: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Tensor level: one step of the LSTM, and its outputs.

    Args:
        g: `GLOBAL` columns, `(N, G)`.
        t: `TENSOR` columns, `(N, tensors, T)`.
        hidden: before the step, `(N, tensors, HIDDEN)`, like `cell`.

    Returns:
        The `OUTPUTS`, `(N, tensors, len(OUTPUTS))`, and the new hidden and cell states.
    """
    x = torch.cat([g[:, None].expand(-1, t.shape[1], -1), t], -1)
    gates = x @ w["lstm_in"] + hidden @ w["lstm_hidden"] + w["lstm_bias"]
    i, f, o, c = torch.split(gates, HIDDEN, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(c)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    return hidden @ w["tensor_out"] + x @ w["tensor_skip"] + w["tensor_bias"], hidden, cell


def parameter_outputs(w: dict[str, Tensor], x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Parameter level: the MLP, one hidden layer of rectified units.

    Args:
        x: `PARAMETER` columns, `(N, P, L)`.
        context: what it is told about the tensor, `(N, 1, WIDTH)`, or about each parameter's, `(N, L, WIDTH)`.

    Returns:
        Raw outputs `(N, L)`: for the parameter's rate, and what is added to its direction.
    """
    inner = (w["mlp_in"].mT @ x).add_(context.mT).clamp_(min=0)
    rate, added = (w["mlp_out"].mT @ inner + w["mlp_out_bias"].mT).unbind(1)
    return rate, added


def replay(w: dict[str, Tensor], g: Tensor, t: Tensor) -> Tensor:
    """Raw outputs of whole runs from recorded columns, with the schedule's correction added where it acts.

    Args:
        w: of one theta.
        g: `(K, N, G)`.
        t: `(K, N, tensors, T)`.

    Returns:
        `(K, N, tensors, len(OUTPUTS))`: `tensor_outputs`, and the schedule's logit added to the log step and, in the
        units of its exponent, to the log decay.
    """
    steps, n, count = t.shape[:3]
    x = torch.cat([g[:, :, None].expand(-1, -1, count, -1), t], -1)
    i, f, o, c = torch.split(torch.arange(4 * HIDDEN), HIDDEN)
    order = torch.cat([i, f, c, o])  # torch's order of the gates
    flat = [w["lstm_in"][0].mT[order], w["lstm_hidden"][0].mT[order], w["lstm_bias"][0, 0, order]]
    zero = t.new_zeros(1, n * count, HIDDEN)
    weights = [*flat, t.new_zeros(4 * HIDDEN)]
    hidden = torch.lstm(x.reshape(steps, n * count, -1), (zero, zero), weights, True, 1, 0.0, False, False, False)[0]
    out = hidden.view(steps, n, count, HIDDEN) @ w["tensor_out"] + x @ w["tensor_skip"] + w["tensor_bias"][0]
    logit = schedule_logit(w, g.reshape(steps * n, -1)).view(steps, n, 1)
    acts = t.new_tensor([SCHEDULED.get(name, 0.0) for name in OUTPUTS])
    return out + logit[..., None] * acts

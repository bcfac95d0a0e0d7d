"""The tuner's network: meta-features and probes in, the regret to expect of every configuration out.

Regret is the log of a configuration's final validation loss over that of the best one. The network is convolutional
along the learning rates, since a task's picture of losses shifts along them. Several members vote by their mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from learnopt.tuner.meta_features import NAMES
from learnopt.tuner.probes import CHANNELS

CODE, WIDTH, KERNEL, MEMBERS = 4, 24, 7, 5

Weights = dict[str, Tensor]


def initial(outputs: int, rates: int, generator: torch.Generator) -> Weights:
    """Random weights of one member for `outputs` combinations of the other settings at `rates` learning rates."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(math.prod(shape[1:]))

    inputs = len(CHANNELS) + CODE + 1
    return {
        "meta": normal(CODE, len(NAMES)), "meta_bias": torch.zeros(CODE),
        "conv1": normal(WIDTH, inputs, KERNEL), "bias1": torch.zeros(WIDTH),
        "pool": normal(WIDTH, 2 * WIDTH),
        "conv2": normal(WIDTH, WIDTH, KERNEL), "bias2": torch.zeros(WIDTH),
        "out": 0.1 * normal(outputs, WIDTH, 1), "table": torch.zeros(outputs, rates),
    }  # fmt: skip


def forward(w: Weights, meta: Tensor, probes: Tensor, dropout: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Expected regret.

    Args:
        meta: standardised meta-features, `(B, F)`.
        probes: encoded probes, `(B, len(CHANNELS), R)`.
        dropout: shares of meta-features and of hidden units that are dropped, in training.

    Returns:
        `(B, outputs, R)`.
    """
    rates = probes.shape[-1]
    meta = functional.dropout(meta, dropout[0], training=dropout[0] > 0)
    code = torch.tanh(functional.linear(meta, w["meta"], w["meta_bias"]))
    place = torch.linspace(-1, 1, rates, device=meta.device).expand(len(meta), 1, rates)
    x = torch.cat([probes, code[..., None].expand(-1, -1, rates), place], 1)
    x = functional.gelu(functional.conv1d(x, w["conv1"], w["bias1"], padding=KERNEL // 2))
    whole = functional.linear(torch.cat([x.mean(-1), x.amax(-1)], -1), w["pool"])
    x = functional.dropout(x, dropout[1], training=dropout[1] > 0)
    x = functional.conv1d(x, w["conv2"], w["bias2"], padding=KERNEL // 2) + whole[..., None]
    return w["table"] + functional.conv1d(functional.gelu(x), w["out"])

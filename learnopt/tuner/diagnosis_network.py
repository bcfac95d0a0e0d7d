"""A small network from a run's training losses to how far its learning rate is from the best, in decades."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

POINTS = 16
"""A curve is read at so many evenly spaced moments, as means over the stretch before them."""
INPUTS, HIDDEN = 2 * POINTS + 1, 24
LOW, HIGH = -6.0, 3.0
MOST = 4.0


def initial(generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights."""
    return {
        "in": torch.randn(HIDDEN, INPUTS, generator=generator) / INPUTS**0.5, "in_bias": torch.zeros(HIDDEN),
        "hidden": torch.randn(HIDDEN, HIDDEN, generator=generator) / HIDDEN**0.5, "hidden_bias": torch.zeros(HIDDEN),
        "out": torch.zeros(1, HIDDEN), "out_bias": torch.zeros(1),
    }  # fmt: skip


def forward(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """`(B, INPUTS) -> (B,)`: log10 of the best rate over this one, within `MOST`."""
    x = functional.gelu(functional.linear(x, w["in"], w["in_bias"]))
    x = functional.gelu(functional.linear(x, w["hidden"], w["hidden_bias"]))
    return MOST * torch.tanh(functional.linear(x, w["out"], w["out_bias"])[:, 0] / MOST)


def inputs(losses: Tensor) -> Tensor:
    """Scale-free reading of loss curves, `(B, K) -> (B, INPUTS)`, K >= POINTS: where the losses are relative to the
    first stretch, how much they shake within each, and whether they stayed finite.

    Positive losses are read in logs. Others are shifted to be positive by their own range first.
    """
    finite = torch.isfinite(losses)
    alive = finite.all(-1, keepdim=True).float()
    large = torch.where(finite, losses, losses.abs().nan_to_num(0, 0, 0).amax(-1, keepdim=True) * 10 + 1)
    least = large.amin(-1, keepdim=True)
    spread = large.amax(-1, keepdim=True) - least
    logs = torch.where(least > 0, large, large - least + 0.05 * spread + 1e-12).clamp_min(1e-30).log()
    edges = torch.linspace(0, losses.shape[-1], POINTS + 1).round().long().tolist()
    parts = [logs[:, a:b] for a, b in pairwise(edges)]
    level = torch.stack([p.mean(-1) for p in parts], -1)
    shake = torch.stack([p.std(-1, correction=0) for p in parts], -1)
    return torch.cat([(level - level[:, :1]).clamp(LOW, HIGH), shake.clamp(0, HIGH), alive], -1)

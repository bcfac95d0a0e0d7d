"""Fully connected networks and the pieces all architectures share; every module here works under `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Sine(nn.Module):
    """`sin(frequency * x)`."""

    def __init__(self, frequency: float = 1.0) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "sine": Sine,
}

# Batch statistics always: running statistics are in-place buffers, which cannot be updated under vmap.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "layer": nn.LayerNorm,
    "batch": lambda width: nn.BatchNorm1d(width, track_running_stats=False),
}


class Residual(nn.Module):
    """`x + branch(x)`."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def mlp(sizes: Sequence[int], activation: str = "relu", norm: str = "none", dropout: float = 0.0) -> nn.Sequential:
    """Linear layers of `sizes` with normalisation, activation and dropout between them, none after the last."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(fan_in, fan_out))
        if i < len(sizes) - 2:
            if norm != "none":
                layers.append(NORMS[norm](fan_out))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def residual_mlp(
    inputs: int, width: int, outputs: int, blocks: int, activation: str = "relu", norm: str = "none", zero: bool = False
) -> nn.Sequential:
    """Linear stem, `blocks` residual branches of two layers, linear head; `zero`: branches start as the identity."""
    layers: list[nn.Module] = [nn.Linear(inputs, width)]
    for _ in range(blocks):
        last = nn.Linear(width, width)
        if zero:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        branch = [NORMS[norm](width), nn.Linear(width, width), ACTIVATIONS[activation](), last]
        layers.append(Residual(nn.Sequential(*branch)))
    return nn.Sequential(*layers, ACTIVATIONS[activation](), nn.Linear(width, outputs))

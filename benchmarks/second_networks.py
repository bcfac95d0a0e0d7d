"""Networks of `second_opinion.py`, written as a user of torch would: modules of torch, modes and buffers included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = Callable[..., nn.Module]


def mlp(
    sizes: Sequence[int], activation: Layer = nn.ReLU, dropout: float = 0.0, norm: Layer | None = None
) -> nn.Module:
    """Fully connected: `Linear`, norm, activation, dropout."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(inputs, outputs))
        if i < len(sizes) - 2:
            layers += [norm(outputs)] if norm else []
            layers.append(activation())
            layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


def cnn(channels: int, width: int, classes: int, norm: bool) -> nn.Module:
    """Two convolutions and two linear layers for images of 16 x 16."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), *([nn.BatchNorm2d(width)] if norm else []), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * width, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


class Residual(nn.Module):
    """The basic block of ResNet (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        same = stride == 1 and inputs == outputs
        skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.skip = nn.Identity() if same else skip

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(inner)) + self.skip(x))


def resnet(channels: int, width: int, classes: int) -> nn.Module:
    """Three residual blocks with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        Residual(width, width, 1), Residual(width, 2 * width, 2), Residual(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes),
    )  # fmt: skip


class Transformer(nn.Module):
    """Torch's encoder; causal over symbols, or over patches `(B, length, patch)` of an image, averaged at the end."""

    def __init__(self, symbols: int, length: int, patch: int = 0, classes: int = 0, norm_first: bool = True) -> None:
        super().__init__()
        width, self.causal = 32, not patch
        self.embed = nn.Linear(patch, width) if patch else nn.Embedding(symbols, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        dropout = 0.1 if patch else 0.0
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout, "gelu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, classes or symbols)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        h = self.norm(self.encoder(h, mask=mask, is_causal=self.causal))
        out: Tensor = self.out(h if self.causal else h.mean(1))
        return out


class Recurrent(nn.Module):
    """An LSTM or GRU over symbols, with an output at every place, or over numbers, with one at the end."""

    def __init__(self, cell: Layer, inputs: int, width: int, layers: int, outputs: int, symbols: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, 24) if symbols else nn.Identity()
        self.cell = cell(24 if symbols else inputs, width, layers, batch_first=True)
        self.out, self.every = nn.Linear(width, outputs), symbols

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.cell(self.embed(x))
        out: Tensor = self.out(h if self.every else h[:, -1])
        return out


class Vae(nn.Module):
    """Gaussian code; returns logits, means and log variances side by side. The code is its mean when evaluated."""

    def __init__(self, pixels: int, code: int) -> None:
        super().__init__()
        self.encode, self.mean, self.log_variance = nn.Linear(pixels, 128), nn.Linear(128, code), nn.Linear(128, code)
        self.decode = mlp([code, 128, pixels])

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.encode(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return torch.cat([self.decode(mean + noise * (log_variance / 2).exp()), mean, log_variance], 1)


class GraphConvolution(nn.Module):
    """Two layers over a fixed graph (Kipf and Welling 2017); the input names the nodes wanted."""

    def __init__(self, adjacency: Tensor, features: Tensor, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.adjacency, self.features, self.dropout = adjacency, features, dropout
        self.layers = nn.ModuleList([nn.Linear(features.shape[1], width), nn.Linear(width, classes)])

    def forward(self, nodes: Tensor) -> Tensor:
        h = functional.dropout(self.features, self.dropout, self.training)
        h = functional.relu(self.adjacency @ self.layers[0](h))
        h = self.adjacency @ self.layers[1](functional.dropout(h, self.dropout, self.training))
        return h[nodes]


class Factorisation(nn.Module):
    """Users times items, with biases or without; `(B, 2)` to `(B,)`."""

    def __init__(self, users: int, items: int, rank: int, biases: bool) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(users, rank), nn.Embedding(items, rank)])
        self.offsets = nn.ModuleList([nn.Embedding(users, 1), nn.Embedding(items, 1)] if biases else [])
        self.mean = nn.Parameter(torch.zeros(1))
        for table in self.tables:
            nn.init.normal_(table.weight, 0, 0.1)
        for offset in self.offsets:
            nn.init.zeros_(offset.weight)
        self.mean.requires_grad_(biases)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = (table(ids) for table, ids in zip(self.tables, pairs.unbind(1), strict=True))
        score = (user * item).sum(1) + self.mean
        for offset, ids in zip(self.offsets, pairs.unbind(1), strict=False):
            score = score + offset(ids)[:, 0]
        return score


class Sine(nn.Module):
    """A layer of SIREN (Sitzmann et al. 2020)."""

    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


class Fourier(nn.Module):
    """Random Fourier features of two coordinates (Tancik et al. 2020)."""

    def __init__(self, number: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, number) * scale)

    def forward(self, x: Tensor) -> Tensor:
        phase = 2 * math.pi * x @ self.frequencies
        return torch.cat([phase.sin(), phase.cos()], 1)


class Bag(nn.Module):
    """`EmbeddingBag` and one or two linear layers; token 0 is padding."""

    def __init__(self, vocabulary: int, width: int, classes: int, hidden: bool) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(vocabulary + 1, width, mode="mean", padding_idx=0)
        self.out = mlp([width, 32, classes] if hidden else [width, classes])

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.out(self.embed(tokens))
        return out

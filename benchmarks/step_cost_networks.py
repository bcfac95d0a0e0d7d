"""What `step_cost.py` times: lists of shapes for a step alone, networks for whole training steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

CLASSES = 10
SYMBOLS = 96
Shapes = list[tuple[int, ...]]


def transformer_shapes(width: int, layers: int, symbols: int) -> Shapes:
    """The parameters of a GPT-like network."""
    vectors: Shapes = [(3 * width,), (width,), (4 * width,), (width,), *[(width,)] * 4]
    matrices: Shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    return [(symbols, width), *(matrices + vectors) * layers, (width,), (width,)]


ALONE: dict[str, Shapes] = {
    "10 thousand, one vector": [(10_000,)],
    "10 thousand, 10 vectors": [(1_000,)] * 10,
    "10 thousand, Transformer of width 24": transformer_shapes(24, 1, 96),
    "1 million, one vector": [(1_000_000,)],
    "1 million, 1,000 vectors": [(1_000,)] * 1_000,
    "1 million, 250 matrices of 64 x 64": [(64, 64)] * 250,
    "1 million, Transformer of width 128": transformer_shapes(128, 5, 256),
    "10 million, one vector": [(10_000_000,)],
    "10 million, 1,000 vectors": [(10_000,)] * 1_000,
    "10 million, Transformer of width 384": transformer_shapes(384, 6, 256),
    "100 million, one vector": [(100_000_000,)],
    "100 million, Transformer of width 768": transformer_shapes(768, 12, 16_384),
}
"""Without matrices nothing is orthogonalised."""


def mlp(*sizes: int) -> nn.Module:
    """Linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Module:
    """Two convolutions with BatchNorm, for images of 32 x 32."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 8 * 8, 128), nn.ReLU(), nn.Linear(128, CLASSES),
    )  # fmt: skip


class Characters(nn.Module):
    """A Transformer encoder over symbols, mean-pooled."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.embed = nn.Embedding(SYMBOLS, width)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).mean(1))


class Recurrent(nn.Module):
    """An LSTM over symbols; its last output counts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(SYMBOLS, width), nn.Linear(width, CLASSES)
        self.body = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x))[0][:, -1])


def symbols(batch: int, length: int) -> Tensor:
    """Sequences of random symbols."""
    return torch.randint(SYMBOLS, (batch, length))


WHOLE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp 64-32-10, batch 32": (lambda: mlp(64, 32, CLASSES), lambda: torch.randn(32, 64)),
    "mlp 784-256-128-10, batch 64": (lambda: mlp(784, 256, 128, CLASSES), lambda: torch.randn(64, 784)),
    "mlp 784-512-512-512-10, batch 128": (lambda: mlp(784, *[512] * 3, CLASSES), lambda: torch.randn(128, 784)),
    "mlp 4 x 1024, batch 128": (lambda: mlp(*[1024] * 4, CLASSES), lambda: torch.randn(128, 1024)),
    "cnn 32-64 on 32 x 32, batch 64": (cnn, lambda: torch.randn(64, 3, 32, 32)),
    "lstm 256, 64 symbols, batch 32": (lambda: Recurrent(256), lambda: symbols(32, 64)),
    "transformer 2 x 128, 16 x 64 tokens": (lambda: Characters(128, 2), lambda: symbols(16, 64)),
    "transformer 6 x 256, 32 x 128 tokens": (lambda: Characters(256, 6), lambda: symbols(32, 128)),
}
"""Networks, and a batch for each."""

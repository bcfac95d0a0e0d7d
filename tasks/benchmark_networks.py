"""Networks of the `held_out` suite, from torch's own layers as users write them (running statistics, fused cells)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn


def small_cnn(classes: int, size: int = 8, norm: str = "none", channels: int = 1) -> nn.Sequential:
    """Two 3x3 convolutions of 16 and 32 channels, the second with stride 2, and a linear head."""
    norms: dict[str, Callable[[int], nn.Module]] = {
        "none": lambda n: nn.Identity(),
        "batch": nn.BatchNorm2d,
        "group": lambda n: nn.GroupNorm(4, n),
    }
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=norm != "batch"),
        norms[norm](16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=norm != "batch"),
        norms[norm](32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * ((size + 1) // 2) ** 2, classes),
    )


class BasicBlock(nn.Module):
    """He et al.'s block with BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


def small_resnet(classes: int, width: int = 16, blocks: int = 2, stride: int = 2) -> nn.Sequential:
    """A strided stem, residual blocks, global mean, linear head."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *(BasicBlock(width) for _ in range(blocks)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def _encoder(width: int, blocks: int, dropout: float) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, 4, 2 * width, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, blocks, nn.LayerNorm(width), enable_nested_tensor=False)


class VisionTransformer(nn.Module):
    """Patches by a strided convolution, a class token, two encoder layers."""

    def __init__(self, classes: int, size: int = 8, patch: int = 2, width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.encoder = _encoder(width, blocks, 0.0)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
        return cast(Tensor, self.head(self.encoder(tokens)[:, 0]))


class CharTransformer(nn.Module):
    """A causal language model of torch's encoder layers; tokens `(B, T)` to logits `(B, T, vocabulary)`."""

    def __init__(self, vocabulary: int, length: int, width: int = 32, blocks: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.encoder = _encoder(width, blocks, dropout)
        self.head = nn.Linear(width, vocabulary)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens) + self.position.weight
        return cast(Tensor, self.head(self.encoder(h, mask=self.get_buffer("mask"), is_causal=True)))


class RowLstm(nn.Module):
    """`nn.LSTM` over the rows of an image, a linear head on the last output."""

    def __init__(self, classes: int, size: int = 8, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.lstm(x[:, 0])[0][:, -1]))


class CharGru(nn.Module):
    """`nn.GRU` language model."""

    def __init__(self, vocabulary: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 24)
        self.gru = nn.GRU(24, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.gru(self.embed(tokens))[0]))


class NextWord(nn.Module):
    """Bengio's model: the embeddings of the words before through one hidden layer, `(B, T)` to `(B, vocabulary)`."""

    def __init__(self, vocabulary: int, context: int, width: int = 16, hidden: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.network = nn.Sequential(nn.Linear(context * width, hidden), nn.Tanh(), nn.Linear(hidden, vocabulary))

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.network(self.embed(tokens).flatten(1)))


class BagClassifier(nn.Module):
    """`nn.EmbeddingBag` and a linear head."""

    def __init__(self, vocabulary: int, classes: int, width: int = 24) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(vocabulary, width, mode="mean")
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.bag(tokens)))


class AttentionPool(nn.Module):
    """Rows of an image attended to by one learned query through `nn.MultiheadAttention`."""

    def __init__(self, classes: int, size: int = 8, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(size, width)
        self.position = nn.Parameter(torch.randn(size, width) * 0.02)
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, classes))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.relu(self.embed(x[:, 0])) + self.position
        query = self.query.expand(len(x), -1, -1)
        return cast(Tensor, self.head(self.attention(query, tokens, tokens, need_weights=False)[0][:, 0]))


def denoiser() -> nn.Sequential:
    """Three 3x3 convolutions from colour patches to colour patches."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 3, 3, padding=1),
    )

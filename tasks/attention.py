"""Transformers from explicit matrix products: language models, sequence classifiers, vision transformers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention, `(B, T, width) -> (B, T, width)`."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        length, width = x.shape[-2:]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, width // self.heads)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / math.sqrt(width // self.heads)
        if self.causal:
            scores = scores + torch.full((length, length), -1e9, device=x.device).triu(1)
        return self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a two-layer network, each with a residual connection; normalised before or after."""

    def __init__(self, width: int, heads: int, *, causal: bool, post_norm: bool, dropout: float, gain: int) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.attention = Attention(width, heads, causal)
        self.network = nn.Sequential(nn.Linear(width, gain * width), nn.GELU(), nn.Linear(gain * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = self.norm1(x + self.dropout(self.attention(x)))
            return self.norm2(x + self.dropout(self.network(x)))
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.network(self.norm2(x)))


class Transformer(nn.Module):
    """Learned positions and blocks over tokens `(B, T)` int64, or over vectors `(B, T, inputs)` when `inputs` is given.

    Output `(B, T, outputs)`, or `(B, outputs)` from the mean over positions when `pooled`. `tied` shares the token
    embedding with the output layer (`outputs` is then the vocabulary).
    """

    def __init__(
        self,
        length: int,
        width: int,
        outputs: int,
        *,
        vocabulary: int = 0,
        inputs: int = 0,
        blocks: int = 1,
        heads: int = 2,
        causal: bool = False,
        pooled: bool = False,
        post_norm: bool = False,
        tied: bool = False,
        dropout: float = 0.0,
        gain: int = 2,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width) if inputs else nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.Sequential(
            *(
                Block(width, heads, causal=causal, post_norm=post_norm, dropout=dropout, gain=gain)
                for _ in range(blocks)
            )
        )
        self.norm = nn.Identity() if post_norm else nn.LayerNorm(width)
        self.pooled, self.tied = pooled, tied
        if tied:
            nn.init.normal_(self.embed.weight, std=0.05)
        else:
            self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.blocks(self.embed(x) + self.position))
        if self.pooled:
            h = h.mean(-2)
        return F.linear(h, self.embed.weight) if self.tied else self.head(h)


class Patches(nn.Module):
    """Images `(B, C, S, S)` as tokens `(B, patches, pixels)`, then `body`; patches of `height x width` pixels."""

    def __init__(self, height: int, width: int, body: nn.Module) -> None:
        super().__init__()
        self.height, self.width, self.body = height, width, body

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (-1, self.width)).unflatten(-3, (-1, self.height))  # (B, C, R, height, Q, width)
        return self.body(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))

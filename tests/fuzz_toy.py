"""What the property tests of the optimizer draw from: parameters of every kind, gradients and losses of every size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

SHAPES = [(), (1,), (7,), (3, 4), (1, 5), (6, 1, 2), (70, 66), (2, 3, 2, 2), (0,), (0, 3), (4097,)]
"""Scalars to convolutions, empty ones, matrices of several blocks, vectors too long to be joined."""
LONG = [(70_000,), (260, 256)]
"""More than the kernel moves in one go, or orthogonalises itself."""
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex128]
LAYOUTS = ["plain", "transposed", "sliced"]
GRADIENTS = ["usual", "zero", "none", "tiny", "denormal", "1e-30", "1e30", "largest", "outlier", "sparse", "expanded"]
"""Kinds of finite gradients."""
BAD = [math.nan, math.inf, -math.inf]
SCALES = [1.0, 0.0, 1e-3, 1e3, 6e4, 1e15, 1e-15, 1e30, 1e-30]
"""Sizes of the weights; more than their type holds is cut."""
LOSSES = [None, 0.0, 1.0, -3.0, 1e30, -1e30, 1e-30, -1e-30, 1e-42, 3e38]


class Spec(NamedTuple):
    """One parameter: what it takes to build it again."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    scale: float

    def build(self, values: Tensor) -> nn.Parameter:
        """A parameter with these values, laid out in memory as the spec says."""
        if values.dim() == 0 or self.layout == "plain":
            laid = values.clone(memory_format=torch.contiguous_format)
        elif self.layout == "transposed":
            laid = values.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)
        else:
            room = torch.empty(*values.shape, 2, dtype=values.dtype)
            laid = room[..., 0].copy_(values)
        return nn.Parameter(laid)

    def new(self, seed: int) -> nn.Parameter:
        values = self.scale * noise(self.shape, self.dtype, seed)
        most = torch.finfo(self.dtype).max
        return self.build((values if values.is_complex() else values.clamp(-most, most)).to(self.dtype))


def noise(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, dtype=wide, generator=torch.Generator().manual_seed(seed))


def specs(long: bool = True) -> st.SearchStrategy[Spec]:
    shapes = st.sampled_from(SHAPES) | st.sampled_from(SHAPES + LONG if long else SHAPES)
    dtypes = st.just(torch.float32) | st.sampled_from(DTYPES)
    return st.builds(
        Spec,
        shapes,
        dtypes,
        st.just("plain") | st.sampled_from(LAYOUTS),
        st.sampled_from(SCALES),
    )


def options() -> st.SearchStrategy[dict[str, Any]]:
    """Options of a group."""
    return st.fixed_dictionaries(
        {},
        optional={
            "lr": st.sampled_from([0.0, 1e-3, 1.0, 3.0, torch.tensor(0.5), torch.tensor([[0.5]])]),
            "weight_decay": st.sampled_from([None, 0.0, 0.1, 100.0]),
            "maximize": st.booleans(),
        },
    )


def gradient(p: Tensor, kind: str, seed: int) -> Tensor | None:
    """A finite gradient of the kind; None for `none`."""
    if kind == "none":
        return None
    limit = torch.finfo(p.dtype).max
    usual = noise(tuple(p.shape), p.dtype, seed)
    sizes = {"zero": 0.0, "tiny": 1e-12, "denormal": 1e-42, "1e-30": 1e-30, "1e30": 1e30, "largest": limit / 4}
    values = usual * min(sizes.get(kind, 1.0), limit / 8)
    if kind == "largest":
        values = torch.full_like(usual, limit)
    if kind == "outlier" and p.numel():
        values.view(-1)[0] = min(1e30, limit)
    if kind == "expanded" and p.numel():
        return values.to(p.dtype).view(-1)[:1].expand(max(p.numel(), 1)).view(p.shape)
    if kind == "sparse" and p.dim():
        return torch.where(usual.real > 0, usual, 0).to(p.dtype).to_sparse()
    return values.to(p.dtype)


def spoil(grad: Tensor, bad: float) -> Tensor:
    """The same gradient with one element that is not finite."""
    values = (grad.to_dense() if grad.is_sparse else grad).clone(memory_format=torch.contiguous_format)
    values.view(-1)[-1] = bad
    return values

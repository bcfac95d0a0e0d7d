"""LayerNorm and BatchNorm by elementary operations, while an inner loop runs.

Under `vmap` torch 2.13 takes the statistics inside its fused backward passes of these two for constants: the second
derivatives come out wrong without an error (by up to 10 % on small networks). GroupNorm, InstanceNorm and RMSNorm are
right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ElementaryNorms(TorchFunctionMode):
    """Inside, `layer_norm` and `batch_norm` are sums, products and a root."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _ELEMENTARY.get(func, func)(*args, **(kwargs or {}))


def layer_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """As `torch.nn.functional.layer_norm`."""
    dims = list(range(-len(normalized_shape), 0))
    y = _standardised(x, x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """As `torch.nn.functional.batch_norm`; running statistics are read, never moved."""
    shape = [1, -1, *[1] * (x.dim() - 2)]
    if training or running_mean is None or running_var is None:
        dims = [0, *range(2, x.dim())]
        y = _standardised(x, x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True), eps)
    else:
        y = _standardised(x, running_mean.reshape(shape), running_var.reshape(shape), eps)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _standardised(x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    return (x - mean) * torch.rsqrt(variance + eps)


_ELEMENTARY: dict[Callable[..., Any], Callable[..., Any]] = {F.layer_norm: layer_norm, F.batch_norm: batch_norm}

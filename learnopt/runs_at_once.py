"""One module with many sets of parameters: all at once by `vmap` where torch can, otherwise one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from learnopt.devices import generators
from learnopt.task import Batch

Dims = Sequence[int | None]
"""For each part of a batch, 0 where every run has its own, stacked, None where all share it."""


class RunsAtOnce:
    """Losses of `N` runs.

    Args:
        module: takes a batch and returns its loss, `()`.
        names: of the parameters that differ from run to run; everything else of the module is shared.
        vectorise: True or False to insist; None finds out at the first call.

    Attributes:
        vectorise: what it does, once known.
        reason: why `vmap` could not, where it could not.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], vectorise: bool | None = None) -> None:
        self.module, self.names, self.vectorise, self.reason = module, names, vectorise, ""

    def __call__(self, params: list[Tensor], batch: Batch, dims: Dims) -> Tensor:
        """Losses, `(N,)`, for parameters of shape `(N, *shape)` each.

        Raises:
            RuntimeError: `vmap` cannot take the module, and one after the other runs would share the buffers that it
                writes (running statistics of BatchNorm); or what the module itself raises.
        """
        if self.vectorise is not None:
            return (self._vectorised if self.vectorise else self._looped)(params, batch, dims)
        put_back = generators(params[0].device)
        try:
            losses = self._vectorised(params, batch, dims)
        except (RuntimeError, NotImplementedError) as error:
            put_back()  # an attempt that fails has drawn nothing
            reason = str(error).strip().split("\n", 1)[0]
            before = {name: b.clone() for name, b in self.module.named_buffers()}
            # where this fails as well the module is at fault, and its own error says more than vmap's
            losses = self._looped(params, batch, dims)
            written = [name for name, b in self.module.named_buffers() if not torch.equal(b, before[name])]
            if written:
                raise RuntimeError(f"runs would share the buffer {written[0]!r}, which they write: {reason}") from error
            self.vectorise, self.reason = False, reason
            return losses
        self.vectorise = True
        return losses

    def _vectorised(self, params: list[Tensor], batch: Batch, dims: Dims) -> Tensor:
        def one(p: list[Tensor], *b: Tensor) -> Tensor:
            return functional_call(self.module, dict(zip(self.names, p, strict=True)), b)  # type: ignore[no-any-return]

        mapped: Callable[..., Tensor] = vmap(one, in_dims=(0, *dims), randomness="different")
        with _attention(params[0].device), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # slow, not wrong
            return mapped(params, *batch)

    def _looped(self, params: list[Tensor], batch: Batch, dims: Dims) -> Tensor:
        losses = []
        for k in range(params[0].shape[0]):
            p = {n: x[k] for n, x in zip(self.names, params, strict=True)}
            b = tuple(x if d is None else x[k] for x, d in zip(batch, dims, strict=True))
            losses.append(functional_call(self.module, p, b))
        return torch.stack(losses)


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """By elementary operations on the CPU, where `vmap` calls the fused kernel once for each run."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()

"""What users hand an optimizer: options to check, and tensors of any kind to compute with."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from operator import index
from typing import Any

import torch
from torch import Tensor

_WEIGHT_LIMIT = 1e30
"""Weights count as no larger than this where a network is measured: units times a fan-in stay finite."""
LOSS_LIMIT = 1e30
"""Larger losses count as this: differences of them would overflow float32."""
_MOST_STEPS = 2**63
"""A `total_steps` is a number that a machine can count to."""


def steps(total_steps: Any) -> int | None:
    """A `total_steps` as a plain int, numpy's whole numbers too; refuses what is neither None nor at least 1."""
    if total_steps is None:
        return None
    try:
        number = 0 if isinstance(total_steps, bool) else index(total_steps)
    except TypeError:
        number = 0
    if not 1 <= number < _MOST_STEPS:
        hint = "; no learning rate is needed, lr= multiplies the learned one" if isinstance(total_steps, float) else ""
        raise ValueError(f"total_steps must be a whole number of at least 1, or None, got {total_steps!r}{hint}")
    return number


def check_closure(closure: object) -> None:
    """Refuse what cannot be called, a loss above all."""
    if not callable(closure):
        raise TypeError(f"closure must be a function, got {closure!r:.60}; a loss is given by name: step(loss=loss)")


def check_options(lr: float | Tensor, weight_decay: float | None) -> None:
    """Refuse a learning rate or a weight decay that is out of its range."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element, got shape {tuple(lr.shape)}")
    if not _in_range(lr):
        raise ValueError(f"lr must be a finite number of at least 0, got {lr!r}")
    if weight_decay is not None and not _in_range(weight_decay):
        raise ValueError(f"weight_decay must be a finite number of at least 0, or None, got {weight_decay!r}")


def _in_range(value: object) -> bool:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False
    return not isinstance(value, (str, bytes)) and 0 <= number <= torch.finfo(torch.float32).max


def numbers(values: list[float | Tensor], like: Tensor) -> Tensor:
    """Options of several groups, numbers or tensors of one element, as one tensor beside `like`."""
    if any(isinstance(v, Tensor) for v in values):
        return torch.stack([torch.as_tensor(v).to(like).reshape(()) for v in values])
    return like.new_tensor(values)


def one_device(params: list[Tensor]) -> torch.device:
    """Where the parameters are; refuses a network that is spread over several devices."""
    devices = {p.device for p in params}
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"parameters of one optimizer must be on one device, got {found}; use one optimizer for each")
    return devices.pop()


def check_not_captured(device: torch.device) -> None:
    """Refuse a step that a CUDA graph is to capture: it looks at numbers to decide."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a step of LearnedOptimizer cannot be captured in a CUDA graph; capture the model's passes alone, as "
            "torch.cuda.make_graphed_callables does, and step outside"
        )


def loss_tensor(loss: Tensor | float, device: torch.device) -> Tensor:
    """A loss as a float tensor of shape `(1,)`, float32 unless it is a float64; refuses what is not one number.

    Finite ones that are larger than `LOSS_LIMIT` count as that.
    """
    if isinstance(loss, (int, float)) and abs(loss) > LOSS_LIMIT and loss - loss == 0:
        loss = LOSS_LIMIT if loss > 0 else -LOSS_LIMIT
    try:
        tensor = dense(torch.as_tensor(loss, device=device).detach()).resolve_neg()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"loss must be one number, got {loss!r}") from None
    if tensor.numel() != 1:
        raise ValueError(f"loss must be one number, got shape {tuple(tensor.shape)}")
    if tensor.is_complex():
        raise ValueError(f"loss must be one real number, got {tensor.dtype}")
    tensor = tensor.reshape(1)
    if tensor.dtype != torch.float64:
        return tensor.to(torch.float32)
    return torch.where(tensor.isfinite(), tensor.clamp(-LOSS_LIMIT, LOSS_LIMIT), tensor)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside: a step may be taken where the forward pass is, and decides in float32 all the same."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def precision(params: list[Tensor]) -> torch.dtype:
    """The precision to compute in: float64 where any parameter has it, else float32, also for half precision."""
    doubles = (torch.float64, torch.complex128)
    return torch.float64 if any(p.dtype in doubles for p in params) else torch.float32


def dense(grad: Tensor) -> Tensor:
    """Sparse gradients with all their zeros."""
    return grad.to_dense() if grad.layout != torch.strided else grad


def plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Real numbers of the working precision, as they are in memory; complex ones get a last dimension of 2."""
    x = x.detach()
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).to(dtype).resolve_neg()


def root_mean_square(x: Tensor) -> Tensor:
    """Root mean square of all elements, shape `()`, float32; finite if and only if all of `x` is."""
    values = plain(x, torch.float32)
    result = values.square().mean().sqrt()
    if math.isfinite(result) or not x.isfinite().all():
        return result
    return (values.clamp(-_WEIGHT_LIMIT, _WEIGHT_LIMIT) / _WEIGHT_LIMIT).square().mean().sqrt() * _WEIGHT_LIMIT


def write(p: Tensor, values: Tensor) -> None:
    """Put real values back into a parameter of any dtype; what its dtype cannot hold becomes the largest it can."""
    most = torch.finfo(p.dtype).max
    values = values.clamp(-most, most) if most < torch.finfo(values.dtype).max else values
    p.copy_(torch.complex(*values.unbind(-1)) if p.is_complex() else values)

"""Where runs live: the device that people name, and moving what goes on from one job to the next."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def choose(text: str) -> str:
    """The device called `text`, checked; `cuda` without a number is this rank's own under torchrun.

    Raises:
        ValueError: naming the device, when torch does not know it or this machine does not have it.
    """
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise ValueError(f"unknown device {text!r}; choose cpu, cuda or cuda:NUMBER") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {text!r} is not supported; choose cpu, cuda or cuda:NUMBER")
    if device.type == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError(f"device {text!r} is not there: torch {torch.__version__} finds no GPU on this machine")
    count = torch.cuda.device_count()
    index = int(os.environ.get("LOCAL_RANK", "0")) % count if device.index is None else device.index
    if index >= count:
        raise ValueError(f"device {text!r} is not there: this machine has {count}, counted from 0")
    return f"cuda:{index}"


def describe(device: str) -> str:
    """What people call the GPU `device`, as torch names it."""
    return f"{torch.cuda.get_device_name(device)} ({device})"


def generators_kept(device: torch.device | str) -> AbstractContextManager[None]:
    """Torch's generators, that of `device` too, are after the block what they were before."""
    there = torch.device(device)
    return torch.random.fork_rng(devices=[there] if there.type == "cuda" else [])


def generators(device: torch.device | str) -> Callable[[], None]:
    """Call what this returns to have torch's generators, that of `device` too, as they are now."""
    there = torch.device(device)
    state, other = torch.get_rng_state(), torch.cuda.get_rng_state(there) if there.type == "cuda" else None

    def put_back() -> None:
        torch.set_rng_state(state)
        if other is not None:
            torch.cuda.set_rng_state(other, there)

    return put_back


def copy(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`: itself where it is there already. The one place where tensors change devices."""
    return x.to(device)


def moved(tree: Any, device: torch.device | str) -> Any:
    """`tree` with all tensors inside its dicts, lists and tuples on `device`; everything else as it is."""
    if isinstance(tree, Tensor):
        return copy(tree, device)
    if isinstance(tree, dict):
        return {key: moved(value, device) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(moved(value, device) for value in tree))
    return type(tree)(moved(value, device) for value in tree) if isinstance(tree, list | tuple) else tree

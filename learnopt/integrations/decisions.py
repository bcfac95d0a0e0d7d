"""What a trainer's callback reads from a `LearnedOptimizer`: the optimizer itself, numbers for its logger."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from learnopt.optimizer import LearnedOptimizer

PREFIX = "learnopt"
"""Logged names start with it."""


def find(optimizer: Any) -> LearnedOptimizer:
    """The learned optimizer itself, out of whatever wrappers a trainer put around it.

    Raises:
        ValueError: there is none inside.
    """
    inner = optimizer
    while not isinstance(inner, LearnedOptimizer):
        around, inner = inner, getattr(inner, "optimizer", None)
        if inner is None or inner is around:
            raise ValueError(f"the trainer's optimizer must be a LearnedOptimizer, got {type(optimizer).__name__}")
    return inner


def numbers(
    optimizer: LearnedOptimizer, named_parameters: Iterable[tuple[str, Tensor]] | None, prefix: str = PREFIX
) -> dict[str, float]:
    """The last step's decisions by the names they are logged under.

    Args:
        named_parameters: names of the parameters; None: no learning rates of single tensors. Tensors that are not among
            them go by their place in the groups.

    Returns:
        `learnopt/schedule`, `learnopt/stop_probability`, and `learnopt/learning_rate/NAME` per tensor.
    """
    logged = {f"{prefix}/schedule": optimizer.schedule, f"{prefix}/stop_probability": optimizer.stop_probability}
    if named_parameters is not None:
        names = {id(p): name for name, p in named_parameters}
        own = [p for group in optimizer.param_groups for p in group["params"]]
        for i, (p, rate) in enumerate(zip(own, optimizer.learning_rates(), strict=True)):
            logged[f"{prefix}/learning_rate/{names.get(id(p), i)}"] = rate
    return logged

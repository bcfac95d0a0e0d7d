"""Optimizers of other packages that take the same checks, with records like ours; imported when they are asked for."""

from __future__ import annotations

import inspect
from typing import Any

from optimizer_classes import class_of
from torch.testing._internal.common_optimizers import (
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
)
from torch_record import TORCH


def record(label: str) -> OptimizerInfo:
    """The record of an optimizer of `LABELS`, which is its `label`.

    Raises:
        ValueError: there is none of that name.
    """
    made = TORCH[label] if label in TORCH else _of_another_package(label)
    made.label = label
    return made


def _of_another_package(label: str) -> OptimizerInfo:
    cls = class_of(label)
    known = set(inspect.signature(cls).parameters)
    return OptimizerInfo(
        cls,
        optim_inputs_func=lambda device, dtype=None: _inputs(cls, known),
        optim_error_inputs_func=get_error_inputs_for_all_optims,
        supported_impls=("foreach",) if "foreach" in known else (),
        not_og_supported_flags=("maximize", "foreach"),
    )


def _inputs(cls: type, known: set[str]) -> list[OptimizerInput]:
    """The options that most optimizers have, where this one has them."""
    rate = inspect.signature(cls).parameters["lr"].default
    quiet: dict[str, Any] = {"print_change_log": False} if "print_change_log" in known else {}
    options = {
        "default": {},
        "non-default lr": {"lr": rate / 2},
        "nonzero weight_decay": {"weight_decay": 0.1},
        "maximize": {"maximize": True},
        "maximize with weight_decay": {"maximize": True, "weight_decay": 0.1},
    }
    return [
        OptimizerInput(params=None, kwargs={**kwargs, **quiet}, desc=name)
        for name, kwargs in options.items()
        if set(kwargs) <= known
    ]

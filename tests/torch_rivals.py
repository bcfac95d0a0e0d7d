"""Optimizers of other packages that take the same checks, with records like ours; imported when they are asked for."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import torch
from torch.testing._internal.common_optimizers import (
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
)
from torch_record import TORCH

RIVALS = {
    "Prodigy": ("prodigyopt", "prodigyopt", "Prodigy"),
    "Schedule-Free": ("schedulefree", "schedulefree", "AdamWScheduleFree"),
    "Schedule-Free, train() called": ("schedulefree", "schedulefree", "AdamWScheduleFree"),
    "Lion": ("lion-pytorch", "lion_pytorch", "Lion"),
    "AdaBelief": ("adabelief-pytorch", "adabelief_pytorch", "AdaBelief"),
    "DAdaptAdam": ("dadaptation", "dadaptation", "DAdaptAdam"),
    "AdEMAMix": ("pytorch-optimizer", "pytorch_optimizer", "AdEMAMix"),
    "SOAP": ("pytorch-optimizer", "pytorch_optimizer", "SOAP"),
    "Lamb": ("pytorch-optimizer", "pytorch_optimizer", "Lamb"),
    "Adan": ("pytorch-optimizer", "pytorch_optimizer", "Adan"),
    "HeavyBall AdamW": ("heavyball", "heavyball", "AdamW"),
}
"""Label: (distribution, module, class)."""
LABELS = ("LearnedOptimizer", "AdamW", "SGD", *RIVALS)


def record(label: str) -> OptimizerInfo:
    """The record of an optimizer of `LABELS`.

    Raises:
        ValueError: there is none of that name.
    """
    if label in TORCH:
        return TORCH[label]
    if label not in RIVALS:
        raise ValueError(f"unknown optimizer {label!r}; choose from: {', '.join(LABELS)}")
    _, module, name = RIVALS[label]
    cls = getattr(import_module(module), name)
    if label.endswith("train() called"):
        cls = _in_training(cls)
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


def _in_training(cls: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The class as its users are told to use it: in training mode, which it is not when made."""

    def __init__(self: Any, params: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, params, *args, **kwargs)
        self.train()

    __init__.__signature__ = inspect.signature(cls.__init__)  # type: ignore[attr-defined]
    made = type("InTraining", (cls,), {"__init__": __init__, "__module__": __name__})
    globals()[made.__name__] = made  # so that it can be pickled
    return made

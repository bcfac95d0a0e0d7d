"""Optimizers that take the checks, by label: ours, torch's, and other packages', imported when they are asked for."""

from __future__ import annotations

import inspect
from functools import cache
from importlib import import_module
from typing import Any

import torch

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
CLASSES = (
    {"LearnedOptimizer": ("learnopt", "learnopt", "LearnedOptimizer")}
    | {name: ("torch", "torch.optim", name) for name in ("AdamW", "SGD")}
    | RIVALS
)


def class_of(label: str) -> Any:
    """The class of an optimizer of `CLASSES`.

    Raises:
        ValueError: there is none of that name.
    """
    if label not in CLASSES:
        raise ValueError(f"unknown optimizer {label!r}; choose from: {', '.join(CLASSES)}")
    _, module, name = CLASSES[label]
    cls = getattr(import_module(module), name)
    return _in_training(cls) if label.endswith("train() called") else cls


@cache
def _in_training(cls: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The class as its users are told to use it: in training mode, which it is not when made."""

    def __init__(self: Any, params: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, params, *args, **kwargs)
        self.train()

    __init__.__signature__ = inspect.signature(cls.__init__)  # type: ignore[attr-defined]
    made = type("InTraining", (cls,), {"__init__": __init__, "__module__": __name__})
    globals()[made.__name__] = made  # so that it can be pickled
    return made

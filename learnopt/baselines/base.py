"""What every optimizer of a comparison is wrapped in: a `Baseline` is a recipe, a `Stepper` one optimizer at work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 0.05
"""Share of the steps in which the cosine schedule rises linearly from 0."""


def _constant(progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": _constant, "cosine": _cosine}
"""Multiplier of the learning rate at a progress in (0, 1]."""


def multiplier(schedule: str, step: int, total_steps: int) -> float:
    """The schedule's multiplier for step number `step` (from 0) of `total_steps`; 0 is reached after the last one."""
    return SCHEDULES[schedule]((step + 0.5) / total_steps)


@dataclass(frozen=True)
class Settings:
    """What is tuned: the learning rate (in the optimizer's own unit) and its schedule.

    Attributes:
        rest: of a hybrid, the learning rate of its second optimizer as a multiple of `lr`; None: the same rate.
    """

    lr: float
    schedule: str = "constant"
    rest: float | None = None


@dataclass(frozen=True)
class Space:
    """What a search for settings may choose from.

    Attributes:
        schedules: names in `SCHEDULES`.
        hybrid: whether a second rate is searched for.
    """

    schedules: tuple[str, ...] = tuple(SCHEDULES)
    hybrid: bool = False


class Stepper:
    """One or more torch optimizers that step together under one schedule.

    Args:
        optimizers: each owns a part of the parameters.
        schedule: a name in `SCHEDULES`; it multiplies every group's learning rate.
        total_steps: horizon of the schedule.
    """

    averages = False
    """Whether validation happens at other weights than training, so that BatchNorm's statistics must be renewed."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], schedule: str, total_steps: int) -> None:
        self.optimizers, self.schedule, self.total_steps, self._step = optimizers, schedule, total_steps, 0
        self._rates = [[group["lr"] for group in o.param_groups] for o in optimizers]

    def step(self, loss: Tensor) -> None:
        """Update the parameters from their gradients; `loss` is the batch's loss, shape `()`."""
        factor = multiplier(self.schedule, self._step, self.total_steps)
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
        self._step += 1

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Weights inside the block are those to validate."""
        yield

    def observe(self) -> dict[str, Any] | None:
        """What the optimizer decided by itself at the last step; None where it decides nothing."""
        return None

    def state_bytes(self) -> int:
        """Bytes of tensors that the optimizers keep beside parameters and gradients."""
        return sum(_tensor_bytes(optimizer.state_dict()["state"]) for optimizer in self.optimizers)


def _tensor_bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_tensor_bytes, value.values()))
    return sum(map(_tensor_bytes, value)) if isinstance(value, list | tuple) else 0


@dataclass(frozen=True)
class Baseline:
    """An optimizer as it takes part in a comparison.

    Attributes:
        name: what it is called on the command line.
        label: what it is called in tables and plots.
        make: `(model, settings, total_steps, weights) -> Stepper`.
        settings: fixed settings, or None where they are tuned.
        space: what tuning chooses from.
        package: package that must be installed, beside torch.
        slow: left out of the quick comparison.
        variant: another's variant, which takes part only when named.
        learned: uses the meta-network's weights.
    """

    name: str
    label: str
    make: Callable[[nn.Module, Settings, int, str], Stepper]
    settings: Settings | None
    space: Space = Space()
    package: str | None = None
    slow: bool = False
    variant: bool = False
    learned: bool = False

    @property
    def tuned(self) -> bool:
        """Whether its settings are searched for, per task."""
        return self.settings is None

    def missing(self) -> str | None:
        """Why it cannot run here, or None if it can."""
        if self.package is None or find_spec(self.package) is not None:
            return None
        return f"{self.name} skipped: package {self.package} is not installed (pip install {self.package})"


def torch_stepper(build: Callable[..., torch.optim.Optimizer], **fixed: Any) -> Callable[..., Stepper]:
    """A `Baseline.make` for an optimizer that takes parameters and `lr`."""

    def make(model: nn.Module, settings: Settings, total_steps: int, weights: str) -> Stepper:
        parameters = [p for p in model.parameters() if p.requires_grad]
        return Stepper([build(parameters, lr=settings.lr, **fixed)], settings.schedule, total_steps)

    return make

"""`LearnedOptimizer` as torch's own tests describe an optimizer: an `OptimizerInfo`, as in torch's `optim_db`."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import lr_scheduler as schedulers
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
    optim_db,
)

from learnopt import LearnedOptimizer


def inputs(device: Any, dtype: Any = None) -> list[OptimizerInput]:
    """Every option with a value that is not its default."""
    options = {
        "default": {},
        "non-default lr": {"lr": 0.5},
        "tensor lr": {"lr": torch.tensor(0.5)},
        "steps told": {"total_steps": 300},
        "zero weight_decay": {"weight_decay": 0.0},
        "nonzero weight_decay": {"weight_decay": 0.1},
        "maximize": {"maximize": True},
        "maximize with weight_decay": {"maximize": True, "weight_decay": 0.1},
    }
    return [OptimizerInput(params=None, kwargs=kwargs, desc=name) for name, kwargs in options.items()]


def errors(device: Any, dtype: Any) -> list[ErrorOptimizerInput]:
    """Torch's errors for all optimizers, and those of our options."""
    ours = [
        ({"lr": -0.1}, "lr must be a finite number of at least 0, got -0.1"),
        ({"weight_decay": -1.0}, "weight_decay must be a finite number of at least 0, or None, got -1.0"),
        ({"total_steps": -3}, "total_steps must be a whole number of at least 1, or None, got -3"),
        ({"weights": "gone"}, "gone"),
    ]
    return [
        *get_error_inputs_for_all_optims(device, dtype),
        *(
            ErrorOptimizerInput(OptimizerInput(None, kwargs), error_type=ValueError, error_regex=text)
            for kwargs, text in ours
        ),
    ]


SCHEDULERS = (
    [lambda o: schedulers.StepLR(o, gamma=0.9, step_size=10)],
    [lambda o: schedulers.LinearLR(o, start_factor=0.4, total_iters=4)],
    [lambda o: schedulers.ConstantLR(o, factor=0.4, total_iters=4)],
    [lambda o: schedulers.ExponentialLR(o, gamma=0.99), lambda o: schedulers.ReduceLROnPlateau(o)],
    [lambda o: schedulers.CosineAnnealingLR(o, 30)],
    [lambda o: schedulers.CosineAnnealingWarmRestarts(o, 7)],
    [lambda o: schedulers.PolynomialLR(o, total_iters=60)],
    [lambda o: schedulers.MultiStepLR(o, [5, 25])],
    [lambda o: schedulers.LambdaLR(o, lambda t: 1 / (1 + t))],
    [lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.99)],
    [lambda o: schedulers.OneCycleLR(o, o.param_groups[0]["lr"], total_steps=60)],
    [lambda o: schedulers.CyclicLR(o, 0.1 * o.param_groups[0]["lr"], o.param_groups[0]["lr"], 5)],
    [lambda o: schedulers.SequentialLR(o, [schedulers.LinearLR(o), schedulers.CosineAnnealingLR(o, 30)], [5])],
    [lambda o: schedulers.ChainedScheduler([schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.99)])],
    [lambda o: torch.optim.swa_utils.SWALR(o, 0.5)],
)
"""All of torch's schedulers, those that cycle a momentum with their defaults."""

LEARNED = OptimizerInfo(
    LearnedOptimizer,  # type: ignore[arg-type]
    optim_inputs_func=inputs,
    optim_error_inputs_func=errors,
    scheduler_inputs=SCHEDULERS,
    supported_impls=(),
    not_og_supported_flags=("maximize",),
    supports_sparse=True,
    supports_complex=True,
)

if LEARNED not in optim_db:
    optim_db.append(LEARNED)

TORCH = {info.name: info for info in optim_db}
"""Torch's own and ours, by name."""

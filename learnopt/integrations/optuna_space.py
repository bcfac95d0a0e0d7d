"""What a parameter of an Optuna trial may be, and how far apart those of several are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from torch import Tensor

_ABSENT = math.nan
Place = dict[str, float]
"""A trial's parameters as numbers: from 0 to 1, or the index of a category."""


def fitted(value: Any, distribution: BaseDistribution) -> Any:
    """A category or float as the parameter may have it, on its grid; None if it may not."""
    if isinstance(distribution, CategoricalDistribution):
        return value if value is not None and value in distribution.choices else None
    if not isinstance(distribution, FloatDistribution) or not isinstance(value, float):
        return None
    if not distribution.low <= value <= distribution.high:
        return None
    if distribution.step is None:
        return value
    steps = math.floor((value - distribution.low) / distribution.step + 0.5)
    return min(distribution.high, distribution.low + steps * distribution.step)


def place(trial: FrozenTrial) -> Place:
    """A trial's parameters, each by its own distribution; those that can take one value are left out."""
    return {name: _number(value, d) for name, value, d in _pairs(trial)}


def categories(trial: FrozenTrial) -> set[str]:
    """Names of the parameters whose values are the same or not, and no more."""
    return {name for name, _, d in _pairs(trial) if isinstance(d, CategoricalDistribution)}


def distances(places: Sequence[Place], others: Sequence[Place], unordered: set[str]) -> Tensor:
    """Euclidean distances from each trial to each other one, `(len(places), len(others))`, float64.

    A category that differs counts 1, as does a parameter that only one of two trials has.
    """
    names = sorted({name for p in (*places, *others) for name in p})
    tables = [
        torch.tensor([[p.get(n, _ABSENT) for n in names] for p in each], dtype=torch.float64).view(
            len(each), len(names)
        )
        for each in (places, others)
    ]
    difference = (tables[0][:, None] - tables[1]).abs()
    for i, name in enumerate(names):
        if name in unordered:
            difference[..., i] = (difference[..., i] > 0).double()
    difference[torch.isnan(tables[0])[:, None] ^ torch.isnan(tables[1])] = 1
    return difference.nan_to_num(0).square().sum(-1).sqrt()


def _pairs(trial: FrozenTrial) -> list[tuple[str, Any, BaseDistribution]]:
    return [(n, v, trial.distributions[n]) for n, v in trial.params.items() if not trial.distributions[n].single()]


def _number(value: Any, distribution: BaseDistribution) -> float:
    if isinstance(distribution, FloatDistribution | IntDistribution):
        low, high, x = float(distribution.low), float(distribution.high), float(value)
        if distribution.log:
            low, high, x = math.log(low), math.log(high), math.log(x)
        return (x - low) / (high - low)
    return float(distribution.to_internal_repr(value))

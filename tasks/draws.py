"""Random draws that task families share; each is a function of the generator's state alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A float whose logarithm is uniform over `low..high`."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def log_integer(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer in `low..high`, both included, roughly log-uniform."""
    return min(high, int(log_uniform(rng, low, high + 1)))


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, all equally likely; repeat an option to make it likelier."""
    return options[int(rng.integers(len(options)))]


def weighted(rng: np.random.Generator, options: Mapping[T, float]) -> T:
    """A key of `options` with probability proportional to its value."""
    keys = list(options)
    weights = np.array([options[key] for key in keys], dtype=float)
    return keys[int(rng.choice(len(keys), p=weights / weights.sum()))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with `probability`."""
    return bool(rng.random() < probability)


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """A torch generator seeded by the next draw of `rng`."""
    return torch.Generator().manual_seed(int(rng.integers(2**31)))

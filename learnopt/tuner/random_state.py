"""The random state around a search: kept for the user, seeded for what is measured."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from learnopt.task import seed_of


@contextmanager
def random_state_kept(*data: Any) -> Iterator[None]:
    """Python's, numpy's and torch's generators (the accelerators' too), and those that `data` has of its own, are after
    the block what they were before."""
    kept, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  # users' data may draw from it
    own = [(generator, generator.get_state()) for part in data for generator in _generators(part)]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(kept)
        np.random.set_state(legacy)  # noqa: NPY002
        for generator, state in own:
            generator.set_state(state)


def seeded(*parts: object, data: Any = None) -> None:
    """Seed the three generators, and those that `data` has of its own."""
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    for generator in _generators(data):
        generator.manual_seed(seed)


def _generators(data: Any) -> list[torch.Generator]:
    """What a `DataLoader` draws from where the user gave it a generator: by itself, or in a sampler or the data set."""
    batches = getattr(data, "batch_sampler", None)
    parts = (data, getattr(data, "sampler", None), batches, getattr(batches, "sampler", None))
    found = (getattr(part, "generator", None) for part in (*parts, getattr(data, "dataset", None)))
    return [generator for generator in found if isinstance(generator, torch.Generator)]

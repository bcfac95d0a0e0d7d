"""Generated token streams and sequence problems: Markov chains, brackets, copying, sorting, addition."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learnopt.tasks.draws import log_uniform


class Sequences(NamedTuple):
    """Inputs and targets `(rows, length)` int64, both in `0..vocabulary - 1`; training rows first, then validation."""

    dataset: str
    inputs: Tensor
    targets: Tensor
    vocabulary: int


def _shifted(dataset: str, tokens: np.ndarray, vocabulary: int) -> Sequences:
    stream = torch.from_numpy(np.ascontiguousarray(tokens)).long()
    return Sequences(dataset, stream[:, :-1].contiguous(), stream[:, 1:].contiguous(), vocabulary)


def markov(rng: np.random.Generator, rows: int, length: int) -> Sequences:
    """A second-order Markov chain with sparse random transitions."""
    vocabulary = int(rng.integers(4, 24))
    table = rng.dirichlet(np.full(vocabulary, log_uniform(rng, 0.03, 0.5)), (vocabulary, vocabulary)).cumsum(-1)
    tokens = rng.integers(vocabulary, size=(rows, length + 1))
    for t in range(2, length + 1):
        cumulative = table[tokens[:, t - 2], tokens[:, t - 1]]
        tokens[:, t] = (rng.random((rows, 1)) > cumulative).sum(1).clip(max=vocabulary - 1)
    return _shifted("gen:markov", tokens, vocabulary)


def brackets(rng: np.random.Generator, rows: int, length: int) -> Sequences:
    """Well-nested brackets of several sorts: which closing bracket comes next needs a stack."""
    sorts = int(rng.integers(2, 6))
    depth, stack = np.zeros(rows, dtype=int), np.zeros((rows, length + 2), dtype=int)
    tokens, everyone = np.zeros((rows, length + 1), dtype=int), np.arange(rows)
    for t in range(length + 1):
        opening = (depth == 0) | ((rng.random(rows) < 0.5) & (depth < 6))
        sort = np.where(opening, rng.integers(sorts, size=rows), stack[everyone, np.maximum(depth - 1, 0)])
        stack[everyone[opening], depth[opening]] = sort[opening]
        depth += np.where(opening, 1, -1)
        tokens[:, t] = np.where(opening, sort, sort + sorts)
    return _shifted("gen:brackets", tokens, 2 * sorts)


def copying(rng: np.random.Generator, rows: int, length: int) -> Sequences:
    """A random half, a separator, and the same half again."""
    vocabulary, half = int(rng.integers(4, 12)), length // 2
    word = rng.integers(vocabulary - 1, size=(rows, half))
    tokens = np.concatenate([word, np.full((rows, 1), vocabulary - 1), word], 1)
    return _shifted("gen:copy", tokens, vocabulary)


def sorting(rng: np.random.Generator, rows: int, length: int) -> Sequences:
    """The target is the sorted input."""
    vocabulary = int(rng.integers(4, 16))
    tokens = torch.from_numpy(rng.integers(vocabulary, size=(rows, length))).long()
    return Sequences("gen:sort", tokens, tokens.sort(-1).values, vocabulary)


def addition(rng: np.random.Generator, rows: int, length: int) -> Sequences:
    """Two numbers digit by digit, lowest first, as pairs in one symbol; the target is their sum's digits."""
    base = int(rng.integers(2, 6))
    a, b = rng.integers(base, size=(2, rows, length))
    total, carry = np.zeros_like(a), np.zeros(rows, dtype=int)
    for t in range(length):
        value = a[:, t] + b[:, t] + carry
        total[:, t], carry = value % base, value // base
    return Sequences("gen:add", torch.from_numpy(a * base + b).long(), torch.from_numpy(total).long(), base * base)


GRAMMARS: dict[str, Callable[[np.random.Generator, int, int], Sequences]] = {
    "gen:markov": markov,
    "gen:brackets": brackets,
    "gen:copy": copying,
    "gen:sort": sorting,
    "gen:add": addition,
}

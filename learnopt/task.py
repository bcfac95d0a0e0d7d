"""What is trained: a `Task` is one training problem, a `TaskFamily` a distribution of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

Batch = tuple[Tensor, ...]


def seed_of(*parts: object) -> int:
    """A 63-bit seed that is a function of `parts` alone: the same on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Task(ABC):
    """One training problem: a model, its batches, its loss and the number of steps it deserves.

    Everything random is a function of the seed that is passed in, never of global random state, so that every
    optimizer sees the same initialisation and the same batches.

    Attributes:
        name: unique within its suite; letters, digits, `_` and `-`.
        kind: architecture kind ("mlp", "cnn", "transformer", ...), for disjointness and for the report.
        datasets: names of the data sets the batches come from, generated ones as "gen:...".
        steps: declared budget in optimizer steps.
        metric_name: what `metric` returns; "loss" where the loss says it all.
        larger_is_better: direction of `metric`.
        study: name of the hyperparameter search whose trials this task and others are; "" for none.
        settings: what tells those tasks apart, in numbers that distances make sense of, such as the logarithm of a
            width; the same names in all tasks of a study.
        fingerprint: digest of data that may change while the name stays: stored runs of other data are not used.
    """

    name: str
    kind: str
    datasets: frozenset[str]
    steps: int
    metric_name: str = "loss"
    larger_is_better: bool = False
    study: str = ""
    settings: Mapping[str, float] = MappingProxyType({})
    fingerprint: str = ""

    @abstractmethod
    def _module(self) -> nn.Module:
        """A freshly initialised model; `build` seeds torch's generator around the call."""

    @abstractmethod
    def batch(self, seed: int, step: int) -> Batch:
        """Training batch number `step` of the stream `seed`: the same tensors at every call."""

    def batches(self, seeds: Sequence[int], step: int) -> Batch:
        """`batch` of several streams, stacked: `(len(seeds), B, ...)`; to be overridden where that is quicker."""
        each = [self.batch(seed, step) for seed in seeds]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True))

    @abstractmethod
    def validation(self) -> Batch:
        """The whole validation set (a fixed, capped sample) as one batch, disjoint from the training rows."""

    @abstractmethod
    def loss(self, model: nn.Module | Callable[..., Tensor], batch: Batch) -> Tensor:
        """Scalar mean loss, shape `()`; it only calls `model(...)` and branches on no value. Neither it nor the model
        counts its calls in Python: the operations of one call may stand for those of the next."""

    def metric(self, model: nn.Module | Callable[..., Tensor], batch: Batch) -> Tensor:
        """Validation metric, shape `()`; the loss unless a task says otherwise."""
        return self.loss(model, batch)

    def build(self, seed: int) -> nn.Module:
        """The model with its initialisation number `seed`; torch's global random state is left as found."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of("init", self.name, seed))
            return self._module()

    def __repr__(self) -> str:
        return f"<Task {self.name} ({self.kind}, {self.steps} steps, {', '.join(sorted(self.datasets))})>"


class TaskFamily(ABC):
    """A distribution of tasks.

    Attributes:
        name: unique within its suite.
        datasets: every data set any of its tasks may use.
    """

    name: str
    datasets: frozenset[str]

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Task:
        """Draw a task; a function of `rng`'s state alone."""

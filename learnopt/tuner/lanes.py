"""Probes at work: a model and its optimizer per learning rate, which can be advanced further."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learnopt.task import seed_of
from learnopt.tuner.data import Loss, Source
from learnopt.tuner.probes import PARTS, Probe, half_of

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda params, lr, weight_decay: torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay),
    "sgd": lambda params, lr, weight_decay: torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=weight_decay),
}


class TimeUp(Exception):
    """The seconds are spent."""


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Python's, numpy's and torch's generators (the accelerators' too) are after the block what they were before."""
    kept, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  # users' data may draw from it
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(kept)
        np.random.set_state(legacy)  # noqa: NPY002


def seeded(*parts: object) -> None:
    """Seed the three generators."""
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def maker(make_model: nn.Module | Callable[[], nn.Module], seed: int) -> Callable[[], nn.Module]:
    """Fresh models: the factory's with the same random state each time, or copies of a model.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(make_model, nn.Module):
        model = make_model
        return lambda: copy.deepcopy(model)
    if not callable(make_model):
        raise ValueError(f"make_model must be a function that returns an nn.Module, got {type(make_model).__name__}")
    factory = make_model

    def make() -> nn.Module:
        seeded("model", seed)
        made = factory()
        if not isinstance(made, nn.Module):
            raise ValueError(f"make_model must return an nn.Module, got {type(made).__name__}")
        return made

    return make


def judge(model: nn.Module, loss: Loss, source: Source) -> float:
    """Mean loss of the validation batches, without a graph; the model is in training mode again afterwards."""
    model.eval()
    with torch.no_grad():
        values = [float(loss(model, batch)) for batch in source.valid]
    model.train()
    return sum(values) / len(values)


class Lane:
    """A training at a constant learning rate.

    Args:
        part: steps in a part, of which a full run has `PARTS`.
        deadline: on `time.monotonic`.
    """

    def __init__(
        self, model: nn.Module, optimizer: str, lr: float, weight_decay: float, loss: Loss, source: Source,
        start: float, steps: int, deadline: float, seed: int,
    ) -> None:  # fmt: skip
        self.lr, self._model, self._loss, self._source, self._start = lr, model.train(), loss, source, start
        params = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = OPTIMIZERS[optimizer](params, lr=lr, weight_decay=weight_decay)
        self._edges = [max(i, round(i * steps / PARTS)) for i in range(PARTS + 1)]
        self._deadline, self._seed, self._stream = deadline, seed, source.stream()
        self._done, self._train = 0, list[float]()

    @property
    def parts(self) -> int:
        """Parts that were run."""
        return len(self._train)

    @property
    def steps(self) -> int:
        """Steps that were taken."""
        return self._done

    def advance(self, parts: int, step: Callable[[], None]) -> Probe:
        """Train on up to `parts` parts in all; a loss that is not finite ends it.

        Args:
            step: called after every step.

        Raises:
            TimeUp: the deadline came first.
        """
        half = math.nan
        while self.parts < parts and not (self._train and not math.isfinite(self._train[-1])):
            self._train.append(self._part(step))
            if self.parts == half_of(parts):
                half = judge(self._model, self._loss, self._source)
        valid = judge(self._model, self._loss, self._source) if math.isfinite(self._train[-1]) else math.inf
        half = half if math.isfinite(half) else valid
        return Probe(self.lr, self.parts, self._start, half, valid, tuple(self._train))

    def _part(self, step: Callable[[], None]) -> float:
        """Mean training loss of the next part."""
        total, first = 0.0, self._done
        for _ in range(self._edges[self.parts + 1] - first):
            if time.monotonic() > self._deadline:
                raise TimeUp
            batch: Any = next(self._stream)
            seeded("step", self._seed, self._done)
            self._optimizer.zero_grad()
            value: Tensor = self._loss(self._model, batch)
            self._done += 1
            step()
            total += float(value.detach())
            if not math.isfinite(total):
                return math.inf
            torch.autograd.backward(value)
            self._optimizer.step()
        return total / (self._done - first)

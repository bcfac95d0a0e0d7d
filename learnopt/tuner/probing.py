"""Probes at work: whole short trainings."""

from __future__ import annotations

import copy
import math
import time
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from learnopt.baselines import multiplier
from learnopt.tuner.data import Loss, Source
from learnopt.tuner.probes import Probe, edges
from learnopt.tuner.random_state import seeded

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda params, lr, weight_decay: torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay),
    "sgd": lambda params, lr, weight_decay: torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=weight_decay),
}


class TimeUp(Exception):
    """The seconds are spent."""


def maker(make_model: nn.Module | Callable[[], nn.Module], seed: int) -> Callable[[], nn.Module]:
    """Fresh models: the factory's with the same random state each time, or copies of a model.

    Raises:
        ValueError: it is neither; or, at a call, the factory's model is not a new one.
    """
    if isinstance(make_model, nn.Module):
        model = make_model
        return lambda: copy.deepcopy(model)
    if not callable(make_model):
        raise ValueError(f"make_model must be a function that returns an nn.Module, got {type(make_model).__name__}")
    factory, last = make_model, list[weakref.ref[nn.Parameter]]()

    def make() -> nn.Module:
        seeded("model", seed)
        made = factory()
        if not isinstance(made, nn.Module):
            raise ValueError(f"make_model must return an nn.Module, got {type(made).__name__}")
        trained = [p for p in made.parameters() if p.requires_grad]  # frozen parts may well be shared
        before = [p for ref in last if (p := ref()) is not None]
        if {id(p) for p in trained} & {id(p) for p in before}:
            raise ValueError(
                f"make_model returned a {type(made).__name__} with parameters that it had returned before: build a new "
                "model at each call, or give the model itself, which is copied"
            )
        last[:] = [weakref.ref(p) for p in trained]
        return made

    return make


def judge(model: nn.Module, loss: Loss, source: Source) -> float:
    """Mean loss of the validation batches, without a graph; the model is in training mode again afterwards."""
    model.eval()
    with torch.no_grad():
        values = [float(_single(loss(model, batch))) for batch in source.valid]
    model.train()
    return sum(values) / len(values)


def _single(value: Any) -> Tensor:
    """What a loss returned; refuses what is not one number in a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"loss must return a tensor of one number, got {value!r:.60}")
    if value.numel() != 1:
        raise ValueError(f"loss must return a tensor of one number, got shape {tuple(value.shape)}")
    return value


class Prober:
    """Runs probes: each a training from the start, with a warm-up and a cosine schedule.

    Attributes:
        weights: state dict, on the CPU, of the probe that ended with the least validation loss; empty before one did.

    Args:
        make: gives the model to train.
        start: validation loss before training.
        deadline: on `time.monotonic`.
        stepped: called after every step.
    """

    def __init__(
        self, make: Callable[[], nn.Module], optimizer: str, weight_decay: float, loss: Loss, source: Source,
        start: float, deadline: float, seed: int, stepped: Callable[[], None],
    ) -> None:  # fmt: skip
        self._make, self._optimizer, self._weight_decay = make, optimizer, weight_decay
        self._loss, self._source, self._start = loss, source, start
        self._deadline, self._seed, self._stepped = deadline, seed, stepped
        self._least, self.weights = math.inf, dict[str, Any]()

    def run(self, lr: float, share: float, steps: int) -> Probe:
        """Train for `steps`, which are `share` of a full run; a loss that is not finite ends it.

        Raises:
            TimeUp: the deadline came first.
        """
        model = self._make().train()
        params = [p for p in model.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS[self._optimizer](params, lr=lr, weight_decay=self._weight_decay)
        at, stream, train, half = edges(steps), self._source.stream(), list[float](), math.nan
        for first, last in pairwise(at):
            losses = (self._step(model, optimizer, next(stream), lr, t, steps) for t in range(first, last))
            train.append(_mean(losses))
            if not math.isfinite(train[-1]):
                return Probe(lr, share, steps, self._start, half, math.inf, tuple(train))
            if last == at[len(at) // 2]:
                half = judge(model, self._loss, self._source)
        valid = judge(model, self._loss, self._source)
        if valid < self._least:
            self._least, self.weights = valid, _copied(model)
        return Probe(lr, share, steps, self._start, half, valid, tuple(train))

    def _step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, lr: float, t: int, steps: int
    ) -> float:
        """Training loss before step `t`, which is taken if it is finite."""
        if time.monotonic() > self._deadline:
            raise TimeUp
        seeded("step", self._seed, t)
        for group in optimizer.param_groups:
            group["lr"] = lr * multiplier("cosine", t, steps)
        optimizer.zero_grad()
        value = _single(self._loss(model, batch))
        self._stepped()
        found = float(value.detach())
        if math.isfinite(found):
            torch.autograd.backward(value)
            optimizer.step()
        return found


def _copied(model: nn.Module) -> dict[str, Any]:
    """State dict of copies, tensors on the CPU."""
    state = model.state_dict()
    return {k: v.detach().to("cpu", copy=True) if isinstance(v, Tensor) else copy.deepcopy(v) for k, v in state.items()}


def _mean(losses: Iterator[float]) -> float:
    """Of losses up to the first that is not finite, which makes it infinite."""
    total, count = 0.0, 0
    for loss in losses:
        if not math.isfinite(loss):
            return math.inf
        total, count = total + loss, count + 1
    return total / count

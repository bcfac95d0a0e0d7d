"""Trains the networks of the scikit-learn estimators: arrays in, trained layers and the course of the training out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor, nn
from torch.nn import functional

from learnopt.optimizer import LearnedOptimizer
from learnopt.stopping.patience import Patience
from learnopt.stopping.stopper import Stopper

Array = NDArray[Any]
Layers = list[tuple[Array, Array]]
"""Weights `(inputs, outputs)` and biases `(outputs,)` of every layer, float64."""


class Activation(NamedTuple):
    """What a hidden layer's sums go through, in torch and in numpy."""

    module: Callable[[], nn.Module]
    function: Callable[[Array], Array]


ACTIVATIONS = {
    "relu": Activation(nn.ReLU, lambda x: np.maximum(x, 0)),
    "tanh": Activation(nn.Tanh, np.tanh),
    "logistic": Activation(nn.Sigmoid, special.expit),
    "identity": Activation(nn.Identity, lambda x: x),
    "gelu": Activation(nn.GELU, lambda x: 0.5 * x * (1 + special.erf(x / math.sqrt(2)))),
}
EPOCHS = 200
"""Passes over the data that the number of steps is set by where nobody says."""
STEPS = (300, 2000)
"""Fewest and most steps of such a choice: the lengths that the optimizer has learned from."""
LOOKS = 60
"""Looks at the validation rows in a training, where passes are not longer than that."""


def measure(x: Any, weights: Array) -> tuple[Array, Array]:
    """Centre and scale of every column, `(columns,)` each, rows counting by their weights.

    The scale is the standard deviation, 1 for constant columns. Sparse ones keep their zeros: centre 0, scale the root
    mean square.

    Raises:
        ValueError: values are so large that their squares overflow.
    """
    share = weights / weights.sum()
    with np.errstate(over="ignore", invalid="ignore"):
        if hasattr(x, "tocsr"):
            centre = np.zeros(x.shape[1])
            square = np.asarray(x.multiply(x).T @ share).ravel()
        else:
            x = x.astype(np.float64)
            centre = share @ x
            square = share @ (x - centre) ** 2
    if not np.isfinite(square).all():
        largest = float(abs(x).max())
        raise ValueError(f"values are too large to be standardised, up to {largest:g}: their squares overflow")
    scale = np.sqrt(square)
    return centre, np.where(scale > 10 * np.finfo(np.float32).eps * np.abs(centre), scale, 1.0)


def merge(x: Any, y: Array, weights: Array) -> tuple[Any, Array, Array]:
    """Equal rows as one, with the sum of their weights, in an order of their own.

    Where all rows make one batch nothing else changes, and a whole weight is exactly as good as so many repetitions.
    """
    if hasattr(x, "tocsr"):
        x = x.tocsr()
        x.sum_duplicates()
        parts = [slice(a, b) for a, b in itertools.pairwise(x.indptr)]
        inputs = [x.indices[part].tobytes() + x.data[part].tobytes() for part in parts]
    else:
        inputs = [row.tobytes() for row in x]
    sums: dict[Any, float] = {}
    first: dict[Any, int] = {}
    for i, key in enumerate(zip(inputs, map(str, y.tolist()), strict=True)):
        sums[key] = sums.get(key, 0.0) + weights[i]
        first.setdefault(key, i)
    keys = sorted(sums)
    index = np.array([first[key] for key in keys])
    return x[index], y[index], np.array([sums[key] for key in keys])


class Rows:
    """Training rows, dense or sparse, as standardised float32 tensors when they are asked for.

    Args:
        x: `(rows, features)`, an array or a sparse matrix in CSR.
        y: `(rows,)` of class numbers, or `(rows, outputs)`.
        weights: `(rows,)`, non-negative.
    """

    def __init__(self, x: Any, y: Array, weights: Array, centre: Array, scale: Array) -> None:
        self._x, self._centre, self._scale = x, centre, scale
        self._y = torch.from_numpy(np.ascontiguousarray(y))
        self._weights = torch.from_numpy(weights.astype(np.float32))
        self._all = None if hasattr(x, "tocsr") else self._inputs(x)

    def __len__(self) -> int:
        return len(self._y)

    def _inputs(self, x: Any) -> Tensor:
        dense = x.toarray() if hasattr(x, "toarray") else x
        return torch.from_numpy(((dense - self._centre) / self._scale).astype(np.float32))

    def batch(self, index: Array) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets and weights of some rows."""
        i = torch.from_numpy(index)
        x = self._inputs(self._x[index]) if self._all is None else self._all[i]
        return x, self._y[i], self._weights[i]


@dataclass
class Course:
    """What a training went through.

    Attributes:
        losses: weighted mean training loss of every pass over the data, or of its part where it stopped.
        validation: losses of the validation rows, where there are any.
        steps: steps taken.
        passes: passes over the data, the last one counted in full.
        reason: why it ended.
        seen: row updates.
    """

    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    steps: int = 0
    passes: int = 0
    seen: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Loss:
    """Weighted mean losses. `kind`: "classes" (cross-entropy of class numbers), "labels" (of independent 0/1 labels) or
    "values" (half the squared error, summed over outputs)."""

    kind: str

    def __call__(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        if self.kind == "classes":
            each = functional.cross_entropy(outputs, y, reduction="none")
        elif self.kind == "labels":
            each = functional.binary_cross_entropy_with_logits(outputs, y.float(), reduction="none").sum(1)
        else:
            each = 0.5 * (outputs - y.float()).square().sum(1)
        total = weights.sum()
        return (each * weights).sum() / total.clamp_min(torch.finfo(torch.float32).tiny)


def new_layers(sizes: list[int], random: np.random.RandomState) -> Layers:
    """Layers with torch's initial weights, uniform within 1 / sqrt(inputs)."""
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        bound = 1 / math.sqrt(inputs)
        draw = random.uniform(-bound, bound, (inputs + 1, outputs)).astype(np.float32).astype(np.float64)
        layers.append((draw[:-1], draw[-1]))
    return layers


def build(layers: Layers, activation: str) -> nn.Sequential:
    """A torch network of these layers."""
    modules: list[nn.Module] = []
    for weights, bias in layers:
        linear = nn.utils.skip_init(nn.Linear, *weights.shape, dtype=torch.float32)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weights.T.copy()))
            linear.bias.copy_(torch.from_numpy(bias.copy()))
        modules += [linear, ACTIVATIONS[activation].module()]
    return nn.Sequential(*modules[:-1])


def read_layers(network: nn.Sequential) -> Layers:
    """The layers of a network that `build` made."""
    linear = [m for m in network if isinstance(m, nn.Linear)]
    return [(m.weight.detach().double().numpy().T.copy(), m.bias.detach().double().numpy().copy()) for m in linear]


def passes(rows: int, batch: int, random: np.random.RandomState) -> Iterator[list[Array]]:
    """Batches of row numbers, one list per pass, shuffled, for ever."""
    while True:
        order = random.permutation(rows)
        yield [order[i : i + batch] for i in range(0, rows, batch)]


def planned_steps(max_iter: int | None, rows: int, batch: int) -> int:
    """Steps of a training: `max_iter` passes, or what the number of rows suggests."""
    per_pass = math.ceil(rows / batch)
    if max_iter is not None:
        return max_iter * per_pass
    low, high = STEPS
    return min(max(EPOCHS * per_pass, low), max(high, 2 * per_pass))


@dataclass(frozen=True)
class Training:
    """One training from start to end.

    Attributes:
        stopper: judges the losses of the validation rows; None: the optimizer's own `should_stop`.
        say: told a line after every pass.
    """

    loss: Loss
    batch: int
    steps: int
    weights: str
    stopper: Stopper | None
    random: np.random.RandomState
    say: Callable[[str], None]

    def run(self, network: nn.Sequential, train: Rows, valid: Rows | None) -> Course:
        """Train `network`; with validation rows it ends with the weights that were best on them."""
        course = Course()
        optimizer = LearnedOptimizer(
            network.parameters(), total_steps=self.steps, weights=self.weights, process_group=False
        )
        keeper = Patience(self.steps, restore_best=network)
        per_pass = math.ceil(len(train) / self.batch)
        every = max(1, round(self.steps / LOOKS))
        stopped = False
        for batches in passes(len(train), self.batch, self.random):
            one_pass(network, optimizer, self.loss, train, batches[: self.steps - course.steps], course)
            stopped = valid is None and optimizer.should_stop
            if valid is not None and (
                course.steps >= self.steps or course.steps // every > (course.steps - per_pass) // every
            ):
                stopped = self._look(network, valid, course, keeper)
            self.say(f"pass {course.passes}, loss {course.losses[-1]:.6g}")
            if stopped or course.steps >= self.steps:
                break
        if not course.reason:
            course.reason = "the optimizer saw no use in going on" if stopped else "all planned steps taken"
        if valid is not None:
            keeper.restore()
        return course

    def _look(self, network: nn.Sequential, valid: Rows, course: Course, keeper: Patience) -> bool:
        value = evaluate(network, self.loss, valid)
        course.validation.append(value)
        keeper.update(value, course.steps)
        assert self.stopper is not None
        verdict = self.stopper.update(value, course.steps)
        if verdict.stop:
            course.reason = verdict.reason
        return verdict.stop


def one_pass(
    network: nn.Sequential, optimizer: LearnedOptimizer, loss: Loss, train: Rows, batches: list[Array], course: Course
) -> None:
    """Steps over some batches, counted in `course`."""
    sums = total = 0.0
    for index in batches:
        x, y, weights = train.batch(index)
        value = loss(network(x), y, weights)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step(loss=value)
        weight = float(weights.sum())
        sums, total = sums + float(value.detach()) * weight, total + weight
        course.seen += len(index)
    course.steps += len(batches)
    course.passes += 1
    course.losses.append(sums / total if total else math.nan)


@torch.no_grad()
def evaluate(network: nn.Sequential, loss: Loss, rows: Rows, chunk: int = 8192) -> float:
    """The loss of all rows."""
    sums = total = 0.0
    for start in range(0, len(rows), chunk):
        x, y, weights = rows.batch(np.arange(start, min(start + chunk, len(rows))))
        weight = float(weights.sum())
        sums, total = sums + float(loss(network(x), y, weights)) * weight, total + weight
    return sums / total if total else math.nan

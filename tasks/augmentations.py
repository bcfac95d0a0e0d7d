"""Augmentations: wrappers that turn any task into a differently scaled or noisier one.

Weight reparametrisation changes the unit of the weights that an optimizer sees (Celo: Moudgil et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from learnopt.task import Batch, Task, seed_of
from learnopt.tasks.draws import chance, log_uniform
from learnopt.tasks.rows import RowTask, batch_generator

Model = nn.Module | Callable[..., Tensor]


class ReparametrisedModule(nn.Module):
    """Computes what `inner` computes, from parameters that are `inner`'s divided by `scale`.

    `inner` is not a registered submodule: its parameters would otherwise be listed a second time. Its buffers are
    shared, so that running statistics are kept and saved; a parameter `a.b` is called `a__b` here.
    """

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.hidden = (inner,)
        for name, parameter in inner.named_parameters():
            self.register_parameter(name.replace(".", "__"), nn.Parameter(parameter.detach().clone() / scale))
        for name, buffer in inner.named_buffers():
            self.register_buffer("buffer__" + name.replace(".", "__"), buffer)
        self._names = [name for name, _ in inner.named_parameters()]
        self._buffer_names = [name for name, _ in inner.named_buffers()]

    def train(self, mode: bool = True) -> ReparametrisedModule:
        super().train(mode)
        self.hidden[0].train(mode)
        return self

    def forward(self, *inputs: Tensor) -> Tensor:
        state = {name: getattr(self, name.replace(".", "__")) * self.scale for name in self._names}
        state |= {name: getattr(self, "buffer__" + name.replace(".", "__")) for name in self._buffer_names}
        return functional_call(self.hidden[0], state, inputs)


class Wrapped(Task):
    """A task that behaves as `inner` until a subclass changes something."""

    suffix = "wrapped"

    def __init__(self, inner: Task) -> None:
        self.inner = inner
        self.name = f"{inner.name}-{self.suffix}"
        self.kind, self.datasets, self.steps = inner.kind, inner.datasets, inner.steps
        self.metric_name, self.larger_is_better = inner.metric_name, inner.larger_is_better
        self._salt = seed_of(self.suffix, inner.name)

    def _module(self) -> nn.Module:
        return self.inner._module()

    def batch(self, seed: int, step: int) -> Batch:
        return self.inner.batch(seed, step)

    def batches(self, seeds: Sequence[int], step: int) -> Batch:
        untouched = type(self).batch is Wrapped.batch
        return self.inner.batches(seeds, step) if untouched else super().batches(seeds, step)

    def validation(self) -> Batch:
        return self.inner.validation()

    def loss(self, model: Model, batch: Batch) -> Tensor:
        return self.inner.loss(model, batch)

    def metric(self, model: Model, batch: Batch) -> Tensor:
        return self.inner.metric(model, batch)


class Reparametrised(Wrapped):
    """The model holds its weights divided by `scale` and multiplies them by it: same function, other units."""

    suffix = "reparametrised"

    def __init__(self, inner: Task, scale: float) -> None:
        super().__init__(inner)
        self.scale = scale

    def _module(self) -> nn.Module:
        return ReparametrisedModule(self.inner._module(), self.scale)


class LossScaled(Wrapped):
    """The loss, training and validation, times `scale`."""

    suffix = "scaled"

    def __init__(self, inner: Task, scale: float) -> None:
        super().__init__(inner)
        self.scale = scale

    def loss(self, model: Model, batch: Batch) -> Tensor:
        return self.inner.loss(model, batch) * self.scale


class LabelNoise(Wrapped):
    """In every training batch a random `share` of the rows gets the targets of another row of the batch."""

    suffix = "mislabelled"

    def __init__(self, inner: Task, share: float) -> None:
        super().__init__(inner)
        self.share = share

    def batch(self, seed: int, step: int) -> Batch:
        batch = self.inner.batch(seed, step)
        rows, generator = batch[0].shape[0], batch_generator(self._salt, seed, step)
        wrong = torch.rand(rows, generator=generator) < self.share
        source = torch.where(wrong, torch.randint(rows, (rows,), generator=generator), torch.arange(rows))
        return (batch[0], *(t[source] for t in batch[1:]))


class InputNoise(Wrapped):
    """Gradient noise by way of the inputs: each number of a training batch times `1 + deviation * normal`.

    Integer inputs (tokens, indices) stay as they are.
    """

    suffix = "noisy"

    def __init__(self, inner: Task, deviation: float) -> None:
        super().__init__(inner)
        self.deviation = deviation

    def batch(self, seed: int, step: int) -> Batch:
        batch = self.inner.batch(seed, step)
        if not batch[0].is_floating_point():
            return batch
        noise = torch.randn(batch[0].shape, generator=batch_generator(self._salt, seed, step))
        return (batch[0] * (1 + self.deviation * noise), *batch[1:])


class BatchSize(Wrapped):
    """Training batches of `rows` rows; larger ones than the inner task's are joined from several of its batches."""

    suffix = "batch"

    def __init__(self, inner: Task, rows: int) -> None:
        super().__init__(inner)
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        self.rows = rows

    @cached_property
    def _parts(self) -> int:
        return -(-self.rows // len(self.inner.batch(0, 0)[0]))

    def batch(self, seed: int, step: int) -> Batch:
        return tuple(part[0] for part in self.batches([seed], step))

    def batches(self, seeds: Sequence[int], step: int) -> Batch:
        drawn = [self.inner.batches(seeds, step * self._parts + i) for i in range(self._parts)]
        return tuple(torch.cat(tensors, 1)[:, : self.rows] for tensors in zip(*drawn, strict=True))


def augment(task: Task, rng: np.random.Generator) -> Task:
    """A random combination of augmentations, a function of `rng`'s state: none at all in about a third of the draws."""
    if chance(rng, 0.08):
        task = LabelNoise(task, rng.uniform(0.02, 0.3)) if len(task.batch(0, 0)) > 1 else task
    if chance(rng, 0.08):
        task = InputNoise(task, log_uniform(rng, 0.03, 0.5))
    if chance(rng, 0.1) and isinstance(task, RowTask):
        task = BatchSize(task, max(4, int(task.batch_size * rng.uniform(0.2, 1.0))))
    if chance(rng, 0.4):
        wide = chance(rng, 0.15)
        scale = log_uniform(rng, 1e-3, 1e3) if wide else float(np.exp(np.clip(rng.normal(0, 1.5), -3, 3)))
        task = Reparametrised(task, scale)
    if chance(rng, 0.25):
        task = LossScaled(task, log_uniform(rng, 1e-3, 1e3))
    return task

"""`RowTask`: rows in memory, a split into training and validation rows, batches drawn with replacement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnopt.task import Batch, Task, seed_of

MASK = 2**64 - 1
MAX_VALIDATION_ROWS = 512

Objective = Callable[[Tensor, Batch], Tensor]


def mix(salt: int, seed: int, step: int) -> int:
    """A 63-bit seed from three integers by splitmix64's finaliser; a hundred times cheaper than a cryptographic hash.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    x = (salt + seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return (x ^ (x >> 31)) >> 1


def batch_generator(salt: int, seed: int, step: int) -> torch.Generator:
    """The generator of batch `step` of stream `seed`."""
    return torch.Generator().manual_seed(mix(salt, seed, step))


class RowTask(Task):
    """A task over rows: tuples of tensors with a common first dimension, the model's input first.

    Args:
        module: makes a freshly initialised model.
        train: training rows, `(rows, ...)` each.
        valid: validation rows, disjoint from `train`.
        objective: `(model output, batch) -> ()`.
        metric: `(model output, batch) -> ()`; the objective when absent.
        fingerprint: of data that may change under the task's name, for those who keep runs of it.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        datasets: str | frozenset[str],
        *,
        steps: int,
        module: Callable[[], nn.Module],
        train: Batch,
        valid: Batch,
        batch_size: int,
        objective: Objective,
        metric: tuple[str, bool, Objective] | None = None,
        fingerprint: str = "",
    ) -> None:
        self.name, self.kind, self.steps = name, kind, steps
        self.datasets = frozenset([datasets]) if isinstance(datasets, str) else datasets
        self.module, self.train, self.valid, self.batch_size = module, train, valid, batch_size
        self.objective = objective
        self._metric = objective
        if metric is not None:
            self.metric_name, self.larger_is_better, self._metric = metric
        self.fingerprint = fingerprint
        self._salt = seed_of("batch", name)

    def _module(self) -> nn.Module:
        return self.module()

    def batch(self, seed: int, step: int) -> Batch:
        return tuple(part[0] for part in self.batches([seed], step))

    def batches(self, seeds: Sequence[int], step: int) -> Batch:
        generator, total = torch.Generator(), self.train[0].shape[0]
        index = torch.cat([
            torch.randint(total, (self.batch_size,), generator=generator.manual_seed(mix(self._salt, seed, step)))
            for seed in seeds
        ])  # fmt: skip
        shape = (len(seeds), self.batch_size)
        # much quicker than rows[index]
        return tuple(rows.index_select(0, index).view(*shape, *rows.shape[1:]) for rows in self.train)

    def validation(self) -> Batch:
        return self.valid

    def loss(self, model: nn.Module | Callable[..., Tensor], batch: Batch) -> Tensor:
        return self.objective(model(batch[0]), batch)

    def metric(self, model: nn.Module | Callable[..., Tensor], batch: Batch) -> Tensor:
        return self._metric(model(batch[0]), batch)


def split(rows: Batch, train_rows: int, generator: torch.Generator, limit: int = MAX_VALIDATION_ROWS) -> list[Batch]:
    """`[train, valid]`: a random `train_rows` of the rows, and at most `limit` of the rest.

    Raises:
        ValueError: when no row would be left for validation.
    """
    total = rows[0].shape[0]
    if not 0 < train_rows < total:
        raise ValueError(f"train_rows must be in 1..{total - 1}, got {train_rows}")
    order = torch.randperm(total, generator=generator)
    return [tuple(t[index] for t in rows) for index in (order[:train_rows], order[train_rows : train_rows + limit])]


def windows(stream: Tensor, length: int) -> Batch:
    """`(inputs, next tokens)`, each `(windows, length)`: strided views of a 1-d token stream, no copies."""
    return stream[:-1].unfold(0, length, 1), stream[1:].unfold(0, length, 1)


def cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of `(..., classes)` logits in nats; targets `batch[1]` are class numbers of shape `(...)`."""
    return F.cross_entropy(output.flatten(0, -2), batch[1].flatten())


def smoothed_cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy with label smoothing 0.1."""
    return F.cross_entropy(output.flatten(0, -2), batch[1].flatten(), label_smoothing=0.1)


def binary_cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Mean binary cross-entropy of logits against targets of the same shape in 0..1."""
    return F.binary_cross_entropy_with_logits(output, batch[1].to(output.dtype).reshape(output.shape))


def squared_error(output: Tensor, batch: Batch) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(output, batch[1])


def huber(output: Tensor, batch: Batch) -> Tensor:
    """Mean Huber loss with threshold 1."""
    return F.smooth_l1_loss(output, batch[1])


def absolute_error(output: Tensor, batch: Batch) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(output, batch[1])


def mean_square(output: Tensor, batch: Batch) -> Tensor:
    """Mean over rows of the squared length of the output: the objective of residual functions."""
    return output.square().sum(-1).mean()


def accuracy(output: Tensor, batch: Batch) -> Tensor:
    """Share of right classes."""
    return (output.flatten(0, -2).argmax(-1) == batch[1].flatten()).float().mean()


ACCURACY: tuple[str, bool, Objective] = ("accuracy", True, accuracy)

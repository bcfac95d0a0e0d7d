"""A user's data in any form, as streams of batches that can be drawn again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from learnopt.stopping.stopper import check_whole
from learnopt.task import seed_of
from learnopt.tuner.meta_features import rows_of

VALID_SHARE, MOST_VALID_ROWS, MOST_VALID_BATCHES = 0.2, 2000, 20
LEAST_ROWS = 4

Loss = Callable[[nn.Module, Any], Tensor]


class Source:
    """Training batches and a fixed list of validation batches.

    Attributes:
        valid: validation batches, capped.
        rows: number of training rows; 0: unknown.
        batch_size: rows of a batch; 0: unknown.
        held_out: whether `valid` is data that is not trained on.
    """

    def __init__(
        self, stream: Callable[[], Iterator[Any]], valid: list[Any], rows: int, batch_size: int, held_out: bool
    ) -> None:
        self._stream, self.valid, self.rows, self.batch_size, self.held_out = stream, valid, rows, batch_size, held_out

    def stream(self) -> Iterator[Any]:
        """An endless stream of training batches, the same at every call as far as the data allows."""
        return self._stream()


def usual_batch_size(rows: int) -> int:
    """A rule of thumb, not learned: a power of two that makes about 40 batches an epoch, within 16 to 256."""
    return int(min(256, max(16, 2 ** round(np.log2(max(rows, 1) / 40)))))


def usual_steps(rows: int, batch_size: int) -> int:
    """A rule of thumb, not learned: 30 epochs, within 300 to 3,000 steps."""
    return int(min(3000, max(300, 30 * rows // max(batch_size, 1)))) if rows else 1000


def source(train: Any, valid: Any, batch_size: int | None, seed: int) -> Source:
    """Whatever the user has, as a `Source`.

    Args:
        train: `(X, y)` arrays or tensors, or an iterable of batches of any type that can be iterated again (a
            DataLoader, a list).
        valid: the same, or None: a fifth of the rows is held back. Where the rows of an iterable are not known, its
            first batches serve for training and validation.

    Raises:
        ValueError: what is wrong with it.
    """
    if batch_size is not None:
        check_whole(batch_size, "batch_size", 1)
    if valid is not None and not isinstance(valid, Iterable):
        raise ValueError(f"val_data must be (X, y), or batches, such as a DataLoader; got {type(valid).__name__}")
    if _is_arrays(train):
        return _of_arrays(train, valid, batch_size, seed)
    if not isinstance(train, Iterable) or isinstance(train, Iterator):
        raise ValueError(
            f"train_data must be (X, y), or batches that can be iterated again, such as a DataLoader; "
            f"got {type(train).__name__}"
        )
    if batch_size is not None:
        raise ValueError("batch_size is for arrays; batches that come ready-made have a size of their own")
    judged = _batches(train if valid is None else valid, seed)
    if not judged:
        raise ValueError("train_data yields no batch" if valid is None else "val_data yields no batch")
    first = next(iter(islice(train, 1)), None)
    if first is None:
        raise ValueError("train_data yields no batch")
    size = rows_of(first)
    rows = size * len(train) if isinstance(train, Sized) else 0
    return Source(lambda: _cycle(train, seed), judged, rows, size, valid is not None)


def _is_arrays(data: Any) -> bool:
    if not (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(hasattr(part, "shape") or hasattr(part, "__array__") for part in data)
        and len(np.shape(data[1])) > 0
        and len(np.shape(data[0])) > 0
    ):
        return False
    rows = [np.shape(part)[0] for part in data]
    if isinstance(data, tuple) and rows[0] != rows[1]:  # a list may hold two batches
        raise ValueError(f"X has {rows[0]} rows and y {rows[1]}")
    return bool(rows[0] == rows[1])


def _tensor(values: Any, what: str) -> Tensor:
    """Tensors stay as they are; other numbers become float32 features, int64 classes or float32 targets."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{what} must be numbers, got dtype {array.dtype}")
        whole = what == "y" and array.dtype.kind in "iub"
        values = torch.tensor(array.astype(np.int64 if whole else np.float32))
    if values.is_floating_point() and not torch.isfinite(values).all():
        raise ValueError(f"{what} holds values that are not finite; impute or drop them first")
    found: Tensor = values
    return found


def _of_arrays(train: Any, valid: Any, batch_size: int | None, seed: int) -> Source:
    x, y = _tensor(train[0], "X"), _tensor(train[1], "y")
    if valid is None:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed_of("valid", seed)))
        held = min(MOST_VALID_ROWS, int(VALID_SHARE * len(x)))
        if len(x) < LEAST_ROWS or held == 0:
            raise ValueError(f"{len(x)} rows are too few to hold some back; at least {int(1 / VALID_SHARE)} are needed")
        judged: list[Any] = [(x[order[:held]], y[order[:held]])]
        x, y = x[order[held:]], y[order[held:]]
    elif _is_arrays(valid):
        judged = [(_tensor(valid[0], "X")[:MOST_VALID_ROWS], _tensor(valid[1], "y")[:MOST_VALID_ROWS])]
    else:
        judged = _batches(valid, seed)
    size = min(len(x), batch_size or usual_batch_size(len(x)))
    salt = seed_of("rows", seed)

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 0
        while True:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(salt % 2**40 + epoch))
            for i in range(0, len(x) - size + 1, size):
                yield x[order[i : i + size]], y[order[i : i + size]]
            epoch += 1

    return Source(stream, judged, len(x), size, True)


def _batches(data: Iterable[Any], seed: int) -> list[Any]:
    torch.manual_seed(seed_of("judge", seed))  # the caller keeps torch's state
    return list(islice(data, MOST_VALID_BATCHES))


def _cycle(data: Iterable[Any], seed: int) -> Iterator[Any]:
    epoch = 0
    while True:
        torch.manual_seed(seed_of("epoch", seed, epoch))  # a DataLoader draws its order now; the caller keeps the state
        yield from data
        epoch += 1


def usual_loss(source: Source) -> Loss:
    """The loss of `(x, y)` batches: cross-entropy for whole numbers (binary where the model has one output), else the
    mean squared error.

    Raises:
        ValueError: the batches are of another kind, so that `loss` must be given.
    """
    batch = source.valid[0]
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise ValueError(
            f"batches are no pairs (x, y) of tensors but {type(batch).__name__}: pass loss=f(model, batch)"
        )

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        device = next(model.parameters()).device
        x, y = batch[0].to(device), batch[1].to(device)
        output = model(x)
        if y.is_floating_point():
            return functional.mse_loss(output, y.reshape(output.shape) if y.numel() == output.numel() else y)
        if output.dim() == 1 or output.shape[1] == 1:
            if not bool(((y == 0) | (y == 1)).all()):
                raise ValueError(
                    f"y holds whole numbers up to {int(y.max())} and the model has one output: give y as floats to "
                    "fit a quantity, or the model an output for each class"
                )
            return functional.binary_cross_entropy_with_logits(output, y.reshape(output.shape).to(output.dtype))
        if int(y.max()) >= output.shape[1]:
            raise ValueError(f"y holds class {int(y.max())} and the model has outputs for 0 to {output.shape[1] - 1}")
        return functional.cross_entropy(output, (y.flatten(1)[:, 0] if y.shape == (len(output), 1) else y).long())

    return loss

"""A user's data in any form, as streams of batches that can be drawn again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, SequentialSampler

from learnopt.stopping.stopper import check_whole
from learnopt.task import seed_of
from learnopt.tuner.meta_features import rows_of
from learnopt.tuner.random_state import seeded

VALID_SHARE, MOST_VALID_ROWS, MOST_VALID_BATCHES = 0.2, 2000, 20
LEAST_ROWS = 4
IGNORED = -100
"""A label that torch's cross-entropy leaves out."""
OWN_LOSS = "make them fit, or pass loss=f(model, batch)"

Loss = Callable[[nn.Module, Any], Tensor]


class Source:
    """Training batches and a fixed list of validation batches.

    Attributes:
        valid: validation batches, capped at `MOST_VALID_BATCHES`, or at `MOST_VALID_ROWS` of arrays.
        rows: number of training rows; 0: unknown.
        batch_size: rows of a batch; 0: unknown.
        held_out: whether `valid` is data that is not trained on.
        whole: whether `valid` is all there is to judge by, since the cap was not reached.
    """

    def __init__(
        self, stream: Callable[[], Iterator[Any]], valid: list[Any], rows: int, batch_size: int, held_out: bool,
        whole: bool,
    ) -> None:  # fmt: skip
        self._stream, self.valid, self.rows, self.batch_size = stream, valid, rows, batch_size
        self.held_out, self.whole = held_out, whole

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
    judged, whole = _batches(train if valid is None else valid, "train_data" if valid is None else "val_data", seed)
    first = judged[0] if valid is None else next(iter(train), None)
    if first is None:
        raise ValueError("train_data yields no batch")
    size = rows_of(first)
    return Source(lambda: _cycle(train, seed), judged, size * _length(train), size, valid is not None, whole)


def _length(data: Any) -> int:
    """Number of batches; 0: unknown, as that of a loader of an `IterableDataset`, whose `len` raises."""
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return 0


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
    """Tensors stay as they are; other numbers become int64 classes, or features and targets of torch's default type."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{what} must be numbers, got dtype {array.dtype}")
        whole = what == "y" and array.dtype.kind in "iub"
        real = np.float64 if torch.get_default_dtype() is torch.float64 else np.float32
        values = torch.tensor(array.astype(np.int64 if whole else real))
    if values.is_floating_point() and not torch.isfinite(values).all():
        raise ValueError(f"{what} holds values that are not finite; impute or drop them first")
    found: Tensor = values
    return found


def _of_arrays(train: Any, valid: Any, batch_size: int | None, seed: int) -> Source:
    x, y, whole = _tensor(train[0], "X"), _tensor(train[1], "y"), True
    if valid is None:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed_of("valid", seed)))
        held = min(MOST_VALID_ROWS, int(VALID_SHARE * len(x)))
        if len(x) < LEAST_ROWS or held == 0:
            raise ValueError(f"{len(x)} rows are too few to hold some back; at least {int(1 / VALID_SHARE)} are needed")
        judged: list[Any] = [(x[order[:held]], y[order[:held]])]
        x, y = x[order[held:]], y[order[held:]]
    elif _is_arrays(valid):
        judged, whole = _capped(_tensor(valid[0], "X"), _tensor(valid[1], "y"), seed)
    else:
        judged, whole = _batches(valid, "val_data", seed)
    if not len(x):
        raise ValueError("train_data has no rows")
    size = min(len(x), batch_size or usual_batch_size(len(x)))
    salt = seed_of("rows", seed)

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 0
        while True:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(salt % 2**40 + epoch))
            for i in range(0, len(x) - size + 1, size):
                yield x[order[i : i + size]], y[order[i : i + size]]
            epoch += 1

    return Source(stream, judged, len(x), size, True, whole)


def _capped(x: Tensor, y: Tensor, seed: int) -> tuple[list[Any], bool]:
    """One batch of at most `MOST_VALID_ROWS` rows, drawn at random where there are more, and whether it is all rows."""
    if not len(x):
        raise ValueError("val_data has no rows")
    if len(x) <= MOST_VALID_ROWS:
        return [(x, y)], True
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed_of("judge", seed)))[:MOST_VALID_ROWS]
    return [(x[rows], y[rows])], False


def _batches(data: Iterable[Any], what: str, seed: int) -> tuple[list[Any], bool]:
    """At most `MOST_VALID_BATCHES` batches, and whether they are all."""
    seeded("judge", seed, data=data)  # the caller keeps the state
    found = list(islice(_mixed(data), MOST_VALID_BATCHES + 1))
    if not found:
        raise ValueError(f"{what} yields no batch")
    return found[:MOST_VALID_BATCHES], len(found) <= MOST_VALID_BATCHES


def _mixed(data: Iterable[Any]) -> Iterable[Any]:
    """A loader that reads in order and has more batches than are judged by reads in random order instead: where its
    rows are sorted, by class perhaps, the first batches do not stand for all. Other data stays as it is."""
    if (
        type(data) is not DataLoader  # a subclass may do more than load
        or data.batch_size is None
        or not isinstance(data.sampler, SequentialSampler)
        or len(data) <= MOST_VALID_BATCHES
    ):
        return data
    return DataLoader(
        data.dataset, data.batch_size, shuffle=True, num_workers=data.num_workers, collate_fn=data.collate_fn,
        worker_init_fn=data.worker_init_fn, multiprocessing_context=data.multiprocessing_context,
    )  # fmt: skip


def _cycle(data: Iterable[Any], seed: int) -> Iterator[Any]:
    epoch = 0
    while True:
        seeded("epoch", seed, epoch, data=data)  # a DataLoader draws its order now; the caller keeps the state
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                f"train_data yields no batch when it is iterated again, as a generator does; it is of type "
                f"{type(data).__name__}: give batches that can be iterated any number of times, such as a DataLoader"
            )
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
        if not isinstance(output, Tensor):
            raise ValueError(f"the model returned {type(output).__name__}, no tensor: pass loss=f(model, batch)")
        if y.is_floating_point():
            return functional.mse_loss(output, _shaped(y, output))
        if output.dim() < 2 or output.shape[1] == 1:
            other = y[(y != 0) & (y != 1)]
            if other.numel():
                raise ValueError(
                    f"y holds the whole number {int(other[0])} and the model has one output: give y as floats to fit a "
                    "quantity, or the model an output for each class"
                )
            return functional.binary_cross_entropy_with_logits(output, _shaped(y, output).to(output.dtype))
        return functional.cross_entropy(output, _labels(y, output))

    return loss


def _shaped(y: Tensor, output: Tensor) -> Tensor:
    """Targets in the shape of the outputs that they are for: `(n,)` and `(n, 1)` are the same."""
    if y.numel() != output.numel() or (output.dim() and len(y) != len(output)):
        raise ValueError(f"y has shape {tuple(y.shape)} and the model's output {tuple(output.shape)}: {OWN_LOSS}")
    return y.reshape(output.shape)


def _labels(y: Tensor, output: Tensor) -> Tensor:
    """Classes as torch's cross-entropy takes them, `(n, ...)` for outputs `(n, classes, ...)`."""
    labels = (y[:, 0] if y.shape == (len(output), 1) else y).long()
    if labels.shape != output.shape[:1] + output.shape[2:]:
        raise ValueError(
            f"y has whole numbers of shape {tuple(y.shape)} and the model's output shape {tuple(output.shape)}, "
            f"which must be (rows, classes, ...) for classes (rows, ...): {OWN_LOSS}"
        )
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= output.shape[1]))]
    if wrong.numel():
        raise ValueError(f"y holds class {int(wrong[0])} and the model has outputs for 0 to {output.shape[1] - 1}")
    return labels

"""A user's data as streams of batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from learnopt.tuner.data import MOST_VALID_BATCHES, MOST_VALID_ROWS, Source, source, usual_loss
from learnopt.tuner.random_state import random_state_kept


def test_streams_of_a_shuffled_loader_are_all_the_same() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(40)), batch_size=4, shuffle=True)
    data, seen = source(loader, loader, None, 3), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        seen.append([batch[0].tolist() for batch in islice(data.stream(), 25)])
    assert seen[0] == seen[1]
    assert seen[0][:10] != seen[0][10:20]  # epochs differ


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.uint8])
def test_classes_of_any_whole_type(kind: torch.dtype) -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    model = torch.nn.Linear(3, 2)
    losses = [usual_loss(s)(model, s.valid[0]) for s in (source((x, labels), None, 8, 0) for labels in (y, y.to(kind)))]
    assert torch.equal(*losses)


class Rows(IterableDataset[Tensor]):
    """Rows without a known number."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(40.0))


def test_a_loader_without_a_length() -> None:
    loader = DataLoader(Rows(), batch_size=4)
    data = source(loader, loader, None, 0)
    assert (data.rows, data.batch_size, len(data.valid)) == (0, 4, 10)
    assert [batch[0].item() for batch in islice(data.stream(), 11)] == [*range(0, 40, 4), 0]


@pytest.mark.parametrize("valid", [None, [torch.ones(2)]])
@pytest.mark.parametrize("taken", [1, 30])
def test_batches_that_run_dry_are_refused(valid: Any, taken: int) -> None:
    class Once:
        batches = iter([torch.ones(2)] * 30)

        def __iter__(self) -> Iterator[Tensor]:
            return islice(self.batches, taken)

    stream = source(Once(), valid, None, 0).stream()
    with pytest.raises(ValueError, match=r"yields no batch when it is iterated again.*of type Once"):
        list(stream)


def order(data: Source) -> list[list[int]]:
    return [batch[0].tolist() for batch in (*islice(data.stream(), 15), *data.valid)]


@pytest.mark.parametrize("sampled", [False, True])
def test_a_generator_of_the_users_own_is_seeded_and_left_as_found(sampled: bool) -> None:
    rows, own, seen = TensorDataset(torch.arange(40)), torch.Generator().manual_seed(5), []
    if sampled:
        sampler = torch.utils.data.RandomSampler(rows, generator=own)
        loader = DataLoader(rows, batch_size=4, sampler=sampler)
    else:
        loader = DataLoader(rows, batch_size=4, shuffle=True, generator=own)
    for seed in (3, 3, 4):
        before = own.get_state()
        with random_state_kept(loader):
            seen.append(order(source(loader, loader, None, seed)))
            assert not torch.equal(own.get_state(), before)
        assert torch.equal(own.get_state(), before)
        next(iter(loader))  # the user goes on drawing
    assert seen[0] == seen[1] != seen[2]


def test_batches_that_draw_from_python_and_numpy_are_the_same_again() -> None:
    class Noise:
        def __iter__(self) -> Iterator[tuple[float, float, float]]:
            for _ in range(3):
                yield random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    seen = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)  # noqa: NPY002
        data = source(Noise(), None, None, 0)
        seen.append([*data.valid, *islice(data.stream(), 7)])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3 + 7


def test_sorted_rows_are_judged_by_a_part_that_stands_for_all() -> None:
    y = torch.arange(4000) // 2000
    x = torch.arange(4000.0)[:, None]
    one, same, other = (source((x, y), (x, y), None, seed) for seed in (0, 0, 1))
    rows, labels = one.valid[0]
    assert not one.whole
    assert len(rows.unique()) == MOST_VALID_ROWS
    assert 0.45 < labels.float().mean() < 0.55
    assert torch.equal(rows, same.valid[0][0])
    assert not torch.equal(rows, other.valid[0][0])
    few = source((x, y), (x[:MOST_VALID_ROWS], y[:MOST_VALID_ROWS]), None, 0)
    assert few.whole
    assert torch.equal(few.valid[0][0], x[:MOST_VALID_ROWS])
    assert source((x, y), None, None, 0).whole


def test_a_sorted_loader_is_judged_by_a_part_that_stands_for_all() -> None:
    data, train = TensorDataset(torch.arange(400)), [torch.ones(2)]
    twice, seen = DataLoader(data, batch_size=10, collate_fn=lambda rows: 2 * torch.stack([row for (row,) in rows])), []
    for _ in range(2):
        judged = source(train, twice, None, 0)
        assert not judged.whole
        assert len(judged.valid) == MOST_VALID_BATCHES
        seen.append(torch.cat(judged.valid))
    assert torch.equal(*seen)
    assert (seen[0] % 2 == 0).all()
    assert len(seen[0].unique()) == 200
    assert 350 < seen[0].float().mean() < 450

    class Own(DataLoader[Any]):
        """It may do more than load."""

    for loader, whole in ((DataLoader(data, batch_size=20), True), (Own(data, batch_size=10), False)):
        judged = source(train, loader, None, 0)
        assert judged.whole == whole
        assert torch.equal(torch.cat([batch for (batch,) in judged.valid]), torch.arange(400 if whole else 200))


X, CLASSES = torch.randn(40, 3), torch.arange(40) % 2


class Returns(nn.Module):
    """A model with any function for an output."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.function = nn.Linear(3, 3), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.inner(x))


@pytest.mark.parametrize(
    ("model", "x", "y", "message"),
    [
        (Returns(lambda out: (out, 1)), X, X, "the model returned tuple, no tensor: pass loss="),
        (nn.Linear(3, 2), X, CLASSES - 1, "y holds class -1 and the model has outputs for 0 to 1"),
        (nn.Linear(3, 1), X, CLASSES * 2 - 1, "y holds the whole number -1 and the model has one output"),
        (nn.Linear(3, 1), X, X, r"y has shape \(8, 3\) and the model's output \(8, 1\)"),
        (nn.Linear(3, 2), X, X[:, 0], r"y has shape \(8,\) and the model's output \(8, 2\)"),
        (Returns(lambda out: out.T), X, X, r"y has shape \(8, 3\) and the model's output \(3, 8\)"),
        (nn.Linear(3, 2), X, torch.stack([CLASSES, 1 - CLASSES], 1), r"of shape \(8, 2\) .* output shape \(8, 2\)"),
        (nn.Linear(3, 2), X[:, None].repeat(1, 6, 1), CLASSES[:, None].repeat(1, 6), r"\(8, 6\) .* \(8, 6, 2\)"),
    ],
    ids=lambda v: "",
)
def test_outputs_and_targets_that_do_not_fit(model: nn.Module, x: Tensor, y: Tensor, message: str) -> None:
    data = source((x, y), None, 8, 0)
    with pytest.raises(ValueError, match=message):
        usual_loss(data)(model, next(data.stream()))


def test_labels_that_torch_leaves_out_stay_allowed() -> None:
    model, y = nn.Linear(3, 2), CLASSES.clone()
    y[::2] = -100
    loss = usual_loss(source((X, y), None, 8, 0))
    torch.testing.assert_close(loss(model, (X, y)), loss(model, (X[1::2], CLASSES[1::2])))


@pytest.mark.parametrize(
    ("train", "valid", "message"),
    [
        ((X, CLASSES), DataLoader(TensorDataset(X[:3]), batch_size=4, drop_last=True), "val_data yields no batch"),
        ((X, CLASSES), (X[:0], CLASSES[:0]), "val_data has no rows"),
        ((X[:0], CLASSES[:0]), (X, CLASSES), "train_data has no rows"),
        ([X], [], "val_data yields no batch"),
        ([], [X], "train_data yields no batch"),
    ],
    ids=lambda v: "",
)
def test_empty_data(train: Any, valid: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(train, valid, None, 0)

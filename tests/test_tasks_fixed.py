"""What every fixed task promises: deterministic builds and batches, a usable loss, honest validation rows."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from learnopt.task import Batch, Task
from learnopt.tasks import get_task
from learnopt.tasks.benchmark_data import description_words, descriptions
from learnopt.tasks.data_folder import VARIABLE, available
from learnopt.tasks.fixed import fixed_split, strided
from learnopt.tasks.held_out import FROM_FOLDER, OFFLINE
from learnopt.tasks.meta_valid import META_VALID
from learnopt.tasks.rows import RowTask, split, windows
from learnopt.unroll import Problem


@pytest.fixture(params=[*OFFLINE, *FROM_FOLDER, *META_VALID])
def task(request: pytest.FixtureRequest) -> Task:
    name = str(request.param)
    if name in FROM_FOLDER and not available(FROM_FOLDER[name][0]):
        pytest.skip(f"set {VARIABLE} to a folder with {FROM_FOLDER[name][0]} to run this test")
    return get_task(name)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def global_state() -> tuple[Tensor, str, object]:
    return torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


def weights(task: Task, seed: int) -> Batch:
    return tuple(p.detach() for p in task.build(seed).parameters())


def test_randomness_is_a_function_of_the_seed_alone(task: Task) -> None:
    before = global_state()
    first, batch, valid = weights(task, 1), task.batch(1, 2), task.validation()
    after = global_state()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert same(first, weights(task, 1))
        assert same(batch, task.batch(1, 2))
        assert same(valid, task.validation())
    assert not same(first, weights(task, 2))
    assert not same(batch, task.batch(1, 3))
    assert not same(batch, task.batch(2, 2))


def test_loss_is_positive_and_reaches_every_parameter(task: Task) -> None:
    model = task.build(0)
    model.train()
    loss = task.loss(model, task.batch(0, 0))
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert loss > 0
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0 or name.endswith("mean"), name


def test_validation_is_finite_and_metric_has_its_range(task: Task) -> None:
    model = task.build(0)
    model.eval()
    with torch.no_grad():
        loss, metric = task.loss(model, task.validation()), task.metric(model, task.validation())
    assert loss.shape == metric.shape == ()
    assert torch.isfinite(loss)
    assert loss > 0
    if task.metric_name == "accuracy":
        assert task.larger_is_better
        assert 0 <= metric <= 1
    else:
        assert metric == loss


def test_survives_pickling(task: Task) -> None:
    copy = pickle.loads(pickle.dumps(task))
    assert same(task.batch(3, 4), copy.batch(3, 4))
    assert same(weights(task, 5), weights(copy, 5))
    assert (task.name, task.kind, task.steps, task.datasets) == (copy.name, copy.kind, copy.steps, copy.datasets)


@pytest.mark.parametrize("name", META_VALID)
def test_meta_valid_tasks_can_be_vectorised(name: str) -> None:
    both = [Problem(get_task(name), [1, 2], vectorise=v) for v in (True, False)]
    losses = [p.valid_losses(p.start) for p in both]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    assert torch.isfinite(both[0].losses(both[0].start, both[0].batch(0))).all()


def test_other_processes_draw_the_same() -> None:
    code = "from learnopt.tasks import get_task\n" + (
        "for n in ('digits-cnn', 'descr-gru', 'iris-mlp', 'tastes-factorisation'):\n"
        "    t = get_task(n); print(*[float(x.double().sum()) for x in (*t.batch(1, 2), *t.validation())],"
        " float(next(t.build(1).parameters()).detach().double().sum()))"
    )
    environment = {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    for name, line in zip(
        ("digits-cnn", "descr-gru", "iris-mlp", "tastes-factorisation"), run.stdout.splitlines(), strict=True
    ):
        task = get_task(name)
        parts = [*task.batch(1, 2), *task.validation(), next(task.build(1).parameters()).detach()]
        assert [float(x) for x in line.split()] == pytest.approx([float(p.double().sum()) for p in parts], rel=1e-9)


@pytest.mark.parametrize("dataset", ["sklearn:digits", "gen:perlin"])
@pytest.mark.parametrize(("rows", "train_rows", "limit"), [(100, 60, 500), (1797, 1200, 500), (10, 1, 3)])
def test_split_rows_are_disjoint_and_fixed(dataset: str, rows: int, train_rows: int, limit: int) -> None:
    numbers = torch.arange(rows)
    train, valid = (part[0] for part in fixed_split(dataset, (numbers,), train_rows, limit))
    assert len(train) == train_rows
    assert len(valid) == min(limit, rows - train_rows)
    assert len(set(train.tolist()) | set(valid.tolist())) == len(train) + len(valid)
    again = fixed_split(dataset, (numbers,), train_rows, limit)
    assert same((train, valid), (again[0][0], again[1][0]))


@pytest.mark.parametrize("train_rows", [0, 10, 11, -1])
def test_split_refuses_to_leave_a_side_empty(train_rows: int) -> None:
    with pytest.raises(ValueError, match=rf"train_rows must be in 1..9, got {train_rows}"):
        split((torch.arange(10),), train_rows, torch.Generator())


# Rows without duplicates in the data, so that a shared row would be a leak.
@pytest.mark.parametrize(
    "name",
    [
        "digits-mlp", "digits-mlp-small-data", "digits-vae", "digits-graph", "digits-factorisation", "cancer-mlp",
        "cancer-graph", "diabetes-mlp", "china-siren", "flower-fourier", "china-denoiser", "spirals-mlp",
        "friedman-mlp", "perlin-cnn", "perlin-siren", "rings-graph", "tastes-factorisation",
    ],
)  # fmt: skip
def test_no_validation_row_is_trained_on(name: str) -> None:
    task = get_task(name)
    assert isinstance(task, RowTask)
    train, valid = ({row.numpy().tobytes() for row in part[0]} for part in (task.train, task.valid))
    assert not train & valid


@pytest.mark.parametrize("name", ["topics-transformer", "topics-gru"])
def test_validation_windows_lie_behind_the_training_text(name: str) -> None:
    task = get_task(name)
    assert isinstance(task, RowTask)
    length = task.train[0].shape[1]
    assert len(task.train[0]) + length <= 40_001
    assert torch.equal(task.train[0][1:50], task.train[1][:49])


def test_descriptions_are_cut_without_overlap() -> None:
    streams = description_words(50)
    assert len(streams) == len(descriptions())
    whole = sum(len(train) + len(valid) for train, valid in streams)
    assert sum(len(train) for train, _ in streams) / whole == pytest.approx(0.85, abs=0.01)


def test_strided_windows_do_not_overlap() -> None:
    inputs, targets = strided(windows(torch.arange(100), 8), 8, 5)
    assert inputs.shape == targets.shape == (5, 8)
    assert inputs.flatten().unique().numel() == 40
    assert torch.equal(targets, inputs + 1)

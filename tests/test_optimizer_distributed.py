"""Training on two ranks: copies stay equal, shards are what a whole model would be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from optimizer_toy import assert_same, loss_of, network
from torch import Tensor
from torch.testing._internal.common_optimizers import OptimizerInfo

from learnopt import spread

SCRIPT = Path(__file__).with_name("distributed_toy.py")
JUDGED = ("LearnedOptimizer",)
WAYS = ("one-process", "ddp", "fsdp", "fsdp-saved", "zero", "alone-each")
Outcome = Callable[[str, str], list[list[Tensor]]]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The parameters that each of two ranks ends with, of an optimizer trained in one of the `WAYS`."""

    @cache
    def launched(label: str) -> Path:
        folder = tmp_path_factory.mktemp("ranks")
        ways = [way for way in WAYS if way != "alone-each" or label == "LearnedOptimizer"]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(
            [sys.executable, *launcher, str(SCRIPT), str(folder), label, *ways],
            capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return folder

    def read(label: str, way: str) -> list[list[Tensor]]:
        found = [torch.load(launched(label) / f"{way}.{rank}.pt") for rank in range(2)]
        assert not isinstance(found[0], str), found[0]
        return found

    return read


def assert_copies_are_where_one_process_is(way: str, label: str, outcome: Outcome) -> None:
    ranks = outcome(label, way)
    assert_same(*ranks)
    torch.testing.assert_close(ranks[0], outcome(label, "one-process")[0], rtol=1e-3, atol=1e-4)


def test_data_parallel_copies(info: OptimizerInfo, outcome: Outcome) -> None:
    assert_copies_are_where_one_process_is("ddp", info.label, outcome)


def test_shards(info: OptimizerInfo, outcome: Outcome) -> None:
    """FSDP2, also when saved and loaded midway."""
    for way in ("fsdp", "fsdp-saved"):
        assert_copies_are_where_one_process_is(way, info.label, outcome)


def test_zero_redundancy(info: OptimizerInfo, outcome: Outcome) -> None:
    """Copies stay equal; each rank decides for its part of the network alone, so that one process may do otherwise."""
    ranks = outcome(info.label, "zero")
    assert_same(*ranks)
    model = network()
    before = loss_of(model, 0).item()
    for p, q in zip(model.parameters(), ranks[0], strict=True):
        p.data.copy_(q)
    assert loss_of(model, 0).item() < before


def test_losses_are_shared_unless_ranks_are_on_their_own(outcome: Outcome) -> None:
    one, other = outcome("LearnedOptimizer", "alone-each")
    assert any(not torch.equal(p, q) for p, q in zip(one, other, strict=True))


def test_without_ranks_nothing_is_gathered() -> None:
    loss, values = torch.tensor([2.0]), torch.ones(3)
    assert spread.average(loss) is loss
    assert spread.whole(values) is values
    spread.put(values, torch.full((3,), 5.0))
    assert values.tolist() == [5.0] * 3

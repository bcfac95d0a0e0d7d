"""Training on two ranks: copies stay equal, shards are what a whole model would be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from optimizer_toy import loss_of, network
from torch import Tensor

from learnopt import spread

SCRIPT = Path(__file__).with_name("distributed_toy.py")


def run(way: str, folder: Path) -> tuple[list[str], list[Tensor]]:
    """The digests of all ranks, and rank 0's parameters."""
    launcher = [] if way == "one-process" else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), way, str(folder)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), torch.load(folder / f"{way}.pt")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    return run("one-process", tmp_path_factory.mktemp("one"))[1]


@pytest.mark.parametrize("way", ["ddp", "fsdp", "fsdp-saved"])
def test_two_ranks_go_where_one_process_goes(way: str, one_process: list[Tensor], tmp_path: Path) -> None:
    digests, params = run(way, tmp_path)
    assert len(digests) == 2
    assert len(set(digests)) == 1
    torch.testing.assert_close(params, one_process, rtol=1e-3, atol=1e-4)


def test_zero_redundancy_keeps_copies_equal(tmp_path: Path) -> None:
    """Each rank's optimizer decides for its part of the network alone: not what one process does, but it trains."""
    digests, params = run("zero", tmp_path)
    assert len(set(digests)) == 1
    model = network()
    before = loss_of(model, 0).item()
    for p, q in zip(model.parameters(), params, strict=True):
        p.data.copy_(q)
    assert loss_of(model, 0).item() < 0.8 * before


def test_losses_are_shared_unless_ranks_are_on_their_own(tmp_path: Path) -> None:
    digests, _ = run("alone-each", tmp_path)
    assert len(set(digests)) == 2


def test_without_ranks_nothing_is_gathered() -> None:
    loss, values = torch.tensor([2.0]), torch.ones(3)
    assert spread.average(loss) is loss
    assert spread.whole(values) is values
    spread.put(values, torch.full((3,), 5.0))
    assert values.tolist() == [5.0] * 3

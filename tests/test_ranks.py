"""Meta-training under torchrun: the same result as one process, and a clear end when a rank dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from socket import socket

import pytest
import torch
import torch.distributed as dist
from meta_train_toy import config
from toy import ToySource

from learnopt.checkpoint import Checkpoint, load_checkpoint, read_log
from learnopt.ranks import RankedPool

SCRIPT = Path(__file__).with_name("meta_train_toy.py")
STEPS = 5


def torchrun(out: Path, estimator: str, ranks: int, steps: int = STEPS) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
        str(SCRIPT), str(out), estimator, str(steps), "1",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def state(out: Path, estimator: str, steps: int = STEPS) -> Checkpoint:
    found = load_checkpoint(out, config(estimator, steps))
    assert found is not None
    return found


def alone(out: Path, estimator: str) -> Checkpoint:
    subprocess.run([sys.executable, str(SCRIPT), str(out), estimator, str(STEPS), "1"], check=True, capture_output=True)
    return state(out, estimator)


@pytest.mark.parametrize(("estimator", "ranks"), [("es", 2), ("nres", 3), ("nodes", 2)])
def test_ranks_give_what_one_process_gives(tmp_path: Path, estimator: str, ranks: int) -> None:
    process = torchrun(tmp_path / "ranks", estimator, ranks)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert len({line.split()[1] for line in printed.splitlines()}) == ranks
    a, b = alone(tmp_path / "one", estimator), state(tmp_path / "ranks", estimator)
    assert a.meta_step == b.meta_step == STEPS
    assert torch.equal(a.theta, b.theta)
    assert torch.equal(a.best_theta, b.best_theta)
    assert a.best_score == b.best_score
    assert a.generations == b.generations
    for x, y in zip(a.carries, b.carries, strict=True):
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            assert x["step"] == y["step"]
            assert all(torch.equal(p, q) for p, q in zip(x["runs"].params, y["runs"].params, strict=True))
    assert [r["meta_step"] for r in read_log(tmp_path / "ranks")] == list(range(STEPS + 1))


@pytest.mark.parametrize("failing", [False, True])
def test_the_process_group_is_gone_before_the_interpreter_is(monkeypatch: pytest.MonkeyPatch, failing: bool) -> None:
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(KeyboardInterrupt) if failing else nullcontext(), RankedPool(ToySource(), 1) as pool:
        assert dist.is_initialized()
        assert pool.agree(7) == 7
        if failing:
            raise KeyboardInterrupt
    assert not dist.is_initialized()


def test_a_rank_that_dies_ends_the_run_which_then_goes_on(tmp_path: Path) -> None:
    process = torchrun(tmp_path / "killed", "nres", 2)
    assert process.stdout is not None
    pids: dict[int, int] = {}
    while len(pids) < 2 or max(pids.values()) < 2:
        step, pid = map(int, process.stdout.readline().split())
        pids[pid] = step
    os.kill(min(pids), signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "lost the others" in said or "Signal 9" in said
    stopped = state(tmp_path / "killed", "nres")
    assert 0 < stopped.meta_step < STEPS
    again = torchrun(tmp_path / "killed", "nres", 2)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert torch.equal(state(tmp_path / "killed", "nres").theta, alone(tmp_path / "one", "nres").theta)

"""What each rank does in tests of distributed training: `distributed_toy.py FOLDER OPTIMIZER WAY...` under torchrun.

Every rank has its share of each batch, and leaves in FOLDER for each WAY the whole parameters that it ends with, which
must be the same on all ranks, or the error that it met.
"""

from __future__ import annotations

import gc
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from optimizer_classes import class_of
from optimizer_toy import network
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn import functional

from learnopt import LearnedOptimizer, Recorder, spread

STEPS, ROWS = 12, 24


def rows(step: int, rank: int, ranks: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(step))
    y = torch.sin(2 * x[:, :2])
    part = slice(rank * ROWS // ranks, (rank + 1) * ROWS // ranks)
    return x[part], y[part]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rank: int, ranks: int) -> None:
    for t in steps:
        x, y = rows(t, rank, ranks)
        optimizer.zero_grad()
        loss = functional.mse_loss(model(x), y)
        loss.backward()
        take(optimizer, loss)


def take(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    inner = optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer
    if isinstance(inner, LearnedOptimizer):
        optimizer.step(loss=loss)  # type: ignore[call-arg]
    else:
        optimizer.step()


def prepared(way: str, label: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model: nn.Module = network()
    cls = class_of(label)
    extra: dict[str, Any] = {"total_steps": STEPS} if cls is LearnedOptimizer else {}
    if way in ("ddp", "zero", "alone-each"):
        model = nn.parallel.DistributedDataParallel(model)
    if way.startswith("fsdp"):
        fully_shard(model)
    if way == "zero":
        return model, ZeroRedundancyOptimizer(model.parameters(), cls, **extra)
    if way == "alone-each":
        extra["process_group"] = False
    return model, cls(model.parameters(), **extra)


def trained(way: str, label: str, folder: Path, rank: int, ranks: int) -> list[Tensor]:
    """The whole averages midway, of the learned optimizer, and the parameters at the end."""
    model, optimizer = prepared(way, label)
    own = label == "LearnedOptimizer"
    recorder = Recorder(optimizer, names=model) if own and rank == 0 else None  # one rank looks, the others do not wait
    train(model, optimizer, range(STEPS // 2), rank, ranks)
    if recorder is not None:
        recorder.close()
        assert recorder.recording.last_step == STEPS // 2
        assert not any(name.startswith("tensor") for name in recorder.recording.names)
        assert recorder.optimizer.stop_evidence()
    if way == "fsdp-saved":
        states = get_state_dict(model, optimizer)
        dcp.save({"model": states[0], "optimizer": states[1]}, checkpoint_id=folder / "saved")
        model, optimizer = prepared(way, label)
        states = get_state_dict(model, optimizer)
        target = {"model": states[0], "optimizer": states[1]}
        dcp.load(target, checkpoint_id=folder / "saved")
        set_state_dict(model, optimizer, model_state_dict=target["model"], optim_state_dict=target["optimizer"])
    looked = averaged(model, optimizer) if isinstance(optimizer, LearnedOptimizer) else []
    train(model, optimizer, range(STEPS // 2, STEPS), rank, ranks)
    return looked + [spread.whole(p).detach().clone() for p in model.parameters()]


def averaged(model: nn.Module, optimizer: LearnedOptimizer) -> list[Tensor]:
    """The whole averages, and that training weights come back."""
    before = [spread.whole(p).detach().clone() for p in model.parameters()]
    optimizer.eval()
    found = [spread.whole(p).detach().clone() for p in model.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, found, strict=True))
    optimizer.train()
    assert all(torch.equal(a, spread.whole(p)) for a, p in zip(before, model.parameters(), strict=True))
    return found


def main(folder: Path, label: str, ways: list[str]) -> None:
    warnings.simplefilter("ignore")  # torch's own
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=90))
    for way in ways:
        try:
            rank, ranks = (0, 1) if way == "one-process" else (dist.get_rank(), dist.get_world_size())
            found: Any = trained(way, label, folder, rank, ranks)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        torch.save(found, folder / f"{way}.{dist.get_rank()}.pt")
    gc.collect()  # a model that outlives the group takes it down itself, holding a lock that gloo's thread may wait for
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])

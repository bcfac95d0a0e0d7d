"""What each rank does in the tests of distributed training: `distributed_toy.py WAY FOLDER`, under torchrun or alone.

Every rank has its share of each batch; the last line printed is the digest of the whole parameters, which must be the
same on all ranks. Rank 0 leaves them in FOLDER.
"""

from __future__ import annotations

import gc
import hashlib
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
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
        optimizer.step(loss=loss)  # type: ignore[call-arg]


def prepared(way: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model: nn.Module = network()
    if way in ("ddp", "zero", "alone-each"):
        model = nn.parallel.DistributedDataParallel(model)
    if way.startswith("fsdp"):
        fully_shard(model)
    if way == "zero":
        return model, ZeroRedundancyOptimizer(model.parameters(), LearnedOptimizer, total_steps=STEPS)
    group = False if way == "alone-each" else None
    return model, LearnedOptimizer(model.parameters(), total_steps=STEPS, process_group=group)


def work(way: str, folder: Path, rank: int, ranks: int) -> str:
    """Train, save where that is the way, and return the digest."""
    model, optimizer = prepared(way)
    recorder = Recorder(optimizer, names=model) if rank == 0 else None  # one rank looks, the others do not wait
    train(model, optimizer, range(STEPS // 2), rank, ranks)
    if recorder is not None:
        recorder.close()
        assert recorder.recording.last_step == STEPS // 2
        assert not any(name.startswith("tensor") for name in recorder.recording.names)
        assert recorder.optimizer.stop_evidence()
    if way == "fsdp-saved":
        states = get_state_dict(model, optimizer)
        dcp.save({"model": states[0], "optimizer": states[1]}, checkpoint_id=folder / "saved")
        model, optimizer = prepared(way)
        states = get_state_dict(model, optimizer)
        target = {"model": states[0], "optimizer": states[1]}
        dcp.load(target, checkpoint_id=folder / "saved")
        set_state_dict(model, optimizer, model_state_dict=target["model"], optim_state_dict=target["optimizer"])
    train(model, optimizer, range(STEPS // 2, STEPS), rank, ranks)
    whole = [spread.whole(p).detach() for p in model.parameters()]
    if rank == 0:
        torch.save(whole, folder / f"{way}.pt")
    return hashlib.sha256(b"".join(p.contiguous().numpy().tobytes() for p in whole)).hexdigest()


def main(way: str, folder: Path) -> None:
    warnings.simplefilter("ignore")  # torch's own
    torch.set_num_threads(1)
    alone = way == "one-process"
    if not alone:
        dist.init_process_group("gloo")
    rank, ranks = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
    print(work(way, folder, rank, ranks), flush=True)
    gc.collect()  # a model that outlives the group takes it down itself, holding a lock that gloo's thread may wait for
    if not alone:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

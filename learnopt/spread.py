"""Training spread over processes: losses that all ranks share, and parameters of which each rank holds a part.

Where ranks hold copies (DistributedDataParallel) their losses differ, and decisions that rest on them would drive the
copies apart; so the loss is averaged over the ranks. Where ranks hold shards (`fully_shard`, any `DTensor`) the rule
sees whole tensors, gathered one step at a time, and keeps its large state in shards like the parameter's.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def average(loss: Tensor, group: Any = None) -> Tensor:
    """The mean of `loss` over the ranks of `group`; as it is where nothing is distributed or `group` is False."""
    if group is False or not dist.is_available() or not dist.is_initialized() or dist.get_world_size(group) == 1:
        return loss
    shared = loss.detach().clone()
    dist.all_reduce(shared, group=group)
    return shared / dist.get_world_size(group)


def is_sharded(x: Tensor) -> bool:
    """Whether this rank holds only a part of `x`."""
    loaded = sys.modules.get("torch.distributed.tensor")  # slow to import; before it is, nothing is sharded
    return loaded is not None and isinstance(x, loaded.DTensor)


def whole(x: Tensor) -> Tensor:
    """All of `x`, gathered from the ranks where it is sharded; `x` itself where it is not."""
    return x.detach().full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]


@torch.no_grad()
def put(x: Tensor, values: Tensor) -> None:
    """Write whole `values`, the same on all ranks, into `x`: this rank's part of them where it is sharded."""
    if not is_sharded(x):
        if x is not values:
            x.copy_(values)
        return
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(x, DTensor)
    everywhere = DTensor.from_local(values, x.device_mesh, [Replicate()] * x.device_mesh.ndim, run_check=False)
    x.to_local().copy_(everywhere.redistribute(placements=x.placements).to_local())

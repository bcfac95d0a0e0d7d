"""Which models an inner loop can take: they must be functions of their parameters and their input alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

_BatchNorm = nn.modules.batchnorm._BatchNorm
FIX = (
    "use GroupNorm (inductive), or track_running_stats=False: statistics of the batch at hand, in which queries see "
    "each other (transductive)"
)


def admit(model: nn.Module) -> bool:
    """Check a model before anything is trained; returns whether its predictions are transductive.

    Raises:
        ValueError: nothing to train, or BatchNorm with running statistics; the message names the layer and the fix.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"model {type(model).__name__} has no parameter with requires_grad=True to learn")
    transductive = False
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            if module.track_running_stats:
                where = f"layer {name!r}" if name else "the model"
                raise ValueError(f"{where} is {type(module).__name__} with running statistics, which tasks mix: {FIX}")
            transductive = True
    return transductive


def check_forward(model: nn.Module, x: Tensor) -> None:
    """Call a copy of the model once on `x`, the examples of one task.

    Raises:
        ValueError: the call changes buffers in place, so that results would depend on the order of tasks.
    """
    trial = copy.deepcopy(model)
    before = {name: (b, b._version) for name, b in trial.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        trial(x)
    after = dict(trial.named_buffers())
    changed = [n for n, (b, version) in before.items() if after.get(n) is not b or b._version != version]
    if changed:
        raise ValueError(
            f"model {type(model).__name__} changes its buffer {changed[0]!r} in the forward pass; an inner loop needs "
            "a function of parameters and input: compute it without keeping it"
        )

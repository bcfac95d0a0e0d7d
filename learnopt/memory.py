"""How `LearnedOptimizer` keeps the small part of the rule's state: one vector per tensor, one per run.

Packed vectors keep `state_dict` flat (tensors only), cheap to gather and easy to leave in float32.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from learnopt import features, meta_network
from learnopt.features import LossHistory
from learnopt.rule import Decision, RuleState

_S, _H = len(features.STATISTICS), meta_network.HIDDEN
_PARTS = {
    "hidden": _H, "cell": _H, "statistics": _S, "rms0": 1, "unit": 1, "peak": 1, "age": 1,
    "step_size": 1, "decay": 1, "gate": 1, "mixture": 2, "pull": 1,
}  # fmt: skip
MEMORY_SIZE = sum(_PARTS.values())
"""Numbers per tensor: recurrent state, statistics, units and the last decision."""

PLACES = dict(zip(_PARTS, accumulate(_PARTS.values(), initial=0), strict=False))
"""Where each part starts inside a tensor's memory."""

RUN_FIELDS = (*LossHistory._fields, "step", "skipped", "schedule", "stop", "seen")
RUN_SIZE = len(RUN_FIELDS)
"""Numbers per run, the loss history first."""


class Run(NamedTuple):
    """The run-level state, every field of shape `()`."""

    history: LossHistory  # fields of shape (1,)
    step: Tensor
    skipped: Tensor  # steps skipped because something was not finite
    schedule: Tensor
    stop: Tensor  # running mean of the stop probability
    seen: Tensor  # steps that entered this mean


def new_run(device: torch.device | None = None) -> Tensor:
    """The packed run state before the first step, `(RUN_SIZE,)`."""
    return torch.zeros(RUN_SIZE, dtype=torch.float32, device=device or "cpu")


def read_run(packed: Tensor) -> Run:
    """Unpack a run vector."""
    n = len(LossHistory._fields)
    return Run(LossHistory(*packed[:n, None].unbind(0)), *packed[n:].unbind(0))


def write_run(run: Run) -> Tensor:
    """Pack a run state, float32."""
    return torch.cat([torch.cat(list(run.history)), torch.stack(list(run[1:]))]).float()


def new_memory(rms0: Tensor, unit: Tensor) -> Tensor:
    """Memory of `n` tensors before their first step, `(n, MEMORY_SIZE)`, from `(n,)` each."""
    parts = {name: rms0.new_zeros(len(rms0), size) for name, size in _PARTS.items()}
    parts["rms0"], parts["unit"] = rms0[:, None], unit[:, None]
    parts["statistics"][:, features.STATISTICS.index("weight")] = rms0**2
    return torch.cat(list(parts.values()), 1)


def field(memory: Tensor, name: str) -> Tensor:
    """One part of packed memories, `(..., size)`."""
    return memory[..., PLACES[name] : PLACES[name] + _PARTS[name]]


DECIDED = {"learning_rate": "step_size", "decay": "decay", "orthogonal": "gate", "pull": "pull"}
"""What people read of a decision, and the part of a memory that holds it; `gradient` and `momentum` are the mixture."""


def decided(memories: Tensor) -> dict[str, Tensor]:
    """The last decisions about `n` tensors for people to read, `(n,)` each, from `(n, MEMORY_SIZE)`."""
    values = {key: field(memories, name)[..., 0] for key, name in DECIDED.items()}
    return values | dict(zip(("gradient", "momentum"), field(memories, "mixture").unbind(-1), strict=True))


def read_state(memory: Tensor, moments: tuple[tuple[Tensor, ...], ...], run: Run, dtype: torch.dtype) -> RuleState:
    """The rule's state of `N` runs from the memories `(N, n, MEMORY_SIZE)` of their tensors."""
    parts = dict(zip(_PARTS, torch.split(memory.to(dtype), list(_PARTS.values()), -1), strict=True))
    small = {name: parts[name][..., 0] for name in ("rms0", "unit", "peak")}
    history = LossHistory(*(h.to(dtype) for h in run.history))
    fast, average, square = moments
    return RuleState(
        fast, average, square, parts["hidden"], parts["cell"], parts["statistics"],
        small["rms0"], small["unit"], small["peak"], parts["age"][0, :, 0], history, run.step.to(dtype),
    )  # fmt: skip


def write_memory(state: RuleState, decision: Decision | None) -> Tensor:
    """Pack what the tensors must remember, `(N, n, MEMORY_SIZE)`, float32; without a decision, one of zeros."""
    n, count = state.unit.shape
    like = state.unit
    made = [like.new_zeros(n, count, 6)] if decision is None else [
        decision.step_size[..., None], (decision.decay + decision.given_decay)[..., None], decision.gate[..., None],
        decision.mixture, decision.pull[..., None],
    ]  # fmt: skip
    columns = [
        state.hidden, state.cell, state.statistics, state.rms0[..., None], state.unit[..., None],
        state.peak[..., None], state.age[:, None].expand(n, -1, -1), *made,
    ]  # fmt: skip
    return torch.cat(columns, -1).float()


def pack(state: RuleState) -> tuple[list[Tensor], Tensor]:
    """`(memories, run)` of `N` runs as the kernels take them: `(N, MEMORY_SIZE)` per tensor, and `(N, RUN_SIZE)`."""
    n = len(state.unit)
    memories = [m.contiguous() for m in write_memory(state, None).unbind(1)]
    run = memories[0].new_zeros(n, RUN_SIZE)
    run[:, : len(state.history)] = torch.stack(list(state.history), -1)
    run[:, RUN_FIELDS.index("step")] = state.step
    return memories, run


def unpack(memories: list[Tensor], run: Tensor, moments: tuple[tuple[Tensor, ...], ...]) -> RuleState:
    """The inverse of `pack`."""
    number = len(LossHistory._fields)
    rest = [run.new_zeros(())] * (RUN_SIZE - number - 1)
    packed = Run(LossHistory(*run[:, :number].unbind(-1)), run[0, number], *rest)
    return read_state(torch.stack(memories, 1), moments, packed, torch.float32)

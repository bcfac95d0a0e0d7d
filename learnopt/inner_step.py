"""One step of `LearnedOptimizer`'s parameters: by kernels where they fit, by torch everywhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learnopt import intake, memory, rule
from learnopt.kernels import fused_guard, fused_step, in_place
from learnopt.layout import Layout
from learnopt.rule import Decision

AVERAGE = "param_avg"
MOMENTS = ("exp_avg", AVERAGE, "exp_avg_sq")
"""Names of the rule's large state of a parameter: momentum, averaged weights, second moment."""
TRAINED = "param_trained"
"""State of a parameter that holds its average instead: the weights that train."""


class Work(NamedTuple):
    """What a step is made of; parameters and their states are changed in place."""

    params: list[Tensor]
    states: list[dict[str, Tensor]]  # per parameter: moments and packed memory
    groups: list[dict[str, Any]]  # per parameter: its group's options
    grads: list[Tensor]  # finite, dense, real, of the working precision
    loss: Tensor | None  # (1,)
    run: Tensor  # (RUN_SIZE,)
    horizon: float


def advance(work: Work, theta: Tensor, unpacked: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Take the step; returns the new packed run and the `GLOBAL` columns, `(1, len(GLOBAL))`.

    Args:
        theta: meta-weights, `(SIZE,)` float32 on the CPU.
        unpacked: the same by name, on the device and in the precision of the gradients.
    """
    if _is_plain(work):
        tensors = [*work.params, *_kept(work), *work.grads]
        if in_place.available(tensors) and _in_memory(tensors):
            run, columns = by_kernel(work, theta)
            return run, columns
        contiguous = all(p.is_contiguous() for p in work.params)
        if contiguous and fused_guard.available(tensors) and _in_memory(tensors):
            return by_fused(work, unpacked)
    return by_torch(work, unpacked)


def _kept(work: Work) -> list[Tensor]:
    return [*(state[name] for state in work.states for name in (*MOMENTS, "memory")), work.run]


def _is_plain(work: Work) -> bool:
    """Whether everything lies in memory as kernels take it, whatever its precision and device."""
    kept = _kept(work)
    simple = all(
        t.layout == torch.strided and not t.is_neg() and type(t) in (Tensor, torch.nn.Parameter)
        for t in (*work.params, *kept)
    )
    alike = all(g.shape == p.shape for p, g in zip(work.params, work.grads, strict=True))
    return simple and alike and all(t.is_contiguous() for t in kept) and not any(map(_overlaps, work.params))


def _in_memory(tensors: list[Tensor]) -> bool:
    """Whether all have memory of their own, as gradients of a class that wraps others have not."""
    return all(t.data_ptr() for t in tensors)


def _overlaps(x: Tensor) -> bool:
    """Whether it is expanded, which torch refuses to write to."""
    return any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # pointers mean nothing to a tracer
def by_kernel(work: Work, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The step in place, one pass over memory per tensor and orthogonalisation."""
    layout = Layout.of([p.shape for p in work.params])
    run = work.run.clone()[None]
    fast, average, square = ([state[name] for state in work.states] for name in MOMENTS)
    net = in_place.InPlaceNet(theta, layout, 1, _options(work.groups))
    memories = [state["memory"] for state in work.states]
    params = [p.detach().contiguous() for p in work.params]  # copies of those in another order, as channels_last is
    net.point(memories, run, params, in_place.Moments(fast, average, square))
    net.step(work.grads, None if work.loss is None else work.loss.float(), work.horizon)
    for p, moved in zip(work.params, params, strict=True):
        if not p.is_contiguous():
            p.copy_(moved)
    torch.autograd.graph.increment_version(work.params)  # so that autograd notices, as after any in-place change
    return run[0], net.columns


def _options(groups: list[dict[str, Any]]) -> in_place.Options:
    decay = [math.nan if g["weight_decay"] is None else float(g["weight_decay"]) for g in groups]
    columns = ([float(g["lr"]) for g in groups], decay)
    return in_place.Options(*(torch.tensor(values, dtype=torch.float32, device="cpu") for values in columns))


def by_torch(work: Work, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The step through `rule`, for every device and precision."""
    dtype = work.grads[0].dtype
    after, columns = functional(work._replace(params=[intake.plain(p, dtype) for p in work.params]), w)
    for p, new, kept, states in zip(work.params, after.params, work.states, after.states, strict=True):
        intake.write(p, new)
        for name, values in states.items():
            kept[name].copy_(values)
    return after.run, columns


def by_fused(work: Work, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The step in place, decided by torch and carried out by the Triton kernels."""
    plain = work._replace(params=[p.detach() for p in work.params])
    after, columns = functional(plain, w, fused_step.move)
    memories, new = ([state["memory"] for state in states] for states in (work.states, after.states))
    torch._foreach_copy_(memories, new)
    torch.autograd.graph.increment_version(work.params)
    return after.run, columns


def functional(work: Work, w: dict[str, Tensor], move: Callable[..., Any] = rule.move) -> tuple[Work, Tensor]:
    """The step as a function: what `work` becomes, and the `GLOBAL` columns; nothing is changed, graphs are kept.

    Parameters are real and of the gradients' precision. `move` is `rule.move` or does the same.
    """
    like = work.grads[0]
    dtype = like.dtype
    params = [p[None] for p in work.params]
    layout = Layout.of([p.shape for p in work.params])
    moments = tuple(tuple(state[name].to(dtype)[None] for state in work.states) for name in MOMENTS)
    before = memory.read_run(work.run)
    memories = torch.stack([state["memory"] for state in work.states])[None]
    state = memory.read_state(memories, moments, before, dtype)
    told = None if work.loss is None else work.loss.to(dtype)
    decision, state = rule.decide(w, layout, state, told, like.new_tensor(work.horizon))
    decision = _scaled(decision, work.groups)
    new, state = move(w, layout, params, [g[None] for g in work.grads], state, decision)
    packed = memory.write_memory(state, decision)[0].unbind(0)
    columns = zip(state.fast, state.average, state.square, packed, strict=True)
    states = [dict(zip((*MOMENTS, "memory"), (*(x[0] for x in row[:3]), row[3]), strict=True)) for row in columns]
    run = before._replace(history=state.history, step=state.step, schedule=decision.schedule[0])
    moved = work._replace(params=[p[0] for p in new], states=states, run=memory.write_run(run))
    return moved, decision.columns


def _scaled(decision: Decision, groups: list[dict[str, Any]]) -> Decision:
    """The decision with the groups' `lr` and `weight_decay` worked in."""
    like = decision.step_size
    lr = intake.numbers([g["lr"] for g in groups], like)
    step_size = like * lr
    own = [g["weight_decay"] is not None for g in groups]
    decay, given = (decision.decay * lr).clamp(max=1.0), decision.given_decay
    if any(own):
        decay = torch.where(torch.tensor(own, device=like.device), 0.0, decay)
        given = (step_size * like.new_tensor([float(g["weight_decay"] or 0.0) for g in groups])).clamp(max=1.0)
    return decision._replace(
        step_size=step_size, decay=decay, given_decay=given, pull=(decision.pull * lr).clamp(max=1.0)
    )


def check_shapes(number: int, p: Tensor, state: Mapping[str, Tensor]) -> None:
    """Refuse the state of another parameter: kernels do not look where memory ends."""
    expected: dict[str, tuple[int, ...]] = {"run": (memory.RUN_SIZE,)} if "run" in state else {}
    if "memory" in state:
        shape = (*p.shape, 2) if p.is_complex() else tuple(p.shape)
        expected |= {"memory": (memory.MEMORY_SIZE,), **dict.fromkeys(MOMENTS, shape)}
    if TRAINED in state:
        expected[TRAINED] = tuple(p.shape)
    for name, shape in expected.items():
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            raise ValueError(f"state {name!r} of parameter {number} must have shape {shape}, got {found}")


def large_state(p: Tensor) -> dict[str, Tensor]:
    """A parameter's large state before its first step; `p` is real and of the working precision."""
    zero = torch.zeros_like(p, memory_format=torch.contiguous_format)
    return dict(zip(MOMENTS, (zero, p.clone(memory_format=torch.contiguous_format), zero.clone()), strict=True))

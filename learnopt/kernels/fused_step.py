"""`rule.move` of one run by few launches for all its tensors, in place; the slow truth is `learnopt.rule.move`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learnopt import equalise, features, meta_network, rule
from learnopt.layout import Layout
from learnopt.orthogonal import orthogonalise
from learnopt.rule import Decision, RuleState

BLOCK = 1024
"""Elements that one program takes."""
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}
"""Of the compiler; fused products and sums are the default, but some versions of triton warn where it is not said."""
TOGETHER = 1 << 24
"""Elements of matrices that are moved together: their momenta are held until they have been orthogonalised."""
_ROW = 12 + meta_network.WIDTH
_POINTERS = 7  # the last two: the factors of a tensor's columns, and how many columns; 0 where there are none


class _Batch(NamedTuple):
    """Matrices of one shape, their momenta end to end."""

    start: int
    number: int
    rows: int
    columns: int


class _Part(NamedTuple):
    """What is moved together."""

    chunks: slice
    batches: list[_Batch]


class _Plan(NamedTuple):
    chunks: Tensor  # (chunks, 4) int64: `chunks` of fused.py
    spans: Tensor  # (n, 2) int64: first and end of each tensor's
    sizes: Tensor  # (n,)
    parts: list[_Part]
    room: int  # elements of the largest part's matrices


@lru_cache(maxsize=64)
def _plan(layout: Layout, device: torch.device) -> _Plan:
    """What follows from the shapes alone."""
    chunks: list[tuple[int, int, int, int]] = []
    spans = [(0, 0)] * len(layout.tensors)
    parts, room = [], 0
    for members in _parts(layout):
        begin, place = len(chunks), 0
        batches: list[_Batch] = []
        for k in members:
            t, first = layout.tensors[k], len(chunks)
            chunks += [
                (k, at, min(at + BLOCK, t.size), place + at if t.is_matrix else -1) for at in range(0, t.size, BLOCK)
            ]
            spans[k] = (first, len(chunks))
            if t.is_matrix:
                same = batches[-1] if batches and batches[-1][2:] == t.matrix else None
                grown = _Batch(place, 1, *t.matrix) if same is None else same._replace(number=same.number + 1)
                batches = [*(batches if same is None else batches[:-1]), grown]
                place += t.size
        parts.append(_Part(slice(begin, len(chunks)), batches))
        room = max(room, place)
    numbers = partial(torch.tensor, dtype=torch.long, device=device)
    return _Plan(numbers(chunks), numbers(spans), layout.sizes.to(device).clamp_min(1), parts, room)


def _parts(layout: Layout) -> list[list[int]]:
    """Tensors that are moved together: all that are no matrices with the first matrices, equal shapes in a row."""
    matrices = [k for k, t in enumerate(layout.tensors) if t.is_matrix]
    parts, held = [[k for k, t in enumerate(layout.tensors) if not t.is_matrix]], 0
    for k in sorted(matrices, key=lambda k: (layout.tensors[k].matrix, k)):
        size = layout.tensors[k].size
        if held and held + size > TOGETHER:
            parts.append([])
            held = 0
        parts[-1].append(k)
        held += size
    return parts


def _rows(state: RuleState, decision: Decision) -> Tensor:
    """What the kernels read of each tensor, `(n, _ROW)`."""
    rms = state.statistics[..., features.STATISTICS.index("weight")].sqrt()
    columns = [
        rule.usual_square(state), rms + 0.03 * state.unit + rule.TINY, decision.step_size, decision.decay,
        decision.given_decay, decision.pull, decision.gate,
    ]  # fmt: skip
    return torch.cat([decision.blend[None], torch.stack(columns, -1), decision.mixture, decision.context], -1)[0]


def move(
    w: dict[str, Tensor], layout: Layout, params: list[Tensor], grads: list[Tensor], state: RuleState,
    decision: Decision, orthogonal: Callable[[Tensor], Tensor] = orthogonalise,
) -> tuple[list[Tensor], RuleState]:  # fmt: skip
    """As `rule.move` for a single run, but parameters and moments are changed where they are.

    Everything is float32 on one device, parameters and moments contiguous.
    """
    from learnopt.kernels import fused

    like = state.statistics
    plan, rows = _plan(layout, like.device), _rows(state, decision)
    dense = [g.contiguous() for g in grads]
    arrays = zip(dense, params, state.fast, state.average, state.square, strict=True)
    factors = equalise.column_factors(layout, state.square)
    weighed = [(factors.data_ptr(), factors.shape[-1]) if k == layout.equalised and factors is not None else (0, 0)
               for k in range(len(params))]  # fmt: skip
    addresses = [[*(x.data_ptr() for x in row), *more] for row, more in zip(arrays, weighed, strict=True)]
    pointers = torch.tensor(addresses, dtype=torch.long, device=like.device)
    momentum, total = like.new_empty(max(plan.room, 1)), len(plan.chunks)
    sums, found = like.new_empty(len(features.STATISTICS), total), torch.empty_like(like)
    mlp = [w[name].contiguous() for name in ("mlp_in", "mlp_out", "mlp_out_bias")]
    common: dict[str, Any] = {
        "TINY": rule.TINY, "ROW": _ROW, "POINTERS": _POINTERS, "BLOCK": BLOCK, **OPTIONS
    }  # fmt: skip
    with torch.cuda.device(like.device) if like.is_cuda else contextlib.nullcontext():
        for part in plan.parts:
            chunks = plan.chunks[part.chunks]
            fused.moments[(len(chunks),)](chunks, pointers, rows, momentum, CLIP=rule.CLIP, **common)
            for start, number, height, width in part.batches:
                held = momentum[start : start + number * height * width].view(number, height, width)
                torch.mul(orthogonal(held), max(height, width) ** 0.5, out=held)
            fused.move[(len(chunks),)](
                chunks, pointers, rows, momentum, *mlp, sums[:, part.chunks], total, AWAY=features.AWAY,
                CAUTION=rule.CAUTION, LARGEST=rule.LARGEST, WIDTH=meta_network.WIDTH, **common,
            )  # fmt: skip
        fused.gather[(len(params), len(features.STATISTICS))](
            sums, total, plan.spans, found, STATISTICS=len(features.STATISTICS), BLOCK=BLOCK, **OPTIONS
        )
    return params, rule.with_statistics(state, found / plan.sizes[:, None])

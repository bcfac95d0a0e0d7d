"""The rule advanced in place by the compiled kernel; the slow truth is `learnopt.rule.apply`."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learnopt import features, memory, meta_network
from learnopt.kernels import library
from learnopt.layout import Layout, TensorShape
from learnopt.orthogonal import orthogonalise
from learnopt.rule import RuleState

CHUNK = 64 * 1024
"""Parameters that are moved in one go; also the largest matrix that the kernel orthogonalises itself."""
SHARED = 4 * CHUNK
"""Parameters in all from which on threads share the work."""
_LISTS = ("memory", "param", "fast", "average", "square", "whole", "grad")


class _Net(ctypes.Structure):
    """`Net` of step.c."""

    _fields_ = [
        ("runs", ctypes.c_int64), ("tensors", ctypes.c_int64), ("number", ctypes.c_int64), ("jobs", ctypes.c_void_p),
        ("sums", ctypes.c_void_p), ("offset", ctypes.c_void_p),
        ("theta_stride", ctypes.c_int64), ("theta", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in (
            "size", "is_matrix", "root", "rows", "share", "shape_columns", "lr", "weight_decay", "memory", "run",
            "columns", "tensor_columns", "nudge", "context", "param", "fast", "average", "square", "whole",
            "grad",
        )),
    ]  # fmt: skip


def available(tensors: Sequence[Tensor]) -> bool:
    """True where the kernel can take these parameters: float32 on the CPU, and a compiler was there."""
    fits = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
    return fits and library.load() is not None


class Options(NamedTuple):
    """What users set per tensor, `(n,)` float32 each."""

    lr: Tensor
    weight_decay: Tensor  # NaN: learned


class Moments(NamedTuple):
    """The large part of the state: one tensor of `(N, *shape)` per parameter tensor, contiguous float32."""

    fast: Sequence[Tensor]
    average: Sequence[Tensor]
    square: Sequence[Tensor]


class InPlaceNet:
    """`N` runs of a network whose tensors the kernel changes where they are; `point` says where, before any step.

    Args:
        theta: meta-weights, `(SIZE,)` for all runs or `(N, SIZE)`; contiguous float32, as everything here.
        record: keep `tensor_columns`.

    Attributes:
        columns: `(N, len(GLOBAL))`, what the rule saw of the runs in the last step.
        tensor_columns: `(N, n, len(TENSOR))`, what it saw of the tensors, when recorded.
    """

    def __init__(
        self, theta: Tensor, layout: Layout, n: int, options: Options | None = None, *, record: bool = False
    ) -> None:
        loaded = library.load()
        assert loaded is not None, "ask available() first"
        count = len(layout.tensors)
        fixed = self._fixed = _fixed(layout)
        self._jobs = jobs = _jobs(layout, n, torch.get_num_threads())
        options = options or fixed.options
        self._library = loaded
        self.columns = torch.zeros(n, len(features.GLOBAL))
        self.tensor_columns = torch.zeros(n, count, len(features.TENSOR)) if record else torch.zeros(0)
        context = torch.zeros(n, count, meta_network.WIDTH)
        whole, self._groups = _momenta(layout, n)
        sums = torch.empty(len(jobs.table), len(features.STATISTICS))
        none: list[Tensor | None] = [None] * count
        self._lists = {name: _pointers(whole if name == "whole" else none) for name in _LISTS}
        self._net = _Net(
            runs=n, tensors=count, number=len(jobs.table), jobs=jobs.table.data_ptr(), sums=sums.data_ptr(),
            offset=fixed.offset.data_ptr(), theta=theta.data_ptr(),
            theta_stride=meta_network.SIZE if theta.numel() > meta_network.SIZE else 0,
            size=fixed.size.data_ptr(), is_matrix=fixed.is_matrix.data_ptr(), root=fixed.root.data_ptr(),
            rows=fixed.rows.data_ptr(),
            share=fixed.share.data_ptr(), shape_columns=fixed.shape_columns.data_ptr(),
            lr=options.lr.data_ptr(), weight_decay=options.weight_decay.data_ptr(), run=None,
            columns=self.columns.data_ptr(), context=context.data_ptr(),
            tensor_columns=self.tensor_columns.data_ptr() if record else None,
            **{name: ctypes.addressof(pointers) for name, pointers in self._lists.items()},
        )  # fmt: skip
        self._kept = (theta, options, context, whole, sums)  # the memory pointed at
        self._now: tuple[Any, ...] = ()

    def point(self, memories: Sequence[Tensor], run: Tensor, params: Sequence[Tensor], moments: Moments) -> None:
        """Where things are from now on.

        Args:
            memories: per tensor, `(N, MEMORY_SIZE)`.
            run: `(N, RUN_SIZE)`.
            params: `(N, *shape)` each, like the moments.
        """
        for name, tensors in {"memory": memories, "param": params, **moments._asdict()}.items():
            self._lists[name][:] = [t.data_ptr() for t in tensors]
        self._net.run = run.data_ptr()
        self._now = (memories, run, params, moments)

    def largest(self, grads: Sequence[Tensor]) -> float:
        """The largest size of an element; infinite where one is not finite."""
        self._lists["grad"][:] = [g.data_ptr() for g in grads]
        self._share_out(self._library.look_jobs)
        return float(self._library.largest(ctypes.byref(self._net)))

    def follow(self, head: Mapping[str, Tensor]) -> None:
        """Bring the stop probability in `run` up to date with what the last step saw; `head` as in `stop_head`."""
        parts = [head[name].data_ptr() for name in ("in", "bias", "out", "out_bias")]
        self._library.follow(ctypes.byref(self._net), *parts)

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], loss: Tensor | None, horizon: float, nudge: Tensor | None = None) -> None:
        """One step of all runs; entries of gradients that are not finite count as 0."""
        dense = [g.contiguous() for g in grads]
        self._lists["grad"][:] = [g.data_ptr() for g in dense]
        told = None if loss is None else loss.detach().contiguous()
        added = None if nudge is None else nudge.contiguous()
        self._net.nudge = None if added is None else added.data_ptr()
        self._library.decide(ctypes.byref(self._net), None if told is None else told.data_ptr(), horizon)
        self._share_out(self._library.begin_jobs)
        for group in self._groups:
            group.copy_(orthogonalise(group))
        self._share_out(self._library.end_jobs)
        self._library.end_step(ctypes.byref(self._net))

    def _share_out(self, work: Callable[[Any, int, int, int], None]) -> None:
        """Do all jobs, in as many threads as they are worth; what comes out does not depend on how many."""
        rooms = [torch.empty(self._fixed.room) for _ in self._jobs.shares]
        first, *others = [
            (ctypes.byref(self._net), start, stop, room.data_ptr())
            for (start, stop), room in zip(self._jobs.shares, rooms, strict=True)
        ]
        waiting = [_threads().submit(work, *share) for share in others]  # C code runs without Python's lock
        work(*first)
        for other in waiting:
            other.result()


class _Jobs(NamedTuple):
    """What there is to do with the parameters of `N` runs, and how threads share it."""

    table: Tensor  # (jobs, 4) int64: tensor, run, start, size
    shares: list[tuple[int, int]]  # first job, and the one after the last


@lru_cache(maxsize=256)
def _jobs(layout: Layout, n: int, threads: int) -> _Jobs:
    """Parts of at most `CHUNK` parameters; the shares are about equally large."""
    table = [
        (k, run, start, min(CHUNK, t.size - start))
        for k, t in enumerate(layout.tensors)
        for run in range(n)
        for start in range(0, t.size, CHUNK)
    ]
    done = torch.tensor([0, *(size for *_, size in table)]).cumsum(0)
    parts = threads if int(done[-1]) >= SHARED else 1
    ends = [int(torch.searchsorted(done, int(done[-1]) * (i + 1) // parts)) for i in range(parts)]
    shares = [(a, b) for a, b in pairwise([0, *ends]) if b > a]
    return _Jobs(torch.tensor(table, dtype=torch.long).reshape(-1, 4), shares or [(0, 0)])


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="learnopt")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked process has none of its parent's threads


class _Fixed(NamedTuple):
    offset: Tensor
    size: Tensor
    is_matrix: Tensor
    root: Tensor
    rows: Tensor
    room: int
    share: Tensor
    shape_columns: Tensor
    options: Options


@lru_cache(maxsize=256)
def _fixed(layout: Layout) -> _Fixed:
    """What follows from the shapes alone."""
    count, roots = len(layout.tensors), layout.sizes.sqrt()
    small = [t.matrix if _small(t) else (0, 0) for t in layout.tensors]
    loaded = library.load()
    assert loaded is not None
    return _Fixed(
        torch.tensor([0, *(a * b for a, b in meta_network.SHAPES.values())]).cumsum(0)[:-1],
        torch.tensor([t.size for t in layout.tensors]), layout.is_matrix.long(),
        torch.tensor([max(t.matrix) ** 0.5 for t in layout.tensors]), torch.tensor([rows for rows, _ in small]),
        max(loaded.orthogonalise_room(*shape) for shape in small), roots / roots.sum(),
        layout.columns.contiguous(), Options(torch.ones(count), torch.full((count,), math.nan)),
    )  # fmt: skip


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def _small(t: TensorShape) -> bool:
    """Whether the kernel orthogonalises the matrix itself, because that takes less time than calling torch."""
    return t.is_matrix and t.size <= CHUNK


def _momenta(layout: Layout, n: int) -> tuple[list[Tensor | None], list[Tensor]]:
    """Room for each matrix's momentum, and what torch is to orthogonalise: large matrices of one shape side by side."""
    shapes: dict[tuple[int, int], list[int]] = {}
    whole: list[Tensor | None] = [None] * len(layout.tensors)
    for k, t in enumerate(layout.tensors):
        if _small(t):
            whole[k] = torch.empty(n, *t.matrix)
        elif t.is_matrix:
            shapes.setdefault(t.matrix, []).append(k)
    groups = [torch.empty(len(members) * n, rows, columns) for (rows, columns), members in shapes.items()]
    for group, members in zip(groups, shapes.values(), strict=True):
        for i, k in enumerate(members):
            whole[k] = group[i * n : (i + 1) * n]
    return whole, groups


class InPlaceRuns:
    """`N` runs that the kernel owns: copies of what it is given.

    Attributes:
        params: the current parameters, leaves that require gradients; every step changes them in place.
    """

    def __init__(
        self, theta: Tensor, layout: Layout, params: list[Tensor], state: RuleState, *, record: bool = False
    ) -> None:
        self.params = [_own(p) for p in params]
        self._moments = Moments(*([_own(x) for x in moment] for moment in (state.fast, state.average, state.square)))
        self._memories, self._run = memory.pack(state)
        self._net = InPlaceNet(_own(theta), layout, len(self._run), record=record)
        self._net.point(self._memories, self._run, self.params, self._moments)
        for p in self.params:
            p.requires_grad_()

    @property
    def columns(self) -> Tensor:
        """`(N, len(GLOBAL))`, what the rule saw of the runs in the last step."""
        return self._net.columns

    @property
    def tensor_columns(self) -> Tensor:
        """`(N, n, len(TENSOR))`, what it saw of the tensors; nothing unless recorded."""
        return self._net.tensor_columns

    def step(
        self, grads: Sequence[Tensor | None], loss: Tensor | None, horizon: float, nudge: Tensor | None = None
    ) -> None:
        """One step of all runs; missing gradients count as 0, and so do entries that are not finite."""
        dense = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, self.params, strict=True)]
        self._net.step(dense, loss, horizon, nudge)

    def state(self) -> RuleState:
        """The rule's state now; the moments share memory with the runs."""
        return memory.unpack(self._memories, self._run, tuple(map(tuple, self._moments)))


def _own(x: Tensor) -> Tensor:
    return x.detach().to(torch.float32).contiguous().clone(memory_format=torch.contiguous_format)

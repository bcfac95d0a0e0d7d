"""The rule advanced in place by the compiled kernel; the slow truth is `learnopt.rule.apply`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learnopt import features, memory, meta_network
from learnopt.kernels import library, sharing
from learnopt.layout import Layout, TensorShape
from learnopt.orthogonal import block_rows
from learnopt.rule import RuleState

CHUNK = 32 * 1024
"""Parameters of a vector that are moved in one go; matrices are moved in the blocks that are orthogonalised at once."""
SHARED = 128 * 1024
"""Parameters in all from which on threads share the work."""
LOOK, MOVE, SUM_COLUMNS = range(3)
"""The `works` of step.c."""
_LISTS = ("memory", "param", "fast", "average", "square", "grad")


class _Net(ctypes.Structure):
    """`Net` of step.c."""

    _fields_ = [
        ("runs", ctypes.c_int64), ("tensors", ctypes.c_int64), ("number", ctypes.c_int64),
        ("batches", ctypes.c_int64), ("jobs", ctypes.c_void_p), ("order", ctypes.c_void_p), ("begin", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("equalised", "equalised_job", "equalised_rows", "equalised_columns")),
        ("column_sums", ctypes.c_void_p), ("column_stride", ctypes.c_int64), ("factor", ctypes.c_void_p),
        ("offset", ctypes.c_void_p), ("theta_stride", ctypes.c_int64),
        ("theta", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in (
            "size", "is_matrix", "root", "share", "shape_columns", "lr", "weight_decay", "memory", "run",
            "columns", "tensor_columns", "nudge", "context", "param", "fast", "average", "square",
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

    Attributes:
        columns: `(N, len(GLOBAL))`, what the rule saw of the runs in the last step.
        tensor_columns: `(N, n, len(TENSOR))`, what it saw of the tensors.
    """

    def __init__(self, theta: Tensor, layout: Layout, n: int, options: Options | None = None) -> None:
        loaded = library.load()
        assert loaded is not None, "ask available() first"
        count = len(layout.tensors)
        fixed = self._fixed = _fixed(layout)
        threads = torch.get_num_threads() if int(layout.sizes.sum()) * n >= SHARED else 1
        jobs = _jobs(layout, n, threads)
        self._rooms = theta.new_empty(threads, jobs.room)
        options = options or fixed.options
        self._library = loaded
        self.columns = theta.new_zeros(n, len(features.GLOBAL))
        self.tensor_columns = theta.new_zeros(n, count, len(features.TENSOR))
        context = theta.new_zeros(n, count, meta_network.WIDTH)
        sums = theta.new_empty(len(jobs.table), len(features.STATISTICS))
        columns = _Columns.of(layout, jobs.table)
        column_sums, factor = theta.new_empty(columns.jobs, columns.stride), theta.new_empty(n, columns.columns)
        none: list[Tensor | None] = [None] * count
        self._lists = {name: _pointers(none) for name in _LISTS}
        self._net = _Net(
            runs=n, tensors=count, number=len(jobs.table), batches=len(jobs.begin) - 1, jobs=jobs.table.data_ptr(),
            order=jobs.order.data_ptr(), begin=jobs.begin.data_ptr(), sums=sums.data_ptr(),
            equalised=columns.tensor, equalised_job=columns.job, equalised_rows=columns.rows,
            equalised_columns=columns.columns, column_sums=column_sums.data_ptr(), column_stride=columns.stride,
            factor=factor.data_ptr(),
            offset=fixed.offset.data_ptr(), theta=theta.data_ptr(),
            theta_stride=meta_network.SIZE if theta.numel() > meta_network.SIZE else 0,
            size=fixed.size.data_ptr(), is_matrix=fixed.is_matrix.data_ptr(), root=fixed.root.data_ptr(),
            share=fixed.share.data_ptr(), shape_columns=fixed.shape_columns.data_ptr(),
            lr=options.lr.data_ptr(), weight_decay=options.weight_decay.data_ptr(), run=None,
            columns=self.columns.data_ptr(), context=context.data_ptr(),
            tensor_columns=self.tensor_columns.data_ptr(),
            **{name: ctypes.addressof(pointers) for name, pointers in self._lists.items()},
        )  # fmt: skip
        self._kept = (theta, options, context, sums, column_sums, factor, jobs)  # the memory pointed at
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
        self._all_jobs(LOOK)
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
        self.move(loss, horizon, nudge)

    def move(self, loss: Tensor | None, horizon: float, nudge: Tensor | None = None) -> None:
        """The step for the gradients that `largest` has just looked at."""
        told, added = (None if x is None else x.detach().float().contiguous() for x in (loss, nudge))
        self._net.nudge = None if added is None else added.data_ptr()
        self._library.decide(ctypes.byref(self._net), None if told is None else told.data_ptr(), horizon)
        if self._net.equalised >= 0:
            self._all_jobs(SUM_COLUMNS)
            self._library.equalise(ctypes.byref(self._net))
        self._all_jobs(MOVE)
        self._library.end_step(ctypes.byref(self._net))

    def _all_jobs(self, work: int) -> None:
        """What comes out does not depend on the number of threads."""
        sharing.all_jobs(self._library, self._net, work, self._rooms)


class _Columns(NamedTuple):
    """The tensor whose columns are weighed, as the kernel is told of it."""

    tensor: int  # -1: none
    job: int  # the first of its jobs
    jobs: int
    rows: int
    columns: int
    stride: int  # longest row of a job

    @staticmethod
    def of(layout: Layout, jobs: Tensor) -> _Columns:
        if layout.equalised is None:
            return _Columns(-1, 0, 0, 1, 1, 1)
        own = (jobs[:, 0] == layout.equalised).nonzero()[:, 0]
        rows, columns = layout.tensors[layout.equalised].matrix
        return _Columns(layout.equalised, int(own[0]), len(own), rows, columns, int(jobs[own, 4].max()))


class _Jobs(NamedTuple):
    """What there is to do with the parameters of `N` runs."""

    table: Tensor  # (jobs, 7) int64: `Job` of net.h
    order: Tensor  # (jobs,) int64: the dearest first
    begin: Tensor  # (batches + 1,) int64: places in that order
    room: int  # floats that one job needs at most


@lru_cache(maxsize=256)
def _jobs(layout: Layout, n: int, threads: int) -> _Jobs:
    table = [
        (k, run, *part) for k, t in enumerate(layout.tensors) for run in range(n) for part in _parts(t)
    ]  # fmt: skip
    jobs = torch.tensor(table, dtype=torch.long, device="cpu").reshape(-1, 7)
    matrices = [(rows, length) for k, _, _, rows, length, *_ in table if layout.tensors[k].is_matrix]
    loaded = library.load()
    assert loaded is not None
    room = max((loaded.orthogonalise_room(*shape) for shape in set(matrices)), default=0)
    costs = jobs[:, 3] * jobs[:, 4]
    order = costs.argsort(descending=True, stable=True)
    return _Jobs(jobs, order, jobs.new_tensor(_batches(costs[order].tolist(), threads)), room)


def _batches(costs: list[int], threads: int) -> list[int]:
    """Where batches of jobs begin, and the end: long ones first, so that a thread stays on memory that is fetched
    ahead, then ever shorter ones, so that all threads end together."""
    if threads == 1:
        return [0, len(costs)]
    begin, left, held = [0], sum(costs), 0
    for i, cost in enumerate(costs):
        if held and held + cost > left / (2 * threads):
            begin.append(i)
            left, held = left - held, 0
        held += cost
    return [*begin, len(costs)]


def _parts(t: TensorShape) -> list[tuple[int, int, int, int, int]]:
    """Start, rows, length, stride, and whether columns are made orthogonal, of every part of a tensor."""
    if not t.is_matrix:
        return [(start, 1, min(CHUNK, t.size - start), 0, 0) for start in range(0, t.size, CHUNK)]
    rows, columns = t.matrix
    if rows > columns:
        each = block_rows(columns)
        return [(at, rows, min(each, columns - at), columns, 1) for at in range(0, columns, each)]
    each = block_rows(rows)
    return [(at * columns, min(each, rows - at), columns, columns, 0) for at in range(0, rows, each)]


class _Fixed(NamedTuple):
    offset: Tensor
    size: Tensor
    is_matrix: Tensor
    root: Tensor
    share: Tensor
    shape_columns: Tensor
    options: Options


@lru_cache(maxsize=256)
def _fixed(layout: Layout) -> _Fixed:
    """What follows from the shapes alone."""
    whole, roots = layout.is_matrix.long(), layout.sizes.sqrt()
    return _Fixed(
        whole.new_tensor([0, *(a * b for a, b in meta_network.SHAPES.values())]).cumsum(0)[:-1],
        whole.new_tensor([t.size for t in layout.tensors]), whole,
        roots.new_tensor([max(t.matrix) ** 0.5 for t in layout.tensors]), roots / roots.sum(),
        layout.columns.contiguous(), Options(torch.ones_like(roots), torch.full_like(roots, math.nan)),
    )  # fmt: skip


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


class InPlaceRuns:
    """`N` runs that the kernel owns: copies of what it is given.

    Attributes:
        params: the current parameters, leaves that require gradients; every step changes them in place.
    """

    def __init__(self, theta: Tensor, layout: Layout, params: list[Tensor], state: RuleState) -> None:
        self.params = [_own(p) for p in params]
        self._moments = Moments(*([_own(x) for x in moment] for moment in (state.fast, state.average, state.square)))
        self._memories, self._run = memory.pack(state)
        self._net = InPlaceNet(_own(theta), layout, len(self._run))
        self._net.point(self._memories, self._run, self.params, self._moments)
        for p in self.params:
            p.requires_grad_()

    @property
    def columns(self) -> Tensor:
        """`(N, len(GLOBAL))`, what the rule saw of the runs in the last step."""
        return self._net.columns

    @property
    def tensor_columns(self) -> Tensor:
        """`(N, n, len(TENSOR))`, what it saw of the tensors."""
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

"""A pure function of tensors recorded once as a list of torch operations, and replayed without what dispatches them.

Under `vmap` and autograd most of the time of a small network's forward and backward pass goes into finding out what to
do, which is the same in every step.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from learnopt import graph_passes
from learnopt.recorded_graph import Recorded

_log = logging.getLogger(__name__)
Function = Callable[..., Sequence[Tensor]]
"""Tensors in, tensors out; may differentiate inside."""
_PLAIN = (str, int, float, bool, complex, torch.dtype, torch.device, torch.memory_format, torch.layout)
"""What an operation may be given besides tensors: all that does not change from call to call."""
_SHARE, _ROUNDING = 1e-3, 1e-5
"""Largest differences to the function itself that count as rounding: of a result, and of the largest of all."""


class Replay:
    """A recorded function; right for arguments of the recorded `signature` alone."""

    def __init__(self, recorded: Recorded) -> None:
        self._forward = recorded.compiled()

    @torch.no_grad()
    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return self._forward(*arguments)


def signature(arguments: Sequence[Tensor]) -> tuple[Any, ...]:
    """What a recording depends on."""
    return tuple((tuple(a.shape), a.stride(), a.dtype, a.device) for a in arguments)


def record(function: Function, arguments: Sequence[Tensor], buffers: Sequence[Tensor] = ()) -> Replay | None:
    """Record what `function` does with `arguments`; None where it does what cannot be recorded, or where a replay with
    other arguments gives something else.

    Random numbers that the function draws are drawn anew by every replay; here they are drawn and put back.

    Args:
        buffers: tensors that the function may write to, as every replay then does; here they are put back too.
    """
    recorder = _Recorder(arguments)
    try:
        with _put_back(arguments, buffers), recorder:
            results = function(*arguments)
        recorded = recorder.finished(results)
        graph_passes.simplify(recorded, recorder.values)
        replay, others = Replay(recorded), [_other(x) for x in arguments]
        with _put_back(arguments, buffers):
            expected = function(*others)
        with _put_back(arguments, buffers):
            found = replay(*others)
    except (_NotRecordedError, NotImplementedError, RuntimeError, TypeError) as error:
        # torch says so in many ways; what is wrong with the function itself will be said when it is called
        _log.debug("not recorded: %s", error)
        return None
    if not _same(found, expected):
        _log.debug("not recorded: a replay with other arguments gives something else")
        return None
    return replay


def _other(x: Tensor) -> Tensor:
    """Like `x`, and as good an argument: smaller numbers, or the first dimension in another order."""
    other = 0.99 * x.detach() if x.is_floating_point() else x.roll(1, 0) if x.dim() else x.clone()
    return other.requires_grad_(x.requires_grad)


@contextmanager
def _put_back(arguments: Sequence[Tensor], buffers: Sequence[Tensor]) -> Iterator[None]:
    """Random generators and buffers are after the block what they were before."""
    before = [b.clone() for b in buffers]
    try:
        with torch.random.fork_rng(devices={a.device.index for a in arguments if a.device.type == "cuda"}):
            yield
    finally:
        for b, value in zip(buffers, before, strict=True):
            if not torch.equal(b, value):  # expanded ones cannot be written to
                b.copy_(value)


def _same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Equal but for rounding; a result that should be 0 is as large as the rounding of the others."""
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if b.numel()]
    sizes = [float(b.detach().nan_to_num(0.0, 0.0, 0.0).abs().max()) for _, b in pairs]
    noise = _ROUNDING * max(sizes, default=0.0)
    return all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.allclose(a, b, _SHARE, _SHARE * size + noise, equal_nan=True)
        for (a, b), size in zip(pairs, sizes, strict=True)
    )


class _NotRecordedError(Exception):
    """The function looks at a value to decide what to do, or is given what a recording cannot hold."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation that reaches a device, below `vmap` and autograd."""

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: dict[fx.Node, Any] = {}  # keeps the tensors alive, so that their ids stay theirs
        self._recorded = Recorded()
        self._graph = self._recorded.graph
        self._nodes: dict[int, fx.Node] = {}
        for i, x in enumerate(arguments):
            self._know(self._graph.placeholder(f"argument_{i}"), x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise _NotRecordedError
        kwargs = kwargs or {}
        node = self._graph.call_function(func, self._read(args), self._read(kwargs))
        result = func(*args, **kwargs)
        self._know(node, result)
        if isinstance(result, tuple | list):
            for i, x in enumerate(result):
                if isinstance(x, Tensor):
                    self._know(self._graph.call_function(operator.getitem, (node, i)), x)
        return result

    def finished(self, results: Sequence[Tensor]) -> Recorded:
        """What was written down, to return `results`."""
        self._graph.output(self._read(tuple(results)))
        return self._recorded

    def _know(self, node: fx.Node, value: Any) -> None:
        self.values[node] = value
        if isinstance(value, Tensor):
            self._nodes[id(value)] = node

    def _read(self, values: Any) -> Any:
        return fx.node.map_aggregate(values, self._written)

    def _written(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self._node(x)
        if x is not None and not isinstance(x, _PLAIN):
            raise _NotRecordedError
        return x

    def _node(self, x: Tensor) -> fx.Node:
        if id(x) not in self._nodes:  # from outside: it stays what it is
            self._know(self._graph.get_attr(self._recorded.keep("outside", x)), x)
        return self._nodes[id(x)]

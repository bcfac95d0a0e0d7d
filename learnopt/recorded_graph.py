"""A list of torch operations, and what may be done to it without changing what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx


class Recorded:
    """Recorded operations, and the tensors from outside that they read.

    As `fx.GraphModule`, which would not do: of every one that is made, fx keeps the source text as long as the process
    lives, and meta-training makes thousands.
    """

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.tensors: dict[str, Tensor] = {}

    def keep(self, kind: str, value: Tensor) -> str:
        """Add a tensor; returns its name in the graph."""
        name = f"{kind}_{len(self.tensors)}"
        self.tensors[name] = value
        return name

    def compiled(self) -> Callable[..., tuple[Tensor, ...]]:
        """The graph as it is now, as a function of its placeholders."""
        code = self.graph.python_code("self")
        scope = dict(code.globals)
        exec(code.src, scope)
        read = {n.target for n in self.graph.nodes if n.op == "get_attr"}
        tensors = {name: value for name, value in self.tensors.items() if name in read}
        return MethodType(scope["forward"], SimpleNamespace(**tensors))


class Graph:
    """A recorded graph with an example of every value, all still in memory."""

    def __init__(self, recorded: Recorded, values: dict[fx.Node, Any]) -> None:
        self._recorded, self.nodes, self.values = recorded, recorded.graph, values
        self._written = {m for n in values for written in _written(n) for m in self.memory(written)}
        self._unsettled = {
            n
            for n in values
            if _random(n) or not self._written.isdisjoint(m for x in (n, *n.all_input_nodes) for m in self.memory(x))
        }

    def memory(self, n: fx.Node) -> set[int]:
        """Where the node's tensors lie."""
        value = self.values.get(n)
        parts = value if isinstance(value, tuple | list) else [value]
        return {t.untyped_storage().data_ptr() for t in parts if isinstance(t, Tensor)} - {0}

    def settled(self, n: fx.Node) -> bool:
        """Whether the same operation gives the same at any other place in the graph, and nobody misses it if unused."""
        return n not in self._unsettled

    def tensor(self, n: fx.Node) -> Tensor | None:
        value = self.values.get(n)
        return value if isinstance(value, Tensor) else None

    def calls(self) -> Iterator[fx.Node]:
        """Operations that passes may touch."""
        return (n for n in list(self.nodes.nodes) if n.op == "call_function" and self.settled(n))

    def add(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self.nodes.call_function(target, args, kwargs)

    def constant(self, value: Tensor) -> fx.Node:
        """A node for a tensor that never changes."""
        node = self.nodes.get_attr(self._recorded.keep("constant", value.detach()))
        self.values[node] = value
        return node

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Everybody who reads `old` reads `new`, which has its values."""
        self.values[new] = self.values[old]
        old.replace_all_uses_with(new)


def _written(n: fx.Node) -> list[fx.Node]:
    """Arguments that an operation writes to."""
    if not isinstance(n.target, torch._ops.OpOverload) or not n.target._schema.is_mutable:
        return []
    named = zip(n.target._schema.arguments, n.args, strict=False)
    pairs = [*((a, x) for a, x in named), *((a, n.kwargs.get(a.name)) for a in n.target._schema.arguments)]
    written: list[fx.Node] = []
    for argument, x in pairs:
        if argument.alias_info is not None and argument.alias_info.is_write:
            fx.node.map_arg(x, written.append)
    return written


def _random(n: fx.Node) -> bool:
    return isinstance(n.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in n.target.tags

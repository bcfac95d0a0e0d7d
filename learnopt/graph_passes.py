"""Recorded operations made fewer and quicker; what comes out is the same except for rounding.

A pass touches nothing that is drawn at random, and nothing in memory that an operation of the graph writes to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from learnopt import graph_images
from learnopt.recorded_graph import Graph, Recorded

aten = torch.ops.aten

_VIEWS = {
    aten.alias.default, aten.detach.default, aten.expand.default, aten.permute.default, aten.reshape.default,
    aten.squeeze.dims, aten.transpose.int, aten.view.default, aten._unsafe_view.default,
}  # fmt: skip
_RESHAPES = {aten.reshape.default, aten.view.default, aten._unsafe_view.default}
_COPIES = {aten.clone.default, aten.lift_fresh_copy.default}
_TIMES = {aten.mul.Scalar, aten.mul.Tensor}
_SHAPE_ALONE = {
    aten.full_like.default, aten.new_full.default, aten.new_ones.default, aten.new_zeros.default,
    aten.ones_like.default, aten.zeros_like.default,
}  # fmt: skip
"""What comes out does not depend on the values that go in."""
_SOFTMAX: dict[Any, int] = {
    aten._log_softmax.default: 1, aten._softmax.default: 1,
    aten._log_softmax_backward_data.default: 2, aten._softmax_backward_data.default: 2,
}  # fmt: skip
"""And the number of their arguments that are tensors; the dimension comes next."""
_DIRECT = {
    "_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data", "add", "baddbmm", "bmm", "cat",
    "clone", "constant_pad_nd", "convolution", "cos", "div", "exp", "gather", "gt", "maximum", "mean", "mul", "ne",
    "neg", "permute", "pow", "relu", "reshape", "scatter_add", "select", "sigmoid", "sin", "squeeze", "stack", "sub",
    "sum", "tanh", "transpose", "unsqueeze", "where",
}  # fmt: skip
"""Operations that torch also has as functions of the same arguments."""
_SHORT = 16
"""Over fewer neighbouring numbers than this, torch's softmax on the CPU takes them one by one."""


def simplify(recorded: Recorded, values: dict[fx.Node, Any]) -> None:
    """All passes, in place; `values` are what the nodes gave when they were recorded."""
    graph = Graph(recorded, values)
    changes = (
        _drop_what_does_nothing, _fold_constants, graph_images.halve_by_maxima, graph_images.pad_channels,
        _merge_equals, _add_in_products, _spread_few_gradients, _turn_gradients, _turn_short_softmax, _drop_turns_back,
    )  # fmt: skip
    for change in changes:
        change(graph)
        recorded.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output") or not graph.settled(n))
    _own_outputs(graph)
    _call_directly(graph)


def _drop_what_does_nothing(graph: Graph) -> None:
    """Views of the same shape, copies, products with 1."""
    for n in graph.calls():
        x = n.args[0] if n.args else None
        if not isinstance(x, fx.Node):
            continue
        before, after = graph.tensor(x), graph.tensor(n)
        if before is None or after is None or before.dtype != after.dtype or before.shape != after.shape:
            continue
        alike = before.stride() == after.stride()
        one = n.target in _TIMES and n.args[1] == 1
        viewed = n.target in _VIEWS and graph.memory(x) == graph.memory(n)
        if one or (alike and (viewed or n.target in _COPIES)):
            n.replace_all_uses_with(x)


def _drop_turns_back(graph: Graph) -> None:
    """What is turned around twice."""
    for n in graph.calls():
        x = n.args[0] if n.target == aten.transpose.int else None
        if isinstance(x, fx.Node) and x.target == n.target and x.args[1:] == n.args[1:] and graph.settled(x):
            n.replace_all_uses_with(x.all_input_nodes[0])


def _fold_constants(graph: Graph) -> None:
    """Compute now what depends on no argument."""
    constant: set[fx.Node] = set()
    for n in list(graph.nodes.nodes):
        if n.op == "get_attr" and graph.settled(n):
            constant.add(n)
        elif n.op == "call_function" and graph.settled(n):
            known = all(x in constant for x in n.all_input_nodes)
            if (known or n.target in _SHAPE_ALONE) and graph.tensor(n) is not None:
                constant.add(n)
    for n in (c for c in list(graph.nodes.nodes) if c in constant and c.op == "call_function"):
        if any(user not in constant for user in n.users):
            with graph.nodes.inserting_before(n):
                graph.replace(n, graph.constant(graph.values[n]))


def _merge_equals(graph: Graph) -> None:
    """The same operation on the same arguments is done once."""
    seen: dict[tuple[Any, str, str], fx.Node] = {}
    for n in graph.calls():
        first = seen.setdefault((n.target, repr(n.args), repr(n.kwargs)), n)
        if first is not n:
            n.replace_all_uses_with(first)


def _add_in_products(graph: Graph) -> None:
    """A bias that is added to a product is where the product's sums begin."""
    for n in graph.calls():
        if n.target != aten.add.Tensor or n.kwargs or len(n.all_input_nodes) != 2 or len(n.args) != 2:
            continue
        for bias, summed in (n.all_input_nodes, n.all_input_nodes[::-1]):
            product = summed.all_input_nodes[0] if summed.target in _RESHAPES else summed
            if _begins(graph, n, bias, summed, product):
                with graph.nodes.inserting_before(n):
                    value = graph.values[product]
                    row = graph.add(aten.reshape.default, bias, [len(value), 1, value.shape[-1]])
                    whole = graph.add(aten.baddbmm.default, row, *product.args)
                    graph.values[whole] = value
                    shape = list(graph.values[n].shape)
                    graph.replace(n, whole if product is summed else graph.add(aten.reshape.default, whole, shape))
                break


def _begins(graph: Graph, n: fx.Node, bias: fx.Node, summed: fx.Node, product: fx.Node) -> bool:
    """Whether all rows of a product get the same `bias`, and nobody else reads the product."""
    if product.target != aten.bmm.default or not graph.settled(product):
        return False
    if any(len(x.users) > 1 for x in (product, summed)):
        return False
    b, whole, sums = graph.tensor(bias), graph.tensor(product), graph.tensor(n)
    if b is None or whole is None or sums is None or b.dtype != whole.dtype or b.dim() != sums.dim():
        return False
    return sums.numel() == whole.numel() and b.shape == (len(whole), *[1] * (b.dim() - 2), whole.shape[-1])


def _turn_gradients(graph: Graph) -> None:
    """A result that is a product turned around becomes the product of its turned factors: in order in memory."""
    for n in graph.nodes.output_node().all_input_nodes:
        product = n.args[0] if n.target == aten.transpose.int and graph.settled(n) else None
        if not isinstance(product, fx.Node) or product.target != aten.bmm.default or len(product.users) > 1:
            continue
        if not graph.settled(product):
            continue
        with graph.nodes.inserting_before(n):
            left, right = (graph.add(aten.transpose.int, x, 1, 2) for x in product.args)
            graph.replace(n, graph.add(aten.bmm.default, right, left))


def _spread_few_gradients(graph: Graph) -> None:
    """The gradient before a log-softmax, g - softmax * sum(g), without writing the zeros of a g that is 0 but for the
    classes that were given."""
    for n in graph.calls():
        if n.target != aten._log_softmax_backward_data.default:
            continue
        scattered, out = n.all_input_nodes
        if scattered.target != aten.scatter_add.default or not graph.settled(scattered):
            continue
        zeros, index, source = scattered.all_input_nodes
        dim: Any = n.args[2]
        known, given = graph.tensor(zeros), graph.tensor(source)
        if zeros.op != "get_attr" or known is None or known.any() or scattered.args[1] != dim or given is None:
            continue
        if known.dtype != graph.values[n].dtype or given.shape[dim] != 1:
            continue
        with graph.nodes.inserting_before(n):
            share = graph.add(aten.mul.Tensor, graph.add(aten.exp.default, out), graph.add(aten.neg.default, source))
            graph.replace(n, graph.add(aten.scatter_add.default, share, dim, index, source))


def _turn_short_softmax(graph: Graph) -> None:
    """Softmax over few neighbouring numbers goes over rows instead, where many lie side by side."""
    turned: dict[fx.Node, fx.Node] = {}

    def swapped(x: fx.Node) -> fx.Node:
        return graph.add(aten.transpose.int, x, -2, -1)

    def rows(x: fx.Node) -> fx.Node:
        if x in turned:
            return turned[x]
        if x.target == aten.baddbmm.default and len(x.users) == 1:
            bias, left, right = x.all_input_nodes
            return graph.add(x.target, swapped(bias), swapped(right), swapped(left))
        return graph.add(aten.clone.default, swapped(x), memory_format=torch.contiguous_format)

    for n in graph.calls():
        count = _SOFTMAX.get(n.target, 0)
        if count and _is_short(graph, n, n.args[count]):
            with graph.nodes.inserting_before(n):
                result = graph.add(n.target, *(rows(x) for x in n.all_input_nodes), -2, *n.args[count + 1 :])
                back = swapped(result)
            turned[back] = result
            graph.replace(n, back)
    for n in graph.calls() if turned else ():
        if n.target in _RESHAPES:
            n.target = aten.reshape.default  # what it views may be turned now


def _is_short(graph: Graph, n: fx.Node, dim: Any) -> bool:
    values = [graph.tensor(x) for x in (n, *n.all_input_nodes)]
    like = values[0]
    if like is None or like.device.type != "cpu" or like.dim() < 2 or dim not in (-1, like.dim() - 1):
        return False
    alike = all(x is not None and x.dtype == like.dtype for x in values)
    return alike and like.shape[-1] < _SHORT <= like.shape[-2]


def _own_outputs(graph: Graph) -> None:
    """Results share no memory with arguments, which somebody may change while reading them."""
    given = {m for n in graph.nodes.nodes if n.op == "placeholder" for m in graph.memory(n)}
    last = graph.nodes.output_node()
    for n in last.all_input_nodes:
        if not given.isdisjoint(graph.memory(n)):
            with graph.nodes.inserting_before(last):
                last.replace_input_with(n, graph.add(aten.clone.default, n))


def _call_directly(graph: Graph) -> None:
    """By torch's functions where it has them: an operation looked up by its schema takes three times as long to call.

    The last pass: the others know operations by their schema.
    """
    for n in graph.calls():
        if n.target in _RESHAPES:
            n.target = torch.reshape
        elif isinstance(n.target, torch._ops.OpOverload) and n.target.overloadpacket.__name__ in _DIRECT:
            n.target = getattr(torch, n.target.overloadpacket.__name__)

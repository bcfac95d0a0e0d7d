"""Convolutions and pooling of many runs at once, in forms that torch's CPU kernels take quickly.

`vmap` makes one convolution with a group per run of them.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from learnopt.recorded_graph import Graph

aten = torch.ops.aten

BLOCK = 8
"""Channels of a group that oneDNN takes at once; other numbers go by a slow way."""
MOST_PADDING = 2.0
"""Padded products of channels by real ones up to which that way is slower."""
_WEIGHT: dict[Any, int] = {aten.convolution.default: 1, aten.convolution_backward.default: 2}
"""Place of the weight among the arguments; bias, stride, padding and so on come next."""
_END = 2**63 - 1


def halve_by_maxima(graph: Graph) -> None:
    """Maxima of 2 x 2 numbers, row by row: torch's pooling looks at every number and its neighbours one by one."""
    for n in graph.calls():
        if n.target == aten.max_pool2d_with_indices.default and _halves(graph, n):
            with graph.nodes.inserting_before(n):
                results = _maxima(graph, n.all_input_nodes[0])
            for user in list(n.users):
                graph.replace(user, results[user.args[1] == 1])


def _halves(graph: Graph, n: fx.Node) -> bool:
    x = graph.tensor(n.all_input_nodes[0])
    if x is None or x.device.type != "cpu" or x.shape[-1] % 2 or x.shape[-2] % 2:
        return False
    _, kernel, *rest = n.args
    plain = kernel == [2, 2] and rest in ([], [[]], [[2, 2]])
    return plain and all(user.target == operator.getitem for user in n.users)


def _maxima(graph: Graph, x: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Values, and where they were: the first of equals, as torch does."""
    like = graph.tensor(x)
    assert like is not None
    height, width = like.shape[-2:]
    corner = torch.arange(0, height, 2)[:, None] * width + torch.arange(0, width, 2)

    def halves(of: fx.Node, dim: int) -> list[fx.Node]:
        return [graph.add(aten.slice.Tensor, of, dim, start, _END, 2) for start in (0, 1)]

    left, right = halves(x, -1)
    wide, is_right = graph.add(aten.maximum.default, left, right), graph.add(aten.gt.Tensor, right, left)
    upper, lower = halves(wide, -2)
    upper_right, lower_right = halves(is_right, -2)
    is_lower = graph.add(aten.gt.Tensor, lower, upper)
    row = graph.add(aten.where.self, is_lower, graph.constant(corner + width), graph.constant(corner))
    side = graph.add(aten.where.self, is_lower, lower_right, upper_right)
    return graph.add(aten.maximum.default, upper, lower), graph.add(aten.add.Tensor, row, side)


def pad_channels(graph: Graph) -> None:
    """Channels of every group, in and out, up to multiples of `BLOCK`, where that is not too much."""
    for n in graph.calls():
        if n.target in _WEIGHT:
            weight, bias, _, _, _, transposed, _, groups = n.args[_WEIGHT[n.target] :][:8]
            shapes = None if transposed or bias is not None else _shapes(graph, weight, groups)
            if shapes:
                rebuild = _pad_forward if n.target == aten.convolution.default else _pad_backward
                rebuild(graph, n, _Padding(graph, *shapes))


def _shapes(graph: Graph, weight: Any, groups: Any) -> tuple[int, int, int] | None:
    """Groups, and the channels out and in of each; None where padding does not pay."""
    w = graph.tensor(weight)
    if w is None or w.device.type != "cpu" or groups < 2:
        return None
    out, into = w.shape[0] // groups, w.shape[1]
    growth = _padded(out) * _padded(into) / (out * into)
    return (groups, out, into) if 1 < growth <= MOST_PADDING else None


def _padded(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


class _Padding:
    """Adds and removes channels that are 0."""

    def __init__(self, graph: Graph, groups: int, out: int, into: int) -> None:
        self.graph, self.groups, self.out, self.into = graph, groups, out, into

    def images(self, x: Any, channels: int) -> fx.Node:
        """`(B, groups * channels, ...)` with channels added."""
        like = self._like(x)
        return self._pad(x, [len(like), self.groups, channels, *like.shape[2:]], [2], [len(like), -1, *like.shape[2:]])

    def weight(self, w: Any) -> fx.Node:
        """`(groups * out, into, ...)` with both added."""
        rest = self._like(w).shape[2:]
        return self._pad(w, [self.groups, self.out, self.into, *rest], [1, 2], [-1, _padded(self.into), *rest])

    def _like(self, x: Any) -> Tensor:
        found = self.graph.tensor(x)
        assert found is not None
        return found

    def _pad(self, x: Any, apart: list[int], dims: list[int], joined: list[int]) -> fx.Node:
        sizes = [(0, _padded(size) - size if dim in dims else 0) for dim, size in enumerate(apart)]
        reach = [number for pair in reversed(sizes) for number in pair]
        view = self.graph.add(aten.reshape.default, x, apart)
        return self.graph.add(aten.reshape.default, self.graph.add(aten.constant_pad_nd.default, view, reach), joined)

    def real_images(self, x: fx.Node, like: Tensor, channels: int) -> fx.Node:
        """The channels that were there before, in the shape of `like`."""
        apart = [len(like), self.groups, _padded(channels), *like.shape[2:]]
        return self._cut(x, apart, {2: channels}, like)

    def real_weight(self, w: fx.Node, like: Tensor) -> fx.Node:
        """The same of a weight's gradient."""
        apart = [self.groups, _padded(self.out), _padded(self.into), *like.shape[2:]]
        return self._cut(w, apart, {1: self.out, 2: self.into}, like)

    def _cut(self, x: fx.Node, apart: list[int], real: dict[int, int], like: Tensor) -> fx.Node:
        x = self.graph.add(aten.reshape.default, x, apart)
        for dim, channels in real.items():
            x = self.graph.add(aten.slice.Tensor, x, dim, 0, channels)
        return self.graph.add(aten.reshape.default, x, list(like.shape))


def _pad_forward(graph: Graph, n: fx.Node, padding: _Padding) -> None:
    x, weight, *settings = n.args
    like = graph.tensor(n)
    assert like is not None
    with graph.nodes.inserting_before(n):
        wide = graph.add(n.target, padding.images(x, padding.into), padding.weight(weight), *settings)
        graph.replace(n, padding.real_images(wide, like, padding.out))


def _pad_backward(graph: Graph, n: fx.Node, padding: _Padding) -> None:
    grad, x, weight, *settings = n.args
    users = {user.args[1]: user for user in n.users}
    of_images, of_weight = (graph.tensor(users[i]) if i in users else None for i in (0, 1))
    with graph.nodes.inserting_before(n):
        images = padding.images(grad, padding.out), padding.images(x, padding.into)
        wide = graph.add(n.target, *images, padding.weight(weight), *settings)
        if of_images is not None:
            real = padding.real_images(graph.add(operator.getitem, wide, 0), of_images, padding.into)
            graph.replace(users[0], real)
        if of_weight is not None:
            graph.replace(users[1], padding.real_weight(graph.add(operator.getitem, wide, 1), of_weight))

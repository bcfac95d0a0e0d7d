"""Passes over recorded operations: what comes out is what the function gives, with less to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy import ToyTask

from learnopt import graph_passes, replay
from learnopt.replay import record
from learnopt.unroll import Problem


def keep(*arguments: Tensor) -> list[Tensor]:
    return list(arguments)


def in_place_on_constants(x: Tensor) -> list[Tensor]:
    """Twice the same constant, of which one is written to: neither kept between calls nor merged."""
    a, b = torch.zeros(3), torch.zeros(3)
    a.add_(x)
    before = a * 2
    a.add_(1.0)
    return [a * 2, before, b + torch.ones(3) * 1, x.clone()]


def through_views(x: Tensor) -> list[Tensor]:
    """Memory is written to under another name than it is read by, once as a result that nobody reads."""
    a, b = x.clone(), x.clone()
    before = a * 2
    a[:2].add_(1.0)
    torch.mul(x[:2], 3.0, out=b[:2])
    return [a * 2, before, b * 2]


def of_other_types(x: Tensor) -> list[Tensor]:
    return [(x > 0).long() * 1.0, x.double() * 1, x * 1]


def nearly_equal(x: Tensor) -> list[Tensor]:
    """Operations that differ in a setting alone, and turns that do not undo each other."""
    cube = x.expand(2, 3).reshape(1, 2, 3)
    return [torch.add(x, x, alpha=2), torch.add(x, x, alpha=3), cube.transpose(0, 1).transpose(1, 2)]


def spread(x: Tensor) -> list[Tensor]:
    """Gradients before a log-softmax: 0 but for one class, but for two, and nowhere 0."""
    out, rows = torch.log_softmax(x.expand(4, 3), 1), []
    for base, classes in ((0.0, [[1]]), (0.0, [[0, 2]]), (0.5, [[1]])):
        index = torch.tensor(classes).expand(4, -1)
        given = torch.full((4, 3), base).scatter_add(1, index, x[: index.shape[1]].expand(4, -1))
        rows.append(torch.ops.aten._log_softmax_backward_data(given, out, 1, torch.float32))
    return rows


def short_rows(x: Tensor) -> list[Tensor]:
    wide = x.expand(20, 3)
    return [torch.log_softmax(wide, -1).view(-1), torch.softmax(wide * 2, 1).view(4, 15), torch.softmax(x, 0)]


def pooled(x: Tensor) -> list[Tensor]:
    """With equal numbers, of which the first counts."""
    x = (torch.cat([x, x * 3, x - 1, x]).view(1, 1, 2, 6) * 2).round().requires_grad_()
    with torch.enable_grad():
        maxima = F.max_pool2d(x, 2)
        return [maxima.detach(), *torch.autograd.grad(maxima.square().sum(), x)]


def odd_images(x: Tensor) -> list[Tensor]:
    """Maxima of an odd number of rows, whose last is left out, and groups of channels with a bias."""
    images = torch.cat([x, x * 3, x - 1, x, x + 2]).view(1, 1, 3, 5)
    grouped = F.conv2d(images.expand(2, 12, 3, 5), x.repeat(24).view(12, 6, 1, 1), x.repeat(4), groups=2)
    return [F.max_pool2d(images, 2), grouped]


FUNCTIONS = [
    keep, in_place_on_constants, through_views, of_other_types, nearly_equal, spread, short_rows, pooled, odd_images,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_passes_keep_what_a_function_does(function: Callable[..., list[Tensor]]) -> None:
    recorded = record(function, [torch.ones(3)])
    assert recorded is not None
    for _ in range(2):
        x = torch.randn(3)
        found, expected = recorded(x), function(x)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
            assert a.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_random_numbers_are_drawn_in_their_order() -> None:
    """Equal draws are none that could be merged, and one that nobody reads counts too."""

    def drawn(x: Tensor) -> list[Tensor]:
        first, _, third = (torch.rand(3) for _ in range(3))
        return [x + first, x * third]

    recorded = record(drawn, [torch.ones(3)])
    assert recorded is not None
    with torch.random.fork_rng():
        found = []
        for function in (recorded, drawn):
            torch.manual_seed(3)
            found.append(function(torch.arange(3.0)))
    torch.testing.assert_close([*found[0]], found[1])


def test_passes_leave_little_to_do() -> None:
    problem = Problem(ToyTask("mlp"), [1, 2])
    params, batch = [p.requires_grad_() for p in problem.start], problem.batch(0)
    recorder = replay._Recorder([*params, *batch])
    with recorder:
        loss, grads = problem.gradients(params, batch)
    recorded = recorder.finished([loss, *grads])
    before = len(recorded.graph.nodes)
    graph_passes.simplify(recorded, recorder.values)
    assert len(recorded.graph.nodes) < 0.8 * before
    with torch.no_grad():
        assert all(g.is_contiguous() for g in recorded.compiled()(*params, *batch))

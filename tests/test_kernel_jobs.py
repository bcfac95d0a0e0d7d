"""How the compiled kernel shares its work: parts of tensors, batches of them, threads."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import needs_compiler, thetas
from torch import Tensor

from learnopt import rule
from learnopt.kernels import in_place, sharing
from learnopt.kernels.in_place import CHUNK, InPlaceNet
from learnopt.layout import Layout


@needs_compiler
@pytest.mark.parametrize("shapes", [[(700, 500), (700,), (3, 700)], [(CHUNK + 3,), (200, 400), (5,)]])
def test_threads_change_nothing(shapes: list[tuple[int, ...]]) -> None:
    def train(threads: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            g = torch.Generator().manual_seed(0)
            layout, params = Layout.of(shapes), [0.1 * torch.randn(2, *s, generator=g) for s in shapes]
            runs = in_place.InPlaceRuns(thetas(1)[0], layout, params, rule.init_state(layout, params))
            for _ in range(3):
                runs.step([torch.randn(2, *s, generator=g) for s in shapes], torch.rand(2, generator=g), 10.0)
            return [p.detach() for p in runs.params] + [runs.state().statistics]
        finally:
            torch.set_num_threads(before)

    one, four = train(1), train(4)
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))


@needs_compiler
@pytest.mark.parametrize(("size", "threads"), [(in_place.SHARED - 1, 1), (in_place.SHARED, 3)])
def test_threads_share_the_work_where_it_is_worth_it(size: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert len(InPlaceNet(thetas(1)[0], Layout.of([(size,)]), 1)._rooms) == threads
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_threads_of_python_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> list[Tensor]:
        shapes, g = [(300, 400), (CHUNK + 3,), (200, 3, 80)], torch.Generator().manual_seed(0)
        layout, params = Layout.of(shapes), [torch.randn(2, *s, generator=g) for s in shapes]
        runs = in_place.InPlaceRuns(thetas(1)[0], layout, params, rule.init_state(layout, params))
        for _ in range(3):
            runs.step([torch.randn(2, *s, generator=g) for s in shapes], torch.rand(2, generator=g), 10.0)
        return [p.detach() for p in runs.params]

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        usual = train()
        monkeypatch.setattr(sharing, "_forked", lambda: True)
        assert all(torch.equal(a, b) for a, b in zip(usual, train(), strict=True))
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("value", [7.0, -7.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("shape", [(200, 70), (70, 200), (130, 130), (65, 3, 2), (CHUNK + 700,), (513,), (3,)])
def test_the_largest_gradient_is_found_wherever_it_is(shape: tuple[int, ...], value: float) -> None:
    others = (4, 5)
    net = InPlaceNet(thetas(1)[0], Layout.of([others, shape]), 2)
    grads = [torch.randn(2, *s).clamp(-4, 4) for s in (others, shape)]
    size = math.prod(shape)
    for place in (0, 1, 63, 64, size // 2, size - 65, size - 1):
        for run in range(2):
            held = grads[1].clone()
            held[run].view(-1)[place % size] = value
            assert net.largest([grads[0], held]) == (7.0 if abs(value) == 7.0 else math.inf)
    assert net.largest(grads) == max(g.abs().max().item() for g in grads)


@given(costs=st.lists(st.integers(1, 1000), max_size=300), threads=st.integers(2, 9))
def test_batches_hold_every_job_and_end_small(costs: list[int], threads: int) -> None:
    costs = sorted(costs, reverse=True)
    begin = in_place._batches(costs, threads)
    assert begin[0] == 0
    assert begin[-1] == len(costs)
    assert all(a < b for a, b in itertools.pairwise(begin)) or not costs
    for a, b in itertools.pairwise(begin):
        held, left = sum(costs[a:b]), sum(costs[a:])
        assert b - a <= 1 or held <= left / (2 * threads)  # no thread holds more than half of its share of what is left


def test_one_thread_takes_all_at_once() -> None:
    assert in_place._batches([5, 3, 3], 1) == [0, 3]

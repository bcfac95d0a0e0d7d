"""How the compiled kernel shares its work: parts of tensors, batches of them, threads."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import in_float32, needs_compiler, thetas  # noqa: F401  # a fixture
from torch import Tensor

from learnopt import equalise, meta_network, rule
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


@needs_compiler
@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("first", [(200, 70), (70, 200), (130, 130), (5, 4), (3, 300)])
@pytest.mark.parametrize("threads", [1, 3])
def test_columns_of_very_different_inputs_as_the_rule_has_them(first: tuple[int, int], threads: int) -> None:
    shapes, g = [(7,), first, (6, first[0])], torch.Generator().manual_seed(0)
    layout, w = Layout.of(shapes), meta_network.unpack(thetas(1)[0])
    params = [0.1 * torch.randn(2, *s, generator=g) for s in shapes]
    inputs = torch.logspace(-3, 3, first[1])
    inputs[1] = 0.0
    slow = [p.clone() for p in params]
    state = rule.init_state(layout, params)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = in_place.InPlaceRuns(thetas(1)[0], layout, params, state)
        for _ in range(4):
            grads = [torch.randn(2, *s, generator=g) for s in shapes]
            grads[1] *= inputs
            slow, state, _ = rule.apply(w, layout, slow, grads, state, torch.ones(2), torch.tensor(10.0))
            runs.step(grads, torch.ones(2), 10.0)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(runs.params, slow, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=2e-4, atol=1e-6)
    factor = equalise.column_factors(layout, state.square)
    assert factor is not None
    assert factor[0, -1] < 0.05 * factor[0, 0]  # the inputs do make a difference

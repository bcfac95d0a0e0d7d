"""Any life of a `LearnedOptimizer`: steps of any kind in any order, saved, copied and grown in between.

`pytest tests/test_optimizer_fuzz.py --hypothesis-profile=long --hypothesis-seed=1` looks much longer than CI does.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from fuzz_toy import BAD, GRADIENTS, LOSSES, Spec, gradient, options, specs, spoil
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from optimizer_toy import busy_weights
from torch import Tensor, nn

from learnopt import LearnedOptimizer
from learnopt.kernels import library

WEIGHTS: list[str] = []
AS_IS = {"lr": 1.0, "weight_decay": None, "maximize": False}
"""A new group's options, said outright: defaults are no part of a state_dict."""
groups_of = st.lists(st.tuples(st.lists(specs(), max_size=3), options()), min_size=1, max_size=3)
seeds = st.integers(0, 2**31)


@pytest.fixture(autouse=True, scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> None:
    WEIGHTS[:] = [busy_weights(tmp_path_factory.mktemp("weights"))]


class Side:
    """An optimizer, its parameters and how to build them again."""

    def __init__(self, groups: list[tuple[list[Spec], dict[str, Any]]], seed: int, **kwargs: Any) -> None:
        self.specs = [spec for members, _ in groups for spec in members]
        made = [
            {"params": [spec.new(seed + i) for i, spec in enumerate(members)], **extra} for members, extra in groups
        ]
        self.optimizer = LearnedOptimizer(made, weights=WEIGHTS[0], **kwargs)

    @property
    def params(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def fresh(self) -> Side:
        """Another with the same values and other settings, before it has loaded anything."""
        other = object.__new__(Side)
        other.specs = list(self.specs)
        values = iter([spec.build(p.detach()) for spec, p in zip(self.specs, self.params, strict=True)])
        sizes = [len(group["params"]) for group in self.optimizer.param_groups]
        groups = [{"params": [next(values) for _ in range(size)]} for size in sizes]
        other.optimizer = LearnedOptimizer(groups, 7, lr=0.1, weight_decay=0.3, weights=WEIGHTS[0])
        return other

    def snapshot(self) -> list[Tensor]:
        """Parameters and state, in order."""
        states = [self.optimizer.state.get(p, {}) for p in self.params]
        found = [*self.params, *(v for state in states for _, v in sorted(state.items()))]
        return [x.detach().clone() for x in found]


def by_state_dict(side: Side) -> Side:
    other = side.fresh()
    other.optimizer.load_state_dict(side.optimizer.state_dict())
    return other


def by_file(side: Side) -> Side:
    other, file = side.fresh(), io.BytesIO()
    torch.save(side.optimizer.state_dict(), file)
    file.seek(0)
    other.optimizer.load_state_dict(torch.load(file, weights_only=True))
    return other


def by_pickle(side: Side) -> Side:
    other: Side = pickle.loads(pickle.dumps(side))
    return other


def by_deepcopy(side: Side) -> Side:
    other = copy.deepcopy(side)
    for spec, p in zip(other.specs, other.params, strict=True):  # torch's deepcopy closes gaps in memory
        p.data = spec.build(p.detach()).data
    return other


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def same_gradients(a: list[Tensor | None], b: list[Tensor | None]) -> bool:
    pairs = [(x.to_dense(), y.to_dense()) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return all(torch.equal(x.nan_to_num(3.0), y.nan_to_num(3.0)) for x, y in pairs)


class Life(RuleBasedStateMachine):
    """One optimizer and a copy that was saved and loaded on the way; whatever happens, happens to both."""

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(1)

    @initialize(groups=groups_of, seed=seeds, steps=st.sampled_from([None, 1, 5, 30]))
    def begin(self, groups: list[tuple[list[Spec], dict[str, Any]]], seed: int, steps: int | None) -> None:
        self.own = Side(groups, seed, total_steps=steps)
        self.twin = by_deepcopy(self.own)

    @rule(data=st.data(), seed=seeds, loss=st.sampled_from(LOSSES), closed=st.booleans())
    def step(self, data: st.DataObject, seed: int, loss: float | None, closed: bool) -> None:
        kinds = [data.draw(st.just("usual") | st.sampled_from(GRADIENTS)) for _ in self.own.params]
        grads = [gradient(p, kind, seed + i) for i, (p, kind) in enumerate(zip(self.own.params, kinds, strict=True))]
        self.take(grads, loss, closed)

    @rule(data=st.data(), seed=seeds, bad=st.sampled_from(BAD), closed=st.booleans())
    def step_of_what_is_not_finite(self, data: st.DataObject, seed: int, bad: float, closed: bool) -> None:
        grads = [gradient(p, "usual", seed + i) for i, p in enumerate(self.own.params)]
        where = data.draw(st.sampled_from([None, *(i for i, p in enumerate(self.own.params) if p.numel())]))
        if where is not None:
            grads[where] = spoil(grads[where], bad)  # type: ignore[arg-type]
        self.take(grads, bad if where is None else 1.0, closed)

    def take(self, grads: list[Tensor | None], loss: float | None, closed: bool) -> None:
        active = [g for g in grads if g is not None and g.numel()]
        dense = [g.to_dense() if g.is_sparse else g for g in active]
        finite = all(g.isfinite().all() for g in dense) and (loss is None or math.isfinite(loss))
        kept = [None if g is None else g.clone() for g in grads]
        for side in (self.own, self.twin):
            before, skipped = side.snapshot(), side.optimizer.skipped_steps
            for p, g in zip(side.params, grads, strict=True):
                p.grad = g
            told = loss if loss is None or closed else torch.tensor(loss)
            if closed:
                assert side.optimizer.step(lambda told=told: told) is told  # type: ignore[misc]
            else:
                side.optimizer.step(loss=told)
            assert all(p.grad is g for p, g in zip(side.params, grads, strict=True))
            assert same_gradients(grads, kept)
            assert side.optimizer.skipped_steps == skipped + (bool(active) and not finite)
            if not finite or not active:
                params = len(side.params)
                assert same(side.snapshot()[:params], before[:params])

    @rule(way=st.sampled_from([by_state_dict, by_file, by_pickle, by_deepcopy]))
    def travel(self, way: Any) -> None:
        self.twin = way(self.own)

    @precondition(lambda self: len(self.own.params) < 9)
    @rule(members=st.lists(specs(), min_size=1, max_size=2), extra=options(), seed=seeds)
    def grow(self, members: list[Spec], extra: dict[str, Any], seed: int) -> None:
        for side in (self.own, self.twin):
            new = [spec.new(seed + i) for i, spec in enumerate(members)]
            side.optimizer.add_param_group({"params": new, **AS_IS, **extra})
            side.specs = [*side.specs, *members]

    @rule(extra=options(), data=st.data())
    def set_options(self, extra: dict[str, Any], data: st.DataObject) -> None:
        i = data.draw(st.integers(0, len(self.own.optimizer.param_groups) - 1))
        for side in (self.own, self.twin):
            side.optimizer.param_groups[i].update(extra)

    @rule(to_none=st.booleans())
    def zero_grad(self, to_none: bool) -> None:
        for side in (self.own, self.twin):
            for p in side.params:
                p.grad = torch.ones_like(p)
            side.optimizer.zero_grad(set_to_none=to_none)
            assert all((p.grad is None) if to_none else not p.grad.any() for p in side.params)

    @invariant()
    def all_is_finite_and_the_copy_is_the_same(self) -> None:
        own = self.own.snapshot()
        assert all(p.isfinite().all() for p in self.own.params)
        assert not any(x.isnan().any() for x in own)  # squares of weights of 1e30 are infinite, and meant to be
        assert same(own, self.twin.snapshot())
        for side in (self.own, self.twin):
            rows = side.optimizer.explain()
            assert all(math.isfinite(v) for row in rows for k, v in row.items() if k != "shape")
            assert 0 <= side.optimizer.stop_probability <= 1


class LifeWithoutKernel(Life):
    """The same where there is no compiler."""


@pytest.mark.skipif(library.load() is None, reason="no C compiler, or LEARNOPT_KERNEL=torch")
class TestLife(Life.TestCase):  # type: ignore[misc]
    pass


class TestLifeWithoutKernel(LifeWithoutKernel.TestCase):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def no_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "load", lambda: None)


numbers = st.floats() | st.integers() | st.integers(10**300, 10**310)
anything = (
    st.none() | st.booleans() | numbers | st.text(max_size=2) | st.sampled_from(["1.5", "inf"])
    | st.complex_numbers() | st.lists(st.floats(), max_size=2) | st.just(torch.ones(2)) | st.floats().map(torch.tensor)
)  # fmt: skip


def one_step(loss: Any = None, **settings: Any) -> nn.Parameter:
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = LearnedOptimizer([p], weights=WEIGHTS[0], **settings)
    p.grad = torch.ones_like(p)
    optimizer.step(loss=loss)
    return p


@given(total_steps=anything, lr=anything, weight_decay=anything)
def test_settings_work_or_are_named(total_steps: Any, lr: Any, weight_decay: Any) -> None:
    for settings in ({"total_steps": total_steps}, {"lr": lr}, {"weight_decay": weight_decay}):
        ((name, value),) = settings.items()
        try:
            p = one_step(**settings)
        except ValueError as error:
            assert name in str(error)  # noqa: PT017
        else:
            assert not isinstance(value, str)
            assert p.isfinite().all() or float(value) > 1e6


@given(loss=anything)
def test_losses_work_or_are_named(loss: Any) -> None:
    try:
        p = one_step(loss)
    except ValueError as error:
        assert str(error).startswith("loss must be one")  # noqa: PT017
    else:
        assert not isinstance(loss, str)
        assert p.isfinite().all()

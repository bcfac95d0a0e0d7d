"""Fewer units per parameter: the script that fits them."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from benchmark_script import load

from learnopt import meta_network, rule

COLUMNS = meta_network.SHAPES["mlp_in"][0]


@pytest.fixture(scope="module")
def narrow() -> ModuleType:
    return load("narrow")


@pytest.fixture
def large() -> dict[str, torch.Tensor]:
    """An MLP of four units, two of which repeat the others' work."""
    g = torch.Generator().manual_seed(0)
    shapes = {"mlp_in": (COLUMNS, 4), "mlp_context": (5, 4), "mlp_bias": (1, 4), "mlp_out": (4, 2)}
    w = {name: 0.5 * torch.randn(shape, generator=g) for name, shape in shapes.items()}
    for name in ("mlp_in", "mlp_context", "mlp_bias"):
        w[name][:, 2:] = w[name][:, :2]
    return w | {"mlp_out_bias": torch.tensor([[0.1, -0.2]])}


def said(w: dict[str, torch.Tensor], x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The outputs by the meta-network's own arithmetic, `(S, 2)`."""
    context = (hidden @ w["mlp_context"] + w["mlp_bias"])[None]
    batched = {name: value[None] for name, value in w.items()}
    return torch.stack(rule.parameter_outputs(batched, x.mT[None], context), -1)[0]


def test_units_that_repeat_others_are_not_missed(narrow: ModuleType, large: dict[str, torch.Tensor]) -> None:
    g = torch.Generator().manual_seed(1)
    x, hidden = torch.randn(500, COLUMNS, generator=g), torch.randn(500, 5, generator=g)
    context = hidden @ large["mlp_context"] + large["mlp_bias"]
    seen = narrow.Seen(x, context, said(large, x, hidden))
    small = narrow.Small(large, seen, (0, 1))
    assert narrow.difference(small, seen) < 1e-5
    assert narrow.difference(narrow.Small(large, seen, (0,)), seen) > 0.01
    weights = small.weights(large)
    assert set(weights) == set(narrow.MLP)
    torch.testing.assert_close(said(weights, x, hidden), seen.outputs, rtol=1e-4, atol=1e-5)


def test_fitting_comes_nearer(narrow: ModuleType, large: dict[str, torch.Tensor]) -> None:
    g = torch.Generator().manual_seed(1)
    large["mlp_in"][:, 2:] += 0.3
    x, hidden = torch.randn(500, COLUMNS, generator=g), torch.randn(500, 5, generator=g)
    context = hidden @ large["mlp_context"] + large["mlp_bias"]
    seen = narrow.Seen(x, context, said(large, x, hidden))
    small = narrow.Small(large, seen, (0, 1))
    before = narrow.difference(small, seen)
    narrow.ITERATIONS = 100
    torch.manual_seed(0)
    narrow.fit(small, seen)
    assert narrow.difference(small, seen) < 0.8 * before


def test_directions_are_those_of_the_rule(narrow: ModuleType) -> None:
    outputs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.5]])
    x = torch.ones(3, COLUMNS)
    rates = torch.tensor([1.0, 1.38 / 0.62, 0.62 / 1.38])
    torch.testing.assert_close(narrow.directions(x, outputs), rates + 0.3 * outputs[:, 1])


def test_what_the_network_says_is_watched(narrow: ModuleType) -> None:
    g = torch.Generator().manual_seed(0)
    theta = meta_network.initial_theta(g) + 0.05 * torch.randn(meta_network.SIZE, generator=g)
    narrow.STEPS, narrow.MOMENTS = (4, 6), 2
    seen = narrow.observe(theta, 2, 0)
    w = meta_network.unpack(theta)
    again = torch.stack(rule.parameter_outputs(w, seen.x.mT[None], seen.context[None]), -1)[0]
    torch.testing.assert_close(again, seen.outputs)
    assert len(seen.x) % narrow.SAMPLES == 0
    assert len(seen.x) > 0

"""The tuner's strategy, what it knows, and `diagnose`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from learnopt.tuner.diagnose import diagnose
from learnopt.tuner.knowledge import load, names, save
from learnopt.tuner.probes import CHANNELS, PARTS, Probe, change, encode
from learnopt.tuner.search import Search, _vertex, plan


def test_the_search_keeps_its_budget_and_prolongs_the_promising() -> None:
    known = load("adamw")
    for budget in (0.04, 0.3, 1.0, 2.5):
        search, done, spent = Search(known, None, budget), {}, 0
        while (asked := search.ask()) is not None:
            lr, parts = asked
            cost = parts - done.get(lr, 0)
            assert cost > 0
            spent += cost
            done[lr] = parts
            off = abs(math.log10(lr / 0.01))
            search.tell(Probe(lr, parts, 1.0, 0.9 + 0.1 * off, 0.8 + 0.1 * off, (0.9 + 0.1 * off,) * parts), cost)
        assert 0 < spent <= budget * PARTS
        assert plan(budget)[0].rates >= 1
    assert max(done.values()) > min(done.values())


def test_failed_probes_are_not_prolonged() -> None:
    known = load("adamw")
    search, asked_for = Search(known, None, 1.0), []
    while (asked := search.ask()) is not None:
        lr, _ = asked
        asked_for.append(lr)
        search.tell(Probe(lr, 1, 1.0, math.inf, math.inf, (math.inf,)), 1)
    assert len(asked_for) == len(set(asked_for))
    assert "not finite" in search.recommend().doubt


def test_encoding_of_probes() -> None:
    rates = (1e-3, 1e-2, 1e-1)
    probes = [
        Probe(1e-2, 1, 2.0, 2.0, 2.0, (2.0,)),
        Probe(1e-2, 5, 2.0, 1.5, 1.0, (3.0, 1.5, 1.2, 1.1, 1.0)),
        Probe(1e-3, 5, 2.0, 2.0, 2.0, (2.0,) * 5),
    ]
    found = {name: row.tolist() for name, row in zip(CHANNELS, encode(probes, rates), strict=True)}
    assert found["probed"] == [1, 1, 0]
    assert found["valid"] == pytest.approx([0, math.log(0.5), 0])
    assert found["valid_half"] == pytest.approx([0, math.log(0.75), 0])
    assert found["train_worst"] == pytest.approx([0, math.log(1.5), 0])
    assert found["valid_behind"] == pytest.approx([math.log(2), 0, 0])
    assert change(-3.0, -2.0) == pytest.approx(-0.5)
    assert change(math.nan, 1.0) == change(math.inf, 1.0) == 4.0


def test_the_vertex_of_a_parabola() -> None:
    row = torch.tensor([(i - 2.3) ** 2 for i in range(5)])
    assert _vertex(row, 2) == pytest.approx(0.3, abs=1e-5)
    assert _vertex(row, 0) == 0.0


def test_knowledge_survives_the_disk_and_refuses_damage(tmp_path: Path) -> None:
    known = load("adamw")
    path = save(tmp_path / "mine.safetensors", known, {"tasks": 3})
    again = load(path)
    probes = [Probe(known.rates[5], 2, 1.0, 0.9, 0.8, (0.95, 0.85))]
    assert torch.equal(again.expect(None, probes), known.expect(None, probes))
    assert again.portfolio == known.portfolio
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="is damaged"):
        load(path)
    with pytest.raises(ValueError, match=r"unknown optimizer 'lion'; choose from: adamw"):
        load("lion")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "none.safetensors")
    assert "adamw" in names()


def curve(rate: float, steps: int = 200, noise: float = 0.02) -> list[float]:
    """Losses of gradient descent on a quadratic whose curvatures spread over two decades."""
    h = np.geomspace(0.01, 1.0, 20)
    rng = np.random.default_rng(0)
    return [float((h * (1 - rate * h) ** (2 * t)).sum() * (1 + noise * rng.standard_normal())) for t in range(steps)]


def test_diagnose() -> None:
    small, large = diagnose(curve(1e-4)), diagnose(curve(2.2))
    assert small.factor > 2
    assert small.factor > large.factor
    assert large.factor < 1
    assert small.low <= small.factor * 1.1
    assert diagnose([1.0] * 30).verdict == "cannot decide"
    assert diagnose([math.nan] * 30).verdict == "cannot decide"
    assert diagnose([1.0, 5.0, 100.0, math.nan] + [math.nan] * 30).factor < 1
    assert str(small).startswith(small.verdict)
    scaled = diagnose([1000 * loss for loss in curve(1e-4)])
    assert scaled.factor == pytest.approx(small.factor)
    with pytest.raises(ValueError, match="at least 16 numbers, got 3"):
        diagnose([1.0, 2.0, 3.0])

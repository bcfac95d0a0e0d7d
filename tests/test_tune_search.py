"""The tuner's strategy, what it knows, and `diagnose`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from learnopt.tuner.diagnose import diagnose
from learnopt.tuner.knowledge import load, names, save
from learnopt.tuner.probes import CHANNELS, SHARES, Probe, change, channels, edges, on_grid, steps_of
from learnopt.tuner.search import LEAST_PROBES, Search, _vertex, share_for


def probe(lr: float, steps: int = 25, share: float = 0.25, **more: float) -> Probe:
    losses = {"start": 2.0, "half": 1.5, "valid": 1.0} | more
    return Probe(lr, share, steps, train=(3.0, 1.5, 1.2, 1.1), **losses)


@pytest.mark.parametrize("budget", [0, 2, 12, 50, 100, 103, 250])
def test_the_search_keeps_its_budget(budget: int) -> None:
    search, spent = Search(load("adamw"), None, 101, budget), 0
    while (lr := search.ask()) is not None:
        off = abs(math.log10(lr / 0.01))
        search.tell(probe(lr, search.length, search.share, valid=0.8 + 0.1 * off), search.length)
        spent += search.length
    assert budget - search.length < spent <= budget or len(search.probes) == len(search.knowledge.rates)
    assert len({p.lr for p in search.probes}) == len(search.probes)


def test_the_longest_probes_are_taken_that_are_enough() -> None:
    assert share_for(2.0) == share_for(9.0) == 1 / 2
    assert share_for(1.0) == share_for(1.99) == 1 / 4
    assert share_for(0.99) == share_for(0.5) == 1 / 8
    assert share_for(0.0) == SHARES[0]
    for steps in (7, 100, 101, 102, 103):
        search = Search(load("adamw"), None, steps, steps)
        assert search.share == 1 / 4
        assert LEAST_PROBES * search.length <= steps


def test_probes_move_the_recommendation() -> None:
    found = []
    for best in (1e-4, 1e-2):
        search = Search(load("adamw"), None, 400, 400)
        for lr in search.knowledge.rates[::2]:
            off = abs(math.log10(lr / best))
            search.tell(probe(lr, 100, valid=0.5 + 0.3 * off, half=0.7 + 0.3 * off), 100)
        found.append(search.recommend().configuration.lr)
    assert found[0] < 0.2 * found[1]


def test_failed_probes_are_information() -> None:
    search, asked_for = Search(load("adamw"), None, 100, 100), []
    for _ in range(4):
        lr = search.ask()
        assert lr is not None
        asked_for.append(lr)
        search.tell(probe(lr, valid=math.inf, half=math.inf), 3)
    assert len(set(asked_for)) == 4
    assert "not finite at any of the 4" in search.recommend().doubt
    assert search.ask() is not None, "what failed early leaves budget for another"


@pytest.mark.parametrize("ending", [math.nan, math.inf, 4.0])
def test_rates_that_did_harm_are_not_fallen_back_to(ending: float, monkeypatch: pytest.MonkeyPatch) -> None:
    known = load("adamw")
    first = known.portfolio[0]
    flat = torch.zeros(len(known.rates))
    monkeypatch.setattr(type(known), "expect", lambda self, features, probes: flat)  # all rates look alike
    search = Search(known, None, 100, 100)
    assert search.recommend().configuration == first
    search.tell(probe(2 * first.lr, valid=ending), 25)
    assert search.recommend().configuration == first
    search.tell(probe(first.lr / 1.001, valid=ending), 25)
    found = search.recommend()
    assert found.listed
    assert found.configuration == next(c for c in known.portfolio if c.lr < first.lr / 1.001)
    assert found.interval[0] <= found.configuration.lr <= found.interval[1]
    search.tell(probe(1e-9, valid=ending), 25)
    assert search.recommend().configuration.lr == min(c.lr for c in known.portfolio)


def test_encoding_of_probes() -> None:
    rates = (1e-3, 1e-2, 1e-1, 1.0)
    probes = [probe(1e-2, 5), probe(1e-2), probe(1e-3, valid=2.0), probe(1e-1, valid=math.nan, half=math.nan)]
    seen, probed = on_grid(probes, rates)
    shown = channels(seen, torch.full((4,), -2.0), probed)
    found = {name: row.tolist() for name, row in zip(CHANNELS, shown, strict=True)}
    assert found["probed"] == [1, 1, 1, 0]
    assert found["log_share"] == pytest.approx([-0.4, -0.4, -0.4, 0])
    assert found["valid"] == pytest.approx([0, math.log(0.5), 2, 0])
    assert found["behind"] == pytest.approx([math.log(2) ** 0.5, 0, 2**0.5, 0])
    assert found["half_gain"] == pytest.approx([math.log(0.75), math.log(1.5), 0, 0])
    assert found["train_worst"] == pytest.approx([math.log(1.5)] * 3 + [0])
    assert found["train_gap"] == pytest.approx([math.log(0.55), math.log(1.1), -2, 0])
    assert change(-3.0, -2.0) == pytest.approx(-0.5)
    assert change(math.nan, 1.0) == change(math.inf, 1.0) == 4.0


def test_lengths_of_probes() -> None:
    assert [steps_of(0.25, n) for n in (1, 4, 7, 8, 102)] == [1, 1, 1, 2, 25]
    assert edges(16) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert edges(3) == [0, 1, 2, 3]
    assert edges(200, 50)[:3] == [0, 4, 8]


def test_the_vertex_of_a_parabola() -> None:
    row = torch.tensor([(i - 2.3) ** 2 for i in range(5)])
    assert _vertex(row, 2) == pytest.approx(0.3, abs=1e-5)
    assert _vertex(row, 0) == 0.0


def test_knowledge_survives_the_disk_and_refuses_damage(tmp_path: Path) -> None:
    known = load("adamw")
    path = save(tmp_path / "mine.safetensors", known, {"tasks": 3})
    again = load(path)
    probes = [probe(known.rates[5])]
    assert torch.equal(again.expect(None, probes), known.expect(None, probes))
    assert again.portfolio == known.portfolio
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="is damaged"):
        load(path)
    with pytest.raises(ValueError, match=r"no knowledge about 'lion' ships; choose from: adamw"):
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


def test_diagnose_takes_losses_as_they_come() -> None:
    kept = [torch.tensor(loss, requires_grad=True) for loss in curve(1e-4)]
    assert diagnose(kept).factor == pytest.approx(diagnose(curve(1e-4)).factor)
    for wrong in (["high"] * 20, torch.ones(20, 2)):
        with pytest.raises(ValueError, match="a loss must be one number, got"):
            diagnose(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the knowledge is about 'adamw', the optimizer is 'sgd'"):
        diagnose(curve(1e-4), optimizer="sgd", knowledge=load("adamw"))


@pytest.mark.parametrize("scale", [1e-300, 1e-45, 1e-30, 1e-10, 1e37, 1e39, 1e300])
@pytest.mark.parametrize("end", [[], [-0.01], [math.nan] * 20], ids=["", "negative", "nan"])
def test_diagnose_reads_losses_of_any_scale(scale: float, end: list[float]) -> None:
    losses = [loss / curve(1e-3)[0] for loss in curve(1e-3)] + end
    usual, seen = (diagnose([by * loss for loss in losses]) for by in (1.0, scale))
    assert seen.verdict == usual.verdict
    assert (seen.factor, seen.low, seen.high) == pytest.approx((usual.factor, usual.low, usual.high), rel=1e-3)


def test_diagnose_reads_losses_that_grow_beyond_single_precision() -> None:
    found = diagnose([10.0**i for i in range(60)])
    assert found.verdict == "too large"
    assert 0 < found.low <= found.factor <= found.high < 0.1

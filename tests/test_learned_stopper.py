"""`LearnedStopper`: invariances, agreement with the batch evaluation, sense of its verdicts, weights on disk."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from learnopt import carded
from learnopt.stopping import LearnedStopper, Verdict, headroom, policy, weights
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.peer_network import PeerNetwork

FALLING = [2.0 * 0.9**t for t in range(50)]
RISING = [0.3 + 2.0 * 0.6**t + 0.02 * max(0, t - 12) for t in range(50)]


def noisy(seed: int, length: int = 50) -> list[float]:
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    values = 0.5 + np.exp(-t / rng.uniform(2, 20)) + 0.03 * rng.standard_normal(length)
    return [float(v) for v in values]


def verdicts(stopper: LearnedStopper, values: list[float], spacing: float = 1) -> list[Verdict]:
    return [stopper.update(v, i * spacing) for i, v in enumerate(values)]


def chances(found: list[Verdict]) -> list[float]:
    return [v.probability for v in found if v.probability is not None]


@pytest.mark.parametrize("total", [50, None])
def test_waits_while_a_curve_falls_and_stops_once_it_rises(total: int | None) -> None:
    falling, rising = verdicts(LearnedStopper(total), FALLING), verdicts(LearnedStopper(total), RISING)
    assert not any(v.stop for v in falling[:30])
    where = next(i for i, v in enumerate(rising) if v.stop)
    assert 12 < where < 35
    assert max(v.probability or 0 for v in falling[5:25]) > 0.8
    assert "below" in rising[where].reason
    assert "probability" in rising[where].reason


@pytest.mark.parametrize("total", [60, None])
def test_ten_values_in_a_row_that_are_not_finite_end_a_run(total: int | None) -> None:
    found = verdicts(LearnedStopper(total), FALLING[:6] + 9 * [math.nan] + FALLING[6:9] + 5 * [math.nan, math.inf])
    assert [v.stop for v in found] == [False] * (len(found) - 1) + [True]
    assert "last 10 values" in found[-1].reason


def test_what_it_expects() -> None:
    verdict = verdicts(LearnedStopper(50), FALLING[:20])[-1]
    assert verdict.expected_best is not None
    assert FALLING[-1] * 0.2 < verdict.expected_best < FALLING[19]
    assert verdict.expected_step is not None
    assert 30 < verdict.expected_step <= 50
    late = verdicts(LearnedStopper(50), RISING)[-5]
    assert late.expected_best == pytest.approx(min(RISING), rel=0.01)
    assert verdicts(LearnedStopper(), FALLING[:20])[-1].expected_step is None


@pytest.mark.parametrize("seed", range(3))
def test_free_of_scale_shift_sign_and_unit_of_steps(seed: int) -> None:
    values = noisy(seed)
    plain = chances(verdicts(LearnedStopper(50), values))
    scaled = chances(verdicts(LearnedStopper(50), [1e4 * v for v in values]))
    steps = chances(verdicts(LearnedStopper(50 * 128), values, spacing=128))
    flipped = chances(verdicts(LearnedStopper(50, mode="max"), [-v for v in values]))
    assert len(plain) == 48
    for other in (scaled, steps, flipped):
        np.testing.assert_allclose(other, plain, atol=2e-4)
    own = chances(verdicts(LearnedStopper(50, of="progress"), values))
    shifted = chances(verdicts(LearnedStopper(50, of="progress", mode="max"), [300 - 40 * v for v in values]))
    np.testing.assert_allclose(shifted, own, atol=2e-4)
    assert not np.allclose(own, plain)


def test_agrees_with_the_batch_that_figures_come_from() -> None:
    values = torch.tensor([noisy(s, 40) for s in range(4)], dtype=torch.float64)
    values[1, 5] = torch.nan
    steps = torch.arange(40.0, dtype=torch.float64).expand(4, -1)
    four = torch.zeros(4)
    curves = Curves(values, steps, four, ["a"], ["a"], four + 1, torch.full((4,), 40), four > 0, torch.zeros(4, 4))
    batch = policy.probabilities(weights.load().curve, curves, tolerance=0.01)
    for row, one in zip(batch, values, strict=True):
        found = verdicts(LearnedStopper(39, tolerance=0.01), one.tolist())
        assert found[1].probability is None
        np.testing.assert_allclose(chances(found), row[len(row) - len(chances(found)) :], atol=1e-4)


def test_a_tighter_tolerance_or_threshold_waits_longer() -> None:
    def where(**options: float) -> int:
        return sum(not v.stop for v in verdicts(LearnedStopper(50, **options), RISING))

    assert where(tolerance=0.1) < where(tolerance=0.001)
    assert where(threshold=0.3) <= where(threshold=0.001)
    assert where(threshold=0) == 50


def test_of_many_values_it_reads_some() -> None:
    fine = [float(np.interp(t, range(50), RISING)) for t in np.linspace(0, 49, 3000)]
    stopper = LearnedStopper(3000)
    found = verdicts(stopper, fine)
    assert len({v.probability for v in found}) < 80
    where = next(i for i, v in enumerate(found) if v.stop)
    assert 12 < where / 60 < 35
    assert found[-1].best == min(fine)
    unknown = verdicts(LearnedStopper(), fine)
    assert len({v.probability for v in unknown}) < 600
    assert any(v.stop for v in unknown)


def test_something_better_between_two_readings_takes_a_stop_back() -> None:
    stopper = LearnedStopper(6400)
    found = [stopper.update(v, 100 * i) for i, v in enumerate(RISING)]
    assert found[-1].stop
    last = 100 * (len(RISING) - 1)
    assert stopper.update(5.0, last + 1).stop
    assert not stopper.update(0.0, last + 2).stop


def accuracies(seed: int, length: int = 50, top: float = 0.99) -> list[float]:
    """Rising to about `top` in steps of a small validation set, then standing still."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    values = top - 0.6 * np.exp(-t / rng.uniform(2, 6)) + 0.01 * rng.standard_normal(length)
    return [float(v) for v in (np.clip(values, 0, 1) * 200).round() / 200]


def until(values: list[float], **options: float | None) -> int:
    found = verdicts(LearnedStopper(len(values), mode="max", **options), values)
    return next((i for i, v in enumerate(found) if v.stop), len(values))


def test_near_the_limit_of_a_metric_nothing_is_left_to_wait_for() -> None:
    curves = [accuracies(s) for s in range(6)]
    told, untold = (np.mean([until(c, limit=limit) for c in curves]) for limit in (1.0, None))
    assert told < 0.7 * untold
    assert np.mean([until([v / 2 for v in c]) for c in curves]) > told  # far from it
    for c in curves:
        percent, plain = (
            verdicts(LearnedStopper(50, mode="max", limit=limit), [limit * v for v in c]) for limit in (100.0, 1.0)
        )
        assert [v.stop for v in percent] == [v.stop for v in plain]
        np.testing.assert_allclose(chances(percent), chances(plain), atol=2e-4)


def test_without_room_an_improvement_is_impossible() -> None:
    stopper = LearnedStopper(50, mode="max")
    found = verdicts(stopper, [0.5, 0.8, 0.9, 0.995])
    assert "can be at most 11.1%" in found[2].reason
    assert found[2].probability is not None
    assert found[2].probability > 0.1
    assert found[2].expected_best is not None
    assert found[2].expected_best <= 1
    assert (found[3].probability, found[3].stop) == (0.0, True)
    assert stopper.update(1.0).stop


@pytest.mark.parametrize("shift", [-3.0, 5.0])
def test_of_a_metric_outside_its_limit_nothing_is_known(shift: float) -> None:
    values = [v + shift for v in accuracies(0)]
    plain, without = (verdicts(LearnedStopper(50, mode="max", **o), values) for o in ({}, {"limit": None}))
    assert plain == without
    assert verdicts(LearnedStopper(50, limit=0.5), values) == verdicts(LearnedStopper(50), values)  # mode "min"


def test_a_given_threshold_is_one_of_the_product() -> None:
    values = accuracies(1)
    stops = [until(values, threshold=t) for t in (0.2, 0.014, 0.001)]
    assert stops == sorted(stops)
    assert stops[0] < stops[2]
    assert stops[1] == until(values)
    assert until(values, threshold=0.2) < until(values, threshold=0.2, limit=None)
    for threshold in (None, 0.1):
        again = pickle.loads(pickle.dumps(LearnedStopper(50, mode="max", limit=2.0, threshold=threshold)))
        assert again.limit == 2
        plain = LearnedStopper(50, mode="max", limit=2.0, threshold=threshold)
        assert verdicts(again, values) == verdicts(plain, values)


def test_with_a_limit_the_threshold_goes_with_the_tolerance() -> None:
    near_one = [1 - 0.5 * 0.8**t for t in range(60)]
    stops = [until(near_one, tolerance=t) for t in (0.03, 0.01, 0.002)]
    assert stops == sorted(set(stops))
    assert near_one[stops[1]] < 0.995 < near_one[stops[2]]


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, math.inf, "1"])
def test_limits_that_are_none(limit: object) -> None:
    with pytest.raises(ValueError, match="limit must be"):
        LearnedStopper(mode="max", limit=limit)  # type: ignore[arg-type]


def test_agrees_with_the_batch_that_figures_of_accuracies_come_from() -> None:
    values = -torch.tensor([accuracies(s, 40, 0.7 + s / 20) for s in range(6)], dtype=torch.float64)
    steps = torch.arange(40.0, dtype=torch.float64).expand(6, -1)
    six = torch.zeros(6)
    runs = Curves(values, steps, six, ["a"], ["a"], six + 1, torch.full((6,), 40), six == 0, torch.zeros(6, 4))
    loaded = weights.load()
    batch = policy.prospects(policy.probabilities(loaded.curve, runs, 0.01), runs, 0.01)
    stops = policy.first_below(batch, loaded.card["threshold_limit"], runs)
    own = [[v.stop for v in verdicts(LearnedStopper(39, mode="max"), (-row).tolist())] for row in values]
    assert stops.tolist() == [row.index(True) if True in row else 39 for row in own]
    assert len(set(stops.tolist())) > 2


@pytest.mark.parametrize(("value", "limit", "room"), [
    (0.8, 1.0, 0.25), (1.0, 1.0, 0.0), (0.0, 1.0, 10.0), (50.0, 100.0, 1.0), (-0.1, 1.0, None), (1.1, 1.0, None),
    (-math.inf, 1.0, None),
])  # fmt: skip
def test_headroom(value: float, limit: float, room: float | None) -> None:
    found = float(headroom.share(torch.tensor(-value, dtype=torch.float64), limit))
    assert math.isnan(found) if room is None else found == pytest.approx(room)


def test_constant_and_short_curves() -> None:
    stopper = LearnedStopper(50)
    found = [stopper.update(1.0) for _ in range(50)]
    assert not any(v.stop for v in found[:2])
    assert all(math.isfinite(v.probability) for v in found[2:] if v.probability is not None)
    assert LearnedStopper(50).update(math.nan).probability is None


def test_pickles_without_its_weights() -> None:
    stopper = LearnedStopper(50, tolerance=0.02)
    verdicts(stopper, RISING[:10])
    data = pickle.dumps(stopper)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert again.update(0.5) == stopper.update(0.5)
    assert again.tolerance == 0.02


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    verdicts(LearnedStopper(50), RISING[:6])
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_on_disk(tmp_path: Path) -> None:
    curve, peer = CurveNetwork(), PeerNetwork()
    path = weights.save(tmp_path / "mine.safetensors", curve, peer, {"threshold": 0.25})
    loaded = weights.load(tmp_path / "mine")
    assert LearnedStopper(weights=path).threshold == LearnedStopper(weights=path, mode="max").threshold == 0.25
    path = weights.save(tmp_path / "both.safetensors", curve, peer, {"threshold": 0.25, "threshold_max": 0.1})
    assert LearnedStopper(weights=path).threshold == 0.25
    assert LearnedStopper(weights=path, mode="max").threshold == 0.1
    assert LearnedStopper(weights=path, mode="max", threshold=0.3).threshold == 0.3
    x = torch.randn(1, 4, curve.reader.input_size)
    assert torch.equal(loaded.curve.read(x)[0], curve.read(x)[0])
    assert weights.load().card["kind"] == "stopper"
    assert not set(weights.load().card["datasets"]) & {"sklearn:digits", "sklearn:iris"}


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = weights.save(tmp_path / "mine.safetensors", CurveNetwork(), PeerNetwork(), {})
    card = json.loads(path.with_suffix(".json").read_text())
    for key, value in (("curve_features", 0), ("kind", "tuner"), ("format", 9)):
        path.with_suffix(".json").write_text(json.dumps(card | {key: value}))
        with pytest.raises(carded.ArtifactError, match=f"{key} {value!r}"):
            weights.load(path)
    path.with_suffix(".json").write_text(json.dumps(card))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(carded.ArtifactError, match="damaged"):
        weights.load(path)
    tensors = {"curve.extra": torch.zeros(1)}
    carded.write(path, tensors, {k: v for k, v in card.items() if k != "sha256"})
    with pytest.raises(carded.ArtifactError, match="this version needs"):
        weights.load(path)

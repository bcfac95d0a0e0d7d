"""The stop head: it learns what it is taught, and its threshold keeps the excess small."""

from __future__ import annotations

import pytest
import torch
from toy import ToyTask

from learnopt import features, meta_network, stop_head
from learnopt.estimators import Episode
from learnopt.stop_train import Recorder, Recording, calibrate, fit, labels, outcome
from learnopt.unroll import Telling


def made_up(runs: int, seed: int) -> Recording:
    """Runs whose loss falls, then rises after a moment that the first column gives away."""
    g = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, 1, 40)[:, None]
    turn = 0.2 + 0.6 * torch.rand(1, runs, generator=g)
    valid = 1 + (t - turn).abs()
    columns = torch.zeros(40, runs, len(features.GLOBAL))
    columns[..., 0] = 5 * (t - turn)
    best = valid.cummin(0).values
    future = valid.flip(0).cummin(0).values.flip(0)
    return Recording(columns[:-1], valid[:-1], best[:-1], future[1:])


def test_labels() -> None:
    r = made_up(3, 0)
    y = labels(r)
    assert (y[0] == 0).all()
    assert (y[-1] == 1).all()
    assert ((y[1:] - y[:-1]) >= 0).all()


def test_fit_and_calibrate() -> None:
    weights = fit([made_up(20, s) for s in range(3)], torch.Generator().manual_seed(0), steps=300)
    assert {k: tuple(v.shape) for k, v in weights.items()} == stop_head.SHAPES
    fresh = [made_up(20, 9)]
    chosen = calibrate(weights, fresh, most_excess=0.01)
    assert chosen.excess <= 0.01
    assert 0.3 < chosen.compute < 0.75  # the turns lie at 0.5 on average
    assert chosen.stopped == 1
    never = outcome(weights, fresh, threshold=1.0)
    assert never.compute == pytest.approx(1.0)
    assert never.excess == 0


def test_recorder_runs_beyond_the_horizon() -> None:
    theta = meta_network.initial_theta(torch.Generator().manual_seed(0))
    r = Recorder(theta, runs=2).record(Episode(ToyTask(), 3, 40, Telling(40)))
    assert r.columns.shape == (39, 2, len(features.GLOBAL))
    assert r.valid.shape == (39, 2)
    assert (r.best <= r.valid).all()
    centre, spread = features.STANDARD["progress"]
    assert float(r.columns[-1, 0, features.GLOBAL.index("progress")]) == pytest.approx((1 - centre) / spread)

"""Curves and what is read of them, thresholds and labels: against loops and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from learnopt.corpus import Corpus
from learnopt.stopping import calibrate, curve_features, curves, policy
from learnopt.stopping.curves import Curves


def short(folder: Path, rows: list[list[float]]) -> Curves:
    """Recorded runs of one task with these validation losses."""
    known = {"optimizer": "adamw", "schedule": "constant", "lr": 1e-3, "weight_decay": 0.01, "metric": "loss"}
    runs = [known | {"valid_steps": list(range(len(r))), "valid": r} for r in rows]
    Corpus(folder).put("t", "adamw", pd.DataFrame(runs).assign(task="t", datasets="d"))
    return curves.read(folder)


def test_excess_is_counted_up_to_a_limit(tmp_path: Path) -> None:
    found = policy.excess_at(short(tmp_path, [[9.0, 1.5, 2.0, 1.0], [-1.0, math.nan, -2.0, -1.5]]))
    assert found.tolist() == [[1.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0]]


def test_first_below_waits_for_three_values_and_ends_with_the_curve(tmp_path: Path) -> None:
    chances = torch.tensor([[0.0] * 5, [0.9, 0.9, 0.9, 0.1, 0.0], [0.9] * 5])
    assert policy.first_below(chances, 0.2, short(tmp_path, [[1.0] * 5] * 3)).tolist() == [2, 3, 4]


def test_thresholds_are_the_highest_that_is_allowed() -> None:
    stopping = [(t, policy.Outcome(0.5, e, 0, 0)) for t, e in ((0.1, 0.001), (0.2, 0.004), (0.3, 0.0041), (0.4, 0.1))]
    assert calibrate.stopping_threshold(stopping) == 0.2
    assert calibrate.stopping_threshold(stopping[2:]) == calibrate.THRESHOLDS[0]


def test_data_sets_may_be_shared_through_others() -> None:
    assert curves._groups(["a,z", "a,b", "q", "z"]) == [{2}, {0, 1, 3}]


def test_memory_of_a_curve_against_a_slow_truth() -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(30) - 0.1 * np.arange(30)).tolist()
    values[4] = values[11] = values[12] = math.nan
    state, missing, seen = curve_features.begin(1), 0.0, list[float]()
    for place, value in enumerate(values):
        state = curve_features.advance(state, *(torch.tensor([v], dtype=torch.float64) for v in (value, float(place))))
        missing += 0.2 * (math.isnan(value) - missing)
        seen += [] if math.isnan(value) else [value]
        steps = np.abs(np.diff(seen))
        best = int(np.argmin(seen))
        expected = {
            "number": len(seen), "seen": place + 1, "first": seen[0], "last": seen[-1], "best": seen[best],
            "best_number": best + 1, "missing": missing, "roughness": steps.mean() if len(steps) else 0.0,
        }  # fmt: skip
        for name, wanted in expected.items():
            assert float(getattr(state, name)) == pytest.approx(float(wanted)), (place, name)
        column = curve_features.columns(state, torch.zeros(1, dtype=torch.float64))
        assert float(column[0, curve_features.COLUMNS.index("missing")]) == pytest.approx(missing)

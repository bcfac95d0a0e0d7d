"""`select_model` ranks candidates by what it has learned, and refuses what is no table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_circles, make_regression

from learnopt.tuner import selection
from learnopt.tuner.selection import CANDIDATES, FEATURES, select_model

FEW = ("linear", "boosting", "mlp-medium")


def test_a_linear_target_calls_for_a_linear_model() -> None:
    x, y = make_regression(300, 8, noise=0.5, random_state=0)
    found = select_model(x, y, candidates=FEW)
    assert found.best == "linear"
    assert found.task == "regression"
    assert set(found.ranking) == set(FEW) == set(found.probes) == set(found.expected)
    assert found.probes["linear"] > 0.99
    assert found.build().fit(x, y).score(x, y) > 0.99


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_circles_do_not() -> None:
    x, y = make_circles(400, noise=0.1, factor=0.5, random_state=0)
    found = select_model(x, y, candidates=FEW)
    assert found.best != "linear"
    assert found.ranking[-1] == "linear"
    words = select_model(x, np.where(y == 1, "in", "out"), candidates=FEW)
    assert words.ranking == found.ranking
    assert set(words.build().fit(x, np.where(y == 1, "in", "out")).predict(x)) <= {"in", "out"}


def test_what_is_learned_follows_the_scores() -> None:
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(60):
        probes = dict(zip(CANDIDATES, rng.uniform(0, 1, len(CANDIDATES)).tolist(), strict=True))
        table = rng.standard_normal(len(FEATURES) - 1).tolist()
        examples.append((selection.inputs(table, probes, CANDIDATES), torch.tensor([*probes.values()])))
    w = selection.fit(examples, ridge=1e-3)
    seen, scores = examples[0]
    assert torch.equal((((seen - w["mean"]) / w["deviation"]) @ w["weights"]).argsort(), scores.argsort())


def test_data_frames_of_any_number_type() -> None:
    x = pd.DataFrame({"a": np.arange(60.0), "b": np.arange(60) % 2 == 0}).convert_dtypes()
    assert select_model(x, pd.Series(["u", "v", "v"] * 20), candidates=["linear"]).task == "classification"
    x.loc[3, "a"] = pd.NA
    with pytest.raises(ValueError, match="x must be a table of finite numbers"):
        select_model(x, np.arange(60.0))


def test_whole_numbers_are_classes_where_they_are_few() -> None:
    x = np.random.default_rng(0).standard_normal((100, 2))
    for y, kind in (
        (np.arange(100), "regression"), (np.arange(100) % 3, "classification"), (np.arange(100) > 50, "classification"),
        (np.array(["u", "v"] * 50, dtype=object), "classification"),
    ):  # fmt: skip
        assert select_model(x, y, candidates=["linear"]).task == kind


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_learns_both_kinds(name: str) -> None:
    x, y = make_regression(300, 4, random_state=0)
    rows = np.arange(300)
    assert selection.score(name, x, y, "regression", rows[:200], rows[200:], 100, 0) > 0.6
    assert selection.score(name, x, (y > 0).astype(int), "classification", rows[:200], rows[200:], 60, 0) > 0.8


def test_probes_are_judged_on_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    split: list[tuple[set[int], set[int]]] = []

    def score(name: str, x: Any, y: Any, task: str, train: Any, test: Any, epochs: int, seed: int) -> float:
        split.append((set(train.tolist()), set(test.tolist())))
        return 0.5

    monkeypatch.setattr(selection, "score", score)
    for rows, trained in ((100, 50), (1000, 200), (100_000, 2000)):
        selection.probe_scores(np.zeros((rows, 1)), np.zeros(rows), "regression", FEW, 0)
        train, test = split[-1]
        assert len(train) == trained
        assert len(test) == min(4 * trained, rows - trained)
        assert not train & test
    assert split[0] == split[1] == split[2]  # the same for every candidate


def test_training_that_fails_scores_lowest() -> None:
    x, y = np.zeros((50, 2)), np.zeros(50)
    rows = np.arange(25)
    assert selection.score("linear", x, y.astype(int), "classification", rows, rows + 25, 5, 0) == 0.0


@pytest.mark.parametrize(
    ("x", "y", "more", "message"),
    [
        (np.full((50, 2), np.nan), np.arange(50.0), {}, "table of finite numbers"),
        (np.zeros(50), np.arange(50.0), {}, "table of finite numbers"),
        (np.array([["a"]] * 50), np.arange(50.0), {}, "table of finite numbers"),
        (np.zeros((50, 2)), np.arange(49.0), {}, "one value per row"),
        (np.zeros((3, 2)), np.arange(3.0), {}, "3 rows are too few"),
        (np.zeros((50, 2)), np.zeros(50), {}, "never changes: it is always 0.0"),
        (np.zeros((50, 2)), np.array([np.nan, 1.0] * 25), {}, "y holds values that are not finite"),
        (np.zeros((50, 2)), np.array(["a", "b"] * 25), {"task": "regression"}, "regression, but y holds .*'a'"),
        (np.zeros((50, 2)), np.arange(50.0), {"candidates": ["forest"]}, "unknown candidate 'forest'"),
        (np.zeros((50, 2)), np.arange(50.0), {"candidates": []}, "no candidates"),
        (np.zeros((50, 2)), np.arange(50.0), {"task": "ranking"}, "task must be"),
    ],
)
def test_bad_arguments(x: Any, y: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_model(x, y, **more)

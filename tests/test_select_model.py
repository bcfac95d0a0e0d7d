"""`select_model` ranks candidates by what it has learned, and refuses what is no table."""

from __future__ import annotations

from decimal import Decimal
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


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.arange(60) * 0.5, "regression"), (np.arange(60), "regression"), (np.arange(60) % 3, "classification"),
        (np.arange(60) % 3 == 0, "classification"),
    ],
)  # fmt: skip
def test_numbers_are_numbers_in_whatever_holds_them(values: np.ndarray, kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((60, 2))
    plain = select_model(x, values, candidates=["linear"])
    assert plain.task == kind
    for held in (
        values.astype(object),
        np.array([*values], dtype=object),
        values.tolist(),
        pd.Series(values, dtype=object),
    ):
        found = select_model(x, held, candidates=["linear"])
        assert (found.task, found.probes) == (kind, plain.probes)


def test_exact_decimals_are_quantities_and_digits_among_words_are_words() -> None:
    x = np.random.default_rng(0).standard_normal((60, 2))
    assert select_model(x, [Decimal(i) / 3 for i in range(60)], candidates=["linear"]).task == "regression"
    assert select_model(x, [3, "a", 2.5] * 20, candidates=["linear"]).task == "classification"
    assert select_model(x, ["a", "nan", "None"] * 20, candidates=["linear"]).task == "classification"


@pytest.mark.parametrize("task", ["auto", "classification"])
@pytest.mark.parametrize(
    "y",
    [["a", "b", None] * 20, ["a", "b", np.nan] * 20, [1.5, 2, None] * 20, np.array(["a", 3, float("nan")] * 20, object),
     pd.Series(["a", "b", None] * 20), pd.Series(["a", "b", None] * 20, dtype="string"),
     pd.Series([True, False, None] * 20, dtype="boolean"), pd.Series(["a", "b", None] * 20, dtype="category")],
    ids=lambda y: f"{type(y).__name__}-{getattr(y, 'dtype', y[:3])}",
)  # fmt: skip
def test_missing_targets_are_refused_and_no_class(y: Any, task: str) -> None:
    with pytest.raises(ValueError, match=r"y has no value \((None|nan|<NA>)\) in row 2; drop such rows first"):
        select_model(np.arange(120.0).reshape(60, 2), y, task=task)


@pytest.mark.parametrize("rare", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_a_rare_class_is_in_what_a_probe_learns_from(rare: int, seed: int) -> None:
    x, y = np.random.default_rng(0).standard_normal((300, 4)), np.zeros(300, int)
    y[np.random.default_rng(seed).permutation(300)[:rare]] = 1
    assert select_model(x, y, candidates=["linear"], seed=seed).probes["linear"] > 0.9


def test_rows_are_divided_class_by_class_only_where_a_class_would_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "score", lambda name, x, y, task, train, test, epochs, seed: (train, test))

    def divided(y: np.ndarray, task: str = "classification") -> Any:
        return selection.probe_scores(np.zeros((1000, 1)), y, task, ["linear"], 0)["linear"]

    train, test = divided(np.arange(1000.0), "regression")
    common, rare = np.arange(1000) % 3, np.zeros(1000, int)
    assert all(np.array_equal(*parts) for parts in zip(divided(common), (train, test), strict=True))
    rare[test[:300]], rare[test[300:310]], rare[test[310]] = 1, 2, 3
    train, test = divided(rare)
    assert sorted([*train, *test]) == list(range(1000))
    assert np.bincount(rare[train]).tolist() == [137, 60, 2, 1]


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
        (np.zeros((50, 0)), np.arange(50.0), {}, r"at least one column, got shape \(50, 0\)"),
        (np.zeros((50, 2)), None, {}, r"one value per row, got shape \(\)"),
        (np.array([["a"]] * 50), np.arange(50.0), {}, "table of finite numbers"),
        (np.zeros((50, 2)), np.arange(49.0), {}, "one value per row"),
        (np.zeros((3, 2)), np.arange(3.0), {}, "3 rows are too few"),
        (np.zeros((50, 2)), np.zeros(50), {}, "never changes: it is always 0.0"),
        (np.zeros((50, 2)), np.array([np.nan, 1.0] * 25), {}, "y holds values that are not finite"),
        (np.zeros((50, 2)), np.array(["a", "b"] * 25), {"task": "regression"}, "regression, but y holds .*'a'"),
        (np.zeros((50, 2)), [1.0, 2.5] * 25, {"task": "classification"}, "classification, but y holds fractions.*2.5"),
        (np.zeros((50, 2)), np.arange(50.0), {"candidates": ["forest"]}, "unknown candidate 'forest'"),
        (np.zeros((50, 2)), np.arange(50.0), {"candidates": []}, "no candidates"),
        (np.zeros((50, 2)), np.arange(50.0), {"task": "ranking"}, "task must be"),
    ],
)
def test_bad_arguments(x: Any, y: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_model(x, y, **more)

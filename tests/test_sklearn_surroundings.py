"""The estimators where something is unusual: interruptions, torch's modes, weights, labels, what fits go on from."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPClassifier

from learnopt.sklearn import LearnedMLPClassifier, LearnedMLPRegressor, training

X, Y = load_iris(return_X_y=True)
ROWS, TARGETS = load_diabetes(return_X_y=True)


def _interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the loss is computed."""
    call, seen = training.Loss.__call__, iter(range(steps))

    def interrupted(self: training.Loss, *args: Any) -> torch.Tensor:
        if next(seen, None) is None:
            raise KeyboardInterrupt
        return call(self, *args)

    monkeypatch.setattr(training.Loss, "__call__", interrupted)


@pytest.mark.parametrize("warm_start", [False, True])
def test_an_interrupted_refit_leaves_the_former_model(warm_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LearnedMLPRegressor((8,), max_iter=5, warm_start=warm_start, random_state=0).fit(ROWS, TARGETS)
    before, expected = pickle.dumps(model), model.predict(ROWS)
    _interrupt_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        model.fit(ROWS[:, :4] if not warm_start else ROWS, 100 - 5 * TARGETS)
    monkeypatch.undo()
    assert np.array_equal(model.predict(ROWS), expected)
    assert pickle.dumps(model) == before


def test_after_an_interrupted_first_fit_nothing_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt_after(3, monkeypatch)
    for model in (LearnedMLPClassifier(), LearnedMLPRegressor()):
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y)
        with pytest.raises(NotFittedError):
            model.predict(X)
        assert not hasattr(model, "n_features_in_")


def test_partial_fit_goes_on_after_an_interruption_as_if_there_was_none(monkeypatch: pytest.MonkeyPatch) -> None:
    # batches of one pass in one order, so that only the state of the optimizer and the network can differ
    monkeypatch.setattr(training, "passes", lambda rows, batch, random: iter([[np.arange(75), np.arange(75, rows)]]))
    model = LearnedMLPClassifier((8,), batch_size=75, random_state=0).partial_fit(X, Y, classes=[0, 1, 2])
    other = copy.deepcopy(model)
    with monkeypatch.context() as patch:
        _interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            model.partial_fit(X, Y)
    assert np.array_equal(model.predict_proba(X), other.predict_proba(X))
    assert np.array_equal(model.partial_fit(X, Y).predict_proba(X), other.partial_fit(X, Y).predict_proba(X))
    assert model.n_iter_ == 2


def test_a_failed_refit_leaves_the_former_model() -> None:
    model = LearnedMLPClassifier(max_iter=5, random_state=0).fit(X, Y)
    expected = model.predict_proba(X)
    with pytest.raises(ValueError, match="continuous"):
        model.fit(X[:, :2], np.linspace(0, 1, len(X)))
    assert np.array_equal(model.predict_proba(X), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_switched_off_outside(mode: Callable[[], AbstractContextManager[None]]) -> None:
    model = LearnedMLPClassifier((8,), max_iter=5, random_state=0)
    aside = LearnedMLPClassifier((8,), max_iter=5, early_stopping=True, random_state=0)
    expected, of_aside = model.fit(X, Y).predict_proba(X), aside.fit(X, Y).predict_proba(X)
    gone_on = model.partial_fit(X, Y).predict_proba(X)
    with mode():
        assert np.array_equal(model.fit(X, Y).predict_proba(X), expected)
        assert np.array_equal(model.partial_fit(X, Y).predict_proba(X), gone_on)
        assert np.array_equal(aside.fit(X, Y).predict_proba(X), of_aside)
        assert not torch.is_grad_enabled()


def test_another_default_type_of_torch() -> None:
    model = LearnedMLPRegressor((8,), max_iter=20, early_stopping=False, random_state=0)
    aside = LearnedMLPRegressor((8,), max_iter=20, early_stopping=True, random_state=0)
    expected, of_aside = model.fit(ROWS, TARGETS).predict(ROWS), aside.fit(ROWS, TARGETS).predict(ROWS)
    gone_on = model.partial_fit(ROWS, TARGETS).predict(ROWS)
    torch.set_default_dtype(torch.float64)
    try:
        assert np.array_equal(model.fit(ROWS, TARGETS).predict(ROWS), expected)
        assert np.array_equal(model.partial_fit(ROWS, TARGETS).predict(ROWS), gone_on)
        assert np.array_equal(aside.fit(ROWS, TARGETS).predict(ROWS), of_aside)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("scale", [2.0**-1060, 2.0**-133, 0.25, 2.0**127, 2.0**1020])
def test_only_ratios_of_weights_matter(scale: float) -> None:
    for weights in (None, 1.0 + np.arange(len(X)) % 3):
        scaled = scale * (np.ones(len(X)) if weights is None else weights)
        for model, y in ((LearnedMLPClassifier((8,), max_iter=9), Y), (LearnedMLPRegressor((8,), max_iter=9), X[:, 0])):
            expected = model.set_params(random_state=0).fit(X, y, sample_weight=weights).predict(X)
            assert np.array_equal(model.fit(X, y, sample_weight=scaled).predict(X), expected)


def test_very_large_and_very_small_weights() -> None:
    model = LearnedMLPClassifier((8,), max_iter=60, random_state=0)
    for weight in (1e-300, 1e-40, 1e38, 1e300):
        assert model.fit(X, Y, sample_weight=np.full(len(X), weight)).score(X, Y) > 0.9


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_sparse_labels_give_sparse_predictions(kind: Callable[[np.ndarray], Any]) -> None:
    x, y = make_multilabel_classification(200, random_state=0)
    model = LearnedMLPClassifier((8,), max_iter=5, random_state=0)
    dense = model.fit(x, y).predict(x)
    found = model.fit(x, kind(y)).predict(x)
    theirs = MLPClassifier((8,), max_iter=1, early_stopping=False).partial_fit(x, kind(y), classes=range(5)).predict(x)
    assert type(found) is type(theirs)
    assert np.array_equal(found.toarray(), dense)
    assert model.score(x, kind(y)) == np.mean((dense == y).all(1))
    assert isinstance(model.fit(x, y).predict(x), np.ndarray)
    with pytest.raises(ValueError, match=r"y must be dense, got a sparse one of shape \(200, 5\)"):
        LearnedMLPRegressor().fit(x, kind(y))


def test_going_on_takes_the_same_classes_and_layers() -> None:
    model = LearnedMLPClassifier((8,), max_iter=2, random_state=0).partial_fit(X, Y, classes=[2, 1, 0])
    model.partial_fit(X, Y, classes=np.arange(3)).partial_fit(X, Y)
    with pytest.raises(ValueError, match=r"classes=\[0, 1, 2, 3\] are not those of the first fit, \[0 1 2\]"):
        model.partial_fit(X, Y, classes=[0, 1, 2, 3])
    model.set_params(hidden_layer_sizes=[5, 4])
    with pytest.raises(ValueError, match=r"hidden_layer_sizes is \[5, 4\].*has \(8,\)"):
        model.partial_fit(X, Y)
    assert [part.shape for part in model.fit(X, Y).coefs_] == [(4, 5), (5, 4), (4, 3)]
    model.set_params(warm_start=True, hidden_layer_sizes=(5, 4)).fit(X, Y)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes is 7.*has \(5, 4\)"):
        model.set_params(hidden_layer_sizes=7).fit(X, Y)

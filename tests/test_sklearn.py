"""`LearnedMLPClassifier` and `LearnedMLPRegressor` as scikit-learn's users know estimators."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_friedman1, make_multilabel_classification
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.estimator_checks import parametrize_with_checks

from learnopt import LearnedOptimizer
from learnopt.sklearn import LearnedMLPClassifier, LearnedMLPRegressor, training
from learnopt.sklearn.training import Course, Loss, Rows
from learnopt.stopping import Patience

SMALL = {"hidden_layer_sizes": (20,), "max_iter": 30}


# no check is expected to fail: scikit-learn's own estimators fail none either
@parametrize_with_checks([LearnedMLPClassifier(**SMALL), LearnedMLPRegressor(**SMALL)])
def test_scikit_learn_checks(estimator, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)


def test_digits_with_defaults() -> None:
    X, y = load_digits(return_X_y=True)
    train_X, test_X, train_y, test_y = train_test_split(X, y, random_state=0)
    model = LearnedMLPClassifier(max_iter=40, random_state=0).fit(train_X, train_y)
    assert model.score(test_X, test_y) > 0.95
    assert model.validation_loss_curve_ is not None
    assert model.stopped_because_
    assert np.allclose(model.predict_proba(test_X).sum(1), 1)
    assert np.allclose(np.log(model.predict_proba(test_X)), model.predict_log_proba(test_X))


def test_regression_in_any_unit() -> None:
    X, y = make_friedman1(400, noise=0.5, random_state=0)
    model = LearnedMLPRegressor(random_state=0, early_stopping=False, max_iter=100).fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.85
    scaled = clone(model).fit(1e4 * X[:300] + 5e4, 1e-6 * y[:300] - 3)
    np.testing.assert_allclose(scaled.predict(1e4 * X[300:] + 5e4), 1e-6 * model.predict(X[300:]) - 3, atol=3e-7)


def test_prediction_is_the_network_that_was_trained() -> None:
    X, y = load_iris(return_X_y=True)
    model = LearnedMLPClassifier(max_iter=5, activation="gelu", random_state=0).fit(X, y)
    network = training.build(list(zip(model.coefs_, model.intercepts_, strict=True)), "gelu")
    x = torch.from_numpy(((X - X.mean(0)) / X.std(0)).astype(np.float32))
    expected = torch.softmax(network(x), 1).detach().numpy()
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-5)


@pytest.mark.parametrize("activation", sorted(training.ACTIVATIONS))
def test_activations_agree(activation: str) -> None:
    x = np.linspace(-3, 3, 50)
    found = training.ACTIVATIONS[activation].function(x)
    expected = training.ACTIVATIONS[activation].module()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_training_is_the_plain_loop() -> None:
    X, y = load_iris(return_X_y=True)
    model = LearnedMLPClassifier((8,), max_iter=20, random_state=3, standardize=False).fit(X, y)
    X, y, weights = training.merge(X, y, np.ones(len(y)))
    random = np.random.RandomState(3)
    network = training.build(training.new_layers([4, 8, 3], random), "relu")
    optimizer = LearnedOptimizer(network.parameters(), total_steps=20)
    for _ in range(20):
        i = random.permutation(len(y))
        each = torch.nn.functional.cross_entropy(
            network(torch.from_numpy(X[i]).float()), torch.from_numpy(y[i]), reduction="none"
        )
        w = torch.from_numpy(weights[i]).float()
        loss = (each * w).sum() / w.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
    for (weight, bias), (ours, own) in zip(
        training.read_layers(network), zip(model.coefs_, model.intercepts_, strict=True), strict=True
    ):
        np.testing.assert_allclose(ours, weight, atol=1e-6)
        np.testing.assert_allclose(own, bias, atol=1e-6)


def test_keeps_the_weights_that_were_best_on_the_rows_set_aside() -> None:
    X, y = load_diabetes(return_X_y=True)
    model = LearnedMLPRegressor((50,), early_stopping=True, random_state=0, stopper=Patience(5)).fit(X, y)
    kept, aside = model._split(y, Loss("values"), _after_drawing(model, X))
    standard = (y - y[...].mean()) / y.std()
    residual = model.predict(X[aside]) / y.std() - y.mean() / y.std() - standard[aside]
    best = min(model.validation_loss_curve_)
    assert 0.5 * np.mean(residual**2) == pytest.approx(best, rel=1e-4)
    assert model.validation_loss_curve_[-1] > best
    assert "no improvement in 5" in model.stopped_because_
    assert len(kept) + len(aside) == len(y)


def _after_drawing(model: LearnedMLPRegressor, X: np.ndarray) -> np.random.RandomState:
    random = np.random.RandomState(0)
    training.new_layers([X.shape[1], 50, 1], random)
    return random


def test_a_stopper_given_is_not_changed() -> None:
    X, y = load_diabetes(return_X_y=True)
    stopper = Patience(1)
    LearnedMLPRegressor((5,), early_stopping=True, stopper=stopper, max_iter=20).fit(X, y)
    assert stopper.best is None
    for value in (0.0, 1.0, 1.0):  # of another training, which it has ended
        told = stopper.update(value)
    assert told.stop
    model = LearnedMLPRegressor((5,), early_stopping=True, stopper=stopper, max_iter=20, random_state=0).fit(X, y)
    assert model.n_iter_ > 2
    assert stopper.best == 0.0


def test_repeats_with_a_seed_and_leaves_torch_alone() -> None:
    X, y = load_iris(return_X_y=True)
    before = torch.random.get_rng_state()
    first, second = (LearnedMLPClassifier(**SMALL, random_state=0).fit(X, y).predict_proba(X) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, LearnedMLPClassifier(**SMALL, random_state=1).fit(X, y).predict_proba(X))
    assert torch.equal(before, torch.random.get_rng_state())


def test_partial_fit_goes_on_also_after_pickling() -> None:
    X, y = load_iris(return_X_y=True)
    straight, stored = (LearnedMLPClassifier((10,), random_state=0) for _ in range(2))
    for _ in range(30):
        straight.partial_fit(X, y, classes=[0, 1, 2])
        stored = pickle.loads(pickle.dumps(stored.partial_fit(X, y, classes=[0, 1, 2])))
    assert np.array_equal(straight.predict_proba(X), stored.predict_proba(X))
    assert straight.score(X, y) > 0.9
    assert straight.n_iter_ == 30
    assert straight.t_ == 30 * len(np.unique(np.column_stack([X, y]), axis=0))
    assert straight.loss_curve_[-1] < straight.loss_curve_[0]


def test_partial_fit_of_a_class_at_a_time() -> None:
    model = LearnedMLPClassifier((5,), random_state=0)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit([[0.0]], [1])
    model.partial_fit([[0.0], [1.0]], ["b", "b"], classes=["a", "b", "c"])
    assert model.predict_proba([[0.0]]).shape == (1, 3)
    with pytest.raises(ValueError, match="classes"):
        model.partial_fit([[0.0]], ["d"])
    with pytest.raises(ValueError, match="early_stopping=True"):
        LearnedMLPClassifier(early_stopping=True).partial_fit([[0.0]], [0], classes=[0, 1])


def test_whole_weights_are_repetitions_and_zero_is_absence() -> None:
    X, y = make_friedman1(60, random_state=0)
    weights = np.arange(60) % 3
    weighted = LearnedMLPRegressor(**SMALL, random_state=0).fit(X, y, sample_weight=weights)
    repeated = LearnedMLPRegressor(**SMALL, random_state=0).fit(np.repeat(X, weights, 0), np.repeat(y, weights))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-6)
    with pytest.raises(ValueError, match="at least one non-zero"):
        LearnedMLPRegressor().fit(X, y, sample_weight=np.zeros(60))


def test_batched_loss_is_the_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal((50, 3)), rng.standard_normal((50, 2)), rng.random(50)
    rows = Rows(x, y, w, np.zeros(3), np.ones(3))
    network = training.build(training.new_layers([3, 2], np.random.RandomState(0)), "relu")
    out = network(torch.from_numpy(x).float()).detach().numpy()
    expected = np.average(0.5 * ((out - y) ** 2).sum(1), weights=w)
    assert training.evaluate(network, Loss("values"), rows, chunk=7) == pytest.approx(expected, rel=1e-5)
    course = Course()
    optimizer = LearnedOptimizer(network.parameters(), lr=0.0)
    training.one_pass(network, optimizer, Loss("values"), rows, [np.arange(30), np.arange(30, 50)], course)
    assert course.losses == [pytest.approx(expected, rel=1e-5)]


def test_pandas_pipeline_grid_search() -> None:
    frame = pd.DataFrame(load_iris().data, columns=list("abcd"))
    frame["kind"] = np.where(frame["a"] > 5.5, "long", "short")
    y = load_iris().target_names[load_iris().target]
    model = LearnedMLPClassifier(**SMALL, random_state=0).fit(frame[list("abcd")], y)
    assert list(model.feature_names_in_) == list("abcd")
    assert set(model.predict(frame[list("abcd")])) == set(y)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("bacd")])
    encode = make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough")
    pipeline = make_pipeline(encode, LearnedMLPClassifier(**SMALL, random_state=0))
    assert cross_val_score(pipeline, frame, y, cv=3).mean() > 0.85
    grid = {"learnedmlpclassifier__hidden_layer_sizes": [(), (8,)]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(frame, y)
    assert search.best_score_ > 0.8


def test_several_labels_and_several_targets() -> None:
    X, y = make_multilabel_classification(200, random_state=0)
    model = LearnedMLPClassifier(**SMALL, random_state=0).fit(X, y)
    assert model.predict(X).shape == y.shape
    assert (model.predict(X) == y).mean() > 0.85
    targets = np.column_stack([X[:, 0], 100 * X[:, 1] + 7])
    regressor = LearnedMLPRegressor((), max_iter=300, early_stopping=False, random_state=0).fit(X, targets)
    assert regressor.score(X, targets) > 0.95


def test_sparse_rows() -> None:
    X, y = load_digits(return_X_y=True)
    X, y = X[:400], y[:400]
    model = LearnedMLPClassifier(**SMALL, early_stopping=False, random_state=0).fit(sparse.csr_array(X), y)
    assert model.score(sparse.csc_array(X), y) > 0.9
    np.testing.assert_allclose(model.predict_proba(X), model.predict_proba(sparse.csr_array(X)))


@pytest.mark.parametrize("kind", [sparse.csr_array, np.asarray])
def test_columns_are_measured_by_their_weights(kind) -> None:  # type: ignore[no-untyped-def]
    x, weights = np.array([[3.0, 0.0, 7.0], [0.0, 0.0, 7.0], [6.0, 10.0, 7.0]]), np.array([2.0, 1.0, 1.0])
    repeated = x[[0, 0, 1, 2]]
    centre, scale = training.measure(kind(x), weights)
    if kind is np.asarray:
        np.testing.assert_allclose(centre, repeated.mean(0))
        np.testing.assert_allclose(scale, [*repeated.std(0)[:2], 1.0])
    else:
        np.testing.assert_allclose(centre, 0)
        np.testing.assert_allclose(scale, np.sqrt((repeated**2).mean(0)))


def test_planned_steps_lie_within_what_was_learned_but_for_long_passes() -> None:
    assert training.planned_steps(7, 1000, 200) == 35
    assert training.planned_steps(None, 150, 150) == 300
    assert training.planned_steps(None, 1000, 200) == 1000
    assert training.planned_steps(None, 100_000, 200) == 2000
    assert training.planned_steps(None, 400_000, 200) == 4000  # two passes


@pytest.mark.parametrize("aside", [False, True])
def test_a_training_takes_the_steps_it_was_given(aside: bool) -> None:
    rng = np.random.default_rng(0)
    rows = Rows(rng.standard_normal((30, 2)), rng.standard_normal((30, 1)), np.ones(30), np.zeros(2), np.ones(2))
    network = torch.nn.Sequential(torch.nn.Linear(2, 1))
    stopper = Patience(99) if aside else None
    run = training.Training(Loss("values"), 10, 5, "default", stopper, np.random.RandomState(0), lambda line: None)
    course = run.run(network, rows, rows if aside else None)
    assert (course.steps, course.passes, course.seen) == (5, 2, 50)
    assert course.reason == "all planned steps taken"
    assert len(course.validation) == (2 if aside else 0)


def test_warm_start_and_rare_classes() -> None:
    X, y = load_digits(return_X_y=True)
    X, y = X[:320], y[:320].copy()
    y[0] = 17  # a class with one member cannot be on both sides of a split
    model = LearnedMLPClassifier((10,), max_iter=3, warm_start=True, random_state=0).fit(X, y)
    first = model.loss_
    assert model.fit(X, y).loss_ < first
    with pytest.raises(ValueError, match="not those of the first fit"):
        model.fit(X, np.zeros(len(X), int))


@pytest.mark.parametrize("kind", [sparse.csr_array, np.asarray])
def test_values_whose_squares_overflow_are_refused(kind) -> None:  # type: ignore[no-untyped-def]
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=r"too large to be standardised, up to 7.9e\+200"):
        LearnedMLPClassifier(max_iter=2).fit(kind(X * 1e200), y)
    with pytest.raises(ValueError, match=r"too large to be standardised, up to 2e\+300"):
        LearnedMLPRegressor(max_iter=2).fit(X, y * 1e300)


@pytest.mark.parametrize(
    "options",
    [{"hidden_layer_sizes": (0,)}, {"activation": "swish"}, {"batch_size": 0}, {"max_iter": 0}, {"stopper": 3},
     {"validation_fraction": 1.0}, {"early_stopping": "yes"}, {"weights": "none"}],
    ids=str,
)  # fmt: skip
def test_bad_input(options: dict[str, object]) -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=str(next(iter(options)))):
        LearnedMLPClassifier(**options).fit(X, y)

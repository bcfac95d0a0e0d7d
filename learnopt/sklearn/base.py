"""What the scikit-learn estimators share: data in, layers trained by `LearnedOptimizer`, predictions out."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, is_regressor
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from learnopt.optimizer import LearnedOptimizer
from learnopt.sklearn import training
from learnopt.sklearn.surroundings import in_full_or_not_at_all
from learnopt.sklearn.training import Course, Loss, Rows, measure
from learnopt.stopping.learned import LearnedStopper
from learnopt.stopping.stopper import Stopper

Array = NDArray[Any]
ENOUGH = 300
"""Rows from which `early_stopping="auto"` sets some aside."""


class LearnedMLP(BaseEstimator):  # type: ignore[misc]
    """The part of classifier and regressor that does not depend on the kind of target."""

    _partial = False
    _sparse_targets = False
    _random: np.random.RandomState | None = None
    _optimizer_state: dict[str, Any] | None = None
    _centre: Any
    _scale: Any

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(training.ACTIVATIONS))],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [None, Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "stopper": [None, Stopper],
        "standardize": ["boolean"],
        "weights": [str],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        batch_size: int | str = "auto",
        max_iter: int | None = None,
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        stopper: Stopper | None = None,
        standardize: bool = True,
        weights: str = "default",
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool | int = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.stopper = stopper
        self.standardize = standardize
        self.weights = weights
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    # -------------------------------------------------------------------------------------------------- what differs

    @abstractmethod
    def _read_targets(self, y: Array, weights: Array, fresh: bool, classes: Any = None) -> tuple[Array, Loss]:
        """Targets as the loss reads them; `fresh`: learn classes or units from them."""

    @abstractmethod
    def _outputs(self) -> int:
        """Outputs of the network."""

    # ------------------------------------------------------------------------------------------------------ fitting

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train from the start (or, with `warm_start`, from where the last fit ended).

        A fit that fails or is interrupted (Ctrl-C) leaves the estimator as it was: with the former model, or unfitted.

        Args:
            X: `(rows, features)`, dense or sparse, numbers.
            y: `(rows,)` or `(rows, outputs)`.
            sample_weight: `(rows,)`, non-negative; rows of weight 0 count as absent, only ratios matter.

        Raises:
            ValueError: what is wrong with the arguments or the data.
        """
        with in_full_or_not_at_all(self):
            return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        self._validate_params()
        self._partial = False
        fresh = not (self.warm_start and hasattr(self, "coefs_"))
        X, y, weights = self._read(X, y, sample_weight, fresh)
        targets, loss = self._read_targets(y, weights, fresh)
        random = check_random_state(self.random_state)
        if fresh:
            self._begin(X, weights, random)
        else:
            self._check_layers()
        kept, aside = self._split(targets, loss, random)
        rows = [self._rows(X[i], targets[i], weights[i]) if i is not None else None for i in (kept, aside)]
        train, valid = rows
        assert train is not None
        batch = self._batch(len(train))
        steps = training.planned_steps(self.max_iter, len(train), batch)
        network = training.build(self._layers(), self.activation)
        course = training.Training(
            loss, batch, steps, self.weights, None if valid is None else self._stopper(steps), random, self._say
        ).run(network, train, valid)
        self.n_iter_ = self.t_ = 0
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_ = course.validation if valid is not None else None
        self.stopped_because_ = course.reason
        self._optimizer_state = self._random = None
        return self._finish(network, course)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        self._validate_params()
        if self.early_stopping is True:
            raise ValueError(
                "partial_fit does not support early_stopping=True: it takes one pass over what it is given"
            )
        self._partial, fresh = True, not hasattr(self, "coefs_")
        X, y, weights = self._read(X, y, sample_weight, fresh)
        targets, loss = self._read_targets(y, weights, fresh, classes)
        random = check_random_state(self.random_state) if fresh or self._random is None else self._random
        if fresh:
            self._begin(X, weights, random)
            self.n_iter_ = self.t_ = 0
            self.loss_curve_, self.validation_loss_curve_ = [], None
            self.stopped_because_ = "partial_fit"
        else:
            self._check_layers()
        self._random = random
        train = self._rows(X, targets, weights)
        network = training.build(self._layers(), self.activation)
        optimizer = LearnedOptimizer(network.parameters(), weights=self.weights, process_group=False)
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
        batches, course = next(training.passes(len(train), self._batch(len(train)), random)), Course()
        training.one_pass(network, optimizer, loss, train, batches, course)
        self._optimizer_state = optimizer.state_dict()
        return self._finish(network, course)

    def _read(self, X: Any, y: Any, sample_weight: Any, fresh: bool) -> tuple[Any, Array, Array]:
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=(np.float64, np.float32), multi_output=True, reset=fresh,
            y_numeric=is_regressor(self),
        )  # fmt: skip
        if fresh:
            self._sparse_targets = issparse(y)
        if issparse(y):
            if is_regressor(self):
                raise ValueError(f"y must be dense, got a sparse one of shape {y.shape}")
            y = y.toarray()
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        present = weights > 0
        # float32 has no room for very large and very small ones; a power of two changes no digit of the others
        weights = np.ldexp(weights, -np.frexp(weights.max())[1])
        X, y, weights = X[present], y[present], weights[present]
        return training.merge(X, y, weights) if X.shape[0] <= self._batch(X.shape[0]) else (X, y, weights)

    def _begin(self, X: Any, weights: Array, random: np.random.RandomState) -> None:
        """Measure the inputs and draw the first weights."""
        self._centre, self._scale = measure(X, weights) if self.standardize else (0.0, 1.0)
        self.n_outputs_ = self._outputs()
        layers = training.new_layers([X.shape[1], *self._hidden(), self.n_outputs_], random)
        self.n_layers_ = len(layers) + 1
        self.coefs_, self.intercepts_ = (list(part) for part in zip(*layers, strict=True))

    def _hidden(self) -> list[int]:
        hidden: list[int] = np.atleast_1d(self.hidden_layer_sizes).tolist() if np.size(self.hidden_layer_sizes) else []
        if any(not isinstance(size, int) or size < 1 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be whole numbers of at least 1, got {self.hidden_layer_sizes!r}")
        return hidden

    def _check_layers(self) -> None:
        """Refuse to go on from layers of other sizes."""
        fitted = tuple(len(bias) for bias in self.intercepts_[:-1])
        if tuple(self._hidden()) != fitted:
            raise ValueError(
                f"hidden_layer_sizes is {self.hidden_layer_sizes!r}, but the network to go on from has {fitted}; "
                "a new one begins by fit with warm_start=False"
            )

    def _split(self, targets: Array, loss: Loss, random: np.random.RandomState) -> tuple[Array, Array | None]:
        """Numbers of the rows to train on, and of those set aside, if any."""
        rows = np.arange(len(targets))
        if self.early_stopping is False or (self.early_stopping == "auto" and len(rows) < ENOUGH):
            return rows, None
        stratify = targets if loss.kind == "classes" and self._can_stratify(targets) else None
        split = train_test_split(rows, test_size=self.validation_fraction, stratify=stratify, random_state=random)
        return split[0], split[1]

    def _can_stratify(self, targets: Array) -> bool:
        """Whether every class has rows for both parts."""
        counts = np.unique(targets, return_counts=True)[1]
        aside = math.ceil(self.validation_fraction * len(targets))
        return int(counts.min()) >= 2 and len(counts) <= min(aside, len(targets) - aside)

    def _rows(self, X: Any, targets: Array, weights: Array) -> Rows:
        return Rows(X, targets, weights, self._centre, self._scale)

    def _batch(self, rows: int) -> int:
        return min(200 if self.batch_size == "auto" else int(self.batch_size), rows)

    def _stopper(self, steps: int) -> Stopper:
        stopper = LearnedStopper(steps) if self.stopper is None else copy.deepcopy(self.stopper)
        stopper.reset()
        return stopper

    def _layers(self) -> training.Layers:
        return list(zip(self.coefs_, self.intercepts_, strict=True))

    def _say(self, line: str) -> None:
        if self.verbose:
            print(line)

    def _finish(self, network: Any, course: Course) -> Self:
        layers = training.read_layers(network)
        if not all(np.isfinite(part).all() for layer in layers for part in layer):
            raise ValueError(
                "training ended with weights that are not finite; are there very large values in the data?"
            )
        self.coefs_, self.intercepts_ = (list(part) for part in zip(*layers, strict=True))
        self.n_iter_ += course.passes
        self.t_ += course.seen
        self.loss_curve_ = [*self.loss_curve_, *course.losses]
        self.loss_ = course.losses[-1]
        return self

    # --------------------------------------------------------------------------------------------------- predicting

    def _forward(self, X: Any) -> Array:
        """What the network says, `(rows, outputs)`, in double precision."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False)
        dense = X.toarray() if hasattr(X, "toarray") else X
        values: Array = (dense.astype(np.float64) - self._centre) / self._scale
        for i, (weights, bias) in enumerate(self._layers()):
            values = values @ weights + bias
            if i < len(self.coefs_) - 1:
                values = training.ACTIVATIONS[self.activation].function(values)
        return values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

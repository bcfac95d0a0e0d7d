"""`LearnedMLPClassifier` and `LearnedMLPRegressor`."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import expit, log_softmax, softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import column_or_1d

from learnopt.sklearn.base import LearnedMLP
from learnopt.sklearn.surroundings import in_full_or_not_at_all
from learnopt.sklearn.training import Loss, measure

Array = NDArray[Any]
_ARGUMENTS = """
    Inputs are standardised inside. There is no learning rate, schedule or penalty to choose.

    Args:
        hidden_layer_sizes: sizes of the hidden layers; () is a linear model.
        activation: "relu", "tanh", "logistic", "identity" or "gelu".
        batch_size: rows per step; "auto": 200, or all where there are fewer.
        max_iter: passes over the data; None: 200, within 300 to 2,000 steps.
        early_stopping: True: set rows aside, keep the weights that are best on them and stop by `stopper`; False: train
            on all rows and stop by the optimizer's own judgement of the training loss; "auto": True from 300 rows.
        validation_fraction: share of the rows that is set aside.
        stopper: a `learnopt.stopping.Stopper` that judges the losses of the rows set aside; None: `LearnedStopper`.
        standardize: whether inputs are centred (dense ones) and scaled.
        weights: name or path of the optimizer's meta-weights.
        warm_start: whether `fit` goes on from the last fit.
        random_state: of first weights, order and split; an int makes fits repeatable.
        verbose: whether to print a line per pass.

    Attributes:
        coefs_, intercepts_: the layers.
        loss_curve_, validation_loss_curve_: training losses per pass, losses of the rows set aside (None without).
        n_iter_: passes taken.
        stopped_because_: why training ended.
    """


class LearnedMLPClassifier(ClassifierMixin, LearnedMLP):  # type: ignore[misc]
    """A classifier trained by `LearnedOptimizer`: one label per row, or several independent ones."""

    __doc__ += _ARGUMENTS

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One pass over the given rows; the optimizer goes on from call to call, inputs are measured at the first.

        Args:
            classes: all classes that will come; needed at the first call, the same or None at later ones.

        Raises:
            ValueError: what is wrong with the arguments or the data; the estimator is as before.
        """
        with in_full_or_not_at_all(self):
            return self._partial_fit(X, y, sample_weight, classes)

    def predict(self, X: Any) -> Any:
        """Classes, `(rows,)`; 0/1 labels, `(rows, labels)`, where fitted on such, sparse (CSR) where those were."""
        outputs = self._forward(X)
        if self._labels:
            labels = (outputs > 0).astype(int)
            return csr_matrix(labels) if self._sparse_targets else labels
        predicted: Array = self.classes_[outputs.argmax(1)]
        return predicted

    def predict_proba(self, X: Any) -> Array:
        """Probabilities, `(rows, classes)` in the order of `classes_`."""
        outputs = self._forward(X)
        probabilities: Array = expit(outputs) if self._labels else softmax(outputs, axis=1)
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """Their logarithms."""
        outputs = self._forward(X)
        logs: Array = -np.logaddexp(0, -outputs) if self._labels else log_softmax(outputs, axis=1)
        return logs

    def _read_targets(self, y: Array, weights: Array, fresh: bool, classes: Any = None) -> tuple[Array, Loss]:
        check_classification_targets(y)
        labels = type_of_target(y).startswith("multilabel")
        if not labels:
            y = column_or_1d(y, warn=True)
        if fresh:
            if classes is None and self._partial:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self._labels = labels
            self.classes_ = np.arange(y.shape[1]) if labels else unique_labels(y if classes is None else classes)
        if labels != self._labels or (labels and y.shape[1] != len(self.classes_)):
            raise ValueError(f"`y` is not of the kind of the first fit, which had classes {self.classes_}")
        if labels:
            return np.asarray(y), Loss("labels")
        if classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
            raise ValueError(f"classes={classes!r} are not those of the first fit, {self.classes_}")
        foreign = np.setdiff1d(y, self.classes_)
        if len(foreign) or (self.warm_start and not self._partial and len(np.unique(y)) < len(self.classes_)):
            raise ValueError(f"`y` has classes {np.unique(y)}, which are not those of the first fit, {self.classes_}")
        return np.searchsorted(self.classes_, y), Loss("classes")

    def _outputs(self) -> int:
        return len(self.classes_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class LearnedMLPRegressor(RegressorMixin, LearnedMLP):  # type: ignore[misc]
    """A regressor of one or several targets on the squared error, trained by `LearnedOptimizer`.

    Targets are standardised inside as well.
    """

    __doc__ += _ARGUMENTS

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One pass over the given rows; the optimizer goes on from call to call, units are measured at the first."""
        with in_full_or_not_at_all(self):
            return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> Array:
        """Targets, `(rows,)` or `(rows, outputs)`."""
        predicted: Array = self._forward(X) * self._unit + self._origin
        return predicted.ravel() if self._flat else predicted

    def _read_targets(self, y: Array, weights: Array, fresh: bool, classes: Any = None) -> tuple[Array, Loss]:
        flat = y.ndim == 1 or y.shape[1] == 1
        if y.ndim == 2 and flat:
            y = column_or_1d(y, warn=True)
        table = y.reshape(len(y), -1).astype(np.float64)
        if fresh:
            self._origin, self._unit = measure(table, weights)
            self._flat = flat
        if table.shape[1] != len(self._origin):
            raise ValueError(f"y must have {len(self._origin)} outputs as at the first fit, got {table.shape[1]}")
        return (table - self._origin) / self._unit, Loss("values")

    def _outputs(self) -> int:
        return len(self._origin)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

"""Patience: stop when the best value has not improved for a number of values. Semantics of Keras's EarlyStopping."""

from __future__ import annotations

import math
from typing import Any

from learnopt.stopping.best_weights import BestWeights, HasState
from learnopt.stopping.stopper import Stopper, Verdict, check_number, check_whole


class Patience(Stopper):
    """Stop after `patience` values in a row without an improvement of more than `min_delta`.

    The rule of Keras's `EarlyStopping` (keras/src/callbacks/early_stopping.py): a value improves if it beats the last
    improvement by more than `min_delta`; the first value of all never stops a run.

    Args:
        patience: values to wait; 0 and 1 both stop at the first value that does not improve.
        min_delta: smallest improvement that counts, in units of the metric.
        mode: "min" or "max".
        start_from: values at steps before this one are ignored.
        baseline: the wait only starts anew at improvements that also beat this value.
        restore_best: a model (or anything with `state_dict` and `load_state_dict`) whose state is copied at every
            improvement; `restore` puts the best one back. Keras does so at the end of training, a plain loop calls it.

    Example:
        >>> stopper = Patience(2)
        >>> [stopper.update(v).stop for v in (3.0, 2.0, 2.5, 2.1)]
        [False, False, False, True]
    """

    def __init__(
        self,
        patience: int = 10,
        *,
        min_delta: float = 0.0,
        mode: str = "min",
        start_from: float = 0,
        baseline: float | None = None,
        restore_best: HasState | None = None,
    ) -> None:
        super().__init__(mode)
        self.patience = check_whole(patience, "patience", 0)
        self.min_delta = check_number(min_delta, "min_delta", 0)
        self.start_from = check_number(start_from, "start_from", -math.inf)
        self.baseline = None if baseline is None else check_number(baseline, "baseline", -math.inf)
        self._weights = None if restore_best is None else BestWeights(restore_best)
        self._replaying = False
        self._forget()

    @property
    def wait(self) -> int:
        """Values since the last improvement."""
        return self._wait

    def restore(self) -> float | None:
        """Put the best weights back; returns the step they are of, None where none have been kept.

        Weights of a step that was gone back behind are forgotten: then the best since are put back.

        Raises:
            ValueError: no `restore_best` model was given.
        """
        if self._weights is None:
            raise ValueError("nothing to restore: give the model as restore_best")
        return self._weights.restore()

    def state_dict(self) -> dict[str, Any]:
        """All that was told, and the best weights where they are kept."""
        state = super().state_dict()
        if self._weights is not None:
            kept = self._weights
            state |= {"weights": kept.kept, "weights_step": kept.step, "weights_value": kept.value}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        super().load_state_dict(state)
        if self._weights is not None:
            self._weights.kept, self._weights.step = state.get("weights"), state.get("weights_step")
            self._weights.value = state.get("weights_value", self._reference)

    def _replay(self, history: list[tuple[float, float]]) -> None:
        self._replaying = True
        try:
            super()._replay(history)
        finally:
            self._replaying = False
        kept = self._weights
        if kept is not None and kept.step is not None and (not history or kept.step > history[-1][0]):
            kept.forget()

    def _forget(self) -> None:
        self._wait, self._reference = 0, math.inf

    def _advance(self, value: float, step: float) -> Verdict:
        first = len(self._history) == 1
        if step < self.start_from:
            return Verdict(False, f"not before step {self.start_from:g}")
        self._keep(value, step)
        self._wait += 1
        if value + self.min_delta < self._reference:
            self._reference = value
            sign = 1 if self.mode == "min" else -1
            if self.baseline is None or value + self.min_delta < sign * self.baseline:
                self._wait = 0
            return Verdict(
                False, "improved" if self._wait == 0 else f"improved, not beyond the baseline ({self._wait})"
            )
        reason = f"no improvement in {self._wait} values, patience is {self.patience}"
        return Verdict(self._wait >= self.patience and not first, reason)

    def _keep(self, value: float, step: float) -> None:
        """Copy the weights if no better ones are kept: any where none are, as at first and after going back."""
        kept = self._weights
        if kept is not None and not self._replaying and (kept.kept is None or value + self.min_delta < kept.value):
            kept.keep(step, math.inf if math.isnan(value) else value)

"""`LearnedStopper`: stops when what usually comes next is not worth waiting for, learned from recorded runs."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

from learnopt.stopping import weights as stored
from learnopt.stopping.improvement import SCALES
from learnopt.stopping.reading import CurveReader
from learnopt.stopping.stopper import Stopper, Verdict, check_number

_SAID = {"value": "best value", "progress": "progress"}
LEAST = 3
"""Finite values before which it never stops a run."""


class LearnedStopper(Stopper):
    """Stops when an improvement worth having has become unlikely.

    A small network has learned from recorded validation curves how much the best value still improves. It reads ratios
    of a curve's own differences: scale, shift and sign of the metric do not matter to it.

    Args:
        total_steps: last step of the run, in the unit of `update`'s steps (updates where those are not given); None:
            unknown. Telling it matters where the learning rate falls towards the end.
        mode: "min" or "max".
        tolerance: an improvement by less than this share is not worth waiting for.
        of: what the tolerance is a share of: "value", the size of the best value, or "progress", all that was gained
            since the first value (for metrics whose zero means nothing).
        threshold: stops below this probability of a larger improvement; None: as the weights were calibrated, for
            losses with mode "min" and for accuracies and the like with "max".
        weights: name of shipped weights or path of an artifact of `learnopt stopper-train`.

    Raises:
        ValueError: an argument is out of its range, or the weights are unknown, damaged or of another version.

    Example:
        >>> stopper = LearnedStopper(total_steps=100)  # doctest: +SKIP
        >>> for epoch in range(100):  # doctest: +SKIP
        ...     if stopper.update(validate(), epoch).stop:
        ...         break
    """

    def __init__(
        self,
        total_steps: float | None = None,
        *,
        mode: str = "min",
        tolerance: float = 0.01,
        of: str = "value",
        threshold: float | None = None,
        weights: str | os.PathLike[str] = "default",
    ) -> None:
        super().__init__(mode)
        if of not in SCALES:
            raise ValueError(f"of must be 'progress' or 'value', got {of!r}")
        if total_steps is not None and not check_number(total_steps, "total_steps", -math.inf) > 0:
            raise ValueError(f"total_steps must be a finite number above 0, got {total_steps!r}")
        self.total_steps = total_steps
        self.tolerance = check_number(tolerance, "tolerance", 0, 1)
        self.of, self.weights = of, weights
        loaded = stored.load(weights)
        given = _calibrated(loaded.card, mode) if threshold is None else threshold
        self.threshold = check_number(given, "threshold", 0, 1)
        self._network = loaded.curve
        self._forget()

    def _forget(self) -> None:
        self._reader = CurveReader(self._network, self.total_steps)
        self._last = Verdict(False, "nothing told yet")
        self._best_then = float("inf")

    def _advance(self, value: float, step: float) -> Verdict:
        read = self._reader.tell(value, step)
        if self._reader.values < LEAST:
            return Verdict(False, f"fewer than {LEAST} finite values")
        if not read:  # between two values that the network reads its last word holds, unless something better came
            return replace(self._last, stop=self._last.stop and self._reader.best >= self._best_then)
        self._best_then = self._reader.best
        self._last = self._judge()
        return self._last

    def _judge(self) -> Verdict:
        chance = float(self._reader.chance([self.tolerance * self._reader.scale(self.of)])[0])
        best = self._reader.best - self._reader.expected_gain()
        stop = chance < self.threshold
        reason = (
            f"an improvement by more than {self.tolerance:.3g} of the {_SAID[self.of]} "
            f"has a probability of {chance:.1%}, {'below' if stop else 'not below'} {self.threshold:.3g}"
        )
        expected = best if self.mode == "min" else -best
        return Verdict(
            stop, reason, probability=chance, expected_best=expected, expected_step=self._reader.expected_step()
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickles hold the arguments and what was told; the weights are read again."""
        arguments = ("mode", "total_steps", "tolerance", "of", "threshold", "weights")
        return {name: getattr(self, name) for name in arguments} | {"state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        told = state.pop("state")
        self.__init__(**state)  # type: ignore[misc]
        self.load_state_dict(told)


def _calibrated(card: dict[str, Any], mode: str) -> float:
    """The threshold of the kind of metric that `mode` tells of, or of the kind that the weights have learned from."""
    keys = ("threshold_max", "threshold") if mode == "max" else ("threshold", "threshold_max")
    return next((card[key] for key in keys if key in card), 0.1)

"""`LearnedStopper`: stops when what usually comes next is not worth waiting for, learned from recorded runs."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import torch

from learnopt.stopping import headroom
from learnopt.stopping import weights as stored
from learnopt.stopping.improvement import SCALES
from learnopt.stopping.reading import CurveReader
from learnopt.stopping.stopper import Stopper, Verdict, check_number

_SAID = {"value": "best value", "progress": "progress"}
LEAST = 3
"""Finite values before which it stops no run, unless it is lost."""
LOST = 10
"""Values in a row that are not finite after which a run is lost."""


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
        limit: the most that the metric can be, with mode "max": 1 for accuracies and the like, 100 in percent; None:
            there is none (rewards), which is also what a best value below 0 or above it tells. Where it is known, and
            `of` is "value", the probability counts times what can at most be gained.
        threshold: stops below this probability of a larger improvement, or this product; None: as the weights were
            calibrated, for losses with mode "min" and for accuracies and the like with "max" (the product in units of
            the tolerance).
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
        limit: float | None = headroom.LIMIT,
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
        self.limit = None if limit is None else _check_limit(limit)
        self.of, self.weights, self._given = of, weights, threshold
        loaded = stored.load(weights)
        self.threshold = check_number(_calibrated(loaded.card, mode) if threshold is None else threshold,
                                      "threshold", 0, 1)  # fmt: skip
        least = least_prospect(loaded.card, self.tolerance) if threshold is None else self.threshold
        self._least: float | None = least if mode == "max" and of == "value" else None
        self._network = loaded.curve
        self._forget()

    def _forget(self) -> None:
        self._reader = CurveReader(self._network, self.total_steps)
        self._last = Verdict(False, "nothing told yet")
        self._best_then = float("inf")
        self._lost = 0

    def _advance(self, value: float, step: float) -> Verdict:
        read = self._reader.tell(value, step)
        self._lost = 0 if math.isfinite(value) else self._lost + 1
        if self._lost >= LOST:
            return Verdict(True, f"the last {self._lost} values are not finite")
        if self._reader.values < LEAST:
            return Verdict(False, f"fewer than {LEAST} finite values")
        if not read:  # between two values that the network reads its last word holds, unless something better came
            return replace(self._last, stop=self._last.stop and self._reader.best >= self._best_then)
        self._best_then = self._reader.best
        self._last = self._judge()
        return self._last

    def _judge(self) -> Verdict:
        chance = self._reader.chance([self.tolerance * self._reader.scale(self.of)])[0]
        best = self._reader.best - self._reader.expected_gain()
        if self._least is None or self.limit is None or math.isnan(room := self._room(self.limit)):
            stop = float(chance) < self.threshold
            compared = f"{float(chance):.1%}, {_below(stop)} {self.threshold:.3g}"
        else:
            chance, best = headroom.possible(chance, torch.tensor(room), self.tolerance), max(best, -self.limit)
            stop = float(chance) * room < self._least
            compared = (
                f"{float(chance):.1%} and can be at most {room:.1%}: times each other {_below(stop)} {self._least:.3g}"
            )
        reason = f"an improvement by more than {self.tolerance:.3g} of the {_SAID[self.of]} has a probability of "
        return Verdict(
            stop, reason + compared, probability=float(chance), expected_best=best if self.mode == "min" else -best,
            expected_step=self._reader.expected_step(),
        )  # fmt: skip

    def _room(self, limit: float) -> float:
        """What can at most be gained, as a share of the best value; NaN where that is unknown."""
        return float(headroom.share(torch.tensor(self._reader.best, dtype=torch.float64), limit))

    def __getstate__(self) -> dict[str, Any]:
        """Pickles hold the arguments and what was told; the weights are read again."""
        arguments = ("mode", "total_steps", "tolerance", "of", "limit", "weights")
        return {name: getattr(self, name) for name in arguments} | {
            "threshold": self._given,
            "state": self.state_dict(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        told = state.pop("state")
        self.__init__(**state)  # type: ignore[misc]
        self.load_state_dict(told)


def _below(yes: bool) -> str:
    return "below" if yes else "not below"


def _check_limit(limit: Any) -> float:
    number = check_number(limit, "limit", 0)
    if number == 0:
        raise ValueError(f"limit must be above 0, or None where there is none, got {limit!r}")
    return number


def _calibrated(card: dict[str, Any], mode: str) -> float:
    """The threshold of the kind of metric that `mode` tells of, or of the kind that the weights have learned from."""
    keys = ("threshold_max", "threshold") if mode == "max" else ("threshold", "threshold_max")
    return next((card[key] for key in keys if key in card), 0.1)


def least_prospect(card: dict[str, Any], tolerance: float) -> float | None:
    """The product of probability and room below which to stop: as calibrated, in units of the tolerance."""
    return card["threshold_limit"] * tolerance / card["tolerance"] if "threshold_limit" in card else None

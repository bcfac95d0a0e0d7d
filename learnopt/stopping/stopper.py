"""What a stopper is: values of one metric go in, a `Verdict` comes out; stoppers compose by `&` and `|`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

MODES = ("min", "max")


@dataclass(frozen=True)
class Verdict:
    """What a stopper says after a value.

    Attributes:
        stop: True: stop now.
        reason: why, in words.
        best: best value so far, None before the first finite one.
        best_step: the step at which it was reached.
        probability: that waiting still pays (that something better by more than the tolerance is still to come); None
            from rules that do not say.
        expected_best: the best value expected by the end of the run, None from rules that do not say.
        expected_step: the step at which it is expected.
        lr_factor: what the learning rate should be multiplied by now; 1: left alone.
    """

    stop: bool
    reason: str
    best: float | None = None
    best_step: float | None = None
    probability: float | None = None
    expected_best: float | None = None
    expected_step: float | None = None
    lr_factor: float = 1.0


class Stopper(ABC):
    """A rule that reads a metric's values as they are measured and says when to stop.

    What it says is a function of the values told so far and nothing else: `state_dict` holds them, and a step at or
    before the last one told (a run resumed from a checkpoint) makes it forget the values from there on.

    Args:
        mode: "min": lower values are better; "max": higher ones.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, mode: str = "min") -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        self.mode = mode
        self._history: list[tuple[float, float]] = []
        self.best: float | None = None
        self.best_step: float | None = None

    def update(self, value: Any, step: float | None = None) -> Verdict:
        """Tell the next value.

        Args:
            value: a number, or an array or tensor of one; NaN and infinities count as no improvement.
            step: where in the run it was measured, in any increasing unit; None: one after the last, the first at 0.

        Raises:
            ValueError: `value` or `step` is not one number.
        """
        number = as_number(value, "value")
        last = self._history[-1][0] if self._history else -1.0
        place = last + 1 if step is None else as_number(step, "step")
        if not math.isfinite(place):
            raise ValueError(f"step must be a finite number, got {step!r}")
        if self._history and place <= last:
            self._replay([h for h in self._history if h[0] < place])
        return self._tell(number, place)

    @abstractmethod
    def _forget(self) -> None:
        """Go back to before the first value."""

    @abstractmethod
    def _advance(self, value: float, step: float) -> Verdict:
        """Judge the next value; lower is better, NaN where it was not finite."""

    def reset(self) -> None:
        """Forget everything told, for another run."""
        self._replay([])

    def state_dict(self) -> dict[str, Any]:
        """All that was told, as plain numbers."""
        return {"history": [list(h) for h in self._history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            ValueError: it is not a stopper's state.
        """
        try:
            history = [(float(s), float(v)) for s, v in state["history"]]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"state must hold a 'history' of [step, value] pairs, got {state!r:.80}") from None
        self._replay(history)

    def __and__(self, other: Stopper) -> Stopper:
        return Both(self, other)

    def __or__(self, other: Stopper) -> Stopper:
        return Either(self, other)

    def _tell(self, value: float, step: float) -> Verdict:
        self._history.append((step, value))
        lower = (value if self.mode == "min" else -value) if math.isfinite(value) else math.nan
        verdict = self._advance(lower, step)
        if math.isfinite(value) and (
            self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        ):
            self.best, self.best_step = value, step
        return replace(verdict, best=self.best, best_step=self.best_step)

    def _replay(self, history: list[tuple[float, float]]) -> None:
        self._history, self.best, self.best_step = [], None, None
        self._forget()
        for step, value in history:
            self._tell(value, step)


class _Pair(Stopper):
    """Two stoppers that are told the same values."""

    def __init__(self, first: Stopper, second: Stopper) -> None:
        if not isinstance(first, Stopper) or not isinstance(second, Stopper):
            raise TypeError(f"stoppers compose with stoppers, got {first!r} and {second!r}")
        if first.mode != second.mode:
            raise ValueError(f"stoppers of one metric must have one mode, got {first.mode!r} and {second.mode!r}")
        super().__init__(first.mode)
        self.first, self.second = first, second
        parts = self._parts()
        if len({id(part) for part in parts}) < len(parts):
            raise ValueError("a stopper can be in a composition only once: it would be told every value twice")

    def _parts(self) -> list[Stopper]:
        """The stoppers that are no pairs."""
        return [s for side in (self.first, self.second) for s in (side._parts() if isinstance(side, _Pair) else [side])]

    def update(self, value: Any, step: float | None = None) -> Verdict:
        """As `Stopper.update`, told to both."""
        verdicts = self.first.update(value, step), self.second.update(value, step)
        self.best, self.best_step = self.first.best, self.first.best_step
        return self._join(*verdicts)

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"first": self.first.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        if not isinstance(state, dict) or state.keys() != {"first", "second"}:
            raise ValueError(f"state of two stoppers must hold 'first' and 'second', got {state!r:.80}")
        self.first.load_state_dict(state["first"])
        self.second.load_state_dict(state["second"])
        self.best, self.best_step = self.first.best, self.first.best_step

    def reset(self) -> None:
        """Forget everything told, for another run."""
        self.first.reset()
        self.second.reset()
        self.best = self.best_step = None

    def _forget(self) -> None:
        raise AssertionError("a pair keeps no values of its own")

    def _advance(self, value: float, step: float) -> Verdict:
        raise AssertionError("a pair keeps no values of its own")

    def _join(self, a: Verdict, b: Verdict) -> Verdict:
        speaker = a if a.probability is not None else b
        stop, reason = self._rule(a, b)
        return replace(
            speaker, stop=stop, reason=reason, best=self.best, best_step=self.best_step,
            lr_factor=a.lr_factor * b.lr_factor,
        )  # fmt: skip

    @abstractmethod
    def _rule(self, a: Verdict, b: Verdict) -> tuple[bool, str]:
        """Whether to stop, and why."""


class Both(_Pair):
    """Stops when both stoppers say so at the same moment: `first & second`."""

    def _rule(self, a: Verdict, b: Verdict) -> tuple[bool, str]:
        if a.stop and b.stop:
            return True, f"{a.reason}; {b.reason}"
        return False, "; ".join(v.reason for v in (a, b) if not v.stop)


class Either(_Pair):
    """Stops when one of two stoppers says so: `first | second`."""

    def _rule(self, a: Verdict, b: Verdict) -> tuple[bool, str]:
        if a.stop or b.stop:
            return True, "; ".join(v.reason for v in (a, b) if v.stop)
        return False, f"{a.reason}; {b.reason}"


def as_number(value: Any, what: str) -> float:
    """One number out of a number, array or tensor of one element.

    Raises:
        ValueError: it is not one number.
    """
    if isinstance(value, str | bytes | bool):
        raise ValueError(f"{what} must be one number, got {value!r}")
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{what} must be one number, got {value!r:.80}") from None


def check_whole(value: Any, what: str, least: int) -> int:
    """A whole number of at least `least`.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return int(value.__index__())


def check_number(value: Any, what: str, low: float, high: float = math.inf) -> float:
    """A finite number within `[low, high]`.

    Raises:
        ValueError: it is not.
    """
    number = as_number(value, what)
    if not (low <= number <= high and math.isfinite(number)):
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{what} must be a finite number of at least {low:g}{upper}, got {value!r}")
    return number

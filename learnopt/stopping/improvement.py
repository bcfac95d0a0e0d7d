"""Stop when the latest values have improved too little, relative to what was gained before."""

from __future__ import annotations

import math

from learnopt.stopping.stopper import Stopper, Verdict, check_number, check_whole

SCALES = ("progress", "value")


class RelativeImprovement(Stopper):
    """Stop when the best of the last `window` values beats the best before them by less than `share`.

    The gain over the window is divided by `of`: "progress", all that was gained since the first value (independent of
    the metric's scale and shift), or "value", the size of the best value (independent of its scale).

    Args:
        share: least gain that is worth going on, between 0 and 1.
        window: values that it is measured over.
        of: "progress" or "value".
        mode: "min" or "max".
    """

    def __init__(self, share: float = 0.01, *, window: int = 5, of: str = "progress", mode: str = "min") -> None:
        super().__init__(mode)
        if of not in SCALES:
            raise ValueError(f"of must be 'progress' or 'value', got {of!r}")
        self.share = check_number(share, "share", 0, 1)
        self.window = check_whole(window, "window", 1)
        self.of = of
        self._forget()

    def _forget(self) -> None:
        self._values: list[float] = []  # the last window
        self._first = self._before = math.nan

    def _advance(self, value: float, step: float) -> Verdict:
        if math.isnan(self._first):
            self._first = value
        self._values.append(value)
        if len(self._values) > self.window:
            self._before = min_finite(self._before, self._values.pop(0))
        if math.isnan(self._before):
            if len(self._history) > self.window and math.isnan(min_finite(*self._values)):
                return Verdict(True, f"no finite value among {len(self._history)}")
            return Verdict(False, f"fewer than {self.window + 1} values")
        best = min_finite(self._before, *self._values)
        gain, scale = self._before - best, self._first - best if self.of == "progress" else abs(best)
        stop = gain <= self.share * scale
        return Verdict(stop, f"gained {gain:.3g} in {self.window} values, {'less' if stop else 'more'} than "
                       f"{self.share:g} of {scale:.3g}")  # fmt: skip


def min_finite(*values: float) -> float:
    """The least of the values that are not NaN; NaN if all are."""
    return min((v for v in values if not math.isnan(v)), default=math.nan)

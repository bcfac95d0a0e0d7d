"""A single curve as the curve network reads it, value by value, and what the network says of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learnopt.stopping import curve_features
from learnopt.stopping.curve_features import CurveState
from learnopt.stopping.curve_network import CurveNetwork

MOST = 64
"""Values of a run that the network reads, about; of more it reads evenly spaced ones."""
_GRID = torch.logspace(-4, 0.5, 28, dtype=torch.float64)


class CurveReader:
    """Follows one curve.

    Args:
        total: last step of the run; None: unknown.
        every: whether it reads every value, however many there are.
    """

    def __init__(self, network: CurveNetwork, total: float | None, every: bool = False) -> None:
        self._network, self._total, self._every = network, total, every
        self._state = curve_features.begin(1)
        self._memory: tuple[Tensor, Tensor] | None = None
        self._known: Tensor | None = None
        self._told = 0  # values
        self._read_at, self._read_number = -math.inf, 0
        self._between = math.inf

    @property
    def values(self) -> int:
        """Finite values that were read."""
        return int(self._state.number)

    @property
    def best(self) -> float:
        """Least value told, read or not."""
        return min(float(self._state.best) if self.values else math.inf, self._between)

    def tell(self, value: float, step: float) -> bool:
        """The next value, lower is better, NaN where not finite; False where the network skips it."""
        self._told += 1
        if not self._wants(step):
            if not math.isnan(value):
                self._between = min(self._between, value)
            return False
        total = self._total if self._total is not None and step <= self._total else 0.0
        better = torch.tensor([self._between if math.isfinite(self._between) else math.nan], dtype=torch.float64)
        now, place = (torch.tensor([x], dtype=torch.float64) for x in (value, step))
        self._state = curve_features.advance(self._state, now, place, better)
        columns = curve_features.columns(self._state, torch.tensor([total], dtype=torch.float64))
        with torch.no_grad():
            self._known, self._memory = self._network.read(columns[:, None], self._memory)
        if not math.isnan(value):
            self._between = math.inf
        self._read_at, self._read_number = step, self._told
        return True

    def moment(self) -> tuple[Tensor, CurveState]:
        """What is known after the last value read, `(1, ...)`, and the memory of the curve."""
        assert self._known is not None
        return self._known[:, -1], self._state

    def _wants(self, step: float) -> bool:
        if self._every:
            return True
        if self._total is not None and step <= self._total:
            return step - self._read_at >= self._total / MOST * 0.99
        return self._told - self._read_number >= max(1, self._told // MOST)

    @torch.no_grad()
    def chance(self, amounts: list[float] | Tensor) -> Tensor:
        """Probabilities that the best value still improves by more than each of `amounts`."""
        assert self._known is not None
        asked = torch.as_tensor(amounts, dtype=torch.float64).clamp_min(1e-30)[None]
        answers = self._network.answer(self._known[:, -1], curve_features.query(self._state, asked))
        return torch.sigmoid(answers)[0].double()

    def scale(self, of: str) -> float:
        """What a relative tolerance is a share of: the size of the best value, or the progress since the first one."""
        progress = float((self._state.first - self._state.best).clamp_min(0))
        if of == "progress":
            return progress
        return max(abs(float(self._state.best)), 0.01 * progress)

    def expected_gain(self) -> float:
        """Expected improvement of the best value by the end of the run: the integral of `chance` over amounts."""
        unit = max(self.scale("progress"), float(self._state.roughness), 1e-3 * self.scale("value"))
        if unit == 0:
            return 0.0
        amounts = _GRID * unit
        chances = self.chance(amounts).cummin(0).values
        widths = torch.diff(amounts, prepend=torch.zeros(1, dtype=torch.float64))
        return float((chances * widths).sum())

    @torch.no_grad()
    def expected_step(self) -> float | None:
        """Where the best value is expected if something better comes; None where the length is unknown."""
        place = float(self._state.place)
        if self._total is None or place > self._total or self._known is None:
            return None
        return place + float(torch.sigmoid(self._network.time(self._known[:, -1]))) * (self._total - place)

"""Which learning rates to probe for how long, and what to recommend in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learnopt.tuner.knowledge import SCHEDULE, Configuration, Knowledge
from learnopt.tuner.probes import SHARES, Probe, change, steps_of

ALIKE = 0.1
"""Rates whose expected regret is within this of the least are in the interval: 10 % of the loss."""
WIDEST = 3.0
"""An interval of more decades than this is no answer."""
LEAST_GAIN = 0.01
"""If no probe lowered the log of the validation loss by this much, the probes say nothing."""
HARM = 0.3
"""A probe that raised the log of the validation loss by more than this has done harm."""
LEAST_PROBES = 4
"""Probes are as long as lets a budget pay for so many: one full run pays for four quarters of one."""


def share_for(budget: float) -> float:
    """Length of the probes for a budget, both in full runs."""
    return max((share for share in SHARES if LEAST_PROBES * share <= budget + 1e-9), default=SHARES[0])


class Recommendation(NamedTuple):
    """What a search ends with.

    Attributes:
        interval: of learning rates about as good.
        regrets: expected regret per rate of the grid.
        level: expected log of the final loss over the loss before training.
        doubt: why no decision is possible; empty where one is.
        listed: whether the configuration is of the list, since the forest cannot tell rates apart.
    """

    configuration: Configuration
    interval: tuple[float, float]
    regrets: tuple[float, ...]
    level: float
    doubt: str
    listed: bool


class Search:
    """The strategy: asks for probes, is told what they gave, recommends.

    Probes are short whole runs, all of one length. The rate to probe next is the one with the least expected regret
    that has not been probed; the first follows from the meta-features alone.

    Args:
        features: meta-features, or None.
        steps: of a full run.
        budget: steps for all probes.
    """

    def __init__(self, knowledge: Knowledge, features: Sequence[float] | None, steps: int, budget: int) -> None:
        self.knowledge, self.features = knowledge, features
        self.probes: list[Probe] = []
        self.share = share_for(budget / steps)
        self.length, self._left = steps_of(self.share, steps), budget

    def expected(self) -> Tensor:
        """Expected regret of every rate, `(rates,)`."""
        return self.knowledge.expect(self.features, self.probes)

    def ask(self) -> float | None:
        """Learning rate of the next probe, `length` steps long; None: enough."""
        if self.length > self._left:
            return None
        done = {probe.lr for probe in self.probes}
        promising = (self.knowledge.rates[int(r)] for r in self.expected().argsort())
        return next((lr for lr in promising if lr not in done), None)

    def tell(self, probe: Probe, cost: int) -> None:
        """Take note of a probe that cost so many steps."""
        self.probes.append(probe)
        self._left -= cost

    def recommend(self) -> Recommendation:
        """The best configuration by what is known now."""
        row = self.expected()
        r = int(row.argmin())
        logs = torch.tensor(self.knowledge.rates).log10()
        lr = 10 ** (float(logs[r]) + _vertex(row, r) * float(logs[1] - logs[0]))
        low, high = self._interval(row, r, logs)
        interval = (min(low, lr), max(high, lr))
        configuration = Configuration(float(f"{lr:.3g}"), SCHEDULE, self.knowledge.weight_decay)
        doubt = self._doubt(interval)
        listed = _decades(interval) > WIDEST or (self.features is None and not self.probes)
        if listed:
            configuration = self._fallback()
            interval = (min(interval[0], configuration.lr), max(interval[1], configuration.lr))
        level = self.knowledge.level(self.probes)
        return Recommendation(configuration, interval, tuple(row.tolist()), level, doubt, listed)

    def _fallback(self) -> Configuration:
        """The first of the list below all rates that probes have seen do harm."""
        harmful = (p.lr for p in self.probes if p.failed or change(p.valid, p.start) > HARM)
        limit, listed = min(harmful, default=math.inf), self.knowledge.portfolio
        return next((c for c in listed if c.lr < limit), min(listed, key=lambda c: c.lr))

    def _interval(self, row: Tensor, r: int, logs: Tensor) -> tuple[float, float]:
        """Half a grid step beyond the rates around `r` that are about as good."""
        good = row <= row[r] + ALIKE
        left, right = r, r
        while left > 0 and good[left - 1]:
            left -= 1
        while right < len(row) - 1 and good[right + 1]:
            right += 1
        half = float(logs[1] - logs[0]) / 2
        return 10 ** (float(logs[left]) - half), 10 ** (float(logs[right]) + half)

    def _doubt(self, interval: tuple[float, float]) -> str:
        if not self.probes:
            return "no probe was run"
        if all(p.failed for p in self.probes):
            return f"the loss was not finite at any of the {len(self.probes)} rates that were probed"
        gain = -min(change(p.valid, p.start) for p in self.probes)
        if gain < LEAST_GAIN:
            return "no probe lowered the validation loss by 1 %"
        if _decades(interval) > WIDEST:
            return f"rates over {_decades(interval):.1f} decades look alike"
        return ""


def _decades(interval: tuple[float, float]) -> float:
    return math.log10(interval[1] / interval[0])


def _vertex(row: Tensor, r: int) -> float:
    """Where the parabola through the three values around the least one has its vertex, in grid steps from it."""
    if not 0 < r < len(row) - 1:
        return 0.0
    a, b, c = (float(row[i]) for i in (r - 1, r, r + 1))
    bend = a - 2 * b + c
    return min(max(0.5 * (a - c) / bend, -0.5), 0.5) if bend > 1e-9 else 0.0

"""Which learning rates to probe for how long, and what to recommend in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learnopt.tuner.knowledge import Configuration, Knowledge
from learnopt.tuner.probes import PARTS, Probe, change

ALIKE = 0.1
"""Rates whose expected regret is within this of the least are in the interval: 10 % of the loss."""
WIDEST = 3.0
"""An interval of more decades than this is no answer."""
LEAST_GAIN = 0.01
"""If no probe lowered the log of the validation loss by this much, the probes say nothing."""


class Stage(NamedTuple):
    """So many of the most promising rates are probed up to `parts`."""

    rates: int
    parts: int


PLAN = (Stage(8, 2), Stage(3, 10), Stage(1, 20))
"""For a budget of one full run."""


def plan(budget: float) -> tuple[Stage, ...]:
    """The stages for a budget in full runs: longer probes for a larger one, fewer and shorter for a smaller one."""
    if budget >= 1:
        return tuple(Stage(n, min(PARTS, int(parts * budget))) for n, parts in PLAN)
    root = math.sqrt(max(budget, 1e-9))
    return tuple(Stage(max(1, round(n * root)), max(1, int(parts * root))) for n, parts in PLAN)


class Recommendation(NamedTuple):
    """What a search ends with.

    Attributes:
        interval: of learning rates about as good.
        regrets: expected regret per rate of the grid at the recommended schedule and decay.
        level: expected log of the final loss over the loss before training.
        doubt: why no decision is possible; empty where one is.
    """

    configuration: Configuration
    interval: tuple[float, float]
    regrets: tuple[float, ...]
    level: float
    doubt: str


class Search:
    """The strategy: asks for probes, is told what they gave, recommends.

    The rate to probe next is the one with the least expected regret that has not been probed as long as its stage asks.
    The network's members vote by their median.

    Args:
        features: meta-features, or None.
        budget: in full runs.
    """

    def __init__(self, knowledge: Knowledge, features: Sequence[float] | None, budget: float = 1.0) -> None:
        self.knowledge, self.features = knowledge, features
        self.probes: list[Probe] = []
        self._left = int(budget * PARTS + 1e-9)
        self._stages = list(plan(budget))

    def _longest(self) -> dict[int, Probe]:
        found: dict[int, Probe] = {}
        for probe in sorted(self.probes, key=lambda p: p.parts):
            found[self.knowledge.rates.index(probe.lr)] = probe
        return found

    def expected(self) -> Tensor:
        """Median of the expected regret, `(outputs, rates)`."""
        return self.knowledge.expect(self.features, self.probes).quantile(0.5, 0)

    def ask(self) -> tuple[float, int] | None:
        """Learning rate and length (in parts, those already run included) of the next probe; None: enough."""
        longest = self._longest()
        while self._stages:
            stage = self._stages[0]
            there = sum(p.parts >= stage.parts or p.failed for p in longest.values())
            if there < stage.rates:
                order = self._order()
                for r in order:
                    probe = longest.get(r)
                    done = 0 if probe is None else probe.parts
                    failed = probe is not None and probe.failed
                    if done < stage.parts and not failed and stage.parts - done <= self._left:
                        return self.knowledge.rates[r], stage.parts
            self._stages.pop(0)
        return None

    def _order(self) -> list[int]:
        """Rates in the order of promise; the portfolio's first goes before all."""
        if not self.probes:
            return [self.knowledge.rates.index(self.knowledge.portfolio[0].lr)]
        return [int(r) for r in self.expected().amin(0).argsort()]

    def tell(self, probe: Probe, cost: int) -> None:
        """Take note of a probe that cost so many parts."""
        self.probes.append(probe)
        self._left -= cost

    def recommend(self) -> Recommendation:
        """The best configuration by what is known now."""
        median = self.expected()
        c, r = divmod(int(median.argmin()), median.shape[1])
        row = median[c]
        logs = torch.tensor(self.knowledge.rates).log10()
        lr = 10 ** (float(logs[r]) + _vertex(row, r) * float(logs[1] - logs[0]))
        low, high = self._interval(row, r, logs)
        interval = (min(low, lr), max(high, lr))
        configuration = Configuration(float(f"{lr:.3g}"), *self.knowledge.others[c])
        return Recommendation(
            configuration, interval, tuple(row.tolist()), self.knowledge.level(self.probes), self._doubt(interval)
        )

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
            return f"the loss was not finite at any of the {len(self._longest())} rates that were probed"
        gain = -min(change(p.valid, p.start) for p in self.probes)
        if gain < LEAST_GAIN:
            return "no probe lowered the validation loss by 1 %"
        decades = math.log10(interval[1] / interval[0])
        if decades > WIDEST:
            return f"rates over {decades:.1f} decades look alike"
        return ""


def _vertex(row: Tensor, r: int) -> float:
    """Where the parabola through the three values around the least one has its vertex, in grid steps from it."""
    if not 0 < r < len(row) - 1:
        return 0.0
    a, b, c = (float(row[i]) for i in (r - 1, r, r + 1))
    bend = a - 2 * b + c
    return min(max(0.5 * (a - c) / bend, -0.5), 0.5) if bend > 1e-9 else 0.0

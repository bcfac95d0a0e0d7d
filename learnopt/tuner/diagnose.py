"""`diagnose`: what a run's training losses say about its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learnopt.stopping.stopper import as_number
from learnopt.tuner import diagnosis_network
from learnopt.tuner.knowledge import Knowledge, checked, load

NEAR = 0.35
"""Decades from the best rate that count as about right."""
RISEN, TAMED = 0.2, 0.3
"""A run whose log loss rose by this much, or left the finite numbers, is told to take at most this factor."""
AGREED = 0.6
"""If the members' guesses spread over more decades than this times two, there is no verdict."""
USUAL, MOST = (1e-6, 1e20), 1e30
"""Runs whose first loss is beyond this range are scaled to begin at 1, and losses are clipped at the other number:
single precision must hold them."""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a learning rate.

    Attributes:
        verdict: "too large", "too small", "about right" or "cannot decide".
        factor: multiply the learning rate by this.
        low, high: the least and the largest factor that a member of the network suggests.
        reason: one sentence.
    """

    verdict: str
    factor: float
    low: float
    high: float
    reason: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


def diagnose(losses: Sequence[float], *, optimizer: str = "adamw", knowledge: Knowledge | None = None) -> Diagnosis:
    """Say whether a constant learning rate was too large or too small, and by about how much.

    Args:
        losses: training losses from the first step on, one per step or mean per stretch of steps; of any scale.
        optimizer: whose runs to compare with; "adamw" ships.
        knowledge: learned from a corpus of one's own (`tuner.knowledge.load`); None: what ships.

    Raises:
        ValueError: fewer than 16 losses, or some that are no numbers; an optimizer that nothing is known about.
    """
    values = torch.tensor([as_number(loss, "a loss") for loss in losses], dtype=torch.float64)
    if len(values) < diagnosis_network.POINTS:
        raise ValueError(f"losses must be at least {diagnosis_network.POINTS} numbers, got {len(values)}")
    if not torch.isfinite(values[0]):
        return Diagnosis("cannot decide", 1.0, 1.0, 1.0, "the first loss is not finite already: look at the data")
    if torch.isfinite(values).all() and values.max() == values.min():
        return Diagnosis("cannot decide", 1.0, 1.0, 1.0, "the losses never change: is anything being trained?")
    known = load(optimizer) if knowledge is None else checked(knowledge, optimizer)
    seen = diagnosis_network.inputs(_scaled(values)[None].float())
    with torch.no_grad():
        guesses = torch.cat([diagnosis_network.forward(w, seen) for w in known.diagnosis])
    if float(seen[0, -1]) == 0 or float(seen[0, diagnosis_network.POINTS - 1]) > RISEN:
        guesses = guesses.clamp_max(math.log10(TAMED))  # no larger rate helps a run that ends above where it began
    middle, low, high = (float(x) for x in (guesses.quantile(0.5), guesses.min(), guesses.max()))
    factor = float(f"{10**middle:.2g}")
    if high - low > 2 * AGREED:
        reason = f"guesses range from {10**low:.2g} to {10**high:.2g} times this rate"
        return Diagnosis("cannot decide", factor, 10**low, 10**high, reason)
    verdict = "about right" if abs(middle) < NEAR else "too small" if middle > 0 else "too large"
    reason = f"the best rate is about {factor:g} times this one ({10**low:.2g} to {10**high:.2g})"
    return Diagnosis(verdict, factor, 10**low, 10**high, reason)


def _scaled(losses: Tensor) -> Tensor:
    """Losses of any scale, `(n,)` in double precision, of which the first is finite, as single precision can hold."""
    finite, first = torch.isfinite(losses), float(losses[0].abs())
    if first > 0 and not USUAL[0] <= first <= USUAL[1]:
        losses = losses / first
    return torch.where(finite, losses.clamp(-MOST, MOST), losses)

"""Gittins indices of Bernoulli arms, exact by dynamic programming, with the value of optimal play of small bandits.

An arm has a uniform prior; `s` successes and `f` failures leave it with the mean `(s + 1) / (s + f + 2)`. Its index is
the rate of a known arm that makes playing it just worth while (calibration; Gittins 1979, Gittins 1989).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

GRID = 1001
"""Rates of the known arm at which the value of playing is computed; the index is where it crosses zero in between."""
TRUNCATION = 1e-6
"""Discounted indices look ahead until the discount is below this."""

Array = NDArray[np.float64]


def means(depth: int) -> Array:
    """Posterior means after `depth` pulls by number of successes, shape `(depth + 1,)`."""
    return (np.arange(depth + 1) + 1.0) / (depth + 2)


def check_discount(discount: float, top: float = 1.0) -> None:
    """Raise ValueError unless `0 < discount <= top`."""
    if not 0 < discount <= top:
        raise ValueError(f"the discount must be above 0 and at most {top}, got {discount}")


def discounted_indices(depth: int, discount: float) -> Array:
    """Indices of arms with up to `depth` pulls under an endless discounted future.

    Args:
        depth: most pulls of an arm.
        discount: worth of the next pull in units of this one, above 0 and at most 0.999.

    Returns:
        `(depth + 1, depth + 1)`, row the number of successes, column of failures; NaN beyond `depth` pulls.

    Raises:
        ValueError: the discount is out of range.
    """
    check_discount(discount, 0.999)
    ahead = int(np.ceil(np.log(TRUNCATION) / np.log(discount)))
    rates = np.linspace(0, 1, GRID)[:, None]
    table = np.full((depth + 1, depth + 1), np.nan)
    # beyond the horizon an arm keeps its mean: what that leaves out is discounted to nothing
    value = np.maximum(means(depth + ahead) - rates, 0) / (1 - discount)
    for pulls in range(depth + ahead - 1, -1, -1):
        gain = _gain(pulls, rates, value, discount)
        if pulls <= depth:
            s = np.arange(pulls + 1)
            table[s, pulls - s] = _zeros(gain)
        value = np.maximum(gain, 0)
    return table


@cache
def finite_indices(pulls: int) -> Array:
    """Indices of arms where `pulls` pulls are left of a budget and nothing counts after it, without a discount.

    The index of the best stopping time within what is left: an arm that can still be learned about is worth more.

    Returns:
        `(pulls + 1, pulls + 1, pulls + 1)`: pulls left, successes, failures; NaN beyond the budget.
    """
    if pulls < 1:
        raise ValueError(f"pulls must be at least 1, got {pulls}")
    rates = np.linspace(0, 1, GRID)[:, None]
    table = np.full((pulls + 1, pulls + 1, pulls + 1), np.nan)
    values = [np.zeros((GRID, n + 1)) for n in range(pulls + 1)]  # by pulls of the arm, with none left
    for left in range(1, pulls + 1):
        for n in range(pulls - left + 1):  # ascending: values[n + 1] still belongs to one pull less
            gain = _gain(n, rates, values[n + 1], 1.0)
            s = np.arange(n + 1)
            table[left, s, n - s] = _zeros(gain)
            values[n] = np.maximum(gain, 0)
    return table


def _gain(pulls: int, rates: Array, after: Array, discount: float) -> Array:
    """Worth of playing an arm on over the known arm, `(rates, pulls + 1)`; `after` that of one more pull."""
    mean = means(pulls)
    return mean - rates + discount * (mean * after[:, 1:] + (1 - mean) * after[:, :-1])


def _zeros(gain: Array) -> Array:
    """The rate at which each column, convex and falling by at least 1 per unit of rate, crosses zero."""
    last = (gain > 0).sum(0) - 1
    columns = np.arange(gain.shape[1])
    above, below = gain[last, columns], gain[last + 1, columns]
    zeros: Array = (last + above / (above - below)) / (GRID - 1)
    return zeros


def optimal_value(arms: int, pulls: int) -> float:
    """Expected return of Bayes-optimal play, undiscounted, by dynamic programming over everything that can be known.

    States grow with `pulls ** (2 * arms)` over the arms' permutations: five arms and ten pulls take seconds.
    """

    @cache
    def value(state: tuple[tuple[int, int], ...], left: int) -> float:
        if not left:
            return 0.0
        return max(_play(state, i, left) for i in range(arms) if i == 0 or state[i] != state[i - 1])

    def _play(state: tuple[tuple[int, int], ...], i: int, left: int) -> float:
        s, f = state[i]
        mean = (s + 1) / (s + f + 2)
        won, lost = (tuple(sorted((*state[:i], new, *state[i + 1 :]))) for new in ((s + 1, f), (s, f + 1)))
        return mean * (1 + value(won, left - 1)) + (1 - mean) * value(lost, left - 1)

    return value(((0, 0),) * arms, pulls)

"""Gittins indices against published values, value iteration, and optimal play."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learnopt.fewshot.bandit_policies import POLICIES, UCB1, Gittins, Thompson
from learnopt.fewshot.bandits import Bandits, Policy, play
from learnopt.fewshot.gittins import discounted_indices, finite_indices, optimal_value

PUBLISHED = {
    (0, 0): 0.7029, (1, 0): 0.8001, (2, 0): 0.8452, (3, 0): 0.8723, (4, 0): 0.8905, (5, 0): 0.9039,
    (0, 1): 0.5001, (1, 1): 0.6346, (2, 1): 0.7072, (0, 2): 0.3796, (1, 2): 0.5163, (2, 2): 0.6010, (9, 1): 0.8695,
}  # fmt: skip
"""By successes and failures, discount 0.9 (Gittins 1989, table of Bernoulli indices)."""


def test_indices_are_the_published_ones() -> None:
    table = discounted_indices(10, 0.9)
    assert {k: round(float(table[k]), 4) for k in PUBLISHED} == PUBLISHED


def test_index_is_where_value_iteration_is_indifferent() -> None:
    """Restart formulation (Katehakis and Veinott 1987): (1 - discount) times the value of play with free restarts."""
    discount, depth, start = 0.8, 60, (1, 2)
    value = np.zeros((depth + 1, depth + 1))
    for _ in range(120):
        s, f = np.meshgrid(np.arange(depth), np.arange(depth), indexing="ij")
        mean = (start[0] + s + 1) / (sum(start) + s + f + 2)
        on = mean * (1 + discount * value[1:, :-1]) + (1 - mean) * discount * value[:-1, 1:]
        new = np.zeros_like(value)
        new[:-1, :-1] = np.maximum(on, on[0, 0])
        value = new
    assert float(discounted_indices(3, discount)[start]) == pytest.approx((1 - discount) * value[0, 0], abs=1e-4)


def test_finite_indices_are_the_best_stopping_times() -> None:
    """With two pulls left: one pull, or a second one after a success only, whichever pays more per pull."""
    table = finite_indices(4)
    for s, f in ((0, 0), (1, 0), (0, 1), (1, 1)):
        mean, after = (s + 1) / (s + f + 2), (s + 2) / (s + f + 3)
        assert table[1, s, f] == pytest.approx(mean)
        assert table[2, s, f] == pytest.approx(max(mean, (mean + mean * after) / (1 + mean)), abs=1e-3)
    assert np.isnan(table[4, 1, 0]), "beyond the budget"


def test_optimal_play_of_two_arms_and_two_pulls_by_hand() -> None:
    # after a success the arm has a mean of 2/3, after a failure the other one has 1/2
    assert optimal_value(2, 2) == pytest.approx(0.5 * (1 + 2 / 3) + 0.5 * 0.5)


def brute_force(counts: tuple[tuple[int, int], ...], left: int) -> float:
    if not left:
        return 0.0
    best = 0.0
    for i, (s, f) in enumerate(counts):
        mean = (s + 1) / (s + f + 2)
        won, lost = ((*counts[:i], new, *counts[i + 1 :]) for new in ((s + 1, f), (s, f + 1)))
        best = max(best, mean * (1 + brute_force(won, left - 1)) + (1 - mean) * brute_force(lost, left - 1))
    return best


def test_optimal_play_equals_the_whole_tree() -> None:
    assert optimal_value(3, 4) == pytest.approx(brute_force(((0, 0),) * 3, 4))


def returned(policy: Policy, pulls: int, count: int = 20_000) -> float:
    generator = torch.Generator().manual_seed(5)
    return float(play(policy, Bandits.sample(count, 5, generator), pulls, generator).returns.mean())


def test_policies_earn_what_is_known_of_them() -> None:
    found = {name: returned(make(), 10) for name, make in POLICIES.items()}
    # the standard error is 0.016; Duan et al. 2016 report 5.0, 5.7 and 6.6 for the first and the last two
    assert found["random"] == pytest.approx(5.0, abs=0.06)
    assert found["thompson"] == pytest.approx(5.8, abs=0.08)
    assert found["gittins"] == pytest.approx(optimal_value(5, 10), abs=0.06)
    assert found["gittins"] > found["ucb1"] - 0.03 > found["thompson"]


def test_discounted_indices_play_well_too() -> None:
    assert returned(Gittins(0.9), 10) == pytest.approx(6.65, abs=0.07)


def test_ties_are_broken_evenly_and_runs_repeat() -> None:
    first = [play_greedy(seed) for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert torch.bincount(first[0][0], minlength=4).min() > 400 / 4 * 0.6


def play_greedy(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return play(POLICIES["greedy"](), Bandits.sample(400, 4, generator), 3, generator).actions


def test_thompson_draws_from_the_posterior() -> None:
    policy = Thompson()
    policy.begin(50_000, 2, 10, torch.Generator().manual_seed(0))
    policy.successes += torch.tensor([3.0, 0.0])
    policy.failures += torch.tensor([1.0, 5.0])
    draws = policy.scores()
    assert torch.allclose(draws.mean(0), policy.means[0], atol=5e-3)
    assert torch.allclose(draws.var(0), torch.tensor([4 * 2 / (36 * 7), 1 * 6 / (49 * 8)]), atol=1e-3)


def test_rewards_follow_the_arms_and_plays_are_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    bandits = Bandits(torch.tensor([[0.0, 1.0]]).expand(30, 2))
    played = play(POLICIES["gittins"](), bandits, 20, generator)
    assert torch.equal(played.rewards, played.actions.float())
    assert torch.equal(played.returns, played.rewards.sum(0))
    assert played.returns.min() > 15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: discounted_indices(3, 1.0), "at most 0.999, got 1.0"),
        (lambda: discounted_indices(3, 0.0), "must be above 0"),
        (lambda: finite_indices(0), "pulls must be at least 1, got 0"),
        (lambda: UCB1(-1.0), "width must be at least 0, got -1.0"),
        (lambda: Bandits.sample(3, 1, torch.Generator()), "at least 2 arms, got 1"),
        (lambda: Bandits.sample(0, 2, torch.Generator()), "at least 1, got 0"),
        (lambda: returned(Gittins(), 0), "pulls must be at least 1, got 0"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]

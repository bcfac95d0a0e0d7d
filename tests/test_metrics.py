"""The figures, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from learnopt import metrics
from learnopt.figures import head_to_head, reference_of, summarise, task_rows
from learnopt.training import Run


def run(losses: list[float | None], final: float | None = 1.0, **entries: object) -> Run:
    """A finished run of as many steps as losses."""
    steps = len(losses)
    made = Run({"steps": steps, "lr": 0.1, "schedule": "constant"}, losses=losses, validation=[[0, 2.0, 2.0]])
    made.train_initial, made.train_final, made.validation_final, made.metric_final = (
        losses[0],
        losses[-1],
        final,
        0.5,
    )
    made.step_seconds, made.state_bytes = 0.01, 100
    for name, value in entries.items():
        setattr(made, name, value)
    return made


def test_paired_ratio_is_a_geometric_mean_over_seeds() -> None:
    assert metrics.paired_ratio([1.0, 8.0], [2.0, 4.0]) == pytest.approx(1.0)
    assert metrics.paired_ratio([1.0, 1.0], [2.0, 8.0]) == pytest.approx(0.25)


@pytest.mark.parametrize("bad", [0.0, -1.0, None])
def test_ratio_of_losses_that_are_not_positive_is_undefined(bad: float | None) -> None:
    assert metrics.paired_ratio([1.0, bad], [1.0, 1.0]) is None
    assert metrics.paired_ratio([1.0, 1.0], [bad, 1.0]) is None


def test_smoothed_is_a_trailing_mean_over_five_percent() -> None:
    values = metrics.smoothed([float(i) for i in range(40)], 40)
    assert math.isinf(values[0])
    assert values[1] == 0.5
    assert values[39] == 38.5


def test_speed_up_counts_steps_to_the_reference_s_final_loss() -> None:
    slow = run([float(20 - i) for i in range(20)])
    fast = run([float(max(1, 20 - 2 * i)) for i in range(20)])
    assert metrics.speed_up(slow, slow) == 1
    assert metrics.speed_up(fast, slow) == 20 / 11
    assert metrics.speed_up(run([20.0] * 20), slow) == 0


def test_speed_up_is_undefined_where_the_reference_did_not_finish() -> None:
    assert metrics.speed_up(run([1.0] * 20), run([1.0] * 19 + [None])) is None


def test_interquartile_mean() -> None:
    assert metrics.interquartile_mean(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert metrics.interquartile_mean(np.array([3.0])) == 3


def test_bootstrap_interval_is_deterministic_and_holds_the_value() -> None:
    values = [list(row) for row in np.random.default_rng(1).normal(2, 0.1, (10, 3))]
    found = metrics.iqm_interval(values)
    assert found is not None
    assert found == metrics.iqm_interval(values)
    assert found.value == metrics.interquartile_mean(np.array(values).flatten())
    assert found.low < found.value < found.high
    assert found.low > 1.9
    assert found.high < 2.1
    assert metrics.iqm_interval([]) is None
    assert metrics.iqm_interval([[], []]) is None


def test_bootstrap_interval_takes_seeds_of_a_task_together() -> None:
    tasks = np.random.default_rng(1).normal(2, 0.1, 10)
    alone, repeated = metrics.iqm_interval([[t] for t in tasks]), metrics.iqm_interval([[t] * 50 for t in tasks])
    assert alone is not None
    assert repeated is not None
    assert repeated.high - repeated.low > 0.7 * (alone.high - alone.low)


def test_bootstrap_interval_of_groups_of_different_sizes() -> None:
    found = metrics.iqm_interval([[5.0, 5.0, 5.0], [], [5.0]])
    assert found == metrics.Interval(5.0, 5.0, 5.0)


def test_head_to_head_takes_each_of_the_others_as_the_reference() -> None:
    losses: list[float | None] = [4.0, 3.0, 2.0, 1.0]
    runs = {
        ("a", "ours"): [run(losses, 1.0)], ("a", "one"): [run(losses, 2.0)], ("a", "two"): [run(losses, 0.5)],
        ("b", "ours"): [run(losses, 3.0)], ("b", "one"): [run(losses, 1.0)], ("b", "two"): [run(losses, None)],
    }  # fmt: skip
    found = head_to_head(runs, "ours")
    assert list(found) == ["one", "two"]
    assert found["one"]["validation_ratio"] == pytest.approx(1.5**0.5)
    assert found["one"]["wins"] == 0.5
    assert found["one"]["worst"] == [pytest.approx(3.0), "b"]
    # who diverged counts with ten times its initial loss
    assert found["two"]["worst"] == [pytest.approx(2.0), "a"]
    assert found["two"]["validation_ratio"] == pytest.approx((2.0 * 3.0 / 20.0) ** 0.5)


def test_share_leaves_the_undefined_out() -> None:
    assert metrics.share([0.5, 1.0, 1.5, None]) == pytest.approx(2 / 3)
    assert metrics.share([None]) is None


def test_a_diverged_run_counts_with_ten_times_its_initial_loss() -> None:
    assert metrics.counted_loss(run([3.0, None], None, train_final=None), "train") == 30
    assert metrics.counted_loss(run([3.0, None], None), "validation") == 20


def test_best_kept_is_the_least_of_each_ones_own_validation_losses() -> None:
    flat = [1.0] * 20
    runs = {
        ("a", "ours"): [run(flat, 4.0, validation=[[0, 8.0, None], [10, 1.0, None], [20, 4.0, None]])],
        ("a", "adamw"): [run(flat, 2.0, validation=[[0, 8.0, None], [10, 3.0, None], [20, 2.0, None]])],
        ("b", "ours"): [run(flat, None, validation=[[0, 8.0, None], [10, 6.0, None], [20, None, None]])],
        ("b", "adamw"): [run(flat, 3.0, validation=[[0, 8.0, None], [20, 3.0, None]])],
        ("c", "ours"): [run(flat, None, validation=[[0, None, None]])],
        ("c", "adamw"): [run(flat, 3.0)],
    }
    found = summarise(task_rows(runs, "adamw"), ["ours"])["ours"]
    assert found["best_ratio"] == pytest.approx((1.0 / 2.0 * 6.0 / 3.0) ** 0.5)
    assert found["best_wins"] == 0.5


def test_summary_by_hand() -> None:
    flat = [1.0] * 20
    runs = {
        ("a", "adam"): [run(flat, 2.0)],
        ("a", "adamw"): [run(flat, 1.0)],
        ("a", "learnopt"): [run(flat, 0.5, step_seconds=0.02, state_bytes=150)],
        ("b", "adam"): [run(flat, 1.0)],
        ("b", "adamw"): [run(flat, 1.0)],
        ("b", "learnopt"): [run(flat, 2.0, step_seconds=0.02, state_bytes=150, diverged=True)],
        ("c", "adam"): [run(flat, 1.0)],
        ("c", "adamw"): [run(flat, -1.0)],
        ("c", "learnopt"): [run(flat, 2.0, step_seconds=0.02, state_bytes=150)],
    }
    names = ["learnopt", "adam", "adamw"]
    assert reference_of(names) == "adamw"
    found = summarise(task_rows(runs, "adamw"), names)["learnopt"]
    assert found["validation_ratio"] == pytest.approx(1.0)
    assert found["wins"] == 0.5
    assert found["undefined"] == 1
    assert found["wins_adam"] == pytest.approx(1 / 3)
    assert found["seconds_ratio"] == pytest.approx(2)
    assert found["memory_ratio"] == pytest.approx(1.5)
    assert found["speed_up"]["value"] == 1
    assert found["wall_clock_speed_up"]["value"] == pytest.approx(0.5)
    assert found["diverged"] == 1


@pytest.mark.parametrize(("names", "reference"), [(["sgd", "adam"], "adam"), (["nadam", "sgd"], "nadam")])
def test_reference_without_adamw(names: list[str], reference: str) -> None:
    assert reference_of(names) == reference

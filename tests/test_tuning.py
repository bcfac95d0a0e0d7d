"""What a search tries, and what it takes."""

from __future__ import annotations

import math

import pytest

from learnopt.baselines import REGISTRY, Settings, Space
from learnopt.training import Run, RunConfig
from learnopt.tuning import GRID, LR_RANGE, REST_GRID, REST_RANGE, TUNERS, trials_of, tune


class Bowl:
    """A loss whose best settings are known; remembers what was tried."""

    def __init__(self, lr: float, rest: float, schedule: str) -> None:
        self.best, self.schedule, self.tried = (math.log(lr), math.log(rest)), schedule, []  # type: ignore[var-annotated]

    def __call__(self, settings: Settings) -> Run:
        self.tried.append(settings)
        distance = abs(math.log(settings.lr) - self.best[0]) + abs(math.log(settings.rest or 1.0) - self.best[1])
        return Run({}, validation_final=1.0 + distance + 0.5 * (settings.schedule != self.schedule))


@pytest.mark.parametrize("tuner", TUNERS)
@pytest.mark.parametrize("space", [Space(), Space(("constant",)), Space(hybrid=True), Space(("cosine",), True)])
def test_a_search_stays_in_its_space_and_finds_the_best_of_what_it_tried(tuner: str, space: Space) -> None:
    bowl = Bowl(0.02, 3.0 if space.hybrid else 1.0, space.schedules[-1])
    found = tune(tuner, bowl, 30, space, task="bowl", optimizer="any", steps=7)
    assert found.runs == len(bowl.tried) == trials_of(tuner, 30, space)
    assert found.steps == 7 * found.runs
    assert {s.schedule for s in bowl.tried} == set(space.schedules)
    low, high = (GRID[0], GRID[-1]) if tuner == "grid" else LR_RANGE
    assert all(low <= s.lr <= high for s in bowl.tried)
    assert all((s.rest is not None) == space.hybrid for s in bowl.tried)
    if space.hybrid:
        assert all(REST_RANGE[0] <= (s.rest or 0) <= REST_RANGE[1] for s in bowl.tried)
        assert len({s.rest for s in bowl.tried}) > len(REST_GRID)
        if tuner == "grid":  # second rates beside the best first one
            first, second = bowl.tried[: -len(REST_GRID)], bowl.tried[-len(REST_GRID) :]
            best = min(first, key=lambda s: bowl(s).validation_final or 0)
            assert {(s.lr, s.schedule) for s in second} == {(best.lr, best.schedule)}
    assert found.value == min(bowl(s).validation_final or 0 for s in list(bowl.tried))
    assert found.settings.schedule == space.schedules[-1]
    assert abs(math.log(found.settings.lr / 0.02)) < 0.6


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_trial_that_diverged_is_not_chosen(tuner: str) -> None:
    """Its validation loss may be the lowest of all, by luck."""

    def trial(settings: Settings) -> Run:
        broken = settings.lr > 1e-2
        return Run({}, validation_final=0.0 if broken else 1.0, diverged=broken)

    found = tune(tuner, trial, 12, Space(), task="cliff", optimizer="any", steps=1)
    assert (found.value, found.settings.lr <= 1e-2) == (1.0, True)


def test_a_search_repeats_itself() -> None:
    tried = []
    for _ in range(2):
        bowl = Bowl(0.02, 1.0, "cosine")
        tune("optuna", bowl, 6, Space(hybrid=True), task="bowl", optimizer="any", steps=1)
        tried.append(bowl.tried)
    assert tried[0] == tried[1]
    assert tried[0][:2] == [Settings(1e-3, "constant", 1.0), Settings(1e-3, "cosine", 1.0)]


def test_who_searches_for_what() -> None:
    spaces = {name: b.space for name, b in REGISTRY.items() if b.tuned}
    assert spaces["adamw"] == Space(("constant", "cosine"))
    assert spaces["adam_constant"] == Space(("constant",))
    assert spaces["muon"].hybrid


def test_one_rate_goes_without_saying_in_what_is_stored() -> None:
    one, two = (RunConfig("t", "muon", 0, 5, 0.1, "cosine", rest=rest) for rest in (None, 3.0))
    assert "rest" not in one.entry()
    assert two.entry() == one.entry() | {"rest": 3.0}

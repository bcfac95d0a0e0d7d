"""The classical stoppers against references, and what all stoppers share."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch

from learnopt.stopping import DecayOnPlateau, LearnedStopper, Patience, RelativeImprovement, Stopper

MAKERS = {
    "patience": lambda mode: Patience(3, mode=mode),
    "relative": lambda mode: RelativeImprovement(0.05, window=3, mode=mode),
    "plateau": lambda mode: DecayOnPlateau(patience=2, decays=2, mode=mode),
    "learned": lambda mode: LearnedStopper(60, mode=mode),
    "both": lambda mode: Patience(2, mode=mode) & LearnedStopper(60, mode=mode),
    "either": lambda mode: Patience(9, mode=mode) | RelativeImprovement(0.01, mode=mode),
}


def twice(stopper: Stopper) -> Stopper:
    return (stopper & RelativeImprovement()) | stopper


def curve(seed: int, length: int = 40) -> list[float]:
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    values = 0.4 + np.exp(-t / 6) + 0.002 * np.maximum(0, t - 15) + 0.02 * rng.standard_normal(length)
    return values.tolist()


def keras_stops(
    values: list[float], patience: int, min_delta: float, mode: str, start: int, baseline: float | None
) -> int | None:
    """Where the published rules of Keras's EarlyStopping stop, written down independently; None: never."""

    def better(a: float, b: float) -> bool:
        return a + min_delta < b if mode == "min" else a - min_delta > b

    best, waited = (math.inf if mode == "min" else -math.inf), 0
    for epoch, value in enumerate(values):
        if epoch < start:
            continue
        waited += 1
        if better(value, best):
            best = value
            waited = 0 if baseline is None or better(value, baseline) else waited
        elif waited >= patience and epoch > 0:
            return epoch
    return None


def stops(stopper: Stopper, values: list[float]) -> int | None:
    return next((i for i, v in enumerate(values) if stopper.update(v).stop), None)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [0, 1, 2, 5])
def test_patience_stops_where_keras_does(mode: str, patience: int) -> None:
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal(25).round(1) - 0.1 * np.arange(25) * (1 if mode == "min" else -1)
        values[rng.random(25) < 0.1] = np.nan
        delta, start = float(rng.choice([0, 0.15])), int(rng.choice([0, 4]))
        baseline = float(rng.standard_normal()) if seed % 3 == 0 else None
        found = stops(
            Patience(patience, min_delta=delta, mode=mode, start_from=start, baseline=baseline), values.tolist()
        )
        assert found == keras_stops(values.tolist(), patience, delta, mode, start, baseline)
        seen.add(found)
    assert len(seen) > 3


def test_patience_restores_the_best_weights() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    stopper = Patience(2, restore_best=model)
    for value in (3.0, 1.0, 2.0, 2.0):
        with torch.no_grad():
            model.weight.fill_(value)
        verdict = stopper.update(value)
    assert verdict.stop
    assert model.weight.item() == 2
    state = copy.deepcopy(stopper.state_dict())
    assert stopper.restore() == 1
    assert model.weight.item() == 1
    other = torch.nn.Linear(1, 1, bias=False)
    resumed = Patience(2, restore_best=other)
    resumed.load_state_dict(state)
    resumed.restore()
    assert other.weight.item() == 1
    with pytest.raises(ValueError, match="restore_best"):
        Patience(2).restore()


def test_weights_of_forgotten_steps_are_forgotten() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    stopper = Patience(5, restore_best=model)
    for value, step in ((3.0, 0), (1.0, 1), (4.0, 1)):  # step 1 is run again, and comes out worse
        with torch.no_grad():
            model.weight.fill_(value)
        stopper.update(value, step)
    with torch.no_grad():
        model.weight.fill_(9.0)
    stopper.restore()
    assert model.weight.item() == 4
    stopper.reset()
    assert stopper.restore() is None


def test_after_going_back_behind_the_best_weights_the_best_since_are_kept() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    stopper = Patience(9, restore_best=model)
    for value, step in ((3.0, 0), (1.0, 1), (6.0, 1), (4.0, 2), (5.0, 3)):  # 3 was better, but its weights are gone
        with torch.no_grad():
            model.weight.fill_(value)
        stopper.update(value, step)
    other = torch.nn.Linear(1, 1, bias=False)
    resumed = Patience(9, restore_best=other)
    resumed.load_state_dict(copy.deepcopy(stopper.state_dict()))
    for kept, weights in ((stopper, model), (resumed, other)):
        assert kept.restore() == 2
        assert weights.weight.item() == 4
        with torch.no_grad():
            weights.weight.fill_(4.5)
        kept.update(4.5, 4)
        assert kept.restore() == 2


@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_decays_as_torch_does(mode: str, threshold_mode: str) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values = 2 + rng.random(60)
        optimizers = [torch.optim.SGD([torch.zeros(1)], lr=1.0) for _ in range(2)]
        options = {
            "factor": 0.5, "patience": int(rng.integers(4)), "threshold": 0.02, "threshold_mode": threshold_mode,
            "cooldown": int(rng.integers(3)), "min_lr": 1e-3, "mode": mode,
        }  # fmt: skip
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizers[0], eps=0, **options)
        ours = DecayOnPlateau(optimizers[1], **options)
        for value in values:
            theirs.step(value)
            assert not ours.update(value).stop
            assert optimizers[1].param_groups[0]["lr"] == pytest.approx(optimizers[0].param_groups[0]["lr"])
        assert optimizers[1].param_groups[0]["lr"] < 1


def test_plateau_decays_a_tensor_in_place() -> None:
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=rate)
    stopper = DecayOnPlateau(optimizer, factor=0.5, patience=0, min_lr=0.2)
    for expected in (0.5, 0.25, 0.2):
        stopper.update(1.0)
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == pytest.approx(expected)


def test_plateau_stops_after_its_decays() -> None:
    stopper = DecayOnPlateau(patience=1, decays=2)
    verdicts = [stopper.update(v) for v in [1.0] * 9]
    assert [v.lr_factor for v in verdicts] == [1, 1, 0.1, 1, 0.1, 1, 1, 1, 1]
    assert [v.stop for v in verdicts] == [False] * 6 + [True] * 3


def test_no_improvement_at_all_is_less_than_any_share() -> None:
    assert stops(RelativeImprovement(0, window=2), [3.0, 2.0, 1.0, 1.0, 1.0, 1.0]) == 4


def test_relative_improvement_is_free_of_scale_and_shift() -> None:
    values = curve(1)
    where = stops(RelativeImprovement(0.02, window=4), values)
    assert where is not None
    assert 5 <= where < 39
    assert where == stops(RelativeImprovement(0.02, window=4), [1e5 * v - 7e5 for v in values])
    assert where == stops(RelativeImprovement(0.02, window=4, mode="max"), [-v for v in values])
    of_value = stops(RelativeImprovement(0.02, window=4, of="value"), values)
    assert of_value == stops(RelativeImprovement(0.02, window=4, of="value"), [1e-4 * v for v in values])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_resumes_exactly_through_json(name: str, mode: str) -> None:
    values = [v if mode == "min" else -v for v in curve(2)]
    values[7] = math.nan
    whole, first, second = (MAKERS[name](mode) for _ in range(3))
    expected = [whole.update(v) for v in values]
    for v in values[:13]:
        first.update(v)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.update(v) for v in values[13:]] == expected[13:]


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_back_is_a_run_resumed_from_there(name: str) -> None:
    values = curve(3)
    whole, rewound = MAKERS[name]("min"), MAKERS[name]("min")
    expected = [whole.update(v, i) for i, v in enumerate(values)]
    for i, v in enumerate(values[:20]):
        rewound.update(v if i < 12 else 0.0, i)
    assert [rewound.update(v, i) for i, v in enumerate(values) if i >= 12] == expected[12:]


@pytest.mark.parametrize("name", MAKERS)
def test_survives_what_is_not_finite(name: str) -> None:
    stopper = MAKERS[name]("min")
    stopper.update(math.nan)
    for value in (2.0, math.inf, 1.0, -math.inf, math.nan):
        verdict = stopper.update(value)
    assert verdict.best == 1.0
    assert verdict.best_step == 3
    assert verdict.probability is None or 0 <= verdict.probability <= 1
    stopper.reset()
    assert stopper.best is None
    assert stopper.update(5.0).best == 5.0


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("before", [0, 8])
def test_a_run_that_is_lost_is_stopped(name: str, before: int) -> None:
    stopper = MAKERS[name]("min")
    assert not any(stopper.update(v).stop for v in curve(1)[:before])
    assert any(stopper.update(math.nan).stop for _ in range(20))
    stopper.reset()
    assert not stopper.update(math.nan).stop


def test_a_better_value_takes_the_place_of_weights_kept_at_one_that_is_not_finite() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    stopper = Patience(9, restore_best=model)
    for value, weight in ((math.nan, 1.0), (math.inf, 2.0), (5.0, 3.0), (6.0, 4.0)):
        with torch.no_grad():
            model.weight.fill_(weight)
        stopper.update(value)
    assert stopper.restore() == 2
    assert model.weight.item() == 3


@pytest.mark.parametrize("name", MAKERS)
def test_copies_go_their_own_ways(name: str) -> None:
    stopper = MAKERS[name]("min")
    values = curve(4)
    for v in values[:10]:
        stopper.update(v)
    twin = copy.deepcopy(stopper)
    twin.update(0.0)
    assert stopper.best == min(values[:10])
    assert stopper.update(values[10]).best == min(values[:11])


def test_composition() -> None:
    values = [1.0, 0.9, 0.91, 0.92, 0.93, 0.5, 0.51, 0.52, 0.53, 0.54, 0.55]
    parts = [[Patience(p).update] for p in (2, 4)]
    single = [[v.stop for v in map(part[0], values)] for part in parts]
    both, either = Patience(2) & Patience(4), Patience(2) | Patience(4)
    together = [both.update(v) for v in values]
    assert [v.stop for v in together] == [a and b for a, b in zip(*single, strict=True)]
    assert [either.update(v).stop for v in values] == [a or b for a, b in zip(*single, strict=True)]
    assert together[-1].best == 0.5
    factors = [(DecayOnPlateau(patience=1) & Patience(2)).update(v).lr_factor for v in (1.0,)]
    assert factors == [1.0]
    with pytest.raises(ValueError, match="one mode, got 'min' and 'max'"):
        Patience(2) & Patience(2, mode="max")
    with pytest.raises(TypeError, match="compose with stoppers"):
        Patience(2) & 3  # type: ignore[operator]
    with pytest.raises(ValueError, match="'first' and 'second'"):
        both.load_state_dict({"history": []})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Patience(-1), "patience must be a whole number of at least 0, got -1"),
        (lambda: Patience(1.5), "patience must be a whole number of at least 0, got 1.5"),
        (lambda: Patience(min_delta=-1), "min_delta must be a finite number of at least 0, got -1"),
        (lambda: Patience(mode="auto"), "mode must be 'min' or 'max', got 'auto'"),
        (lambda: Patience(restore_best=3), "restore_best must be a model"),
        (lambda: Patience().update("low"), "value must be one number, got 'low'"),
        (lambda: Patience().update(torch.zeros(2)), "value must be one number"),
        (lambda: Patience().update(10**400), "value must be one number, got 1000"),
        (lambda: twice(Patience(3)), "a stopper can be in a composition only once"),
        (lambda: Patience().update(1.0, math.nan), "step must be a finite number, got nan"),
        (lambda: Patience().load_state_dict({}), "state must hold a 'history'"),
        (lambda: RelativeImprovement(2), "share must be a finite number of at least 0 and at most 1, got 2"),
        (lambda: RelativeImprovement(of="loss"), "of must be 'progress' or 'value', got 'loss'"),
        (lambda: DecayOnPlateau(3), "optimizer must have param_groups, got 3"),
        (lambda: DecayOnPlateau(factor=1), "factor must be below 1, got 1"),
        (lambda: DecayOnPlateau(threshold_mode="x"), "threshold_mode must be 'rel' or 'abs', got 'x'"),
        (lambda: LearnedStopper(0), "total_steps must be a finite number above 0, got 0"),
        (lambda: LearnedStopper(tolerance=-1), "tolerance must be"),
        (lambda: LearnedStopper(of="loss"), "of must be 'progress' or 'value', got 'loss'"),
        (lambda: LearnedStopper(weights="none"), "unknown stopper weights 'none'; choose from: default, v2"),
    ],
)
def test_bad_input(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_takes_tensors_and_arrays() -> None:
    stopper = Patience(1)
    assert not stopper.update(torch.tensor([2.0])).stop
    assert stopper.update(np.float32(2.0)).stop

"""Every optimizer of the registry: it trains, keeps to its schedule, and survives a divergence."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from compare_toy import BrokenTask, TinyTask
from torch import nn

from learnopt import memory
from learnopt.baselines import REGISTRY, Settings, get, multiplier
from learnopt.baselines.muon import split
from learnopt.compare import default_optimizers
from learnopt.training import RunConfig, train

STEPS = 80


def config(name: str, **changes: object) -> RunConfig:
    """A short run; tuned optimizers get a rate that suits the task."""
    baseline = get(name)
    if reason := baseline.missing():
        pytest.skip(reason)
    rate = {"sgd": 0.02}.get(name, 0.01)
    settings = baseline.settings or Settings(rate, "cosine")
    entries = {"seed": 0, "steps": STEPS, "lr": settings.lr, "schedule": settings.schedule} | changes
    return RunConfig("tiny", name, **entries)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REGISTRY)
def test_it_trains_and_repeats(name: str) -> None:
    task = TinyTask()
    run = train(task, config(name))
    assert not run.diverged
    assert run.validation_final is not None
    assert run.validation[0][1] is not None
    assert run.validation_final < run.validation[0][1]
    assert len(run.losses) == STEPS
    assert [row[0] for row in run.validation] == list(range(0, STEPS + 1, STEPS // 20))
    assert run.step_seconds >= run.optimizer_seconds > 0
    assert run.state_bytes > 0
    again = train(task, config(name))
    assert (again.losses, again.validation) == (run.losses, run.validation)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_divergence_is_recorded(name: str) -> None:
    run = train(BrokenTask("broken"), config(name))
    assert run.diverged
    assert run.validation_final is None
    assert len(run.losses) == 6
    assert run.losses[-1] is None


def test_a_loss_ten_times_the_first_is_a_divergence() -> None:
    assert train(TinyTask(), config("sgd", lr=1e3, schedule="constant")).diverged


def test_initialisation_and_batches_are_the_same_for_all() -> None:
    runs = [train(TinyTask(), config(name)) for name in ("adam", "sgd", "learnopt")]
    assert len({(run.losses[0], run.validation[0][1]) for run in runs}) == 1


def test_global_random_state_and_threads_are_left_as_found() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    train(TinyTask(), config("adam"))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_cosine_schedule() -> None:
    total = 1000
    assert multiplier("cosine", 0, total) == pytest.approx(0.01)
    assert multiplier("cosine", 49, total) == pytest.approx(0.99)
    assert multiplier("cosine", 524, total) == pytest.approx(0.5, abs=1e-3)
    assert multiplier("cosine", 999, total) == pytest.approx(0, abs=1e-5)
    progress = (300 + 0.5) / total
    assert multiplier("cosine", 300, total) == pytest.approx(0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95)))
    assert multiplier("constant", 7, total) == 1


def test_the_schedule_reaches_the_optimizer() -> None:
    weight = nn.Linear(1, 1, bias=False)
    stepper = get("sgd").make(weight, Settings(1.0, "cosine"), 100, "default")
    before = weight.weight.item()
    weight.weight.grad = torch.ones(1, 1)
    stepper.step(torch.tensor(1.0))
    assert before - weight.weight.item() == pytest.approx(multiplier("cosine", 0, 100), rel=1e-4)


def test_muon_leaves_embeddings_first_and_last_to_adamw() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(8, 8), nn.Linear(8, 2))
    hidden, rest = split(plain)
    assert [tuple(p.shape) for p in hidden] == [(4, 4, 3, 3), (8, 8)]
    assert len(hidden) + len(rest) == 8
    worded = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9))
    assert [tuple(p.shape) for p in split(worded)[0]] == [(8, 8)]


def test_the_rest_of_a_hybrid_has_its_own_rate() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    rates = [
        [o.param_groups[0]["lr"] for o in get("muon").make(model, settings, 10, "default").optimizers]
        for settings in (Settings(0.1), Settings(0.1, rest=3.0))
    ]
    assert rates == [[0.1, 0.1], [0.1, pytest.approx(0.3)]]


def test_muon_moves_convolutions_through_their_views() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    stepper = get("muon").make(model, Settings(0.1), 10, "default")
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(2, 1, 6, 6)).square().mean().backward()
    stepper.step(torch.tensor(1.0))
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_schedule_free_validates_at_its_average() -> None:
    if reason := get("schedulefree").missing():
        pytest.skip(reason)
    model = nn.Linear(2, 1)
    stepper = get("schedulefree").make(model, Settings(0.1), 10, "default")
    for _ in range(3):
        model.zero_grad()
        model(torch.ones(4, 2)).square().mean().backward()
        stepper.step(torch.tensor(1.0))
    training = model.weight.detach().clone()
    with stepper.validating():
        assert not torch.equal(model.weight, training)
    assert torch.allclose(model.weight, training, atol=1e-6)


def test_learned_observations() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = train(TinyTask(), config("learnopt"))
    assert len(run.observations) == 50
    first = run.observations[0]
    assert list(first["learning_rates"]) == [name for name, _ in TinyTask().build(0).named_parameters()]
    assert all(rate > 0 for rate in first["learning_rates"].values())
    assert first["schedule"] > 0
    assert 0 <= first["stop_probability"] <= 1


def test_the_undecayed_variant_is_the_same_rule_without_decay() -> None:
    model = TinyTask().build(0)
    usual, undecayed = (
        get(name).make(model, get(name).settings, 50, "default") for name in ("learnopt", "learnopt_undecayed")
    )
    assert [s.optimizers[0].param_groups[0]["weight_decay"] for s in (usual, undecayed)] == [None, 0.0]
    runs = [train(TinyTask(), config(name)) for name in ("learnopt", "learnopt_undecayed")]
    assert runs[0].losses[0] == runs[1].losses[0]
    assert runs[0].losses != runs[1].losses


def test_variants_tell_the_learned_rule_less_or_otherwise() -> None:
    names = {"learnopt": 50, "learnopt_untold": None, "learnopt_half": 25, "learnopt_double": 100,
             "learnopt_lossless": 50, "learnopt_blind": None}  # fmt: skip
    model, seen = TinyTask().build(0), {}
    for name, told in names.items():
        stepper = get(name).make(model, Settings(1.0), 50, "default")
        assert stepper.optimizers[0].param_groups[0]["total_steps"] == told
        seen[name] = train(TinyTask(), config(name)).losses
    assert len({tuple(losses) for losses in seen.values()}) == len(names)


def test_variants_that_validate_at_the_average() -> None:
    for last, averaged in (
        ("learnopt_untold", "learnopt_averaged"), ("learnopt_blind", "learnopt_blindaveraged"),
        ("learnopt_double", "learnopt_doubleaveraged"),
    ):  # fmt: skip
        model = TinyTask().build(0)
        steppers = [get(name).make(model, Settings(1.0), 50, "default") for name in (last, averaged)]
        assert [stepper.averages for stepper in steppers] == [False, True]
        runs = [train(TinyTask(), config(name)) for name in (last, averaged)]
        assert runs[0].losses == runs[1].losses  # looking at the average does not disturb training
        assert [row[0] for row in runs[0].validation] == [row[0] for row in runs[1].validation]
        assert runs[0].validation[0] == runs[1].validation[0]
        assert all(a[1] != b[1] for a, b in zip(runs[0].validation[1:], runs[1].validation[1:], strict=True))


def test_only_those_who_are_asked_for_run_variants() -> None:
    assert not any("_untold" in name or "_undecayed" in name for name in default_optimizers(full=True))
    assert "muon" in default_optimizers(full=True)
    assert "muon" not in default_optimizers(full=False)


def test_a_loss_withheld_is_not_seen() -> None:
    steppers = [
        get(name).make(TinyTask().build(0), Settings(1.0), 50, "default") for name in ("learnopt", "learnopt_lossless")
    ]
    counts = []
    for stepper in steppers:
        for p in stepper.optimizers[0].param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        stepper.step(torch.tensor(1.0))
        counts.append(float(memory.read_run(stepper.optimizers[0]._run()).history.number))
    assert counts == [1.0, 0.0]


def test_unknown_optimizer_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown optimizer 'adma'; choose from: learnopt, .*, adam, adamw"):
        get("adma")

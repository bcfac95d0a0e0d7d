"""Inner runs on another device.

Without a GPU torch's `meta` device stands in: it computes nothing, but refuses every operation that mixes devices.
Copies between it and the CPU, which torch refuses as well, are made to give ones.
"""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from compare_toy import TinyTask
from torch import Tensor
from toy import ToySource, ToyTask

from learnopt import devices, meta_network, stop_train, workers
from learnopt.baselines import REGISTRY, Settings, get
from learnopt.episodes import draw
from learnopt.estimators import ESTIMATORS, Episode, Estimate, Estimator
from learnopt.meta_config import MetaTrainConfig
from learnopt.run_store import RunStore
from learnopt.task import Task, TaskFamily
from learnopt.tasks.suites import families, suite
from learnopt.training import RunConfig, train
from learnopt.unroll import Problem, Telling, unroll

THETA = meta_network.initial_theta(torch.Generator().manual_seed(0))
EPISODE = Episode(ToyTask(), 3, 4, Telling(4), "meta")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available() is False")


class Ones(torch.autograd.Function):
    """A copy to another device, and of its gradient back, that keeps nothing but the shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: torch.device) -> Tensor:
        ctx.origin = x.device
        return torch.ones(x.shape, dtype=x.dtype, device=device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.ones(gradients[0].shape, device=ctx.origin), None


@pytest.fixture(autouse=True)
def copies(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """From where to where tensors were copied."""
    seen: set[tuple[str, str]] = set()

    def copy(x: Tensor, device: torch.device | str) -> Tensor:
        there = torch.device(device)
        if "meta" not in (x.device.type, there.type) or x.device.type == there.type:
            return x.to(there)
        seen.add((x.device.type, there.type))
        return Ones.apply(x, there)  # type: ignore[no-any-return]

    monkeypatch.setattr(devices, "copy", copy)
    return seen


def ran_on_meta(task: Task) -> tuple[set[str], set[str], tuple[torch.Size, ...]]:
    """Devices of the parameters and of what was measured, and the shapes of the losses, after two steps."""
    problem = Problem(task, [0, 1], device="meta")
    nudges = torch.zeros(2, 2, len(problem.layout.tensors), len(meta_network.OUTPUTS))
    start = problem.begin()
    runs, seen = unroll(problem, THETA, start, 0, 2, Telling(2), valid_at=(2,), nudges=nudges, record=True)
    measured = (seen.losses, seen.valid, seen.columns, seen.tensor_columns)
    there, here = {p.device.type for p in runs.params}, {x.device.type for x in measured if x is not None}
    return there, here, (seen.losses.shape, seen.valid.shape)


@pytest.mark.parametrize("family", [family for family, _ in families("meta_train")], ids=lambda f: f.name)
def test_runs_of_every_family_stay_on_their_device(family: TaskFamily) -> None:
    assert ran_on_meta(family.sample(np.random.default_rng(0))) == ({"meta"}, {"cpu"}, ((2, 2), (1, 2)))


@pytest.mark.parametrize("task", [*suite("meta_train"), *suite("meta_valid")], ids=lambda t: t.name)
def test_runs_of_augmented_and_fixed_tasks_stay_on_their_device(task: Task) -> None:
    assert ran_on_meta(task) == ({"meta"}, {"cpu"}, ((2, 2), (1, 2)))


@pytest.mark.parametrize("kind", list(ESTIMATORS.values()), ids=lambda k: k.name)
def test_estimators_run_where_the_episode_says(kind: type[Estimator], copies: set[tuple[str, str]]) -> None:
    """Windows too: what one leaves for the next is in the main memory."""
    estimator = kind(2, 0.1, **({"window": 2} if kind.keeps_state else {}))  # type: ignore[arg-type]
    carry, estimates = None, []
    while carry is not None or not estimates:
        estimates.append(estimator.estimate(THETA, EPISODE, carry))
        carry = estimates[-1].carry
        if carry:
            assert carry["reference"].device.type == "cpu"
            assert {x.device.type for x in (*carry["runs"].params, carry["runs"].state.unit)} == {"cpu"}
    assert len(estimates) == (2 if kind.keeps_state else 1)
    assert copies == {("cpu", "meta"), ("meta", "cpu")}
    assert estimator.gradient(meta_network.SIZE, estimates).isfinite().all()


def test_validation_and_recordings_run_there_too(monkeypatch: pytest.MonkeyPatch, copies: set[tuple[str, str]]) -> None:
    monkeypatch.setattr(workers, "_source", ToySource())
    monkeypatch.setattr(workers, "_device", "meta")
    assert np.isfinite(workers._validate(THETA, 0, 2, 1)[1])
    assert copies == {("cpu", "meta"), ("meta", "cpu")}
    copies.clear()
    monkeypatch.setattr(stop_train, "POINTS", 2)
    assert stop_train.Recorder(THETA, runs=1).record(EPISODE).valid.shape == (1, 1)
    assert copies == {("cpu", "meta"), ("meta", "cpu")}


class AskedToRecord(stop_train.Recorder):
    """Says where it was asked to record."""

    def record(self, episode: Episode) -> str:  # type: ignore[override]
        return episode.device


class AskedToEstimate(Estimator):
    """Says where it was asked to estimate."""

    name = "asked"

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None) -> Estimate:
        return Estimate(episode.seed, torch.zeros(1), 0.0, 0, {"device": episode.device})


def test_the_pool_hands_its_device_to_the_workers() -> None:
    config = MetaTrainConfig(estimator="es", pairs=1, steps_min=2, steps_max=2)
    recorder, specs = AskedToRecord(THETA), [draw(config, 0)]
    with workers.Pool(ToySource(), 1, "meta") as pool:
        (estimate,) = pool.estimate(AskedToEstimate(1, 0.1), THETA, specs, [None])
        asked = [f.result() for f in [*pool.record(recorder, specs), *pool.record_valid(recorder)]]
    assert estimate.carry == {"device": "meta"}
    assert set(asked) == {"meta"}


def test_moved_reaches_every_tensor_and_keeps_the_rest() -> None:
    pair = namedtuple("pair", "a b")
    tree = {"runs": pair([torch.ones(2)], (torch.ones(1), None)), "step": 3}
    there = devices.moved(tree, "meta")
    assert type(there["runs"]) is pair
    assert [there["runs"].a[0].device.type, there["runs"].b[0].device.type] == ["meta", "meta"]
    assert (there["runs"].b[1], there["step"]) == (None, 3)
    assert tree["runs"].a[0].device.type == "cpu"


@pytest.mark.parametrize(
    ("text", "message"),
    [("tpu9", "unknown device 'tpu9'"), ("meta", "'meta' is not supported"), ("cuda", "'cuda' is not there")],
)
def test_devices_that_cannot_be_had(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        devices.choose(text)


def test_every_rank_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [devices.choose(x) for x in ("cpu", "cpu:0", "cuda", "cuda:1")] == ["cpu", "cpu", "cuda:0", "cuda:1"]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert devices.choose("cuda") == "cuda:1"
    with pytest.raises(ValueError, match="'cuda:2' is not there: this machine has 2"):
        devices.choose("cuda:2")


@pytest.mark.parametrize("name", [name for name in REGISTRY if REGISTRY[name].package is None and name != "nadam"])
def test_compared_runs_stay_on_their_device(
    name: str, monkeypatch: pytest.MonkeyPatch, copies: set[tuple[str, str]]
) -> None:
    """Those of torch alone, and ours; Prodigy and NAdam ask their tensors for numbers that `meta` does not have."""
    baseline = get(name)
    number = Tensor.__float__
    monkeypatch.setattr(Tensor, "__float__", lambda x: 1.0 if x.device.type == "meta" else number(x))
    settings = baseline.settings or Settings(0.01, "cosine")
    config = RunConfig("tiny", name, 0, 4, settings.lr, settings.schedule, points=0, device="meta")
    run = train(TinyTask(), config)
    assert (run.train_final, run.validation_final) == (1.0, 1.0)
    assert (run.config["device"], run.diverged, run.state_bytes > 0) == ("meta", False, True)
    assert copies == {("cpu", "meta"), ("meta", "cpu")}


def test_a_run_on_the_cpu_is_stored_as_before_there_was_a_choice() -> None:
    config = RunConfig("tiny", "adam", 0, 4, 1e-3, "constant")
    assert "device" not in config.entry()
    assert RunConfig(**config.entry()) == config
    there = replace(config, device="cuda:0")
    assert RunConfig(**there.entry()) == there
    assert RunStore.key(there) != RunStore.key(config)


@needs_gpu
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    here, there = (Problem(ToyTask(), [0, 1], device=d, kernel=d == "cuda") for d in ("cpu", "cuda"))
    _, slow = unroll(here, THETA, here.begin(), 0, 8, Telling(8), valid_at=(8,))
    _, fast = unroll(there, THETA, there.begin(), 0, 8, Telling(8), valid_at=(8,))
    torch.testing.assert_close(fast.losses, slow.losses, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(fast.valid, slow.valid, rtol=1e-3, atol=1e-5)


@needs_gpu
def test_a_comparison_on_a_gpu_gives_what_the_cpu_gives() -> None:
    config = RunConfig("tiny", "learnopt", 0, 20, 1.0, "constant")
    here, there = (train(TinyTask(), replace(config, device=d)) for d in ("cpu", "cuda:0"))
    assert there.losses == pytest.approx(here.losses, rel=1e-2)
    assert there.validation_final == pytest.approx(here.validation_final, rel=1e-2)


@pytest.mark.parametrize(("device", "kept"), [("cpu", []), ("cuda:1", [torch.device("cuda:1")])])
def test_generators_of_the_device_are_kept_too(
    device: str, kept: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[torch.device]] = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: asked.append(devices))
    devices.generators_kept(device)
    assert asked == [kept]


@needs_gpu
def test_an_unroll_leaves_the_gpu_s_generator_as_it_was() -> None:
    torch.cuda.manual_seed(77)
    before = torch.cuda.get_rng_state()
    problem = Problem(ToyTask(), [1], device="cuda:0")
    unroll(problem, THETA, problem.begin(), 0, 2, Telling(2))
    assert torch.equal(torch.cuda.get_rng_state(), before)

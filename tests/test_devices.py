"""Inner runs on another device. Without a GPU torch's `meta` device stands in: it computes nothing, but refuses every
operation that mixes devices."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from toy import ToySource, ToyTask

from learnopt import devices, meta_network, stop_train
from learnopt.episodes import draw
from learnopt.estimators import ESTIMATORS, Episode, Estimator
from learnopt.meta_config import MetaTrainConfig
from learnopt.task import Task, TaskFamily
from learnopt.tasks.suites import families, suite
from learnopt.unroll import Problem, Telling, unroll
from learnopt.workers import Pool, validation_loss

THETA = meta_network.initial_theta(torch.Generator().manual_seed(0))
EPISODE = Episode(ToyTask(), 3, 2, Telling(2), "meta")
CANNOT_COPY = "Cannot copy out of meta tensor"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def check_on_meta(task: Task) -> None:
    problem = Problem(task, [0, 1], device="meta")
    nudges = torch.zeros(2, 2, len(problem.layout.tensors), len(meta_network.OUTPUTS))
    runs, seen = unroll(
        problem, THETA, problem.begin(), 0, 2, Telling(2), valid_at=(2,), nudges=nudges, record=True
    )  # fmt: skip
    assert {x.device.type for x in (*runs.params, seen.losses, seen.valid, seen.columns)} == {"meta"}
    assert (seen.losses.shape, seen.valid.shape) == ((2, 2), (1, 2))


@pytest.mark.parametrize("family", [family for family, _ in families("meta_train")], ids=lambda f: f.name)
def test_runs_of_every_family_stay_on_their_device(family: TaskFamily) -> None:
    check_on_meta(family.sample(np.random.default_rng(0)))


@pytest.mark.parametrize("task", [*suite("meta_train"), *suite("meta_valid")], ids=lambda t: t.name)
def test_runs_of_augmented_and_fixed_tasks_stay_on_their_device(task: Task) -> None:
    check_on_meta(task)


@pytest.mark.parametrize("kind", list(ESTIMATORS.values()), ids=lambda k: k.name)
def test_estimators_run_where_the_episode_says(kind: type[Estimator]) -> None:
    with pytest.raises(NotImplementedError, match=CANNOT_COPY):
        kind(2, 0.1).estimate(THETA, EPISODE, None)


def test_validation_and_recordings_run_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_train, "POINTS", 2)
    with pytest.raises(NotImplementedError, match=CANNOT_COPY):
        validation_loss(ToyTask(), THETA, 2, 1, "meta")
    with pytest.raises(NotImplementedError, match=CANNOT_COPY):
        stop_train.Recorder(THETA, runs=1).record(EPISODE)


class Asked(stop_train.Recorder):
    """Says where it was asked to record."""

    def record(self, episode: Episode) -> str:  # type: ignore[override]
        return episode.device


def test_the_pool_hands_its_device_to_the_workers() -> None:
    config = MetaTrainConfig(estimator="es", pairs=1, steps_min=2, steps_max=2, valid_steps=2)
    with Pool(ToySource(), 1, "meta") as pool:
        with pytest.raises(NotImplementedError, match=CANNOT_COPY):
            pool.estimate(ESTIMATORS["es"](1, 0.1), THETA, [draw(config, 0)], [None])
        with pytest.raises(NotImplementedError, match=CANNOT_COPY):
            pool.validate(THETA, config, 1)
        asked = [*pool.record(Asked(THETA), [draw(config, 0)]), *pool.record_valid(Asked(THETA))]
        assert {future.result() for future in asked} == {"meta"}


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


@needs_gpu
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    here, there = (Problem(ToyTask(), [0, 1], device=d) for d in ("cpu", "cuda"))
    _, slow = unroll(here, THETA, here.begin(), 0, 8, Telling(8), valid_at=(8,), compiled=False)
    _, fast = unroll(there, THETA, there.begin(), 0, 8, Telling(8), valid_at=(8,))
    torch.testing.assert_close(fast.cpu().losses, slow.losses, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(fast.cpu().valid, slow.valid, rtol=1e-3, atol=1e-5)

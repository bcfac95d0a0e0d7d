"""The grid: what is reused, what is not, and that an interruption changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import joblib
import pytest
import torch
from compare_toy import BrokenTask, TinyTask, plan

import learnopt.compare
from learnopt import report, training
from learnopt.compare import Comparison, Plan, compare
from learnopt.jobs import Job, probe
from learnopt.kernels import library
from learnopt.run_store import RunStore
from learnopt.training import RunConfig, train
from learnopt.tuning import GRID, TUNING_SEED

TOY = Path(__file__).with_name("compare_toy.py")


def outcome(result: Comparison) -> object:
    """All that does not depend on the clock."""
    losses = {key: [(run.losses, run.validation, run.config) for run in runs] for key, runs in result.runs.items()}
    return losses, {key: (found.settings, found.value, found.runs) for key, found in result.tuned.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, compare(plan(), folder, workers=1)


def test_runs_and_tuning_cost(finished: tuple[Path, Comparison]) -> None:
    folder, result = finished
    assert [[run.config["seed"] for run in runs] for runs in result.runs.values()] == [[0, 1]] * 4
    assert {key: (t.runs, t.steps) for key, t in result.tuned.items()} == {
        ("tiny-a", "adamw"): (4, 80), ("tiny-b", "adamw"): (4, 80),
    }  # fmt: skip
    # 2 tasks x (2 seeds x 2 optimizers + 4 trials)
    assert len(list((folder / "runs").glob("*.json"))) == 16
    stored = [json.loads(path.read_text())["run"] for path in (folder / "runs").glob(f"*--{TUNING_SEED}--*.json")]
    assert len(stored) == 8
    assert all(run["losses"] == [] for run in stored)


def test_the_best_trial_is_evaluated(finished: tuple[Path, Comparison]) -> None:
    _, result = finished
    for (task, name), found in result.tuned.items():
        assert all(run.config["lr"] == found.settings.lr for run in result.runs[task, name])


def test_a_second_call_trains_nothing(finished: tuple[Path, Comparison], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, result = finished
    monkeypatch.setattr("learnopt.jobs.train", lambda *_: pytest.fail("trained again"))
    assert outcome(compare(plan(), folder, workers=1)) == outcome(result)


def test_half_of_the_runs_lost(finished: tuple[Path, Comparison], tmp_path: Path) -> None:
    folder, result = finished
    (tmp_path / "runs").mkdir()
    for path in sorted((folder / "runs").glob("*.json"))[::2]:
        (tmp_path / "runs" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "runs" / ".half.json.1.tmp").write_text("{")
    assert outcome(compare(plan(), tmp_path, workers=1)) == outcome(result)
    assert not list((tmp_path / "runs").glob(".*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_and_resume_equals_uninterrupted(workers: int, finished: tuple[Path, Comparison], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(TOY), str(tmp_path)]
    process = subprocess.Popen([*words, "0.01", str(workers)], env=environment, start_new_session=True)
    limit = time.monotonic() + 60
    while len(list(runs.glob("*.json"))) < 4 and time.monotonic() < limit:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 4 <= len(list(runs.glob("*.json"))) < 16
    assert not (tmp_path / report.JSON).exists()
    assert outcome(compare(plan(), tmp_path, workers=1)) == outcome(finished[1])


def test_workers_end_soon_after_the_comparison_was_killed(tmp_path: Path) -> None:
    """Also those that have nothing to do; what reads their output waited for ever."""
    words = [sys.executable, str(TOY), str(tmp_path), "0.05", "2"]
    process = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE)
    limit = time.monotonic() + 60
    while len(list((tmp_path / "runs").glob("*.json"))) < 14 and time.monotonic() < limit:
        time.sleep(0.02)
    process.kill()
    assert process.stdout is not None
    process.communicate(timeout=30)  # until the last of them has closed it


def test_workers_give_the_same_result(finished: tuple[Path, Comparison], tmp_path: Path) -> None:
    heard: list[tuple[float, float]] = []
    result = compare(plan(), tmp_path, workers=2, listener=lambda done, total: heard.append((done, total)))
    assert outcome(result) == outcome(finished[1])
    assert heard[-1][0] == heard[-1][1] > 0


def test_a_backend_chosen_outside_is_used(finished: tuple[Path, Comparison], tmp_path: Path) -> None:
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert outcome(compare(plan(), tmp_path)) == outcome(finished[1])


CONFIG = RunConfig("tiny", "adam", 0, 20, 1e-3, "constant", task_digest="abc")


@pytest.mark.parametrize(
    "change",
    [{"task": "other"}, {"device": "cuda:0"}, {"optimizer": "sgd"}, {"seed": 1}, {"steps": 21}, {"lr": 2e-3},
     {"schedule": "cosine"}, {"points": 0}, {"task_digest": "abd"}, {"weights": "v2"}, {"weights_digest": "f"}],
)  # fmt: skip
def test_a_run_of_another_configuration_is_not_reused(change: dict[str, object], tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.put(CONFIG, train(TinyTask(), CONFIG))
    assert store.get(CONFIG) is not None
    other = replace(CONFIG, **change)  # type: ignore[arg-type]
    assert store.get(other) is None
    # not even under its name
    store.path(other).write_bytes(store.path(CONFIG).read_bytes())
    assert store.get(other) is None


@pytest.mark.parametrize("name", ["batch", "validation", "_module"])
def test_a_probe_sees_all_data_and_the_initial_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, usual = TinyTask(), getattr(TinyTask, name)
    before = probe(task).digest
    assert probe(task).digest == before

    def other(self: TinyTask, *which: int) -> object:
        found = usual(self, *which)
        if isinstance(found, tuple):
            return found if which == (0, 0) else (found[0] + 1, found[1])
        torch.nn.init.ones_(found[0].weight)
        return found

    monkeypatch.setattr(TinyTask, name, other)
    assert probe(task).digest != before


def test_a_job_stores_its_run_before_it_reports(tmp_path: Path) -> None:
    """So that what it has done outlives a comparison that is killed."""
    config, finished, tuned = Job(TinyTask(), CONFIG, tmp_path, 0.0)()
    assert (config, tuned, [c for c, _ in finished]) == (CONFIG, None, [CONFIG])
    assert RunStore(tmp_path).get(CONFIG) == finished[0][1]


def test_every_source_of_the_kernel_is_in_the_digest_of_the_rule() -> None:
    assert {f"kernels/{name}" for name in library.SOURCES + library.HEADERS} <= set(learnopt.compare._ARITHMETIC)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1, "run": {"x": 1}}', '{"format": 0}'])
def test_a_damaged_run_is_as_good_as_absent(content: str, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.path(CONFIG).write_text(content)
    assert store.get(CONFIG) is None


def test_other_data_is_another_task(finished: tuple[Path, Comparison], tmp_path: Path) -> None:
    first = compare(Plan([TinyTask("same", 4)], ["adam"], seeds=1), tmp_path, workers=1)
    second = compare(Plan([TinyTask("same", 5)], ["adam"], seeds=1), tmp_path, workers=1)
    assert outcome(first) != outcome(second)


def test_divergences_are_counted_and_do_not_stop_the_search(tmp_path: Path) -> None:
    result = compare(Plan([BrokenTask("broken")], ["adam", "adamw"], seeds=1, trials=3), tmp_path, workers=1)
    entry = report.document(result, "toy", 1, 1.0)
    assert entry["figures"]["adamw"]["diverged"] == 1
    json.dumps(entry, allow_nan=False)


def test_grid_tuner_tries_every_rate_and_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "POINTS", 0)
    result = compare(Plan([TinyTask()], ["sgd"], seeds=1, steps=5, tuner="grid"), tmp_path, workers=1)
    assert len(GRID) == 14
    assert (GRID[0], GRID[-1]) == (1e-4, 1.0)
    assert result.tuned["tiny", "sgd"].runs == 28


BAD = [
    (Plan([TinyTask()], ["adam"], seeds=0), r"--seeds must be 1 or more, got 0"),
    (Plan([TinyTask()], ["adam"], steps=-3), r"--steps must be 1 or more, got -3"),
    (Plan([TinyTask()], ["adam"], trials=0), r"--trials must be 1 or more, got 0"),
    (Plan([TinyTask()], ["adma"]), r"unknown optimizer 'adma'; choose from: learnopt, .*, adam, adamw"),
    (Plan([TinyTask()], []), r"no optimizers"),
    (Plan([], ["adam"]), r"no tasks"),
    (Plan([TinyTask(), TinyTask()], ["adam"]), r"task 'tiny' is given more than once"),
    (Plan([TinyTask()], ["adam", "adam"]), r"optimizer 'adam' is given more than once"),
    (Plan([TinyTask()], ["adam"], tuner="random"), r"unknown tuner 'random'; choose from: optuna, grid"),
    (Plan([TinyTask()], ["learnopt"], weights="v999"), r"unknown weights 'v999'; choose from: default"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_plans(bad: Plan, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        compare(bad, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_where_no_optimizer_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learnopt.baselines.base.find_spec", lambda name: None)
    alone = Plan([TinyTask()], ["prodigy"], seeds=1)
    with pytest.raises(ValueError, match="prodigyopt is not installed"):
        alone.check()
    with pytest.raises(ValueError, match="prodigyopt is not installed"):
        compare(alone, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    result = compare(Plan([TinyTask()], ["adam", "prodigy"], seeds=1), tmp_path / "out", workers=1)
    assert result.optimizers == ["adam"]
    assert "prodigyopt is not installed" in result.skipped[0]

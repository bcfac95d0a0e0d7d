"""Meta-training: exact resume, any number of workers, clear errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from meta_train_toy import config
from toy import ToySource

from learnopt import artifact, canvas, export, features, meta_network, workers
from learnopt.checkpoint import FILE, load_checkpoint, read_log, save_checkpoint
from learnopt.episodes import draw
from learnopt.estimators import ESTIMATORS
from learnopt.kernels import in_place
from learnopt.meta_config import MetaTrainConfig, parse_config, read_config
from learnopt.meta_report import draw_curve, table
from learnopt.meta_train import MetaTrainer, make_estimator
from learnopt.stop_train import Recorder
from learnopt.workers import Pool

SCRIPT = Path(__file__).with_name("meta_train_toy.py")
STEPS = 7


def start(out: Path, estimator: str, workers: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(out), estimator, str(STEPS), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(out: Path, estimator: str, workers: int = 1) -> None:
    process = start(out, estimator, workers)
    process.communicate(timeout=120)
    assert process.returncode == 0


def kill_after(out: Path, estimator: str, lines: int) -> None:
    process = start(out, estimator)
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in read_log(out)]


# imitation keeps no state, like es: test_estimators_imitation.py resumes it without processes
@pytest.mark.parametrize("estimator", sorted(ESTIMATORS.keys() - {"imitation"}))
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, estimator: str) -> None:
    finish(tmp_path / "whole", estimator, workers=2)
    kill_after(tmp_path / "killed", estimator, lines=3)
    at_kill = load_checkpoint(tmp_path / "killed", config(estimator, STEPS))
    assert at_kill is not None
    assert 0 < at_kill.meta_step < STEPS
    finish(tmp_path / "killed", estimator)
    a, b = (load_checkpoint(tmp_path / name, config(estimator, STEPS)) for name in ("whole", "killed"))
    assert a is not None
    assert b is not None
    assert a.meta_step == STEPS
    assert torch.equal(a.theta, b.theta)
    assert torch.equal(a.best_theta, b.best_theta)
    assert not torch.equal(a.theta, at_kill.theta)
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
    assert [r["meta_step"] for r in rows(tmp_path / "whole")] == list(range(STEPS + 1))


def test_interrupt_saves_and_ends_at_once(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path), "es", "100000", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    seen = [int(process.stdout.readline().split()[0]) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    saved = load_checkpoint(tmp_path, config("es", 100000))
    assert saved is not None
    assert saved.meta_step >= seen[-1] == 3


def test_a_second_interrupt_waits_until_the_first_has_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(*what: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        save_checkpoint(*what)

    def first(row: dict[str, Any]) -> None:
        monkeypatch.setattr("learnopt.meta_train.save_checkpoint", impatient)
        signal.raise_signal(signal.SIGINT)

    settings = config("nodes", 3).model_copy(update={"checkpoint_minutes": 60})
    with Pool(ToySource(), 1) as pool:
        trainer = MetaTrainer(settings, ToySource(), tmp_path, pool, listener=first)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    saved = load_checkpoint(tmp_path, settings)
    assert saved is not None
    assert trainer.saved == saved.meta_step == 1


def test_stop_head_recordings_come_from_the_pool() -> None:
    recorder = Recorder(meta_network.initial_theta(torch.Generator().manual_seed(0)), runs=2)
    specs = [draw(config("es", 1), "stop", i) for i in range(2)]
    with Pool(ToySource(), 1) as pool:
        train = [f.result() for f in pool.record(recorder, specs)]
        valid = [f.result() for f in pool.record_valid(recorder)]
    assert len(train) == 2
    assert len(valid) == 4  # two tasks, horizon told and not
    told, untold = (v.columns[0, 0, features.GLOBAL.index("horizon_known")] for v in valid[:2])
    assert (told, untold) == (1, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    with Pool(ToySource(), 1) as pool:
        MetaTrainer(config("es", 3), ToySource(), out, pool).run()
    return out


def test_changed_settings_are_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"pairs 2 -> 4"):
        load_checkpoint(trained, config("es", 3).model_copy(update={"pairs": 4}))


@pytest.mark.parametrize(("name", "usual", "other"), [("kernel", True, False), ("training_share", 0.0, 0.5)])
def test_a_checkpoint_older_than_a_setting_was_made_with_its_default(
    trained: Path, tmp_path: Path, name: str, usual: object, other: object
) -> None:
    plain = torch.load(trained / FILE, weights_only=True)
    saved = json.loads(plain["config"])
    assert saved.pop(name) == usual
    torch.save({**plain, "config": json.dumps(saved)}, tmp_path / FILE)
    assert load_checkpoint(tmp_path, config("es", 3)) is not None
    with pytest.raises(ValueError, match=f"{name} {usual} -> {other}"):
        load_checkpoint(tmp_path, config("es", 3).model_copy(update={name: other}))


def test_without_the_kernel_torch_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse_config({"kernel": "false", "estimator": "es", "pairs": 1}, "--set")
    assert make_estimator(settings).kernel is settings.kernel is False
    theta = meta_network.initial_theta(torch.Generator().manual_seed(0))
    monkeypatch.setattr(workers, "_source", ToySource())
    usual = workers._validate(theta, 0, 8, 1, kernel=True)
    monkeypatch.setattr(in_place, "InPlaceRuns", None)
    assert workers._validate(theta, 0, 8, 1, kernel=False) == (usual[0], pytest.approx(usual[1], rel=1e-3))


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_damaged_checkpoint_is_refused(trained: Path, tmp_path: Path, damage: bytes | None) -> None:
    data = (trained / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(data[: len(data) // 2] if damage is None else damage)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path, config("es", 3))


def test_export_and_report(trained: Path, tmp_path: Path) -> None:
    state = load_checkpoint(trained, config("es", 3))
    assert state is not None
    export.weights(tmp_path, state, config("es", 3), "learnopt meta-train")
    loaded = artifact.load(tmp_path / "weights.safetensors")
    assert torch.equal(loaded.theta, state.best_theta)
    assert loaded.card["command"] == "learnopt meta-train"
    assert loaded.card["config"]["seed"] == 5
    assert draw_curve(read_log(trained), tmp_path).read_bytes().startswith(b"\x89PNG")
    assert table(read_log(trained)).row_count == 3


@pytest.mark.parametrize("estimator", ["es", "imitation"])
def test_the_curve_s_axes_say_what_is_drawn(estimator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(canvas, "save", lambda figure, path, dpi: drawn.append(figure) or path)
    steps = [{"meta_step": 1, "meta_loss": 0.3}, {"meta_step": 2, "meta_loss": 0.2, "valid": -1.0}]
    draw_curve(steps, tmp_path, ESTIMATORS[estimator].measure)
    labels = [axes.get_ylabel() for axes in drawn[0].axes]
    other = {"es": [], "imitation": ["distance from AdamW's steps"]}[estimator]
    assert labels == [*other, "meta-loss (log of loss over initial loss)"]
    assert [len(axes.lines) for axes in drawn[0].axes] == ([2, 2] if other else [4])


def test_episodes_are_drawn_as_configured() -> None:
    settings = MetaTrainConfig(steps_min=50, steps_max=400, horizon_unknown=0.3, horizon_wrong=0.5, loss_withheld=0.2)
    specs = [draw(settings, 0, i) for i in range(2000)]
    assert specs[:5] == [draw(settings, 0, i) for i in range(5)]
    unknown = [s for s in specs if s.telling.horizon == 0]
    wrong = [s for s in specs if s.telling.horizon not in (0, s.steps)]
    assert abs(len(unknown) / 2000 - 0.3) < 0.04
    assert abs(len(wrong) / 2000 - 0.7 * 0.5) < 0.04
    assert abs(sum(not s.telling.loss for s in specs) / 2000 - 0.2) < 0.04
    assert all(50 <= s.steps <= 400 for s in specs)
    assert all(0.49 < s.telling.horizon / s.steps < 2.01 for s in wrong)
    below = sum(s.steps < (50 * 400) ** 0.5 for s in specs)
    assert abs(below / 2000 - 0.5) < 0.04  # log-uniform


@pytest.mark.parametrize(
    ("table_", "message"),
    [
        ({"pairs": 0}, r"pairs = 0"),
        ({"estimator": "sgd"}, r"unknown estimator 'sgd'; choose from backprop, es, imitation, nodes, nres, pes"),
        ({"speed": 3}, r"speed = 3.*settings: suite"),
        ({"sigma": "wide"}, r"sigma = 'wide'"),
        ({"steps_min": 300, "steps_max": 200}, r"steps_min 300 is above steps_max 200"),
        ({"frozen": ["lstm"]}, r"unknown part 'lstm'; choose from global, tensor, parameter, global_in"),
        ({"frozen": 3}, r"frozen = 3"),
        ({"frozen": [["mlp_in"]]}, r"frozen"),
        ({"frozen": "global,tensor,parameter"}, r"nothing is left to learn"),
        ({"frozen": list(meta_network.SHAPES)}, r"nothing is left to learn"),
        ({"horizon_unknown": 1.5}, r"horizon_unknown = 1.5"),
    ],
)
def test_bad_settings(table_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_config(table_, "file.toml")
    assert "\n" not in str(error.value)


def test_levels_stand_for_their_parts() -> None:
    assert [part for parts in meta_network.LEVELS.values() for part in parts] == list(meta_network.SHAPES)
    frozen = parse_config({"frozen": "parameter, mlp_bias,global_out"}, "settings").frozen
    assert frozen == ("mlp_in", "mlp_context", "mlp_bias", "mlp_out", "mlp_out_bias", "global_out")
    parts = parse_config({"frozen": list(frozen)}, "settings")
    assert parts.frozen == frozen  # so that a checkpoint's settings are those that were asked for


def test_bad_config_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read config"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("pairs = = 3")
    with pytest.raises(ValueError, match="not valid TOML"):
        read_config(tmp_path / "bad.toml")
    (tmp_path / "good.toml").write_text("pairs = 3")
    assert read_config(tmp_path / "good.toml").pairs == 3


def test_pool_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="got 0"):
        Pool(ToySource(), 0)

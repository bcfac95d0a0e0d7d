"""Recordings on disk, as frames, as tables and as a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from learnopt import recording
from learnopt import recording_figures as figures
from learnopt.cli import run
from learnopt.recording import RUN, TENSOR, Recording

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]
SHAPES = [(3, 5), (3,), (2, 3), (2,)]


def made_up(rows: int = 30, **changes: Any) -> Recording:
    """A recording with numbers of every kind; the last tensor never moves."""
    rng = np.random.default_rng(0)
    kept = Recording(list(NAMES), list(SHAPES), 0.9, total_steps=20)
    for step in range(1, rows + 1):
        loss = None if step == 2 else 2.0 / step
        values = {"step": step, "loss": loss, "loss_average": 2.0 / step, "schedule": 1.0 - step / 40,
                  "stop_probability": step / 40, "skipped": float(step > 7)} | changes  # fmt: skip
        tensors = {name: rng.uniform(0.1, 0.9, 4) for name in TENSOR}
        tensors["momentum"] = 1 - tensors["gradient"]
        for numbers in tensors.values():
            numbers[3] = 0
        tensors["orthogonal"][1] = 0
        kept.add(values, tensors)
    return kept


def assert_equal(a: Recording, b: Recording) -> None:
    assert {**vars(a), "rows": len(a.rows)} == {**vars(b), "rows": len(b.rows)}
    for name in RUN:
        np.testing.assert_allclose(a.column(name), b.column(name), rtol=1e-8)
    for name in TENSOR:
        np.testing.assert_allclose(a.values(name), b.values(name), rtol=1e-4)


def test_saved_and_loaded(tmp_path: Path) -> None:
    kept = made_up()
    kept.stopped, kept.evidence = (28, "step 28: because"), [("losses have stopped falling", 1.5)]
    path = kept.save(tmp_path / "deep" / "run.json")
    assert_equal(recording.load(path), kept)
    assert "NaN" not in path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]  # nothing half-written is left
    empty = Recording(["p"], [(1,)], 0.9)
    assert_equal(recording.load(empty.save(tmp_path / "empty.json")), empty)


def test_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"recording cannot be written to .*file/run"):
        made_up().save(tmp_path / "file" / "run.json")


def test_frames() -> None:
    kept = made_up()
    frame = kept.frame()
    assert list(frame.columns) == list(RUN[1:])
    assert frame.index.tolist() == list(range(1, 31))
    assert math.isnan(frame.loc[2, "loss"])  # type: ignore[arg-type]
    assert frame.loc[4, "loss"] == 0.5
    tensors = kept.tensor_frame()
    assert list(tensors.columns) == list(TENSOR)
    assert len(tensors) == 30 * 4
    assert tensors.loc[(7, "2.weight"), "pull"] == kept.values("pull")[6, 2]


def test_figures() -> None:
    kept = made_up(3)
    shares = figures.directions(kept)
    total = sum(shares.values())
    np.testing.assert_allclose(total[:, :3], 1, rtol=1e-6)
    assert np.isnan(total[:, 3]).all()
    orthogonal = kept.values("orthogonal").astype(float)
    np.testing.assert_allclose(shares["gradient"][:, 0], ((1 - orthogonal) * kept.values("gradient"))[:, 0])
    mean = figures.over_parameters(kept, shares["orthogonal"])
    np.testing.assert_allclose(mean, (15 * orthogonal[:, 0] + 6 * orthogonal[:, 2]) / 24, rtol=1e-6)
    rates = kept.values("learning_rate")
    np.testing.assert_allclose(figures.learning_rate(kept, [0, 2, 3]), np.sqrt(rates[:, 0] * rates[:, 2]), rtol=1e-6)
    assert np.isnan(figures.learning_rate(kept, [3])).all()


def damaged(**changes: Any) -> str:
    return json.dumps(made_up(3).as_dict() | changes)


BAD = {
    "[1]": "is no recording",
    '{"kind": "something"}': "is no recording",
    "{": "is not valid JSON",
    "\\x00": "is not valid JSON",
    damaged(format=9): "has format 9",
    damaged(names=["one"]): "is damaged",
    damaged(shapes=[[1]]): "is damaged",
    damaged(run={}): "is damaged",
    damaged(run=made_up(3).as_dict()["run"] | {"step": [1, 3, 2]}): "steps that do not rise",
    damaged(run=made_up(3).as_dict()["run"] | {"step": [None, None, None]}): "steps that do not rise",
    damaged(run=made_up(3).as_dict()["run"] | {"schedule": [1, None, 1]}): "numbers that are missing",
    damaged(run=made_up(3).as_dict()["run"] | {"loss": [1]}): "is damaged",
    damaged(every="often"): "is damaged",
    damaged(threshold=None): "is damaged",
    damaged(evidence=[1]): "is damaged",
    damaged(total_steps="many"): "is damaged",
    json.dumps(Recording(["p"], [(1,)], 0.9).as_dict()): "has no steps in it",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_files_are_named_in_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(text)
    assert run(["report", str(tmp_path / "run.json")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("learnopt: error: ")
    assert captured.err.count("\n") == 1
    assert "run.json" in captured.err
    assert BAD[text] in captured.err
    assert captured.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = made_up()
    kept.stopped = (28, "step 28: 95 % sure that it is over")
    kept.evidence = [("losses have stopped falling", 1.5), ("gradients agree", -2.0), ("nothing", 0.0)]
    path = kept.save(tmp_path / "run.json")
    assert run(["report", str(path)]) == 0
    out = capsys.readouterr().out
    parts = ("30, planned 20", "2 at first, 0.067 at last", "step 28: 95 % sure", "+1.5 losses have stopped falling",
             "-2.0 gradients agree", "0 (3 x 5)", "skipped", "wrote ")  # fmt: skip
    assert [part for part in parts if part not in out] == []
    assert "nothing" not in out
    assert (tmp_path / "run.png").exists()
    height, width, _ = image.imread(tmp_path / "run.png").shape
    assert (width, height) == (1375, 924)


UNUSUAL = {
    "one row": (made_up(1), "1, planned 20"),
    "never told a loss": (made_up(loss=None, loss_average=None), "never told"),
    "negative losses": (made_up(loss=-1.0, loss_average=-1.0), "-1 at first, -1 at last"),
    "no schedule": (made_up(schedule=0.0), "highest 0 at step 1, last 0"),
    "nothing moved": (Recording(list(NAMES), list(SHAPES), 0.9), "n/a"),
    "no horizon": (made_up(), "planned unknown"),
}
UNUSUAL["nothing moved"][0].add(dict.fromkeys(RUN, 1.0), {name: np.zeros(4) for name in TENSOR})
UNUSUAL["no horizon"][0].total_steps = None


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_recordings_are_drawn(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, words = UNUSUAL[kind]
    assert run(["report", str(kept.save(tmp_path / "run.json"))]) == 0
    assert words in capsys.readouterr().out
    assert (tmp_path / "run.png").stat().st_size > 10_000


def test_no_file_is_overwritten_by_its_own_picture(tmp_path: Path) -> None:
    path = made_up(3).save(tmp_path / "run.png")
    assert run(["report", str(path)]) == 0
    assert_equal(recording.load(path), made_up(3))
    assert (tmp_path / "run.png.png").exists()


def test_a_file_name_is_no_formula(tmp_path: Path) -> None:
    assert run(["report", str(made_up(3).save(tmp_path / r"a$\x_{$.json"))]) == 0
    assert (tmp_path / r"a$\x_{$.png").exists()

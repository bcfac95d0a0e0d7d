"""`learnopt fewshot bandit`, `l2l` and `ratings`: tables, records, pictures; and that a run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from learnopt.cli import run
from learnopt.fewshot.l2l_report import RATES
from learnopt.fewshot.optimizees import Quadratics
from learnopt.fewshot.problems import l2l


def records(out: Path, name: str, copy: Path) -> Any:
    record = json.loads((out / f"{name}.json").read_text())
    assert record == json.loads(copy.read_text())
    assert record["command"]
    assert record["versions"]["torch"]
    with Image.open(out / f"{name}.png") as picture:
        assert picture.size[0] > 300
    return record


def test_bandit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    command = ["fewshot", "bandit", "--arms", "3", "--pulls", "4", "--seeds", "2", "--tasks", "500", "--scale", "0.03"]
    command += ["--batch", "20", "--out", str(out), "--json", str(copy)]
    assert run(command) == 0
    rows = {row["policy"]: row for row in records(out, "bandit-3x4", copy)["rows"]}
    assert set(rows) == {"random", "greedy", "thompson", "ucb1", "gittins", "rl2", "optimal"}
    assert rows["random"]["mean"] == pytest.approx(2, abs=3 * rows["random"]["half"])
    assert rows["gittins"]["mean"] == pytest.approx(rows["optimal"]["mean"], abs=3 * rows["gittins"]["half"])
    assert rows["rl2"]["mean"] == pytest.approx(sum(rows["rl2"]["seeds"]) / 2, abs=1e-3)
    assert rows["rl2"]["mean"] == pytest.approx(sum(rows["rl2"]["course"]), abs=1e-3)
    assert "gittins" in capsys.readouterr().out
    saved = [p.stat().st_mtime_ns for p in sorted((out / "checkpoints").rglob("*.safetensors"))]
    assert len(saved) == 2
    assert run(command) == 0
    assert {row["policy"]: row["mean"] for row in records(out, "bandit-3x4", copy)["rows"]} == {
        name: row["mean"] for name, row in rows.items()
    }
    assert run([*command, "--batch", "21"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_l2l(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(
        l2l.PLANS["quadratics"], train=Quadratics(2), transfer={"three": Quadratics(3)}, meta_steps=2, meta_batch=2,
        settings={"horizon": 4, "window": 2}, marks=(2, 5), judged=3, tuning=2,
    )  # fmt: skip
    monkeypatch.setitem(l2l.PLANS, "quadratics", small)
    monkeypatch.setattr("learnopt.fewshot.l2l_report.RATES", (0.003, 0.03))
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    assert run(["fewshot", "l2l", "quadratics", "--seeds", "2", "--out", str(out), "--json", str(copy)]) == 0
    found = records(out, "l2l-quadratics", copy)["rows"]
    assert list(found) == ["quadratics", "three"]
    for rows in found.values():
        names = ["lstm", "sgd", "nesterov", "rmsprop", "adam", "LearnedOptimizer", "LearnedOptimizer, steps unknown"]
        assert [row["rule"] for row in rows] == names
        assert all(set(row["loss"]) == {"2", "5"} for row in rows)
        assert all(row["rates"]["2"] in (0.003, 0.03) for row in rows[1:5])
        assert len({row["course"][0] for row in rows}) == 1, "all start at the same loss"
    shown = capsys.readouterr().out
    assert "adam" in shown
    assert "±" in shown


def test_rates_are_four_a_decade() -> None:
    assert RATES[0] == 1e-4
    assert RATES[-1] == 10
    assert all(b / a == pytest.approx(10**0.25) for a, b in pairwise(RATES))


def test_ratings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    command = ["fewshot", "ratings", "--tasks", "30", "--scale", "0.005", "--out", str(out), "--json", str(copy)]
    assert run([*command, "--learners", "item-means,best-possible,anil,metalstm"]) == 0
    rows = records(out, "ratings", copy)["rows"]
    assert {row["entry"] for row in rows} == {"item-means", "best-possible", "anil", "metalstm"}
    assert "metalstm" in capsys.readouterr().out

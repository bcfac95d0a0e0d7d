"""`learnopt fewshot`, its table, its files, and the examples."""

from __future__ import annotations

import json
import os
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from learnopt import cli_fewshot
from learnopt.cli import run
from learnopt.cli_fewshot import PROBLEMS
from learnopt.fewshot.experiment import Experiment

EXAMPLES = Path(__file__).parents[1] / "examples" / "fewshot"


def drawings(folder: Path, alphabets: list[str], seed: int) -> Path:
    """A small tree as Omniglot's: characters of 20 drawings each."""
    rng = np.random.default_rng(seed)
    for alphabet in alphabets:
        for k in range(4):
            place = folder / alphabet / f"character{k:02d}"
            place.mkdir(parents=True)
            shape = rng.random((4, 4)) < 0.4
            for i in range(20):
                ink = 255 * (1 - np.kron(shape, np.ones((3, 3)))) * (rng.random((12, 12)) > 0.1)
                Image.fromarray(ink.astype(np.uint8)).save(place / f"{i}.png")
    return folder


def test_sinusoid_prints_a_table_and_writes_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", tmp_path / "figures.json"
    words = ["fewshot", "sinusoid", "--learners", "maml-1,metasgd-1,reptile,scratch", "--seeds", "2", "--tasks", "20"]
    command = [*words, "--scale", "0.0003", "--out", str(out), "--json", str(file)]
    assert run(command) == 0
    shown = capsys.readouterr()
    assert "maml-1" in shown.out
    assert "±" in shown.out
    assert "metasgd learned its rates for 1 inner steps" in " ".join(shown.err.split())
    record = json.loads(file.read_text())
    assert record == json.loads((out / "sinusoid.json").read_text())
    assert {row["entry"] for row in record["rows"]} == {"maml-1", "metasgd-1", "reptile", "scratch"}
    first = record["rows"][0]
    cells = [c for c in record["cells"] if c["entry"] == "maml-1"]
    assert first["mean"] == pytest.approx(np.mean([c["tests"]["10 shots"][0]["loss_mean"] for c in cells]))
    assert first["tasks"] == 40
    assert record["command"]
    assert record["versions"]["torch"]
    with Image.open(out / "sinusoid.png") as picture:
        assert picture.size[0] > 300
    assert "| maml-1 | 10 shots | 1 |" in (out / "sinusoid.md").read_text()

    before = {p: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    assert len(before) == 8
    assert run(command) == 0  # nothing is done twice
    assert {p: p.stat().st_mtime_ns for p in (out / "cells").iterdir()} == before
    capsys.readouterr()
    assert run([*words, "--scale", "0.001", "--out", str(out)]) == 2
    assert "was made with meta_steps" in capsys.readouterr().err


def test_omniglot_runs_on_folders_and_leaves_shared_alphabets_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = drawings(tmp_path / "train", ["Greek", "Latin", "Korean", "Futurama", "Angelic"], 0)
    test = drawings(tmp_path / "test", ["Greek", "Tagalog", "Sanskrit"], 1)
    out = tmp_path / "out"
    command = ["fewshot", "omniglot", str(train), str(test), "--ways", "5", "--size", "12", "--scale", "0.002"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert run([*command, "--tasks", "3", "--out", str(out)]) == 0
    record = json.loads((out / "omniglot.json").read_text())
    found = {row["entry"] for row in record["rows"]}
    learners = {"maml", "anil", "reptile", "metalstm"}
    assert found == {"raw-pixels", "prototypical", "siamese", "scratch", "pretrain"} | learners
    assert all("8 classes" in c["test"]["5-way 1-shot"] for c in record["cells"])  # Greek is left out
    assert [row["entry"] for row in record["verification"]] == ["siamese", "siamese"]
    assert "AUC" in capsys.readouterr().out
    assert run(["fewshot", "omniglot", str(train), str(tmp_path / "train"), "--out", str(out)]) == 2
    assert "has no alphabet or class that" in capsys.readouterr().err


def test_plain_folders_of_classes_will_do(tmp_path: Path) -> None:
    for part, classes in (("train", "abcde"), ("test", "efghi")):
        for i, name in enumerate(classes):
            (tmp_path / part / name).mkdir(parents=True)
            for j in range(20):
                Image.new("L", (8, 8), 10 * i + j).save(tmp_path / part / name / f"{j}.png")
        (tmp_path / part / "__MACOSX").mkdir()
        (tmp_path / part / "__MACOSX" / "0.png").write_bytes(b"no image")
    words = ["--ways", "3", "--size", "8", "--learners", "raw-pixels", "--tasks", "3", "--out", str(tmp_path / "out")]
    assert run(["fewshot", "omniglot", str(tmp_path / "train"), str(tmp_path / "test"), *words]) == 0
    record = json.loads((tmp_path / "out" / "omniglot.json").read_text())
    assert all("4 classes" in c["test"]["3-way 1-shot"] for c in record["cells"])  # e is in both


def test_glyphs_are_drawn_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_fewshot, "CLASSES", 24)
    monkeypatch.setattr(cli_fewshot, "TEST_CLASSES", 8)
    words = ["--ways", "5", "--learners", "raw-pixels,anil,anil", "--tasks", "30", "--scale", "0.002"]
    assert run(["fewshot", "glyphs", *words, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "glyphs.json").read_text())
    assert [c["entry"] for c in record["cells"]] == ["raw-pixels", "anil"]
    found = {(r["entry"], r["test"]): r["mean"] for r in record["rows"]}
    assert 0.3 < found["raw-pixels", "5-way 1-shot"] < found["raw-pixels", "5-way 5-shot"] < 1


WITH_A_FOLDER = [[problem, "--json", "."] for problem in ("sinusoid", "bandit", "l2l")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sinusoid", "--learners", "mamal"], "unknown learner 'mamal'; choose from: maml-1"),
        (["sinusoid", "--seeds", "0"], "--seeds must be 1 or more, got 0"),
        (["sinusoid", "--tasks", "0"], "--tasks must be 1 or more, got 0"),
        (["sinusoid", "--scale", "0"], "--scale must be above 0, got 0"),
        (["glyphs", "--ways", "1"], "--ways takes whole numbers of 2 or more with commas between, got '1'"),
        (["glyphs", "--ways", "5,many"], "--ways takes whole numbers of 2 or more with commas between, got '5,many'"),
        (["omniglot", "no.zip", "no.zip"], "'no.zip' is neither a folder nor a zip archive"),
        *((problem, "--json must be a file, got the folder '.'") for problem in WITH_A_FOLDER),
        (["bandit", "--arms", "1"], "at least 2 arms, got 1"),
        (["bandit", "--pulls", "0"], "pulls must be a whole number of 1 or more, got 0"),
        (["bandit", "--seeds", "0"], "--seeds must be 1 or more, got 0"),
        (["bandit", "--scale", "0"], "--scale must be above 0, got 0"),
        (["l2l", "cubics"], "unknown problem 'cubics'; choose from: quadratics, digits"),
        (["l2l", "--seeds", "0"], "--seeds must be 1 or more, got 0"),
        (["l2l", "--scale", "-1"], "--scale must be above 0, got -1"),
        (["ratings", "--shots", "99"], "99 shots and 15 queries need as many items, got 100"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["fewshot", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*.json"))


def test_an_unknown_problem_is_told_the_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fewshot", "sinus"]) == 2
    assert f"choose from: {', '.join(PROBLEMS)}" in capsys.readouterr().err


def test_an_interrupt_speaks_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Experiment) -> None:
        raise KeyboardInterrupt(
            "interrupted at meta-step 3 of 9; the same call with out='checkpoints' goes on from here"
        )

    monkeypatch.setattr(Experiment, "run", interrupted)
    assert run(["fewshot", "sinusoid", "--out", str(tmp_path)]) == 130
    said = "learnopt: interrupted at meta-step 3 of 9; the same command goes on from there\n"
    assert capsys.readouterr().err == said


def test_every_problem_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in PROBLEMS:
        assert run(["fewshot", name, "--help"]) == 0
        assert "--seeds" in capsys.readouterr().out


@pytest.mark.skipif(
    not os.environ.get("LEARNOPT_DATA"), reason="needs LEARNOPT_DATA, a folder with Omniglot's archives"
)
def test_omniglots_own_archives(tmp_path: Path) -> None:
    small = [str(Path(os.environ["LEARNOPT_DATA"]) / f"omniglot_background_small{k}.zip") for k in (1, 2)]
    command = ["fewshot", "omniglot", *small, "--learners", "raw-pixels", "--tasks", "50", "--out", str(tmp_path)]
    assert run(command) == 0
    rows = {r["test"]: r["mean"] for r in json.loads((tmp_path / "omniglot.json").read_text())["rows"]}
    assert 0.15 < rows["20-way 1-shot"] < rows["5-way 1-shot"] < rows["5-way 5-shot"] < 0.95


def test_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for script in sorted(EXAMPLES.glob("*.py")):
        told = {"classes": 80} if script.stem == "metric" else {}
        told["meta_steps"] = {"rl2": 8, "l2l": 2}.get(script.stem, 40)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found[script.stem] = runpy.run_path(str(script))["main"](**told)
    assert set(found) == {"l2l", "maml", "metric", "ratings", "reptile", "rl2"}
    assert found["maml"] < 4
    assert found["reptile"] < 4
    assert found["metric"] > 0.6
    assert found["rl2"]["gittins"] > found["rl2"]["rl2"] > found["rl2"]["random"]
    assert found["l2l"]["adam"] < 1
    assert found["ratings"]["best-possible"] < found["ratings"]["metalstm"] < 2
    assert "±" in capsys.readouterr().out

"""The command line: what users see, above all when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from learnopt import artifact
from learnopt.cli import run
from learnopt.consoles import console

SMALL = ["--tasks", "cancer-mlp", "--optimizers", "adam,adamw", "--seeds", "1", "--steps", "4", "--trials", "2"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


BAD = [
    (["compare", "--tasks", "digits-mpl"], ["unknown task 'digits-mpl'", "digits-mlp"]),
    (["compare", "--tasks", ","], ["--tasks", "','"]),
    (["compare", "--tasks", "csv:gone.csv"], ["gone.csv"]),
    (["compare", "--tasks", "csv:empty.csv"], ["empty.csv"]),
    (["compare", "--tasks", "csv:words.csv"], ["words.csv"]),
    (["compare", "--optimizers", "adma"], ["unknown optimizer 'adma'", "adamw"]),
    (["compare", "--weights", "v999"], ["unknown weights 'v999'", "default"]),
    (["compare", "--seeds", "0"], ["--seeds", "got 0"]),
    (["compare", "--steps", "-3"], ["--steps", "got -3"]),
    (["compare", "--workers", "-1"], ["--workers", "got -1"]),
    (["compare", "--trials", "0"], ["--trials", "got 0"]),
    (["compare", "--tuner", "luck"], ["unknown tuner 'luck'", "optuna, grid"]),
    (["compare", "--out", "a-file/results", *SMALL], ["--out", "a-file"]),
    (["compare", "--seeds", "three"], ["--seeds", "'three'"]),
    (["compare", "--colour"], ["--colour"]),
    (["inspect", "v999"], ["unknown weights 'v999'", "default"]),
    (["inspect", "a-file"], ["a-file"]),
    (["report", "nowhere"], ["nowhere"]),
    (["contrast"], ["contrast", "compare, report"]),
]


@pytest.mark.parametrize(("words", "parts"), BAD, ids=[" ".join(words[:3]) for words, _ in BAD])
def test_bad_input(words: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "words.csv").write_text("a,b\nred,blue\ngreen,white\n")
    (tmp_path / "a-file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert run(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("learnopt: error: ")
    assert captured.err.count("\n") == 1
    assert all(part in captured.err for part in parts), captured.err
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_inspect_prints_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card == artifact.load("default").card
    assert run(["inspect", "default"]) == 0
    printed = capsys.readouterr().out
    for part in (card["sha256"], "config.seed", str(card["config"]["seed"]), card["command"], "stop head", "learned"):
        assert part in printed


def test_compare_then_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "wide")
    assert run(["compare", *SMALL, "--workers", "1", "--out", "o"]) == 0
    out = capsys.readouterr().out
    assert "AdamW tuned" in out
    assert "wrote o/report.md" in out
    (tmp_path / "o" / "ratios.png").unlink()
    before = (tmp_path / "o" / "report.md").read_text()
    assert run(["report", "o"]) == 0
    assert (tmp_path / "o" / "ratios.png").exists()
    assert (tmp_path / "o" / "report.md").read_text() == before


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("compare", "report", "meta-train"))


def test_what_cannot_be_resumed_does_not_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("learnopt.cli_inspect.artifact.load", interrupted)
    assert run(["inspect"]) == 130
    assert capsys.readouterr().err == "learnopt: interrupted\n"


def test_files_that_cannot_be_written_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "a/b.json")

    monkeypatch.setattr("learnopt.cli_inspect.artifact.load", full)
    assert run(["inspect"]) == 2
    assert capsys.readouterr().err == "learnopt: error: a/b.json: No space left on device\n"


def test_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "learnopt", "compare", "--tasks", "cancer-mlp,diabetes-mlp", "--seeds", "9"]
    process = subprocess.Popen(
        [*words, "--workers", "2", "--out", "o"], stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    limit = time.monotonic() + 60
    while not list((tmp_path / "o" / "runs").glob("*.json")) and time.monotonic() < limit:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--out o goes on from there" in err
    assert "Traceback" not in err
    assert not (tmp_path / "o" / "compare.json").exists()


def test_what_the_terminal_cannot_show_is_no_reason_to_fail(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "learnopt", "compare", *SMALL, "--workers", "1", "--out", "größe ü"]
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert r"wrote gr\xf6\xdfe \xfc/report.md" in done.stdout
    assert "--out 'größe ü'" in (tmp_path / "größe ü" / "report.md").read_text()


def test_names_that_look_like_emoji_or_markup_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for stderr in (False, True):
        console(stderr).print(":date: [red]x[/red]")
    assert capsys.readouterr() == (":date: [red]x[/red]\n",) * 2

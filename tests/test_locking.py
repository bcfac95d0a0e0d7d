"""One process at a time per folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compare_toy import TinyTask

from learnopt.cli import run
from learnopt.compare import Plan, compare
from learnopt.locking import locked

HOLD = """
import sys
from pathlib import Path
from learnopt.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_a_killed_one_lets_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = hold(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run(["meta-train", "--out", str(tmp_path), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert "is in use by another learnopt process" in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match="in use by another"):
        compare(Plan([TinyTask()], ["adam"], seeds=1), tmp_path, workers=1)
    first.kill()
    first.communicate()
    with locked(tmp_path):
        pass


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to --out"), locked(tmp_path / "file"):
        pass

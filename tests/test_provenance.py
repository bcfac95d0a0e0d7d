"""Where results come from: how the command was typed, what a record begins with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from learnopt.provenance import typed, write_record


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/learnopt", "tune", "a.csv"], "learnopt tune a.csv"),
        (["/somewhere/learnopt/__main__.py", "tune", "a.csv"], "learnopt tune a.csv"),
        (["benchmarks/paired.py", "out.json"], "python benchmarks/paired.py out.json"),
        (["learnopt", "compare", "--out", "my runs"], "learnopt compare --out 'my runs'"),
    ],
)
def test_the_command_as_it_was_typed(argv: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert typed() == expected


def test_a_record_says_where_it_comes_from(tmp_path: Path) -> None:
    path = write_record(tmp_path / "record.json", seeds=3)
    entry = json.loads(path.read_text())
    assert list(entry)[:5] == ["command", "date", "commit", "versions", "machine"]
    assert entry["versions"]["torch"] == torch.__version__
    assert entry["seeds"] == 3

"""The scripts in examples/ run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")  # Lightning's own, then its advice
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_example(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    accuracy = runpy.run_path(str(script))["main"](steps=60)
    assert accuracy > 0.8  # ten classes
    assert "learning rate" in capsys.readouterr().out

"""The benchmark that publishes who passes which check: what it reads, counts and prints is what pytest found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from benchmark_script import load

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "conformance.py"
RECORD = ROOT / "results" / "conformance" / "conformance.json"

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_torch_behaviours" name="test_errors[SGD]"/>
<testcase classname="tests.test_torch_behaviours" name="test_tensor_lr[SGD-0]">
  <failure message="\n ValueError: no tensors&#10;more">trace</failure></testcase>
<testcase classname="tests.test_torch_behaviours" name="test_tensor_lr[SGD-1]">
  <skipped type="pytest.xfail" message="by design"/></testcase>
<testcase classname="tests.test_torch_states" name="test_step_hooks[SGD]"><error message="">trace</error></testcase>
<testcase classname="tests.test_torch_surroundings" name="test_closures[SGD]"/>
<testcase classname="tests.test_optimizer_distributed" name="test_of_ours_alone"/>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def conformance() -> ModuleType:
    return load("conformance")


def test_what_is_not_passed_is_counted_with_its_reason(conformance: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    checks = conformance.read(tmp_path / "report.xml", "SGD")
    assert checks == {
        "test_torch_behaviours": {
            "errors": "", "tensor lr (0)": "ValueError: no tensors", "tensor lr (1)": "by design",
        },
        "test_torch_states": {"step hooks": "error"},
        "test_torch_surroundings": {"closures": ""},
        "test_optimizer_distributed": {},
    }  # fmt: skip
    row = {"label": "SGD", "package": "torch", "version": "2", "checks": checks}
    assert conformance.counts(row) == ["1 of 4", "1 of 1"]
    record = {"optimizers": [row], "date": "2026-11-22", "versions": {"torch": "2"}}
    assert "| SGD (torch 2) | 1 of 4 | 1 of 1 | tensor lr (2), step hooks |" in conformance.table(record)
    assert "| tensor lr (1) | x |" in conformance.matrix(record)
    assert "| closures | ✓ |" in conformance.matrix(record)


def test_checks_made_again_replace_the_old_ones_and_no_others(conformance: ModuleType) -> None:
    old = {"optimizers": [{"label": "A", "version": "1", "checks": {"f": {"x": "bad", "y": ""}}}]}
    again = [{"label": label, "version": "2", "checks": {"f": {"x": ""}}} for label in ("A", "B")]
    assert conformance.updated(old, again) == [
        {"label": "A", "version": "2", "checks": {"f": {"x": "", "y": ""}}}, again[1],
    ]  # fmt: skip


def test_a_check_runs_in_a_process_of_its_own(conformance: ModuleType) -> None:
    found = conformance.judge("SGD", "test_it_can_be_printed or test_torch_states and test_a_step_leaves_state")
    assert found["test_torch_behaviours"] == {"it can be printed": ""}
    assert found["test_torch_states"] == {"a step leaves state": ""}


def test_unknown_optimizers_are_named(
    conformance: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["conformance.py", "--optimizers", "SGD;Adamw"])
    with pytest.raises(SystemExit, match="2"):
        conformance.main()
    assert "unknown optimizer 'Adamw'; choose from: LearnedOptimizer, AdamW, SGD" in capsys.readouterr().err


def test_the_published_tables_are_the_records(conformance: ModuleType) -> None:
    record = json.loads(RECORD.read_text())
    assert conformance.table(record) in (ROOT / "docs" / "conformance.md").read_text()
    assert conformance.matrix(record) == RECORD.with_suffix(".md").read_text()
    ours, adamw, sgd = record["optimizers"][:3]
    assert [ours["label"], adamw["label"], sgd["label"]] == ["LearnedOptimizer", "AdamW", "SGD"]
    assert conformance.counts(adamw) == conformance.counts(sgd) == ["42 of 42", "16 of 16"]
    assert conformance.failed(ours, conformance.BEHAVIOURS) == "a complex vector moves as two real ones"
    assert conformance.failed(ours, conformance.AROUND) == "none"

"""What records of benchmarks say in sum follows from the rows they keep."""

from __future__ import annotations

import importlib
import json
import math
from types import ModuleType
from typing import Any

import pytest
from benchmark_script import FOLDER

RESULTS = FOLDER.parent / "results"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def record(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def flat(table: Any, path: str = "") -> dict[str, float]:
    if not isinstance(table, dict):
        return {path: table}
    return {key: value for name in table for key, value in flat(table[name], f"{path}/{name}").items()}


@pytest.mark.parametrize(("script", "name"), [
    ("second_opinion", "second-opinion/second-opinion.json"), ("fine_tuning", "fine-tuning/fine-tuning.json"),
])  # fmt: skip
def test_summaries_follow_from_the_rows(script: str, name: str, scripts: Any) -> None:
    module: ModuleType = scripts(script)
    found = record(name)
    parts = scripts("by_kind").parts(found["rows"], module.KINDS)
    assert flat({part: module.summary(rows) for part, rows in parts.items()}) == pytest.approx(flat(found["summary"]))
    if "adamw_everywhere" in found:
        assert module.fixed(found["rows"]) == pytest.approx(found["adamw_everywhere"])


def test_the_cost_of_unknown_steps_follows_from_the_rows(scripts: Any) -> None:
    found, by_kind = record("second-opinion/unknown-steps.json"), scripts("by_kind")
    for which, line in found["summary"].items():
        costs = [row[which] for row in found["rows"]]
        assert {"ratio": by_kind.ratio(costs), **by_kind.spread(costs)} == pytest.approx(line)


def test_means_of_ratios_by_hand(scripts: Any) -> None:
    by_kind = scripts("by_kind")
    assert by_kind.ratio([math.log(2), math.log(4.5)]) == pytest.approx(3)
    assert by_kind.ratio([50.0]) == pytest.approx(math.exp(by_kind.LIMIT))
    found = by_kind.spread([0.0, 1.0, 0.5])
    assert found == pytest.approx({"standard error of its logarithm": 0.5 / 3**0.5, "median": math.exp(0.5)})
    assert math.isnan(by_kind.spread([1.0])["standard error of its logarithm"])

"""Which of torch's 42 behaviours, and of 16 checks around them, optimizers pass: ours, torch's and other packages'.

    pip install prodigyopt schedulefree lion-pytorch adabelief-pytorch dadaptation pytorch-optimizer heavyball
    python benchmarks/conformance.py --out results/conformance

The checks are the project's own tests (tests/test_torch_*.py and the two ranks of tests/test_optimizer_distributed.py),
run for one optimizer after the other, each in a process of its own. Warnings fail nobody here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib import metadata
from pathlib import Path
from typing import Any

from learnopt.atomic import write_bytes
from learnopt.provenance import write_record

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from optimizer_classes import CLASSES  # noqa: E402

BEHAVIOURS = ("test_torch_behaviours", "test_torch_states")
AROUND = ("test_torch_surroundings", "test_optimizer_distributed")
TIME_LIMIT = 3600.0


def judge(label: str, only: str = "") -> dict[str, dict[str, str]]:
    """Every check of one optimizer, by file and name: an empty string where it passes, else why it does not."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = [str(ROOT / "tests" / f"{name}.py") for name in BEHAVIOURS + AROUND]
        options = ["--judged", label, "--junitxml", str(report), "-W", "default", "-p", "no:cacheprovider", "-q"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *files, *options, "-k", only], cwd=ROOT, capture_output=True, text=True,
            timeout=TIME_LIMIT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        if done.returncode not in (0, 1):
            raise RuntimeError(f"the checks of {label} did not run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return read(report, label)


def read(report: Path, label: str) -> dict[str, dict[str, str]]:
    """What pytest's report says of the checks that were made of `label`."""
    found: dict[str, dict[str, str]] = {name: {} for name in BEHAVIOURS + AROUND}
    for case in ET.parse(report).iter("testcase"):
        test, _, ids = case.attrib["name"].partition("[")
        if not ids.startswith(label):
            continue
        rest = ids.removeprefix(label).removesuffix("]").lstrip("-")
        name = test.removeprefix("test_").replace("_", " ") + (f" ({rest})" if rest else "")
        found[case.attrib["classname"].split(".")[-1]][name] = reason(case)
    return found


def reason(case: ET.Element) -> str:
    """The first line of why a check was not passed; empty where it was."""
    for kind in ("failure", "error", "skipped"):
        problem = case.find(kind)
        if problem is not None:
            lines = [line.strip() for line in problem.attrib.get("message", kind).splitlines() if line.strip()]
            return (lines[0] if lines else kind)[:200]
    return ""


def updated(old: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of an older record with the checks that were made again, and those of new optimizers."""
    kept = {row["label"]: row for row in old.get("optimizers", [])}
    for row in rows:
        before = kept.get(row["label"], row)["checks"]
        kept[row["label"]] = row | {"checks": {file: before[file] | found for file, found in row["checks"].items()}}
    return list(kept.values())


def counts(row: dict[str, Any]) -> list[str]:
    """Passed of all, of the behaviours and of the checks around them."""
    results = [[why for name in names for why in row["checks"][name].values()] for names in (BEHAVIOURS, AROUND)]
    return [f"{sum(not why for why in part)} of {len(part)}" for part in results]


def failed(row: dict[str, Any], names: tuple[str, ...]) -> str:
    """Names of the checks that are not passed; parameters of one test count together."""
    lost: dict[str, int] = {}
    for name, why in ((name, why) for file in names for name, why in row["checks"][file].items()):
        if why:
            test = name.split(" (")[0]
            lost[test] = lost.get(test, 0) + 1
    return ", ".join(f"{test}{f' ({n})' if n > 1 else ''}" for test, n in lost.items()) or "none"


def table(record: dict[str, Any]) -> str:
    """Markdown: who passes how many, and what is not passed."""
    lines = ["| optimizer | torch's behaviours | around them | not passed |", "|---|---|---|---|"]
    for row in record["optimizers"]:
        name = f"{row['label']} ({row['package']} {row['version']})"
        lost = [failed(row, names) for names in (BEHAVIOURS, AROUND)]
        what = "; ".join(text for text in lost if text != "none") or "none"
        what = "nearly all" if len(what) > 700 else what
        lines.append(f"| {name} | {' | '.join(counts(row))} | {what} |")
    return "\n".join(lines) + "\n"


def matrix(record: dict[str, Any]) -> str:
    """Markdown: every check and every optimizer."""
    rows = record["optimizers"]
    lines = [
        "# Which checks optimizers pass", "", f"{record['date']}, torch {record['versions']['torch']}. Columns:", "",
        *(f"{i + 1}. {row['label']}: {', '.join(counts(row))}" for i, row in enumerate(rows)), "",
        "| | " + " | ".join(str(i + 1) for i in range(len(rows))) + " |", "|---" * (len(rows) + 1) + "|",
    ]  # fmt: skip
    for file in BEHAVIOURS + AROUND:
        for name in rows[0]["checks"][file]:
            marks = ["x" if row["checks"][file].get(name, "missing") else "✓" for row in rows]
            lines.append(f"| {name} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/conformance"))
    parser.add_argument("--optimizers", default=";".join(CLASSES), help="separated by ;")
    parser.add_argument("--only", default="", help="names of tests, as pytest's -k; the record keeps all others")
    chosen = parser.parse_args()
    rows = []
    labels = chosen.optimizers.split(";")
    for label in labels:
        if label not in CLASSES:
            parser.error(f"unknown optimizer {label!r}; choose from: {', '.join(CLASSES)}")
    for label in labels:
        package = CLASSES[label][0]
        row = {"label": label, "package": package, "version": metadata.version(package)}
        rows.append(row | {"checks": judge(label, chosen.only)})
        print(f"{label:32s} {', '.join(counts(rows[-1]))}", flush=True)
    path = chosen.out / "conformance.json"
    old = json.loads(path.read_text()) if path.exists() and chosen.only else {}
    earlier = [{key: old[key] for key in ("command", "date", "commit")}] if old else []
    write_record(path, earlier=[*old.get("earlier", []), *earlier], optimizers=updated(old, rows))
    record = json.loads(path.read_text())
    write_bytes(chosen.out / "conformance.md", matrix(record).encode())
    print(table(record), f"wrote {path}", sep="\n")


if __name__ == "__main__":
    main()

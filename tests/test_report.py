"""What is written of a comparison."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from compare_toy import TinyTask
from matplotlib import image
from rich.console import Console

from learnopt import plots, report, summary_table
from learnopt.baselines import REGISTRY
from learnopt.compare import Plan, compare

PICTURES = ["ratios.png", "validation.png", "training.png", "learning-rates.png"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    tasks = [TinyTask("tiny-a"), TinyTask("tiny-b"), TinyTask("negative", offset=-100.0)]
    result = compare(Plan(tasks, ["learnopt", "adam", "adamw"], seeds=2, trials=3), folder, workers=1)
    report.write(report.document(result, "learnopt compare", 1, 61.0), result.runs, folder)
    return folder


def test_files(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [*PICTURES, ".lock", "compare.json", "report.md", "runs"]
    )
    for name in PICTURES:
        height, width, _ = image.imread(written / name).shape
        assert min(height, width) > 200


def test_record(written: Path) -> None:
    entry = json.loads((written / "compare.json").read_text())
    assert set(entry["versions"]) == {"learnopt", "torch", "numpy", "optuna", "python"}
    assert entry["plan"]["seeds"] == [0, 1]
    assert len(entry["plan"]["weights"]["sha256"]) == 64
    assert entry["reference"] == "adamw"
    assert entry["figures"]["adamw"]["validation_ratio"] == pytest.approx(1.0)
    assert entry["figures"]["learnopt"]["undefined"] == 1
    assert [t["runs"] for t in entry["tuning"]] == [3, 3, 3]


def test_markdown(written: Path) -> None:
    text = (written / "report.md").read_text()
    assert "| learnopt (no tuning) |" in text
    assert "n/a" in text
    # a resumed comparison must not pass for a quick one
    assert "1.0 minutes on 1 of" in text
    assert "core minutes for all runs, stored ones included" in text
    assert "left out of the means and shares: learnopt (no tuning) 1 tasks by validation" in text
    assert "9 runs, 180 steps" in text
    assert "## learnopt (no tuning) against each of the others" in text
    assert "| against | validation ratio |" in text
    assert all(f"]({name})" in text for name in PICTURES)


def printed(written: Path, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(summary_table.terminal_table(report.read(written)[0], width))
    return console.export_text()


def test_a_wide_terminal_shows_every_column(written: Path) -> None:
    text = printed(written, 180)
    assert "AdamW tuned" in text
    assert all(word in text for column in summary_table.COLUMNS for word in column.split())


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_shows_fewer_columns_and_cuts_none(written: Path, width: int) -> None:
    text = printed(written, width)
    assert "\u2026" not in text
    assert "validation" in text
    assert "memory" not in text
    entry = report.read(written)[0]
    assert all(summary_table.number(s["validation_ratio"]) in text for s in entry["figures"].values())


def test_read_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no finished comparison"):
        report.read(tmp_path)
    (tmp_path / "compare.json").write_text("{")
    with pytest.raises(ValueError, match="is not the record of a comparison"):
        report.read(tmp_path)
    (tmp_path / "compare.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="has format 7"):
        report.read(tmp_path)
    runs = [{"task": "a", "optimizer": "adam", "files": ["gone.json"]}]
    (tmp_path / "compare.json").write_text(json.dumps({"format": 1, "runs": runs}))
    with pytest.raises(ValueError, match=r"gone\.json cannot be read"):
        report.read(tmp_path)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_legends_and_titles_are_not_cut_off(written: Path, number: int) -> None:
    entry, runs = report.read(written)
    names = [name for name, baseline in REGISTRY.items() if not baseline.variant]
    tasks = ["tiny-a", "tiny-b", "tiny-c"][:number]
    every = {(task, name): runs["tiny-a", "learnopt"] for task in tasks for name in names}
    style = plots._Style(names, entry["reference"])
    for figure in (
        plots.curves(every, tasks, style, "loss", plots._training),
        plots.learning_rates(every, tasks, "adam"),
    ):
        figure.canvas.draw()
        parts = [*figure.legends, *figure.texts]
        assert len(parts) >= 2
        for part in parts:
            extent = part.get_window_extent()
            assert extent.x0 >= 0
            assert extent.y0 >= 0
            assert extent.x1 <= figure.bbox.x1
            assert extent.y1 <= figure.bbox.y1

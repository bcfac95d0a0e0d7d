"""What is written of a comparison."""

from __future__ import annotations

import copy
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compare_toy import TinyTask
from matplotlib import image
from rich.console import Console

from learnopt import metrics, plots, report, summary_table
from learnopt.baselines import REGISTRY
from learnopt.compare import Plan, compare
from learnopt.training import Run

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


KEYS = ["command", "date", "commit", "versions", "machine", "seconds", "core_seconds", "plan", "reference", "figures",
        "tuning", "tasks", "runs"]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_record_without_a_part_is_refused_by_name(key: str, written: Path, tmp_path: Path) -> None:
    entry = json.loads((written / "compare.json").read_text())
    (tmp_path / "compare.json").write_text(json.dumps({k: v for k, v in entry.items() if k != key}))
    with pytest.raises(ValueError, match=f"is not the record of a comparison: {key}: Field required"):
        report.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {}}, "task: Field required"),
        ({"losses": None}, "losses: Input should be a valid list"),
        ({"losses": ["a"]}, r"losses\.0: Input should be a valid number"),
        ({"step_seconds": None}, "step_seconds: Input should be a valid number"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_damaged_run_is_refused_by_name(
    change: dict[str, object], message: str, written: Path, tmp_path: Path
) -> None:
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "runs").glob("*.json"))
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"run": stored["run"] | change}))
    if "surprise" in change:
        report.read(tmp_path)  # of a later version
    else:
        with pytest.raises(ValueError, match=rf"{path.name} is damaged: {message}"):
            report.read(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
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


def ending(run: Run, steps: int) -> Run:
    """The run as if it had diverged after so many steps."""
    rows = [row for row in run.validation if row[0] is not None and row[0] <= steps]
    return replace(run, losses=run.losses[:steps], validation=rows, observations=[])


def test_curves_of_seeds_that_end_early_are_joined_by_step(written: Path) -> None:
    entry, runs = report.read(written)
    style = plots._Style(["adam"], entry["reference"])
    steps = 300
    whole = replace(runs["tiny-a", "adam"][0], losses=[1.0 + i for i in range(steps)])
    whole.config = whole.config | {"steps": steps}
    short = replace(ending(whole, 61), losses=[2.0 + 3 * i for i in range(61)])
    drawn = []
    for seeds in ([whole, short], [short, whole]):
        figure = plots.curves({("tiny-a", "adam"): seeds}, ["tiny-a"], style, "loss", plots._training)
        (line,) = figure.axes[0].get_lines()
        drawn.append((np.asarray(line.get_xdata()), np.asarray(line.get_ydata())))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    at, median = drawn[0]
    assert at[-1] == steps
    first, second = (metrics.smoothed(run.losses, steps) for run in (whole, short))
    for step, value in zip(at.astype(int), median, strict=True):
        both = [first[step - 1], *([second[step - 1]] if step <= 61 else [])]
        assert value == pytest.approx(np.median(both)), step


def test_rates_are_drawn_of_the_first_seed_that_has_any(written: Path) -> None:
    _, runs = report.read(written)
    whole = runs["tiny-a", "learnopt"][0]
    every = {("tiny-a", "learnopt"): [ending(whole, 0), whole], ("tiny-b", "learnopt"): [ending(whole, 0)]}
    figure = plots.learning_rates(every, ["tiny-a", "tiny-b"], "learnopt")
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == ["tiny-a"]


def test_ratios_beyond_the_axis_are_drawn_at_its_edge_with_their_number(written: Path) -> None:
    entry = copy.deepcopy(report.read(written)[0])
    for row in entry["tasks"]:
        if row["optimizer"] == "learnopt":
            row["validation_ratio"] = 1000.0 if row["task"] == "tiny-a" else 1e-4
    figure = plots.ratios(entry, plots._Style(entry["plan"]["optimizers"], entry["reference"]))
    (axis,) = figure.axes
    assert {text.get_text() for text in axis.texts} == {"1e+03", "0.0001"}
    low, high = axis.get_xlim()
    points = np.concatenate([np.asarray(c.get_offsets())[:, 0] for c in axis.collections if len(c.get_offsets())])
    assert low <= points.min()
    assert points.max() <= high

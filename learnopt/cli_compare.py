"""`learnopt compare` and `learnopt report`: the side-by-side comparison and its pictures."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

import joblib
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from learnopt import consoles, devices, recording_report, summary_table
from learnopt import report as reports
from learnopt.compare import Comparison, Plan, compare, default_optimizers, writable
from learnopt.figures import against_each, summarise, task_rows
from learnopt.provenance import typed
from learnopt.task import Task


def compare_command(
    tasks: Annotated[str, typer.Option(help="names with commas between, a suite's name, or 'quick'")] = "",
    optimizers: Annotated[str, typer.Option(help="names with commas between; default: all but the slow ones")] = "",
    seeds: Annotated[int, typer.Option(help="evaluation seeds per task and optimizer")] = 3,
    steps: Annotated[int | None, typer.Option(help="steps of every run; default: what each task declares")] = None,
    workers: Annotated[int | None, typer.Option(help="worker processes; default: one per core")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the results; default: results/compare-DATE")] = None,
    full: Annotated[bool, typer.Option("--full", help="the whole held-out suite and the slow optimizers")] = False,
    trials: Annotated[int, typer.Option(help="tuning runs per task and tuned optimizer")] = 20,
    tuner: Annotated[str, typer.Option(help="optuna (TPE) or grid (14 rates x 2 schedules)")] = "optuna",
    weights: Annotated[str, typer.Option(help="meta-weights: a name or a file")] = "default",
    device: Annotated[str, typer.Option(help="where the runs live: cpu, cuda or cuda:NUMBER")] = "cpu",
) -> None:
    """Compare optimizers side by side; the same command again goes on where an interrupted one stopped."""
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be 1 or more, got {workers}")
    names = _split(optimizers, "--optimizers") if optimizers else default_optimizers(full)
    chosen = _tasks(tasks or ("held_out" if full else "quick"))
    plan = Plan(chosen, names, seeds, steps, trials, tuner, weights, devices.choose(device))
    plan.check()
    folder = out or Path("results") / f"compare-{date.today().isoformat()}"
    writable(folder)
    cores = workers or joblib.cpu_count()
    started = time.perf_counter()
    result = _run(plan, folder, cores)
    command = typed()
    entry = reports.document(result, command, cores, time.perf_counter() - started)
    _show(entry, reports.write(entry, result.runs, folder), result.skipped)


def report_command(
    folder: Annotated[Path, typer.Argument(help="folder of a finished comparison, or a Recorder's file")],
) -> None:
    """Draw tables and plots: again of a comparison, from the runs it stored, or of a recording."""
    if folder.is_file():
        tables, picture = recording_report.report(folder)
        _print(tables, [picture])
        return
    entry, runs = reports.read(folder)
    entry["tasks"] = task_rows(runs, entry["reference"])
    entry["figures"] = summarise(entry["tasks"], entry["plan"]["optimizers"])
    entry["head_to_head"] = against_each(runs, entry["plan"]["optimizers"])
    _show(entry, reports.write(entry, runs, folder), [])


def _split(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"{option} takes names with commas between, got {text!r}")
    return names


def _tasks(text: str) -> list[Task]:
    from learnopt.tasks import QUICK, SUITES, get_task, suite

    if text == "quick":
        return [get_task(name) for name in QUICK]
    if text in SUITES:
        return list(suite(text))
    return [get_task(name) for name in _split(text, "--tasks")]


def _run(plan: Plan, folder: Path, workers: int) -> Comparison:
    console = consoles.console(stderr=True)
    columns = (
        TextColumn("comparing"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    try:
        with Progress(*columns, console=console, speed_estimate_period=120) as progress:
            bar = progress.add_task("", total=None)
            return compare(plan, folder, workers, lambda done, total: progress.update(bar, completed=done, total=total))
    except KeyboardInterrupt:
        kept = shlex.quote(str(folder))
        console.print(
            f"interrupted; finished runs are kept: the same command with --out {kept} goes on from there",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(130) from None


def _show(entry: dict[str, object], paths: list[Path], skipped: list[str]) -> None:
    table = summary_table.terminal_table(entry, _console().width)
    _print([table, *(f"note: {reason}" for reason in skipped)], paths)


def _console() -> Console:
    console = consoles.console()
    if not console.is_terminal:
        # the table is not folded where it goes to a file
        console.width = max(160, console.width)
    return console


def _print(shown: Sequence[Table | str], paths: Sequence[Path]) -> None:
    console = _console()
    for part in shown:
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)
    for path in paths:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)

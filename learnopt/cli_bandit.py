"""`learnopt fewshot bandit`: RL² beside policies that need no training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from learnopt import consoles
from learnopt.atomic import write_bytes
from learnopt.cli_fewshot_checks import check_counts, check_json, checked_scale
from learnopt.fewshot.bandit_report import compare
from learnopt.fewshot.courses import draw_courses
from learnopt.locking import locked
from learnopt.provenance import write_record

META_STEPS = 80


def bandit_command(
    arms: Annotated[int, typer.Option(help="arms of a bandit")] = 5,
    pulls: Annotated[int, typer.Option(help="pulls of a bandit")] = 10,
    seeds: Annotated[int, typer.Option(help="seeds of initialisation and training")] = 1,
    tasks: Annotated[int, typer.Option(help="unseen bandits that each is measured on")] = 10_000,
    scale: Annotated[float, typer.Option(help="multiple of the meta-steps of the record")] = 1.0,
    batch: Annotated[int, typer.Option(help="bandits played in a meta-step")] = 500,
    out: Annotated[Path, typer.Option(help="folder of results; the same command goes on from it")] = Path(
        "results/fewshot-bandit"
    ),
    json: Annotated[Path | None, typer.Option("--json", help="file for the figures")] = None,
) -> None:
    """Bernoulli bandits: returns of RL² beside Gittins indices, UCB1, Thompson sampling, greedy and random play."""
    check_counts(seeds=seeds, tasks=tasks, batch=batch)
    check_json(json)
    fit = {"meta_steps": max(1, round(META_STEPS * checked_scale(scale))), "bandits": batch}
    name = f"bandit-{arms}x{pulls}"
    with locked(out):
        rows = compare(arms, pulls, seeds=seeds, count=tasks, fit=fit, out=out / "checkpoints")
        record = write_record(
            out / f"{name}.json", problem="bandit", arms=arms, pulls=pulls, seeds=seeds, tasks=tasks, fit=fit, rows=rows
        )
        if json is not None:
            write_bytes(json, record.read_bytes())
        courses = {row["policy"]: row["course"] for row in rows if "course" in row}
        picture = draw_courses(
            {f"{arms} arms, {pulls} pulls": courses}, out / f"{name}.png", over="pulls", quantity="pay of a pull"
        )
    table = Table(title=f"{arms} arms, {pulls} pulls: successes, {tasks} bandits, {seeds} seeds")
    for column in ("policy", "mean ± 95 %", "CPU min"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        half = "" if row.get("half") is None else f" ± {row['half']:.3f}"
        table.add_row(row["policy"], f"{row['mean']:.3f}{half}", f"{row.get('cpu_minutes', 0):.1f}")
    consoles.console().print(table)
    consoles.console(stderr=True).print(f"wrote {record}, {picture}", soft_wrap=True, highlight=False)

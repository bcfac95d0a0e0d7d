"""`learnopt fewshot l2l`: a learned optimizer beside hand-designed ones whose rates are tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from learnopt import consoles
from learnopt.atomic import write_bytes
from learnopt.cli_fewshot_checks import check_counts, check_json, checked_scale
from learnopt.fewshot.courses import draw_courses
from learnopt.fewshot.l2l_report import Row
from learnopt.fewshot.problems.l2l import PLANS, compare
from learnopt.locking import locked
from learnopt.provenance import write_record


def l2l_command(
    problem: Annotated[str, typer.Argument(help=" or ".join(PLANS))] = "quadratics",
    seeds: Annotated[int, typer.Option(help="seeds of initialisation and training")] = 1,
    scale: Annotated[float, typer.Option(help="multiple of the meta-steps of the record")] = 1.0,
    out: Annotated[Path, typer.Option(help="folder of results; the same command goes on from it")] = Path(
        "results/fewshot-l2l"
    ),
    json: Annotated[Path | None, typer.Option("--json", help="file for the figures")] = None,
) -> None:
    """Optimizers: a coordinatewise LSTM that learned to optimize, tuned SGD, Nesterov, RMSprop, Adam, and ours."""
    check_counts(seeds=seeds)
    check_json(json)
    checked_scale(scale)
    console = consoles.console(stderr=True)
    with locked(out):
        record = out / f"l2l-{problem}.json"

        def keep(found: dict[str, list[Row]]) -> None:
            write_record(record, problem=problem, seeds=seeds, scale=scale, plan=PLANS[problem].entry(), rows=found)
            if json is not None:
                write_bytes(json, record.read_bytes())

        found = compare(problem, seeds=seeds, scale=scale, out=out / "checkpoints", note=console.print, keep=keep)
        picture = draw_courses(
            {title: {row["rule"]: row["course"] for row in rows} for title, rows in found.items()},
            out / f"l2l-{problem}.png", over="steps", quantity="loss", log=True,
        )  # fmt: skip
    for title, rows in found.items():
        consoles.console().print(_table(title, rows, seeds))
    console.print(f"wrote {record}, {picture}", soft_wrap=True, highlight=False)


def _table(title: str, rows: list[Row], seeds: int) -> Table:
    marks = list(rows[0]["loss"])
    table = Table(title=f"{title}: mean loss ± 95 % after so many steps, {seeds} seeds; rates tuned for each number")
    table.add_column("optimizer")
    for mark in [*marks, "rates", "passes the LSTM at", "CPU min"]:
        table.add_column(mark, justify="right")
    for row in rows:
        losses = [f"{x['mean']:.3g} ± {x['half']:.1g}" if x["mean"] is not None else "overflow"
                  for x in row["loss"].values()]  # fmt: skip
        rates = sorted(set(row.get("rates", {}).values()))
        table.add_row(
            row["rule"], *losses, " to ".join(f"{r:g}" for r in (rates[:1] + rates[1:][-1:])),
            str(row.get("passes_lstm_at") or ""), f"{row['cpu_minutes']:.1f}",
        )  # fmt: skip
    return table

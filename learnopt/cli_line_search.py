"""`learnopt line-search`: fit one constant of meta-trained weights on the validation suite."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from learnopt import artifact, export
from learnopt.line_search import LineSearch, Scores, scores
from learnopt.workers import Pool


def line_search_command(
    weights: Annotated[str, typer.Argument(help="name or path of meta-weights")],
    out: Annotated[Path, typer.Option(help="artifact to write, ending in .safetensors")],
    output: Annotated[str, typer.Option(help="raw output whose bias is searched")] = "log_decay",
    shifts: Annotated[str, typer.Option(help="what is tried, separated by commas")] = "0.1,0.2,0.3",
    lengths: Annotated[str, typer.Option(help="steps of the runs, separated by commas; 0: the task's own")] = "0,2000",
    seeds: Annotated[int, typer.Option(help="runs per task, shift and length")] = 6,
    workers: Annotated[int, typer.Option(help="worker processes; 0: one per core")] = 0,
) -> None:
    """Try shifts of one output's bias on the validation suite and write the weights with the best one."""
    from learnopt.tasks.source import SuiteSource

    for name, value, least in (("--seeds", seeds, 1), ("--workers", workers, 0)):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got {str(out)!r}")
    steps = [int(x) for x in _numbers("--lengths", lengths, 0)]
    loaded = artifact.load(weights)
    line = LineSearch(loaded.theta, output, (0.0, *_numbers("--shifts", shifts)), seeds)
    console = Console(stderr=True)
    with Pool(SuiteSource(), workers or os.cpu_count() or 1) as pool:
        futures = pool.line_search(line, steps)
        losses = torch.stack([f.result() for f in track(futures, description="searching", console=console)])
    found = scores(losses)
    best = int(found.mean.argmin())
    export.shifted(
        loaded, out, line.candidates()[best],
        {
            "line_search_command": " ".join(["learnopt", *sys.argv[1:]]), "line_search_output": output,
            "line_search_shift": line.shifts[best],
            "line_search": [
                {"shift": s, "mean": float(m), "error": float(e), "better": float(b)}
                for s, m, e, b in zip(line.shifts, *found, strict=True)
            ],
        },
    )  # fmt: skip
    Console().print(_table(line, found, best))
    console.print(f"wrote {out}")


def _numbers(name: str, text: str, least: float = float("-inf")) -> list[float]:
    try:
        values = [float(x) for x in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} takes numbers separated by commas, got {text!r}") from None
    for value in values:
        if not least <= value < float("inf"):
            raise ValueError(f"{name} takes finite numbers{'' if least < 0 else ' from 0 on'}, got {value:g}")
    return values


def _table(line: LineSearch, found: Scores, best: int) -> Table:
    table = Table(title=f"Bias of {line.output} on the validation suite")
    for name in ("shift", "change of log loss", "standard error", "runs better"):
        table.add_column(name, justify="right")
    for i, shift in enumerate(line.shifts):
        mark = " *" if i == best else ""
        table.add_row(f"{shift:g}{mark}", f"{found.mean[i]:+.3f}", f"{found.error[i]:.3f}", f"{found.better[i]:.0%}")
    return table

"""`learnopt stopper-train`: teach the learned stopper and the learned pruner from recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from learnopt.provenance import origin
from learnopt.stopping import calibrate, peer_train, policy, train, weights
from learnopt.stopping import curves as recorded_curves
from learnopt.stopping.calibrate import PrunedOutcome
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.policy import Outcome


def stopper_train_command(
    corpus: Annotated[Path, typer.Argument(help="folder that `learnopt record` wrote")],
    out: Annotated[Path, typer.Option(help="artifact to write, ending in .safetensors")],
    iterations: Annotated[int, typer.Option(help="iterations of either network")] = 1500,
    aside: Annotated[float, typer.Option(help="share of the tasks that thresholds are set by")] = 0.2,
    seed: Annotated[int, typer.Option(help="seed of split, variants and fit")] = 0,
) -> None:
    """Learn from a corpus when to stop a run and when to prune a trial; thresholds come from data sets set aside."""
    if iterations < 2 or seed < 0:
        raise ValueError(f"--iterations must be at least 2 and --seed at least 0, got {iterations} and {seed}")
    if not 0 < aside < 1:
        raise ValueError(f"--aside must be between 0 and 1, got {aside}")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got {str(out)!r}")
    torch.set_num_threads(1)
    console = Console(stderr=True)
    everything = recorded_curves.read(corpus)
    learned, fresh = recorded_curves.split(everything, aside, seed)
    curve = _fit(learned, seed, iterations, console)
    peer = peer_train.fit(curve, learned, seed, iterations, lambda line: console.print(line, highlight=False))
    stops, prunes = calibrate.stopping(curve, fresh), calibrate.pruning(curve, peer, fresh)
    threshold, pruning = calibrate.stopping_threshold(stops), calibrate.pruning_threshold(prunes)
    weights.save(out, curve, peer, {
        "threshold": threshold, "tolerance": calibrate.TOLERANCE, "pruning_threshold": pruning,
        "outcome": dict(stops)[threshold]._asdict(), "pruning_outcome": dict(prunes)[pruning]._asdict(),
        "tasks": len(learned.numbers), "curves": len(learned), "tasks_aside": len(fresh.numbers),
        "datasets": sorted({d for i in learned.numbers for d in everything.datasets[i].split(",")}),
        "seed": seed, "iterations": iterations, **origin(),
    })  # fmt: skip
    Console().print(_stopping_table(fresh, stops, threshold), _pruning_table(prunes, pruning))
    console.print(f"wrote {out}")


def _fit(curves: Curves, seed: int, iterations: int, console: Console) -> CurveNetwork:
    columns = (TextColumn("learning"), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        bar = progress.add_task("", total=iterations)
        return train.fit(
            curves,
            seed,
            iterations,
            lambda i, loss: progress.update(bar, completed=i + 1, description=f"loss {loss:.3f}"),
        )


def _stopping_table(fresh: Curves, outcomes: list[tuple[float, Outcome]], chosen: float) -> Table:
    table = Table(title=f"Stopping {len(fresh)} runs of {len(fresh.numbers)} tasks set aside")
    for name in ("rule", "compute", "excess", "lose over 5 %", "of the oracle's saving"):
        table.add_column(name, justify="right")
    rows = [(f"below {t:g}{' *' if t == chosen else ''}", o) for t, o in outcomes]
    rows += [(f"patience {w}", policy.outcome(fresh, policy.patience(fresh, w))) for w in (3, 5, 10, 15)]
    rows.append(("oracle", policy.outcome(fresh, policy.oracle(fresh))))
    for name, o in rows:
        table.add_row(name, f"{o.compute:.1%}", f"{o.excess:.2%}", f"{o.lost:.1%}", f"{o.saving:.0%}")
    return table


def _pruning_table(outcomes: list[tuple[float, PrunedOutcome]], chosen: float) -> Table:
    table = Table(title="Pruning studies of 30 trials")
    for name in ("threshold", "compute", "best within 1 %"):
        table.add_column(name, justify="right")
    for t, o in outcomes:
        table.add_row(f"{t:g}{' *' if t == chosen else ''}", f"{o.compute:.1%}", f"{o.near:.0%}")
    return table

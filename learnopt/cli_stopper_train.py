"""`learnopt stopper-train`: teach the learned stopper and the learned pruner from recorded runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from learnopt import consoles
from learnopt.atomic import check_artifact
from learnopt.provenance import origin
from learnopt.stopping import calibrate, curve_features, peer_features, peer_train, picture, policy, train, weights
from learnopt.stopping import curves as recorded_curves
from learnopt.stopping.calibrate import PrunedOutcome, Stopping
from learnopt.stopping.curves import Curves
from learnopt.stopping.session import Interrupted, Say, Session


def stopper_train_command(
    corpora: Annotated[list[Path], typer.Argument(help="folders that `learnopt record` wrote")],
    out: Annotated[Path, typer.Option(help="artifact to write, ending in .safetensors")],
    iterations: Annotated[int, typer.Option(help="iterations of either network")] = 1500,
    aside: Annotated[float, typer.Option(help="share of the tasks that thresholds are set by")] = 0.2,
    seed: Annotated[int, typer.Option(help="seed of split, variants and fit")] = 0,
) -> None:
    """Learn from recorded runs when to stop a run and when to prune a trial.

    Thresholds come from data sets set aside. The same command goes on where it was stopped. Writes the artifact, its
    card and a picture beside it.
    """
    if iterations < 2 or seed < 0:
        raise ValueError(f"--iterations must be at least 2 and --seed at least 0, got {iterations} and {seed}")
    if not 0 < aside < 1:
        raise ValueError(f"--aside must be between 0 and 1, got {aside}")
    check_artifact(out)
    torch.set_num_threads(1)
    console = consoles.console(stderr=True)
    everything = recorded_curves.read(*corpora)
    learned, fresh = recorded_curves.split(everything, aside, seed)
    settings = {"iterations": iterations, "aside": aside, "seed": seed, "runs": _digest(everything),
                "curve_features": curve_features.VERSION, "peer_features": peer_features.VERSION}  # fmt: skip
    session = Session(out.with_suffix(".checkpoint"), settings)
    try:
        with _bars(console) as session.say, session.interruptible():
            curve = train.fit(learned, seed, iterations, session)
            peer = peer_train.fit(curve, learned, seed, iterations, session)
            prunes = calibrate.pruning(curve, peer, fresh, session)
    except Interrupted as stop:
        console.print(str(stop), soft_wrap=True, highlight=False)
        raise typer.Exit(130) from None
    stops = calibrate.stoppings(curve, fresh)
    pruning = calibrate.pruning_threshold(prunes)
    fields = _outcomes(stops, prunes, pruning) | _origins(everything, learned, fresh)
    weights.save(out, curve, peer, {**fields, "seed": seed, "iterations": iterations, **origin()})
    drawn = picture.draw(out.with_suffix(".png"), stops, prunes, pruning)
    session.close()
    consoles.console().print(*map(_stopping_table, stops), _pruning_table(prunes, pruning))
    console.print(f"wrote {out} and {drawn}", soft_wrap=True, highlight=False)


def _outcomes(
    stops: list[Stopping], prunes: dict[int, list[tuple[float, PrunedOutcome]]], pruning: float
) -> dict[str, object]:
    """The thresholds and what they do, for the card."""
    return {
        **{s.key: s.threshold for s in stops}, "tolerance": calibrate.TOLERANCE, "pruning_threshold": pruning,
        **{f"outcome of {s.key}": dict(s.outcomes)[s.threshold]._asdict() for s in stops},
        "pruning_outcome": {str(n): dict(rows)[pruning]._asdict() for n, rows in prunes.items()},
    }  # fmt: skip


def _origins(everything: Curves, learned: Curves, fresh: Curves) -> dict[str, object]:
    """What was learned from, for the card."""
    return {
        "tasks": len(learned.numbers), "curves": len(learned), "tasks_aside": len(fresh.numbers),
        "datasets": sorted({d for i in learned.numbers for d in everything.datasets[i].split(",")}),
    }  # fmt: skip


def _digest(curves: Curves) -> str:
    """What tells one collection of recorded runs from another."""
    names = "\n".join(curves.tasks).encode()
    return hashlib.sha256(names + curves.values.numpy().tobytes() + curves.steps.numpy().tobytes()).hexdigest()[:16]


@contextmanager
def _bars(console: Console) -> Iterator[Say]:
    """A bar with the time left for every stage."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=300) as progress:
        bars: dict[str, TaskID] = {}

        def say(stage: str, done: int, total: int, note: str) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total, completed=done - 1, note="")
            progress.update(bars[stage], completed=done, note=note)

        yield say


def _stopping_table(found: Stopping) -> Table:
    runs = found.curves
    table = Table(title=f"Stopping {len(runs)} runs of {len(runs.numbers)} tasks set aside, by {found.kind}")
    for name in ("rule", "compute", "excess", "lose over 5 %", "of the oracle's saving"):
        table.add_column(name, justify="right")
    rows = [(f"below {t:g}{' *' if t == found.threshold else ''}", o) for t, o in found.outcomes]
    rows += [(f"patience {w}", policy.outcome(runs, policy.patience(runs, w))) for w in (3, 5, 10, 15)]
    rows.append(("oracle", policy.outcome(runs, policy.oracle(runs))))
    for name, o in rows:
        table.add_row(name, f"{o.compute:.1%}", f"{o.excess:.2%}", f"{o.lost:.1%}", f"{o.saving:.0%}")
    return table


def _pruning_table(prunes: dict[int, list[tuple[float, PrunedOutcome]]], chosen: float) -> Table:
    table = Table(title="Pruning simulated studies")
    for name in ("trials", "threshold", "compute", "best within 1 %"):
        table.add_column(name, justify="right")
    for trials, outcomes in prunes.items():
        for t, o in outcomes:
            table.add_row(str(trials), f"{t:g}{' *' if t == chosen else ''}", f"{o.compute:.1%}", f"{o.near:.0%}")
    return table

"""`learnopt stop-train`: teach meta-trained weights when to stop."""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from learnopt import artifact, consoles, devices, export
from learnopt.atomic import check_artifact
from learnopt.episodes import draw
from learnopt.meta_config import parse_config
from learnopt.provenance import typed
from learnopt.stop_train import Outcome, Recorder, Recording, calibrate, fit, outcome
from learnopt.task import seed_of
from learnopt.workers import Pool

THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)


def stop_train_command(
    weights: Annotated[str, typer.Argument(help="name or path of meta-weights")],
    out: Annotated[Path, typer.Option(help="artifact to write, ending in .safetensors")],
    episodes: Annotated[int, typer.Option(help="runs of training tasks to learn from")] = 96,
    seed: Annotated[int, typer.Option(help="seed of tasks and fit")] = 0,
    workers: Annotated[int, typer.Option(help="worker processes; 0: one per core")] = 0,
    device: Annotated[str, typer.Option(help="where the runs live: cpu, cuda or cuda:NUMBER")] = "cpu",
) -> None:
    """Record training runs of the weights, learn when going on stopped paying, calibrate on the validation suite."""
    from learnopt.tasks.source import SuiteSource

    for name, value in (("--episodes", episodes), ("--seed", seed + 1), ("--workers", workers + 1)):
        if value < 1:
            raise ValueError(f"{name} is too small: {value if name == '--episodes' else value - 1}")
    check_artifact(out)
    place = devices.choose(device)
    loaded = artifact.load(weights)
    settings: dict[str, object] = {
        "seed": seed,
        "steps_min": 100,
        "steps_max": 600,
        "horizon_unknown": 0.3,
        "loss_withheld": 0.0,
    }
    config = parse_config(settings, "stop-train")
    source, recorder = SuiteSource(), Recorder(loaded.theta)
    source.check()
    console = consoles.console(stderr=True)
    with Pool(source, workers or os.cpu_count() or 1, place) as pool:
        train = pool.record(recorder, [draw(config, "stop", i) for i in range(episodes)])
        valid = pool.record_valid(recorder)
        recordings, fresh = _gather(train, "recording", console), _gather(valid, "validating", console)
    head = fit(recordings, torch.Generator().manual_seed(seed_of("stop", seed)))
    chosen = calibrate(head, fresh)
    found = {
        "stop_threshold": chosen.threshold, "stop_command": typed(),
        "stop_seed": seed, "stop_episodes": episodes, "stop_outcome": chosen._asdict(),
    }  # fmt: skip
    export.with_stop_head(loaded, out, head, found)
    consoles.console().print(_table([outcome(head, fresh, t) for t in THRESHOLDS], chosen))
    console.print(f"wrote {out}", soft_wrap=True, highlight=False)


def _gather(futures: list[Future[Recording]], what: str, console: Console) -> list[Recording]:
    return [f.result() for f in track(futures, description=what, console=console)]


def _table(outcomes: list[Outcome], chosen: Outcome) -> Table:
    table = Table(title="Stopping on the validation suite")
    for name in ("threshold", "excess loss", "compute", "runs stopped"):
        table.add_column(name, justify="right")
    for o in [*outcomes, chosen]:
        mark = " *" if o is chosen else ""
        table.add_row(f"{o.threshold:.5g}{mark}", f"{o.excess:.2%}", f"{o.compute:.1%}", f"{o.stopped:.1%}")
    return table

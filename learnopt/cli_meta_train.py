"""`learnopt meta-train`: meta-train weights of your own, or go on with those that ship."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from learnopt import artifact, consoles, devices, export
from learnopt.checkpoint import read_log
from learnopt.episodes import TaskSource
from learnopt.estimators import ESTIMATORS
from learnopt.locking import locked
from learnopt.meta_config import MetaTrainConfig, parse_config, read_config
from learnopt.meta_report import draw_curve, table
from learnopt.meta_train import MetaTrainer
from learnopt.provenance import commit, typed
from learnopt.ranks import RankedPool, launched
from learnopt.workers import Pool


def meta_train(
    config: Annotated[Path | None, typer.Argument(help="TOML file of settings; defaults where absent")] = None,
    out: Annotated[Path, typer.Option(help="folder of checkpoint, log, weights and curve")] = Path("runs/meta-train"),
    workers: Annotated[int, typer.Option(help="worker processes; 0: one per core")] = 0,
    device: Annotated[str, typer.Option(help="where inner runs live: cpu, cuda or cuda:NUMBER")] = "cpu",
    set_: Annotated[list[str] | None, typer.Option("--set", help="override a setting: name=value")] = None,
) -> None:
    """Meta-train by unrolling many inner runs; under torchrun, over all its processes.

    The same command again goes on where it stopped, even after a kill."""
    from learnopt.tasks.source import SuiteSource

    if workers < 0:
        raise ValueError(f"--workers must be 0 or more, got {workers}")
    place = devices.choose(device)
    settings = _settings(config, set_ or [])
    commit()  # the code that is loaded now, whatever is committed while the run goes on
    source = SuiteSource(settings.suite, settings.valid_suite, settings.augment)
    source.check()
    if settings.start_from is not None:
        artifact.load(settings.start_from)
    console = consoles.console(stderr=True)
    with _pool(source, workers, out, place) as pool:
        trainer = MetaTrainer(settings, source, out, pool)
        trainer.on_save = lambda state: export.weights(out, state, settings, typed())
        if trainer.state.meta_step:
            _say(pool, console, f"going on at meta-step {trainer.state.meta_step} of {settings.meta_steps}")
        try:
            _run(trainer, console)
        except KeyboardInterrupt:
            _say(pool, console, f"interrupted and saved at meta-step {trainer.saved}; run the same command to go on")
            raise typer.Exit(130) from None
        if not pool.leads:
            return
    rows = read_log(out)
    curve = draw_curve(rows, out, ESTIMATORS[settings.estimator].measure)
    consoles.console().print(table(rows))
    console.print(f"wrote {out / export.WEIGHTS}, {curve}", soft_wrap=True, highlight=False)


@contextmanager
def _pool(source: TaskSource, workers: int, out: Path, device: str) -> Iterator[Pool]:
    """The processes that run episodes: this machine's, or every rank's of a `torchrun`."""
    cores = os.cpu_count() or 1
    if not launched():
        with locked(out), Pool(source, workers or cores, device) as pool:
            yield pool
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    ranked = RankedPool(source, workers or max(1, cores // local), device)
    with locked(out) if ranked.leads else nullcontext(), ranked:
        yield ranked


def _say(pool: Pool, console: Console, text: str) -> None:
    if pool.leads:
        console.print(text, soft_wrap=True, highlight=False)


def _settings(config: Path | None, overrides: list[str]) -> MetaTrainConfig:
    base: dict[str, object] = read_config(config).model_dump() if config else {}
    for item in overrides:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--set takes name=value, got {item!r}")
        base[name.strip()] = value.strip()
    return parse_config(base, "--set" if overrides else "settings")


def _run(trainer: MetaTrainer, console: Console) -> None:
    columns = (
        TextColumn("meta-training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=600, disable=not trainer.pool.leads) as progress:
        bar = progress.add_task("", total=trainer.config.meta_steps, completed=trainer.state.meta_step, note="")

        def show(row: dict[str, Any]) -> None:
            best = f"  best valid {trainer.state.best_score:.3f} @ {trainer.state.best_step}"
            progress.update(bar, completed=row["meta_step"], note=f"loss {row['meta_loss']:.3f}{best}")

        trainer.listener = show
        trainer.run()

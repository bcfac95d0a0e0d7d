"""`learnopt tune`: a recommendation for a table. `learnopt tune-train`: learn to recommend, from recorded runs."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress, track

from learnopt import consoles
from learnopt.atomic import check_artifact, check_folder, write_bytes
from learnopt.batched_optimizers import RECIPES
from learnopt.corpus import Corpus
from learnopt.locking import locked
from learnopt.provenance import origin
from learnopt.table_data import TASKS
from learnopt.table_file import HEADERS
from learnopt.tuner import knowledge as knowledges
from learnopt.tuner.learn import STEPS, learn
from learnopt.tuner.lessons import gather
from learnopt.tuner.result import TuneResult
from learnopt.tuner.table_tuning import Fitted, Table, fit, prepare, tune_table


def tune_command(
    data: Annotated[str, typer.Argument(help="CSV or Parquet file")],
    target: Annotated[str, typer.Option(help="column to predict, by name or number from 0; default: the last")] = "",
    task: Annotated[str, typer.Option(help=f"one of {', '.join(TASKS)}")] = "auto",
    header: Annotated[
        str, typer.Option(help=f"whether the first line names the columns: {', '.join(HEADERS)}")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="folder of the results")] = Path("tuning"),
    optimizer: Annotated[str, typer.Option(help="adamw; sgd needs --knowledge")] = "adamw",
    hidden: Annotated[str, typer.Option(help="hidden layers of the network, with commas between")] = "64,32",
    steps: Annotated[int | None, typer.Option(help="steps of a full run; default: about 30 epochs")] = None,
    budget: Annotated[int | None, typer.Option(help="steps for all probes; default: as many as a full run")] = None,
    seconds: Annotated[float | None, typer.Option(help="wall-clock limit of the search")] = None,
    batch_size: Annotated[int | None, typer.Option(help="rows of a batch; default: by the number of rows")] = None,
    seed: Annotated[int, typer.Option(help="of split, initialisation and batches")] = 0,
    knowledge: Annotated[str, typer.Option(help="artifact of `learnopt tune-train`; default: what ships")] = "",
    train: Annotated[bool, typer.Option(help="train a network as recommended")] = True,
    predict: Annotated[str, typer.Option(help="file with rows to predict with the trained network")] = "",
) -> None:
    """Recommend learning rate, schedule and weight decay for a network on a table; train it; write picture and JSON."""
    console = consoles.console()
    check_folder(out)
    if predict and not train:
        raise ValueError("--predict needs the trained network: leave out --no-train")
    table = prepare(data, target, task, header, seed)
    for note in table.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    sizes, known = _sizes(hidden), knowledges.load(Path(knowledge)) if knowledge else None
    rows, notes = table.rows_of(predict, header) if predict else (None, [])  # refused now, not after the training
    for note in notes:
        console.print(f"note: {predict}: {note}", soft_wrap=True, highlight=False)
    console.print(table.summary(), soft_wrap=True, highlight=False)
    result = tune_table(table, sizes, optimizer, steps, budget, seconds, batch_size, seed, known)
    console.print(str(result), soft_wrap=True, highlight=False)
    console.print(result.reason, soft_wrap=True, highlight=False)
    with locked(out):  # what two processes write would not belong together
        for name in ("model.safetensors", "model.json", "predictions.csv"):  # of an earlier result, nor would these
            (out / name).unlink(missing_ok=True)
        written = [_write(out, entry := result.entry() | table.entry() | {"hidden": list(sizes)})]
        written.append(result.plot(out / "tuning.png"))
        if train:
            fitted = _trained(table, sizes, result, seed, written[0])
            _write(out, entry | fitted.entry())
            console.print(_judged(fitted), highlight=False)
            written.append(fitted.save(out / "model.safetensors"))
            if rows is not None:
                written.append(fitted.predict_to(rows, out / "predictions.csv"))
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def _write(out: Path, entry: dict[str, Any]) -> Path:
    path = out / "tuning.json"
    write_bytes(path, (json.dumps(entry, indent=1) + "\n").encode())
    return path


def _trained(table: Table, sizes: tuple[int, ...], result: TuneResult, seed: int, found: Path) -> Fitted:
    try:
        with Progress(console=consoles.console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=result.steps)
            return fit(table, sizes, result, seed, lambda step: bar.update(task, completed=step))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted while training; the recommendation is in {found}") from None


def _judged(fitted: Fitted) -> str:
    name, value = fitted.score
    return f"trained: validation loss {fitted.loss:.4g}, {name} {value:.4g} on {fitted.rows} rows not trained on"


def _sizes(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and 0 < int(word) <= 65536 for word in words):
        raise ValueError(f"--hidden takes layer sizes with commas between, got {text!r}")
    return tuple(int(word) for word in words)


def tune_train_command(
    corpora: Annotated[list[Path], typer.Argument(help="folders that `learnopt record` filled")],
    out: Annotated[Path, typer.Option(help="artifact to write, ending in .safetensors")],
    optimizer: Annotated[str, typer.Option(help="adamw or sgd")] = "adamw",
    steps: Annotated[int, typer.Option(help="training steps of each network of diagnose")] = STEPS,
    seed: Annotated[int, typer.Option(help="of the forests and networks")] = 0,
) -> None:
    """Learn what the tuner knows from recorded runs: its forests, its list, the networks of diagnose."""
    if optimizer not in RECIPES:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose from: {', '.join(RECIPES)}")
    check_artifact(out)
    if steps < 1:
        raise ValueError(f"--steps must be at least 1, got {steps}")
    torch.set_num_threads(1)
    recipe, console = RECIPES[optimizer], consoles.console(stderr=True)
    paths = list(chain.from_iterable(Corpus(folder).paths(optimizer) for folder in corpora))
    frames = chain.from_iterable(Corpus(folder).frames(optimizer) for folder in corpora)
    shown = track(frames, "reading", total=len(paths), console=console)
    lessons = gather(shown, recipe.rates, recipe.decays)
    console.print(f"learning from {len(lessons.names)} tasks in {len(paths)} recorded files")
    found = learn(lessons, optimizer, seed, steps)
    fields = {"name": out.stem, "tasks": len(lessons.names), "seed": seed, "steps": steps}
    knowledges.save(out, found, fields | origin())
    console.print(f"wrote {out}", soft_wrap=True, highlight=False)

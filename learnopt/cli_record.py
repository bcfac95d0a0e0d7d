"""`learnopt record`: record training runs of many tasks, to learn tuning and stopping from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from learnopt import consoles
from learnopt.corpus import Corpus
from learnopt.record import NoMetric, RecordPlan, TooSlow, record
from learnopt.task import Task


def record_command(
    out: Annotated[Path, typer.Argument(help="folder of the corpus")],
    tasks: Annotated[
        str,
        typer.Option(help="suites, names and csv:FILE?target=... with commas between; 'sampled' or 'searches'"),
    ] = "sampled",
    count: Annotated[int, typer.Option(help="how many tasks or searches to sample")] = 100,
    first: Annotated[int, typer.Option(help="number of the first sampled one")] = 0,
    optimizers: Annotated[str, typer.Option(help="adamw, sgd, or both with a comma between")] = "adamw,sgd",
    seeds: Annotated[int, typer.Option(help="seeds per configuration")] = 2,
    rates: Annotated[int, typer.Option(help="number of learning rates; 0: 13 over five decades")] = 0,
    decays: Annotated[int, typer.Option(help="number of weight decays, torch's default first; 0: all")] = 0,
    schedules: Annotated[str, typer.Option(help="constant, cosine, or both with a comma between")] = "constant,cosine",
    fractions: Annotated[
        str, typer.Option(help="lengths of runs as shares of a task's steps; below 1: cosine schedules alone")
    ] = "1",
    most_steps: Annotated[int, typer.Option(help="cap on a task's declared steps")] = 1000,
    most_seconds: Annotated[float, typer.Option(help="leave out what would take longer per task; 0: nothing")] = 0.0,
    metric: Annotated[
        bool, typer.Option("--metric", help="validate by the tasks' metric, such as accuracy (negated), not the loss")
    ] = False,
    share: Annotated[
        str, typer.Option(help="I/N: every N-th task from the I-th, to split work over processes")
    ] = "1/1",
) -> None:
    """Record runs of every rate, schedule and weight decay; the same command again goes on where it stopped."""
    plan = RecordPlan(
        _words(optimizers), seeds, most_steps, most_seconds, rates, decays, metric, _words(schedules),
        _numbers(fractions),
    )  # fmt: skip
    plan.check()
    if count < 1 or first < 0:
        raise ValueError(f"--count must be at least 1 and --first at least 0, got {count} and {first}")
    own, of = _share(share)
    makers = list(_tasks(tasks, first, count))
    if not makers:
        raise ValueError(f"--tasks names no task, got {tasks!r}")
    corpus = Corpus(out)
    settings: dict[str, object] = {"seeds": seeds, "most_steps": most_steps, "rates": rates, "decays": decays}
    usual = RecordPlan()
    for name in ("metric", "schedules", "fractions"):  # not in the folders of earlier versions
        if getattr(plan, name) != getattr(usual, name):
            settings |= {name: getattr(plan, name)}
    corpus.agree(settings)
    console = consoles.console(stderr=True)
    left_out: dict[str, str] = {}
    before: list[str] = []
    with Progress(
        TextColumn("recording"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.description}", markup=False), console=console,
        speed_estimate_period=600,
    ) as progress:  # fmt: skip
        bar = progress.add_task("", total=len(makers[own - 1 :: of]))
        try:
            for make in makers[own - 1 :: of]:
                task = make()
                progress.update(bar, description=task.name)
                for optimizer in plan.optimizers:
                    runs = f"{task.name} with {optimizer}"
                    if corpus.has(task.name, optimizer):
                        before.append(runs)
                    elif reason := corpus.left_out(task.name, optimizer, plan.most_seconds):
                        left_out[runs] = reason
                    else:
                        _record_one(corpus, task, optimizer, plan, left_out)
                progress.advance(bar)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command goes on where this one stopped") from None
    if before:  # a task goes by its name: another file of one name would be taken for it
        more = f" and {len(before) - 3} more" if len(before) > 3 else ""
        console.print(f"there before: {', '.join(before[:3])}{more}", soft_wrap=True, highlight=False)
    for name, reason in left_out.items():
        console.print(f"left out {name}: {reason}", soft_wrap=True, highlight=False)
    console.print(f"{len(corpus.paths())} files of runs in {out}")


def _record_one(corpus: Corpus, task: Task, optimizer: str, plan: RecordPlan, left_out: dict[str, str]) -> None:
    try:
        corpus.put(task.name, optimizer, record(task, optimizer, plan))
    except (TooSlow, NoMetric, RuntimeError) as error:  # torch: what is wrong with the model
        reason = str(error).strip().splitlines()[0]
        corpus.skip(task.name, optimizer, reason, plan.most_seconds if isinstance(error, TooSlow) else 0.0)
        left_out[f"{task.name} with {optimizer}"] = reason


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, _words(text)))
    except ValueError as error:
        raise ValueError(f"--fractions takes numbers with commas between, got {text!r}") from error


def _share(text: str) -> tuple[int, int]:
    own, _, of = text.partition("/")
    if not (own.isdigit() and of.isdigit() and 1 <= int(own) <= int(of)):
        raise ValueError(f"--share must be I/N with I in 1..N, got {text!r}")
    return int(own), int(of)


class _Sampled:
    """Sampled task number `i` of the meta-training suite."""

    def __init__(self, i: int) -> None:
        self.i = i

    def __call__(self) -> Task:
        from learnopt.tasks.source import SuiteSource

        task: Task = SuiteSource(augmented=False).sample(np.random.default_rng([11, self.i]))
        return task


def _tasks(text: str, first: int, count: int) -> Iterator[Callable[[], Task]]:
    """Makers of the tasks; what is named is made at once, so that wrong names are refused before any recording."""
    from learnopt.tasks import get_task, searches
    from learnopt.tasks.held_out import held_out_makers
    from learnopt.tasks.meta_valid import META_VALID
    from learnopt.tasks.stress import STRESS

    torch.set_num_threads(1)
    if text == "sampled":
        yield from map(_Sampled, range(first, first + count))
        return
    if text == "searches":
        yield from searches.makers(first, count)
        return
    suites: dict[str, Callable[[], dict[str, Callable[[], Task]]]] = {
        "held_out": held_out_makers,
        "meta_valid": lambda: META_VALID,
        "stress": lambda: STRESS,
    }
    named: set[str] = set()
    for word in _words(text):
        if word in suites:
            yield from suites[word]().values()
            continue
        task: Task = get_task(word)
        if task.name in named:
            raise ValueError(f"task {task.name!r} is given more than once")
        named.add(task.name)
        yield partial(_same, task)


def _same(task: Task) -> Task:
    return task

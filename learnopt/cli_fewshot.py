"""`learnopt fewshot`: meta-learners side by side on one problem, with a table and their adaptation curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from learnopt import consoles
from learnopt.atomic import write_bytes
from learnopt.cli_bandit import bandit_command
from learnopt.cli_fewshot_checks import check_counts, check_json, checked_scale
from learnopt.cli_l2l import l2l_command
from learnopt.fewshot.curves import draw_curves
from learnopt.fewshot.experiment import Entry, Experiment
from learnopt.fewshot.problems import images, ratings, sinusoid
from learnopt.fewshot.sources.drawings import group_names, read_images
from learnopt.fewshot.sources.glyphs import glyphs
from learnopt.fewshot.table import markdown, rows, table, verification
from learnopt.locking import locked
from learnopt.provenance import write_record

CLASSES, TEST_CLASSES = 1200, 300
SIZE = 20
"""Classes of glyphs to train on and to be tested on; pixels a side of drawings."""

Learners = Annotated[str, typer.Option("--learners", help="comma-separated names; all by default")]
Seeds = Annotated[int, typer.Option(help="seeds of initialisation and training")]
Tasks = Annotated[int, typer.Option(help="unseen tasks that each is measured on")]
Scale = Annotated[float, typer.Option(help="multiple of the meta-steps of the record")]
Out = Annotated[Path, typer.Option(help="folder of results; the same command goes on from it")]
Json = Annotated[Path | None, typer.Option("--json", help="file for the figures")]


def sinusoid_command(
    random_frequency: Annotated[bool, typer.Option(help="draw the frequency, too")] = False,
    learners: Learners = "", seeds: Seeds = 1, tasks: Tasks = 1000, scale: Scale = 0.1,
    out: Out = Path("results/fewshot-sinusoid"), json: Json = None,
) -> None:  # fmt: skip
    """Sine waves from ten points."""
    name = "sinusoid-random-frequency" if random_frequency else "sinusoid"
    found = sinusoid.entries(random_frequency, checked_scale(scale))
    run(Experiment(name, "loss", select(found, learners), out, seeds, tasks), json)


def glyphs_command(
    ways: Annotated[str, typer.Option(help="classes a task, comma-separated")] = "5,20",
    learners: Learners = "", seeds: Seeds = 1, tasks: Tasks = 600, scale: Scale = 0.2,
    out: Out = Path("results/fewshot-glyphs"), json: Json = None,
) -> None:  # fmt: skip
    """Characters of random strokes that nobody has seen."""
    numbers = _ways(ways)
    train, test = glyphs(CLASSES), glyphs(TEST_CLASSES, split="test")
    found = images.entries(train, test, numbers, checked_scale(scale))
    run(Experiment("glyphs", "accuracy", select(found, learners), out, seeds, tasks), json)


def omniglot_command(
    train: Annotated[Path, typer.Argument(help="zip archive or folder to train on")],
    test: Annotated[Path, typer.Argument(help="another, to be tested on; alphabets (or classes) of both are left out")],
    ways: Annotated[str, typer.Option(help="classes a task, comma-separated")] = "5,20",
    size: Annotated[int, typer.Option(help="pixels a side")] = SIZE,
    learners: Learners = "", seeds: Seeds = 1, tasks: Tasks = 600, scale: Scale = 0.2,
    out: Out = Path("results/fewshot-omniglot"), json: Json = None,
) -> None:  # fmt: skip
    """Omniglot's drawings from its own archives, or any two folders of images, a folder for each class."""
    known = set(group_names(train))
    own = [name for name in group_names(test) if name not in known]
    if not own:
        raise ValueError(
            f"{str(test)!r} has no alphabet or class that {str(train)!r} lacks; that one has "
            f"{', '.join(sorted(known)) or 'no folder of images'}"
        )
    pictures = read_images(train, size)[:2], read_images(test, size, groups=own)[:2]
    found = images.entries(*pictures, _ways(ways), checked_scale(scale), turned=True, published=images.PUBLISHED)
    run(Experiment("omniglot", "accuracy", select(found, learners), out, seeds, tasks), json)


def ratings_command(
    shots: Annotated[int, typer.Option(help="ratings of a new user")] = 5,
    learners: Learners = "", seeds: Seeds = 1, tasks: Tasks = 1000, scale: Scale = 1.0,
    out: Out = Path("results/fewshot-ratings"), json: Json = None,
) -> None:  # fmt: skip
    """Ratings of a catalogue by a user whom nobody knows, from five."""
    run(
        Experiment(
            "ratings", "loss", select(ratings.entries(shots, checked_scale(scale)), learners), out, seeds, tasks
        ),
        json,
    )


def _ways(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 1 for word in words):
        raise ValueError(f"--ways takes whole numbers of 2 or more with commas between, got {text!r}")
    return tuple(dict.fromkeys(map(int, words)))


def select(entries: Sequence[Entry], learners: str) -> list[Entry]:
    """The entries of these comma-separated names, all of them where there is none.

    Raises:
        ValueError: a name is unknown; the message names the choices.
    """
    names = [name.strip() for name in learners.split(",") if name.strip()]
    known = {entry.name: entry for entry in entries}
    if unknown := next((name for name in names if name not in known), None):
        raise ValueError(f"unknown learner {unknown!r}; choose from: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(entries)


def run(experiment: Experiment, json: Path | None) -> None:
    """Run an experiment in its folder; prints the table, draws the curves and writes the record."""
    check_counts(seeds=experiment.seeds, tasks=experiment.tasks)
    check_json(json)
    console = consoles.console(stderr=True)
    with locked(experiment.out):
        cells = replace(experiment, listener=console.print).run()
        found, verified = rows(experiment, cells), verification(cells)
        name = experiment.problem
        record = write_record(
            experiment.out / f"{name}.json", problem=name, metric=experiment.metric,
            seeds=experiment.seeds, tasks=experiment.tasks, rows=found, verification=verified, cells=cells,
        )  # fmt: skip
        if json is not None:
            write_bytes(json, record.read_bytes())
        text = markdown(experiment, found, verified)
        write_bytes(experiment.out / f"{name}.md", text.encode())
        picture = draw_curves(experiment, cells, experiment.out / f"{name}.png")
    consoles.console().print(table(experiment, found))
    for row in verified:
        consoles.console().print(
            f"{row['entry']}, {row['test']}: verifies {row['accuracy']:.1%} rightly, AUC {row['auc']:.3f}"
        )
    console.print(f"wrote {record}, {picture}", soft_wrap=True, highlight=False)


PROBLEMS: dict[str, Callable[..., None]] = {
    "sinusoid": sinusoid_command,
    "glyphs": glyphs_command,
    "omniglot": omniglot_command,
    "ratings": ratings_command,
    "bandit": bandit_command,
    "l2l": l2l_command,
}
"""Commands by name: a problem is one function and one line here."""


class _Problems(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # a fit speaks of its own call and folder
            where = str(stop).partition(";")[0] or "interrupted"
            raise KeyboardInterrupt(f"{where}; the same command goes on from there") from None


fewshot_app = typer.Typer(cls=_Problems, help="Meta-learners on few-shot problems.", no_args_is_help=True)
for _name, _command in PROBLEMS.items():
    fewshot_app.command(_name)(_command)

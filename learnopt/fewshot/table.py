"""What people read of an experiment: one row per learner and test, seeds together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from learnopt.fewshot.experiment import Experiment, grouped

Row = dict[str, Any]

UNITS = {"loss": "loss", "accuracy": "accuracy in per cent"}
"""Metrics as tables name them."""


def rows(experiment: Experiment, cells: Sequence[dict[str, Any]]) -> list[Row]:
    """A row per entry, test and shown number of steps: figures over all seeds.

    `mean` and `median` are means over the seeds; `half` is the half width of the mean's 95 % interval over tasks, which
    more seeds do not narrow: all are measured on the same tasks. `seeds` lists the mean of each. A mean that is not
    finite is None.
    """
    found = []
    by_name = {entry.name: entry for entry in experiment.entries}
    for name, own in grouped(cells).items():
        entry = by_name[name]
        for test in entry.tests:
            for step in entry.shown or (0,):
                each = [cell["tests"][test][step] for cell in own]
                found.append({
                    "entry": name, "test": test, "steps": step if entry.steps is not None else None,
                    **_together(experiment.metric, each), "failed": sum(e["failed"] for e in each),
                    "tasks": sum(e["tasks"] for e in each),
                    "cpu_minutes": round(sum(cell["cpu_seconds"] for cell in own) / len(own) / 60, 2),
                    "meta_steps": entry.meta_steps, "published": entry.published,
                })  # fmt: skip
    return found


def _together(metric: str, each: list[Row]) -> Row:
    means = [e[f"{metric}_mean"] for e in each]
    halves = [e[f"{metric}_half"] for e in each]
    whole = all(m is not None for m in [*means, *halves])
    medians = [e[f"{metric}_median"] for e in each]
    return {
        "mean": sum(means) / len(means) if whole else None,
        "half": sum(halves) / len(halves) if whole else None,
        "median": sum(medians) / len(medians) if None not in medians else None,
        "seeds": means,
    }


def verification(cells: Sequence[dict[str, Any]]) -> list[Row]:
    """A row per verifying entry and test: accuracy and area under the curve, means over the seeds."""
    found = []
    for name, own in grouped(cells).items():
        for test in own[0]["verification"]:
            each = [cell["verification"][test] for cell in own]
            found.append({
                "entry": name, "test": test, "pairs": sum(e["pairs"] for e in each),
                **{k: sum(e[k] for e in each) / len(each) for k in ("accuracy", "auc")},
            })  # fmt: skip
    return found


def table(experiment: Experiment, found: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    shown = Table(
        title=f"{experiment.problem}: query {UNITS[experiment.metric]}, seeds: {experiment.seeds}",
        caption="min: CPU minutes of a fit",
    )
    for column in ("learner", "tasks", "steps", "mean ± 95 %", "median", "failed", "min"):
        shown.add_column(column, justify="left" if column in ("learner", "tasks") else "right", no_wrap=True)
    last = None
    for row in found:
        steps = "" if row["steps"] is None else str(row["steps"])
        half = "" if row["half"] is None else f" ± {number(experiment.metric, row['half'])}"
        figures = number(experiment.metric, row["mean"]) + half, number(experiment.metric, row["median"])
        first = row["entry"] != last
        shown.add_row(
            row["entry"] if first else "", row["test"], steps, *figures, str(row["failed"] or ""),
            f"{row['cpu_minutes']:.1f}" if first else "",
        )  # fmt: skip
        last = row["entry"]
    return shown


def number(metric: str, value: float | None) -> str:
    """A loss with three digits, an accuracy in per cent."""
    if value is None:
        return "overflow"
    return f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.3f}"


def markdown(experiment: Experiment, found: Sequence[Row], verified: Sequence[Row]) -> str:
    """The rows as a Markdown document, with the published figures."""
    lines = [
        f"# {experiment.problem}", "",
        f"Query {UNITS[experiment.metric]} on {experiment.tasks} unseen tasks for each seed.", "",
        "| learner | tasks | inner steps | mean ± 95 % | median | per seed | failed | CPU min | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found:
        half = "" if row["half"] is None else f" ± {number(experiment.metric, row['half'])}"
        seeds = ", ".join(number(experiment.metric, s) for s in row["seeds"])
        steps = "" if row["steps"] is None else row["steps"]
        lines.append(
            f"| {row['entry']} | {row['test']} | {steps} | {number(experiment.metric, row['mean'])}{half} "
            f"| {number(experiment.metric, row['median'])} | {seeds} | {row['failed'] or ''} "
            f"| {row['cpu_minutes']:.1f} | {row['published']} |"
        )
    lines += [
        f"\n{row['entry']}, verification of {row['pairs']:.0f} pairs, {row['test']}: accuracy "
        f"{100 * row['accuracy']:.1f} %, area under the curve {row['auc']:.3f}"
        for row in verified
    ]
    return "\n".join(lines) + "\n"

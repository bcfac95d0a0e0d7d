"""What a comparison leaves behind: compare.json and report.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from learnopt import devices
from learnopt.atomic import write_bytes
from learnopt.compare import Comparison
from learnopt.figures import Runs, against_each, reference_of, summarise, task_rows
from learnopt.provenance import commit
from learnopt.run_store import RunStore
from learnopt.summary_table import COLUMNS, interval, label, number, percent
from learnopt.training import DIVERGED, POINTS, Run, RunConfig

JSON, MARKDOWN = "compare.json", "report.md"
FORMAT = 1


def document(result: Comparison, command: str, cores: int, seconds: float) -> dict[str, Any]:
    """Everything about a comparison but its curves: what was run, on what, and what came out."""
    plan = result.plan
    reference = reference_of(result.optimizers)
    rows = task_rows(result.runs, reference)
    return {
        "format": FORMAT,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {name: _version(name) for name in ("learnopt", "torch", "numpy", "optuna")}
        | {"python": platform.python_version()},
        "machine": {"cores": os.cpu_count(), "workers": cores, "system": platform.platform()}
        | ({} if plan.device == "cpu" else {"gpu": devices.describe(plan.device)}),
        "seconds": round(seconds, 1),
        "core_seconds": round(_core_seconds(result), 1),
        "plan": {
            "tasks": [_task_entry(task, plan.steps) for task in plan.tasks],
            "optimizers": result.optimizers,
            "skipped": result.skipped,
            "seeds": list(range(plan.seeds)),
            "steps": plan.steps,
            "tuner": plan.tuner,
            "trials": plan.trials,
            "weights": result.weights,
            "device": plan.device,
        },
        "reference": reference,
        "figures": summarise(rows, result.optimizers),
        "head_to_head": against_each(result.runs, result.optimizers),
        "tuning": [{"task": t, "optimizer": o} | asdict(found) for (t, o), found in result.tuned.items()],
        "tasks": rows,
        "runs": [
            {"task": t, "optimizer": o, "files": [_file(run) for run in runs]} for (t, o), runs in result.runs.items()
        ],
    }


def _core_seconds(result: Comparison) -> float:
    """Of all runs and trials, also of those that an interrupted call before this one finished."""
    runs = sum(run.seconds for runs in result.runs.values() for run in runs)
    return runs + sum(found.seconds for found in result.tuned.values())


def _task_entry(task: Any, steps: int | None) -> dict[str, Any]:
    datasets = sorted(task.datasets)
    return {"name": task.name, "kind": task.kind, "datasets": datasets, "steps": steps or task.steps,
            "metric": task.metric_name}  # fmt: skip


def _file(run: Run) -> str:
    return f"{RunStore.key(RunConfig(**run.config))}.json"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class _Plan(BaseModel):
    tasks: list[dict[str, Any]]
    optimizers: list[str]
    skipped: list[str]
    seeds: list[int]
    tuner: str
    trials: int


class _Group(BaseModel):
    task: str
    optimizer: str
    files: list[str]


class _Entry(BaseModel):
    """What `read` holds a record to, and the report needs."""

    command: str
    date: str
    commit: str | None
    versions: dict[str, str | None]
    machine: dict[str, Any]
    seconds: float
    core_seconds: float
    plan: _Plan
    reference: str
    figures: dict[str, dict[str, Any]]
    tuning: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    runs: list[_Group]


def read(folder: Path) -> tuple[dict[str, Any], Runs]:
    """A finished comparison's document and runs.

    Raises:
        ValueError: one line that names the folder or file and what is wrong.
    """
    path = folder / JSON
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["format"] != FORMAT:
            raise ValueError(f"{path} has format {entry['format']!r}, this version reads {FORMAT}")
        _Entry.model_validate(entry)
    except OSError as error:
        raise ValueError(f"{str(folder)!r} holds no finished comparison: {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError(f"{path} is not the record of a comparison: {_wrong(error)}") from error
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not the record of a comparison: {error}") from error
    groups = [(g["task"], g["optimizer"], g["files"]) for g in entry["runs"]]
    return entry, {(t, o): [_read_run(folder / "runs" / name) for name in names] for t, o, names in groups}


def _read_run(path: Path) -> Run:
    try:
        run = TypeAdapter(Run).validate_python(json.loads(path.read_text(encoding="utf-8"))["run"])
        TypeAdapter(RunConfig).validate_python(run.config)
    except OSError as error:
        raise ValueError(f"run {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError(f"run {path} is damaged: {_wrong(error)}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"run {path} is damaged: {error}") from error
    return run


def _wrong(error: ValidationError) -> str:
    """The first thing that is wrong: where, and what."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def write(entry: dict[str, Any], runs: Runs, folder: Path) -> list[Path]:
    """Write the JSON record, the markdown report and the plots; returns their paths."""
    from learnopt import plots

    pictures = plots.draw(entry, runs, folder)
    write_bytes(folder / JSON, (json.dumps(entry, indent=1, allow_nan=False) + "\n").encode())
    write_bytes(folder / MARKDOWN, markdown(entry, [path.name for path in pictures]).encode())
    return [folder / MARKDOWN, folder / JSON, *pictures]


def markdown(entry: dict[str, Any], pictures: Sequence[str]) -> str:
    """The whole report."""
    plan, reference = entry["plan"], label(entry["reference"])
    parts = [
        "# Comparison of optimizers",
        f"{len(plan['tasks'])} tasks, {len(plan['seeds'])} seeds; {entry['seconds'] / 60:.1f} minutes on "
        f"{entry['machine']['workers']} of {entry['machine']['cores']} cores"
        f"{' and ' + entry['machine']['gpu'] if 'gpu' in entry['machine'] else ''} for the last call, "
        f"{entry['core_seconds'] / 60:.1f} core minutes for all runs, stored ones included; {entry['date'][:10]}, "
        f"torch {entry['versions']['torch']}, commit {entry['commit'] or 'unknown'}.",
        f"`{entry['command']}`",
        *(f"Note: {reason}." for reason in plan["skipped"]),
        _summary_table(entry),
        _legend(entry, reference),
        *(f"![{name}]({name})" for name in pictures),
        *_against_each(entry),
        f"## Final validation loss as a ratio to {reference}, per task",
        _task_table(entry, "validation_ratio"),
        f"## Final training loss as a ratio to {reference}, per task",
        _task_table(entry, "train_ratio"),
        "## Final validation metric, mean over seeds",
        _task_table(entry, "metric"),
        *_tuning(entry),
    ]
    return "\n\n".join(parts) + "\n"


def _summary_table(entry: dict[str, Any]) -> str:
    body = [[label(name), *(of(s) for of in COLUMNS.values())] for name, s in entry["figures"].items()]
    return _grid(["optimizer", *COLUMNS], body)


def _against_each(entry: dict[str, Any]) -> list[str]:
    found = entry.get("head_to_head")
    if not found:
        return []
    ours, body = label(found["optimizer"]), []
    for name, s in found["against"].items():
        worst = "n/a" if s["worst"] is None else f"{number(s['worst'][0])} ({s['worst'][1]})"
        body.append([label(name), number(s["validation_ratio"]), percent(s["wins"]), worst, number(s["train_ratio"]),
                     interval(s["speed_up"])])  # fmt: skip
    header = ["against", "validation ratio", "tasks at most theirs", "worst task", "training ratio",
              "speed-up (IQM, 95 %)"]  # fmt: skip
    return [f"## {ours} against each of the others", _grid(header, body)]


def _legend(entry: dict[str, Any], reference: str) -> str:
    undefined = max(s["undefined"] + s["train_undefined"] for s in entry["figures"].values())
    left_out = (
        " Ratios of losses that are not positive are undefined (n/a) and left out of the means and shares: "
        + "; ".join(
            f"{label(name)} {s['undefined']} tasks by validation, {s['train_undefined']} by training loss"
            for name, s in entry["figures"].items()
            if s["undefined"] + s["train_undefined"]
        )
        + "."
        if undefined
        else ""
    )
    return (
        f"Ratios are final losses divided by {reference}'s with the same seed, geometric mean over seeds and tasks: "
        "below 1 is better. Won: tasks with a validation ratio of at most 1. "
        f"Best kept: the same of the least of {POINTS + 1} validation losses along each run, as for "
        "someone who keeps the best weights (tuning went by final losses). Training loss is the mean of the last 5 % "
        f"of the steps. Speed-up: steps in which {reference} first reaches its own final smoothed training loss, over "
        "the steps needed to reach the same (never reached: 0), interquartile mean over tasks and seeds with a 95 % "
        "interval from a bootstrap over tasks, then seeds; in seconds: divided by the ratio of the time per step. "
        "Memory: optimizer state. "
        "Initialisations and batches are the same for every optimizer. A run without a final loss (it diverged) "
        f"counts with {DIVERGED:g} times its initial loss.{left_out}"
    )


def _task_table(entry: dict[str, Any], key: str) -> str:
    optimizers = entry["plan"]["optimizers"]
    cells = {(row["task"], row["optimizer"]): row for row in entry["tasks"]}
    body = []
    for task in entry["plan"]["tasks"]:
        rows = [cells[task["name"], name] for name in optimizers]
        values = [number(row[key]) + ("*" if row["diverged"] else "") for row in rows]
        name = f"{task['name']} ({task['metric']})" if key == "metric" else task["name"]
        body.append([name, task["kind"], str(task["steps"]), *values])
    starred = "\n\n\\* some seeds diverged" if any(row["diverged"] for row in entry["tasks"]) else ""
    return _grid(["task", "kind", "steps", *map(label, optimizers)], body) + starred


def _tuning(entry: dict[str, Any]) -> list[str]:
    if not entry["tuning"]:
        return []
    body = [
        [t["task"], label(t["optimizer"]), _rates(t["settings"]), t["settings"]["schedule"], str(t["runs"]),
         str(t["steps"]), f"{t['seconds']:.1f}"]
        for t in entry["tuning"]
    ]  # fmt: skip
    runs, seconds = sum(t["runs"] for t in entry["tuning"]), sum(t["seconds"] for t in entry["tuning"])
    steps = sum(t["steps"] for t in entry["tuning"])
    plan = entry["plan"]
    how = (
        f"Optuna TPE, {plan['trials']} trials" if plan["tuner"] == "optuna" else "a grid of 14 rates and the schedules"
    )
    return [
        "## What tuning found and cost",
        f"{how} per task, judged by the final validation loss of full-length runs on seed 1000, which is no evaluation "
        f"seed: {runs} runs, {steps} steps, {seconds:.0f} core seconds.",
        _grid(["task", "optimizer", "learning rate", "schedule", "runs", "steps", "seconds"], body),
    ]


def _rates(settings: dict[str, Any]) -> str:
    """The learning rate, and a hybrid's second one."""
    rest = settings.get("rest")
    return f"{settings['lr']:.3g}" + ("" if rest is None else f", {settings['lr'] * rest:.3g}")


def _grid(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

"""The outer loop: meta-steps with progress, a checkpoint that resumes exactly, and interrupts that lose nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from learnopt import consoles
from learnopt.fewshot import storage
from learnopt.interrupt import deferred
from learnopt.locking import locked

FILE = "checkpoint.safetensors"
SMOOTHED = 0.98
"""Share of the old value in the meta-loss that the progress bar shows."""

Row = dict[str, Any]


@dataclass
class Fitting:
    """Where an outer loop stands.

    Attributes:
        config: all that it is a function of; a checkpoint with another one is refused.
        tensors: what the next meta-step depends on, by name, as they are at the call.
        restore: puts saved tensors back.
        out: folder of the checkpoint; None keeps none.
        rows: one per meta-step.
        cpu_seconds: processor time of the meta-steps, over all sessions.
    """

    config: dict[str, Any]
    tensors: Callable[[], dict[str, Tensor]]
    restore: Callable[[dict[str, Tensor]], None]
    out: Path | None = None
    checkpoint_seconds: float = 60.0
    rows: list[Row] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def run(self, step: Callable[[int], Row], meta_steps: int, title: str, progress: bool) -> list[Row]:
        """Call `step` with 0, 1, ... up to `meta_steps`, from the checkpoint on; returns all rows.

        Ctrl-C ends the loop after the meta-step at hand, saved, with KeyboardInterrupt; a second one at once.
        """
        with ExitStack() as stack:
            if self.out is not None:
                stack.enter_context(locked(self.out))
                self._resume()
            stopped = stack.enter_context(deferred())
            show = stack.enter_context(_bar(title, meta_steps, len(self.rows), progress))
            saved, began = time.monotonic(), time.process_time()
            while len(self.rows) < meta_steps and not stopped.is_set():
                self.rows.append(step(len(self.rows)))
                now, spent = time.monotonic(), time.process_time()
                self.cpu_seconds, began = self.cpu_seconds + spent - began, spent
                show(self.rows[-1])
                if self.out is not None and now - saved >= self.checkpoint_seconds:
                    self.save()
                    saved = now
            self.save()
            if stopped.is_set() and len(self.rows) < meta_steps:
                where = "" if self.out is None else f"; the same call with out={str(self.out)!r} goes on from here"
                raise KeyboardInterrupt(f"interrupted at meta-step {len(self.rows)} of {meta_steps}{where}")
        return self.rows

    def save(self) -> None:
        """Write the checkpoint, if there is a folder for it."""
        if self.out is not None:
            card = {"config": self.config, "rows": self.rows, "cpu_seconds": self.cpu_seconds}
            storage.write(self.out / FILE, self.tensors(), card)

    def _resume(self) -> None:
        assert self.out is not None
        if not (self.out / FILE).exists():
            return
        tensors, card = storage.read(self.out / FILE)
        was, now = card.get("config"), json.loads(json.dumps(self.config))
        if not isinstance(was, dict) or was != now:
            was = was if isinstance(was, dict) else {}
            what = ", ".join(f"{k} {was.get(k)!r} -> {now.get(k)!r}" for k in now | was if was.get(k) != now.get(k))
            raise ValueError(f"{str(self.out)!r} holds a run with other settings ({what}); choose another folder")
        self.restore(tensors)
        self.rows, self.cpu_seconds = card["rows"], card["cpu_seconds"]


@contextmanager
def _bar(title: str, total: int, done: int, shown: bool) -> Iterator[Callable[[Row], None]]:
    """A progress bar with the time left and the smoothed meta-loss."""
    columns = (
        TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    console = consoles.console(stderr=True)
    with Progress(*columns, console=console, speed_estimate_period=600, disable=not shown) as bar:
        task, smooth = bar.add_task("", total=total, completed=done, note=""), None

        def show(row: Row) -> None:
            nonlocal smooth
            loss = row["meta_loss"]
            smooth = loss if smooth is None else SMOOTHED * smooth + (1 - SMOOTHED) * loss
            bar.update(task, advance=1, note=f"meta-loss {smooth:.4g}")

        yield show

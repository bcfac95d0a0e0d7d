"""A long training in stages, kept in one file: after an interrupt the same call goes on exactly."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from learnopt.atomic import write_bytes
from learnopt.interrupt import deferred
from learnopt.stopping.descent import Descent

EVERY = 30.0
"""Seconds between checkpoints."""

Say = Callable[[str, int, int, str], None]
"""Told the stage, how much of it is done, of how much, and a note."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; everything done so far is on disk, where there is a file for it."""


class Session:
    """What has been finished, and what is under way.

    Args:
        path: of the checkpoint; None keeps none.
        settings: plain values that everything is a function of; a checkpoint of others is refused.
        say: told of progress.

    Raises:
        ValueError: the checkpoint is damaged or of other settings.
    """

    def __init__(
        self, path: Path | None = None, settings: dict[str, Any] | None = None, say: Say = lambda *what: None
    ) -> None:
        self.path, self.say = path, say
        self._settings = json.dumps(settings or {}, sort_keys=True)
        self._stages: dict[str, Any] = {}
        self._stopped = threading.Event()
        self._saved = time.monotonic()
        if path is not None and path.exists():
            self._stages = self._read(path)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C inside waits for the piece of work at hand."""
        with deferred() as self._stopped:
            yield

    def descend(self, stage: str, descent: Descent) -> None:
        """Run all iterations that are left of `descent`; none if the stage is finished."""
        if stage in self._stages:
            descent.load_state_dict(self._stages[stage])
        while descent.done < descent.iterations:
            loss = descent.step()
            self.say(stage, descent.done, descent.iterations, f"loss {loss:.3f}")
            if self._due():
                self.keep(stage, descent.state_dict())
        self._stages[stage] = descent.state_dict()

    def gather(self, stage: str, count: int, make: Callable[[int], Any]) -> list[Any]:
        """`make(0)`, `make(1)`, ..., each a function of its number and of what was finished before; plain values."""
        found: list[Any] = self._stages.setdefault(stage, [])
        while len(found) < count:
            found.append(make(len(found)))
            self.say(stage, len(found), count, "")
            if self._due():
                self.keep(stage, found)
        return found

    def keep(self, stage: str, state: Any) -> None:
        """Write the checkpoint; raises `Interrupted` after a Ctrl-C."""
        self._stages[stage] = state
        if self.path is not None:
            buffer = io.BytesIO()
            torch.save({"settings": self._settings, "stages": self._stages}, buffer)
            write_bytes(self.path, buffer.getvalue())
        self._saved = time.monotonic()
        if self._stopped.is_set():
            where = "" if self.path is None else f"; the same command goes on from {self.path}"
            raise Interrupted(f"interrupted during {stage}{where}")

    def close(self) -> None:
        """Remove the checkpoint: all is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _due(self) -> bool:
        return self._stopped.is_set() or time.monotonic() - self._saved >= EVERY

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found = torch.load(path, weights_only=True)
            settings, stages = found["settings"], dict(found["stages"])
        except Exception as error:
            raise ValueError(
                f"{path} is not a readable checkpoint ({type(error).__name__}); remove it to start anew"
            ) from error
        if settings != self._settings:
            was, now = json.loads(settings), json.loads(self._settings)
            other = ", ".join(f"{k} {was.get(k)!r} -> {now.get(k)!r}" for k in now | was if was.get(k) != now.get(k))
            raise ValueError(f"{path} is of other settings ({other}); remove it or choose another --out")
        return stages

"""A corpus of recorded training runs: one Parquet file per task and optimizer, in a folder of the user's choosing."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from learnopt.atomic import write_bytes

FORMAT = 1


def needs_pyarrow() -> None:
    """Raise ValueError, saying what to install, where Parquet files cannot be read."""
    if find_spec("pyarrow") is None:
        raise ValueError("Parquet files need the package pyarrow: pip install pyarrow")


class Corpus:
    """The runs under `folder`: `runs/TASK--OPTIMIZER.parquet`; what was left out, and why: `skipped/*.json`.

    Files are written at once and never changed: several processes may record into one folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _name(self, task: str, optimizer: str) -> str:
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{task}--{optimizer}")

    def has(self, task: str, optimizer: str) -> bool:
        """Whether these runs are recorded."""
        return (self.folder / f"runs/{self._name(task, optimizer)}.parquet").exists()

    def left_out(self, task: str, optimizer: str, most_seconds: float = 0.0) -> str | None:
        """Why these runs were left out: for good, or as too slow where no more time was allowed; else None.

        Args:
            most_seconds: allowed now; 0: no limit.
        """
        try:
            note = json.loads((self.folder / f"skipped/{self._name(task, optimizer)}.json").read_text(encoding="utf-8"))
            reason, allowed = str(note["reason"]), float(note["allowed"])
        except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one: tried again
            return None
        return reason if not allowed or 0 < most_seconds <= allowed else None

    def put(self, task: str, optimizer: str, runs: pd.DataFrame) -> None:
        """Store the runs of one task and optimizer: a reader sees all of them or none."""
        buffer = io.BytesIO()
        runs.to_parquet(buffer, index=False)
        write_bytes(self.folder / "runs" / f"{self._name(task, optimizer)}.parquet", buffer.getvalue())

    def skip(self, task: str, optimizer: str, reason: str, allowed: float = 0.0) -> None:
        """Note that these runs were not recorded, so that they are not tried again.

        Args:
            allowed: seconds that were too few; 0: it is for good.
        """
        text = json.dumps({"task": task, "optimizer": optimizer, "reason": reason, "allowed": allowed}) + "\n"
        write_bytes(self.folder / "skipped" / f"{self._name(task, optimizer)}.json", text.encode())

    def agree(self, settings: dict[str, object]) -> None:
        """Keep the settings of a folder's first recording, and hold later ones to them.

        Raises:
            ValueError: the folder holds runs of other settings, its settings cannot be read, or runs could not be
                written.
        """
        needs_pyarrow()  # before hours of recording, not after
        path = self.folder / "corpus.json"
        settings = json.loads(json.dumps({"format": FORMAT} | settings))
        if not path.exists():
            write_bytes(path, (json.dumps(settings, indent=1) + "\n").encode())
            return
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}; remove it if you know its settings") from error
        other = [k for k in settings | found if settings.get(k) != found.get(k)]
        if other:
            raise ValueError(
                f"{self.folder} was recorded with other settings: {other[0]} {found.get(other[0])!r}, "
                f"now {settings.get(other[0])!r}; choose another folder"
            )

    def paths(self, optimizer: str = "*") -> list[Path]:
        """The files of recorded runs, sorted."""
        return sorted((self.folder / "runs").glob(f"*--{optimizer}.parquet"))

    def frames(self, optimizer: str = "*") -> Iterator[pd.DataFrame]:
        """The runs of one task and optimizer after the other."""
        for path in self.paths(optimizer):
            needs_pyarrow()
            yield pd.read_parquet(path)

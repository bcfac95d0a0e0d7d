"""Finished runs on disk: one JSON file each, written at once, found again by configuration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from learnopt.atomic import write_bytes
from learnopt.training import Run, RunConfig

FORMAT = 1


class RunStore:
    """The runs under `folder`.

    A file that cannot be read, or whose configuration differs from the one asked for, is as good as absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clean(self) -> None:
        """Remove what a kill left half-written."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    @staticmethod
    def key(config: RunConfig) -> str:
        """File name without ending: readable, and different for every configuration."""
        text = json.dumps([FORMAT, config.entry()], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return f"{config.task}--{config.optimizer}--{config.seed}--{digest}"

    def path(self, config: RunConfig) -> Path:
        """Where the run is, or would be."""
        return self.folder / f"{self.key(config)}.json"

    def get(self, config: RunConfig) -> Run | None:
        """The stored run of exactly this configuration, or None."""
        try:
            entry = json.loads(self.path(config).read_text(encoding="utf-8"))
            run = Run(**entry["run"]) if entry["format"] == FORMAT else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return run if run is not None and run.config == config.entry() else None

    def put(self, config: RunConfig, run: Run) -> None:
        """Write a run: a reader, or a restart after a kill, sees the whole file or none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, "run": asdict(run)}, allow_nan=False)
        write_bytes(self.path(config), text.encode())

    def count(self) -> dict[str, int]:
        """Stored runs by task name."""
        counts: dict[str, int] = {}
        for path in self.folder.glob("*.json"):
            task = path.name.split("--", 1)[0]
            counts[task] = counts.get(task, 0) + 1
        return counts

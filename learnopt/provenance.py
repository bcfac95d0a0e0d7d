"""Where a result comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str | None:
    """The git commit of the source tree that this package runs from, with "+changes" if it has any; None elsewhere."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != folder.parent:
            return None
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--", "learnopt", "tasks") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None

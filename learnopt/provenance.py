"""Where a result comes from."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The git commit of the source tree that this package runs from, as it was when first asked for.

    With "+changes" if the tree has any; None outside of a checkout.
    """
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

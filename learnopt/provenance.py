"""Where a result comes from."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from learnopt.atomic import write_bytes


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


def typed() -> str:
    """The command line as for a shell: `learnopt ...`, however it was started, or `python SCRIPT ...`."""
    program, *words = sys.argv
    own = "learnopt" in (Path(program).name, Path(program).parent.name)
    return shlex.join(["learnopt", *words] if own else ["python", *sys.argv])


def origin() -> dict[str, Any]:
    """How, when, where and from which code a result is being made."""
    return {
        "command": typed(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(), "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": platform.machine(),
    }  # fmt: skip


def write_record(path: Path, **fields: Any) -> Path:
    """Write a benchmark's JSON: its `origin`, then `fields`; returns `path`."""
    write_bytes(path, (json.dumps(origin() | fields, indent=1) + "\n").encode())
    return path

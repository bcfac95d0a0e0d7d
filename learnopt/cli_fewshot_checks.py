"""Checks of what `learnopt fewshot` commands are told."""

from __future__ import annotations

import math
from pathlib import Path

from learnopt.atomic import check_folder


def checked_scale(scale: float) -> float:
    """`scale` if meta-steps can be multiplied by it."""
    if not 0 < scale < math.inf:
        raise ValueError(f"--scale must be above 0, got {scale:g}")
    return scale


def check_counts(**options: int) -> None:
    """Raise ValueError unless every option is at least 1; the message names it."""
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"--{name} must be 1 or more, got {value}")


def check_json(path: Path | None) -> None:
    """Raise ValueError where `--json` names no file that can be written, before the work whose figures it is for."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"--json must be a file, got the folder {str(path)!r}")
    check_folder(path.parent)

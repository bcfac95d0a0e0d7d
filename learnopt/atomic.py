"""Files that are never seen half-written."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before work is done whose results are to go there.

    Raises:
        ValueError: one line that names it.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"cannot write to {str(folder)!r}: {str(there)!r} is no folder that can be written to")


def check_artifact(out: Path) -> None:
    """Refuse an artifact's `--out` of another ending or in no folder, before hours of work that end in it.

    Raises:
        ValueError: one line that names it.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got {str(out)!r}")
    if out.is_dir():
        raise ValueError(f"--out must be a file, got the folder {str(out)!r}")
    check_folder(out.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` into `path` at once: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # unique among threads too, and among machines that share the folder
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""One process at a time in a folder of results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the lock goes with the process, however that ends.

    Raises:
        ValueError: another process holds it, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / FILE)
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{str(folder)!r} is in use by another learnopt process; choose another --out") from None
    except OSError as error:
        raise ValueError(f"cannot write to --out {str(folder)!r}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()

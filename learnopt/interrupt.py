"""Ctrl-C that waits: work in hand is finished and saved before the interrupt is acted on. Ctrl-C that stays here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any


@contextmanager
def deferred() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C inside into an event and let a second one through; does nothing outside the main thread."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def note(number: int, frame: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def for_this_process_alone() -> Iterator[None]:
    """Processes started inside never see a Ctrl-C: it is for this one, which ends them.

    Ignoring it once they run is too late: importing torch takes seconds, and one that dies meanwhile says so at length
    and may be waited for in vain. A Ctrl-C inside arrives at the end. Does nothing where signals cannot be blocked.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # whose start lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by what is started
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Threads that share the kernel's jobs: those of OpenMP, which torch uses too, or Python's without OpenMP."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from torch import Tensor


def all_jobs(library: ctypes.CDLL, net: ctypes.Structure, work: int, rooms: Tensor) -> None:
    """Do all jobs of a `Net` of net.h.

    Args:
        work: number of its `works` in step.c.
        rooms: `(threads, room)`, what each thread may write to.
    """
    threads, room = rooms.shape
    place = ctypes.byref(net)
    if threads == 1 or (library.has_openmp() and not _forked()):
        library.all_jobs(place, work, threads, rooms.data_ptr(), room)
        return
    taken = ctypes.c_int64(threads)
    first, *others = [(place, work, i, ctypes.byref(taken), row.data_ptr()) for i, row in enumerate(rooms)]
    waiting = [_threads().submit(library.take_jobs, *other) for other in others]  # C runs without Python's lock
    try:
        library.take_jobs(*first)
    finally:  # an interrupt must not leave threads behind that write to memory given back
        for other in waiting:
            other.result()


@lru_cache(maxsize=1)
def _process() -> int:
    return os.getpid()


def _forked() -> bool:
    """Whether this process was forked from one that had loaded this module: OpenMP's threads do not survive that."""
    return _process() != os.getpid()


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="learnopt")


_process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked process has none of its parent's threads

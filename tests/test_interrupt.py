"""Ctrl-C: which processes see it, and when."""

from __future__ import annotations

import signal
import subprocess
import sys

import joblib
import pytest
from joblib.externals.loky import get_reusable_executor
from meta_train_toy import ToySource

from learnopt.interrupt import for_this_process_alone
from learnopt.workers import Pool

ASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def sees_it() -> bool:
    return subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True).stdout.strip() == "False"


def test_processes_started_inside_never_see_it() -> None:
    with for_this_process_alone():
        assert not sees_it()
    assert sees_it()


def test_it_arrives_at_the_end() -> None:
    done = []

    def work() -> None:
        with for_this_process_alone():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done


def test_workers_never_see_it() -> None:
    with Pool(ToySource(), 1) as pool:
        blocked = pool._submit(signal.pthread_sigmask, signal.SIG_BLOCK, ())
        assert signal.SIGINT in blocked.result()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_joblibs_workers_never_see_it() -> None:
    with joblib.Parallel(n_jobs=2, return_as="generator_unordered") as parallel:
        with for_this_process_alone():
            blocked = parallel(joblib.delayed(signal.pthread_sigmask)(signal.SIG_BLOCK, ()) for _ in range(2))
        assert [signal.SIGINT in found for found in blocked] == [True, True]
    get_reusable_executor().shutdown()  # loky takes a torch that is imported later for a leak of memory

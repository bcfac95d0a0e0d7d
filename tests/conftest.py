"""Shared set-up: one thread, so that results do not depend on the machine; Ctrl-C; who takes checks of optimizers."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# A shell that runs pytest in the background has it ignore Ctrl-C, and so what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).parent))  # `toy` is importable, also from worker processes that tests start

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "ci", max_examples=40, stateful_step_count=12, derandomize=True, deadline=None, database=None,
    suppress_health_check=slow,
)  # fmt: skip
settings.register_profile(
    "long", max_examples=3000, stateful_step_count=25, deadline=None, database=None, print_blob=True,
    suppress_health_check=slow,
)  # fmt: skip
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--judged", default="", help="optimizers that take the checks of torch's behaviours, separated by ;"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`info`: the record of every optimizer that is judged; by default those of the module's `JUDGED`, else two."""
    if "info" in metafunc.fixturenames:
        from torch_rivals import record

        asked = metafunc.config.getoption("--judged")
        labels = asked.split(";") if asked else getattr(metafunc.module, "JUDGED", ("LearnedOptimizer", "AdamW"))
        metafunc.parametrize("info", [record(label) for label in labels], ids=labels)

"""Shared set-up: one thread, so that results do not depend on the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
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

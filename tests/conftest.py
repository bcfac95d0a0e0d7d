"""Shared set-up: one thread, so that results do not depend on the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))  # `toy` is importable, also from worker processes that tests start

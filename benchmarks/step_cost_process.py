"""Costs that only a fresh process shows: import, construction, first step, peak memory; prints them as JSON.

python benchmarks/step_cost_process.py learnopt|adamw
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def measured(which: str) -> dict[str, float]:
    """Seconds; and what state and peak memory of two steps are to the parameters, which do not count, nor gradients."""
    start = time.perf_counter()
    import torch
    from step_cost_networks import ALONE

    torch_there = time.perf_counter()
    if which == "learnopt":
        from learnopt import LearnedOptimizer as Optimizer
    else:
        from torch.optim import AdamW as Optimizer
    there = time.perf_counter()
    params = [torch.nn.Parameter(torch.randn(s)) for s in ALONE["10 million, Transformer of width 384"]]
    for p in params:
        p.grad = torch.randn_like(p)
    _forget_peak()
    before, filled = _memory("VmRSS"), time.perf_counter()
    optimizer = Optimizer(params, total_steps=100) if which == "learnopt" else Optimizer(params, fused=True)
    constructed = time.perf_counter()
    optimizer.step()
    stepped = time.perf_counter()
    optimizer.step()
    again = time.perf_counter()
    size = sum(p.numel() for p in params)
    full = sum(x.numel() for s in optimizer.state.values() for x in s.values() if x.numel() >= 1_000)
    return {
        "import_torch": torch_there - start, "import": there - torch_there, "construct": constructed - filled,
        "first_step": stepped - constructed, "second_step": again - stepped,
        "state_buffers": full / size, "peak_buffers": (_memory("VmHWM") - before) / (4 * size),
    }  # fmt: skip


def _memory(field: str) -> float:
    """Bytes that Linux says this process has (VmRSS) or had at most (VmHWM); NaN elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.nan
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(field)), math.nan)


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def in_a_process(which: str, threads: int, *, cached: bool) -> dict[str, Any]:
    """`measured` in a process of its own, with the compiled kernel in the cache or with an empty cache."""
    with tempfile.TemporaryDirectory() as empty:
        here = os.path.dirname(os.path.abspath(__file__))
        path = os.pathsep.join([os.path.dirname(here), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
        if not cached:
            environment["XDG_CACHE_HOME"] = empty
        done = subprocess.run(
            [sys.executable, __file__, which], env=environment, capture_output=True, text=True, check=True
        )
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))

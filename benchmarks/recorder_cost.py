"""What a `Recorder` costs: a step that it does not record, one that it does, and a whole run that thins itself out.

    python benchmarks/recorder_cost.py --out results/recorder

On networks of 6, 60 and 600 tensors of little work, so that the recorder's share is as large as it gets: `step()` of
the optimizer alone, no forward or backward pass.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learnopt import LearnedOptimizer
from learnopt.kernels import library
from learnopt.provenance import write_record
from learnopt.recorder import Recorder
from learnopt.recording import MOST

LAYERS = (3, 30, 300)
WIDTH = 32
HORIZONS = (1_000, 100_000, 10_000_000)


def microseconds(started: float, calls: int = 1) -> float:
    return 1e6 * (time.perf_counter() - started) / calls


def measure(layers: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
    optimizer = LearnedOptimizer(model.parameters(), total_steps=10_000)
    loss = torch.tensor(1.0)
    for p in model.parameters():
        p.grad = 0.01 * torch.randn_like(p)
    optimizer.step(loss=loss)
    steps, rows = [], []
    recorder = Recorder(optimizer, every=10**9, names=model, most=repeats)
    for _ in range(repeats):
        started = time.perf_counter()
        optimizer.step(loss=loss)  # the hook runs, and records nothing
        steps.append(microseconds(started))
        started = time.perf_counter()
        recorder.record()
        rows.append(microseconds(started))
    started = time.perf_counter()
    for _ in range(10_000):
        recorder._after_step(optimizer, (), {"loss": loss})
    idle = microseconds(started, 10_000)
    size = sum(row.tensors.nbytes for row in recorder.recording.rows) / len(recorder.recording.rows)
    recorder.close()
    step, row = statistics.median(steps), statistics.median(rows)
    return {
        "tensors": 2 * layers, "parameters": sum(p.numel() for p in model.parameters()), "step_us": step,
        "step_us_range": [min(steps), max(steps)], "not_recorded_us": idle, "recorded_us": row,
        "recorded_us_range": [min(rows), max(rows)], "row_bytes": size,
        "run_milliseconds": {t: 1e-3 * (idle * t + row * rows_read(t)) for t in HORIZONS},
    }  # fmt: skip


def rows_read(steps: int) -> int:
    """Rows that a recorder with its default settings reads in a run, those that it drops again included."""
    read = kept = step = 0
    every = 1
    while step < steps:
        read, kept, step = read + 1, kept + 1, step + every
        if kept > MOST:
            kept, every = (kept + 1) // 2, 2 * every
    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/recorder"))
    parser.add_argument("--repeats", type=int, default=300)
    chosen = parser.parse_args()
    rows = []
    for layers in LAYERS:
        row = measure(layers, chosen.repeats)
        rows.append(row)
        runs = ", ".join(f"{ms:,.0f} of {t:,}" for t, ms in row["run_milliseconds"].items())
        print(
            f"{row['tensors']:4d} tensors: step alone {row['step_us']:8.0f} us, not recorded "
            f"+{row['not_recorded_us']:.1f} us, recorded +{row['recorded_us']:.0f} us; {row['row_bytes']:,.0f} bytes a "
            f"row; milliseconds in all steps: {runs}"
        )
    path = write_record(
        chosen.out / "recorder-cost.json", threads=torch.get_num_threads(), load=os.getloadavg()[0],
        cores=os.cpu_count(), kernel=library.load() is not None,
        rows_read={t: rows_read(t) for t in HORIZONS}, repeats=chosen.repeats, networks=rows,
    )  # fmt: skip
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

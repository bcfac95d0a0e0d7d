"""What a step costs with the learned optimizer and with AdamW(fused=True), on models of up to 100 million parameters.

    python benchmarks/step_cost.py --out results/step-cost

Three parts: the optimizer's step alone; whole training steps, with forward and backward pass and `zero_grad`; and what
only a fresh process shows (import, first step with and without a compiled kernel in the cache, peak memory). The
optimizers take turns, so that whatever else the machine does hits both; ratios are of neighbours in time. A step alone
moves 40 bytes a parameter (AdamW's 28): bytes a second are compared with those of a copy of as many numbers.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from step_cost_networks import ALONE, CLASSES, WHOLE
from step_cost_process import in_a_process
from torch import Tensor, nn

from learnopt import LearnedOptimizer
from learnopt.kernels import library
from learnopt.provenance import write_record

BYTES = {"learnopt": 40, "adamw": 28, "copy": 8}
"""Bytes a parameter read and written: gradient (twice here), parameter and each state buffer."""
LEAST = 0.02
"""Seconds that one timing takes at least; as many steps as fit."""
BATCHES = 64
"""Different batches: one alone is soon fitted to a loss of zero, by the faster learner first, and gradients below 1e-38
make the backward pass several times slower (unless `torch.set_flush_denormal` is on)."""
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda params: torch.optim.AdamW(params, fused=True),
    "learnopt": lambda params: LearnedOptimizer(params, total_steps=10_000),
}


def take_turns(works: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds per call of each, `repeats` of them."""
    steps = {}
    for name, work in works.items():
        work()
        work()  # the first fills states
        start = time.perf_counter()
        work()
        steps[name] = max(1, round(LEAST / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            for _ in range(steps[name]):
                work()
            times[name].append(1e3 * (time.perf_counter() - start) / steps[name])
    return times


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Ratios of ours to AdamW's: median and range over neighbours in time, and that of the minima."""
    ratios = [ours / theirs for ours, theirs in zip(times["learnopt"], times["adamw"], strict=True)]
    return {
        "ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)],
        "ratio_of_minima": min(times["learnopt"]) / min(times["adamw"]), "milliseconds": times,
    }  # fmt: skip


def line(name: str, size: int, row: dict[str, Any]) -> str:
    low, high = row["ratio_range"]
    fastest = {key: min(values) for key, values in row["milliseconds"].items()}
    return (
        f"{name:40s} {size:11,d} parameters  at best {fastest['adamw']:8.3f} and {fastest['learnopt']:8.3f} ms"
        f"   ratio {row['ratio']:.2f} [{low:.2f}, {high:.2f}], of minima {row['ratio_of_minima']:.2f}"
    )


def alone(name: str, repeats: int) -> dict[str, Any]:
    """The optimizer's step by itself."""
    works: dict[str, Callable[[], None]] = {}
    gradients = [torch.randn(shape) for shape in ALONE[name]]
    for key, make in OPTIMIZERS.items():
        params = [nn.Parameter(0.02 * torch.randn(shape)) for shape in ALONE[name]]
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        works[key] = make(params).step
    size = sum(g.numel() for g in gradients)
    source, target = torch.randn(size), torch.empty(size)
    works["copy"] = lambda: target.copy_(source)
    row = summary(take_turns(works, repeats))
    rates = {key: BYTES[key] * size / min(values) / 1e6 for key, values in row["milliseconds"].items()}
    print(line(name, size, row), "  GB/s", "  ".join(f"{key} {rate:.1f}" for key, rate in rates.items()))
    return {"shapes": name, "parameters": size, "gigabytes_per_second": rates, **row}


def whole(name: str, repeats: int) -> dict[str, Any]:
    """Forward and backward pass, `zero_grad` and `step`."""
    make, inputs = WHOLE[name]
    data = [(x, torch.randint(CLASSES, (len(x),))) for x in (inputs() for _ in range(BATCHES))]
    models = {key: make() for key in OPTIMIZERS}
    models["learnopt"].load_state_dict(models["adamw"].state_dict())

    def training(key: str) -> Callable[[], None]:
        model, optimizer = models[key], OPTIMIZERS[key](list(models[key].parameters()))
        batches = itertools.cycle(data)

        def step() -> None:
            x, y = next(batches)
            optimizer.zero_grad()
            loss: Tensor = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step(loss=loss) if isinstance(optimizer, LearnedOptimizer) else optimizer.step()

        return step

    row = summary(take_turns({key: training(key) for key in OPTIMIZERS}, repeats))
    size = sum(p.numel() for p in models["adamw"].parameters())
    print(line(name, size, row))
    return {"network": name, "parameters": size, **row}


def starts(threads: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Every repeat of what a fresh process shows, by case."""
    cases = {"adamw": ("adamw", True), "learnopt": ("learnopt", True), "learnopt, nothing cached": ("learnopt", False)}
    rows: dict[str, dict[str, list[float]]] = {}
    for case, (which, cached) in cases.items():
        found = [in_a_process(which, threads, cached=cached) for _ in range(repeats)]
        rows[case] = {key: [one[key] for one in found] for key in found[0]}
        print(f"{case:28s}", "  ".join(f"{key} {statistics.median(v):.3f}" for key, v in rows[case].items()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/step-cost"))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    parts = [[name for name in cases if chosen.only in name] for cases in (ALONE, WHOLE)]
    print(f"{torch.get_num_threads()} threads; step alone, without a loss")
    steps = [alone(name, chosen.repeats) for name in parts[0]]
    print("whole training steps")
    networks = [whole(name, chosen.repeats) for name in parts[1]]
    print("fresh processes, 10 million parameters: seconds; buffers as large as the parameters")
    processes = {} if chosen.only else starts(torch.get_num_threads(), 3)
    loaded = library.load()
    path = write_record(
        chosen.out / "step-cost.json", threads=torch.get_num_threads(), kernel=loaded is not None,
        amx=loaded is not None and bool(loaded.amx_used()), repeats=chosen.repeats, alone=steps, networks=networks,
        processes=processes,
    )  # fmt: skip
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

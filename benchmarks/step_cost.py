"""What a training step costs with the learned optimizer and with AdamW, on models of up to millions of parameters.

    python benchmarks/step_cost.py --out results/step-cost

A step is forward and backward pass, `zero_grad` and `step`, with torch's default number of threads; "alone" is `step()`
by itself. The optimizers take turns, so that whatever else the machine does hits all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnopt import LearnedOptimizer
from learnopt.kernels import library
from learnopt.provenance import write_record

CLASSES = 10


def mlp(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 8 * 8, 128), nn.ReLU(), nn.Linear(128, CLASSES),
    )  # fmt: skip


class Characters(nn.Module):
    """A two-layer Transformer encoder over 64 tokens, mean-pooled."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.embed = nn.Embedding(96, width)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp 64-32-10, batch 32": (lambda: mlp(64, 32, CLASSES), lambda: torch.randn(32, 64)),
    "mlp 784-256-128-10, batch 64": (lambda: mlp(784, 256, 128, CLASSES), lambda: torch.randn(64, 784)),
    "mlp 4 x 1024, batch 128": (lambda: mlp(*[1024] * 4, CLASSES), lambda: torch.randn(128, 1024)),
    "cnn 32-64 on 32 x 32, batch 64": (cnn, lambda: torch.randn(64, 3, 32, 32)),
    "transformer 2 x 128, 64 tokens, batch 16": (Characters, lambda: torch.randint(96, (16, 64))),
}
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters()),
    "learnopt": lambda model: LearnedOptimizer(model.parameters(), total_steps=10_000),
}


def timed(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int) -> tuple[float, float]:
    """Milliseconds of a whole step and of `step()` alone."""
    alone, start = 0.0, time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        before = time.perf_counter()
        optimizer.step(loss=loss) if isinstance(optimizer, LearnedOptimizer) else optimizer.step()
        alone += time.perf_counter() - before
    return 1e3 * (time.perf_counter() - start) / steps, 1e3 * alone / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/step-cost"))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    rows = []
    for name, (make, inputs) in NETWORKS.items():
        torch.manual_seed(0)
        x = inputs()
        y = torch.randint(CLASSES, (len(x),))
        models = {key: make() for key in OPTIMIZERS}
        optimizers = {key: OPTIMIZERS[key](model) for key, model in models.items()}
        times: dict[str, list[tuple[float, float]]] = {key: [] for key in OPTIMIZERS}
        for repeat in range(chosen.repeats + 1):  # the first warms up
            for key, model in models.items():
                result = timed(model, optimizers[key], x, y, chosen.steps)
                if repeat:
                    times[key].append(result)
        ratios = [ours[0] / theirs[0] for ours, theirs in zip(times["learnopt"], times["adamw"], strict=True)]
        whole = {key: statistics.median(t[0] for t in values) for key, values in times.items()}
        alone = {key: statistics.median(t[1] for t in values) for key, values in times.items()}
        size = sum(p.numel() for p in models["adamw"].parameters())
        rows.append({
            "network": name, "parameters": size, "milliseconds": times, "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        })  # fmt: skip
        print(
            f"{name:42s} {size:9,d} parameters  whole step {whole['adamw']:7.2f} and {whole['learnopt']:7.2f} ms"
            f"   ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
            f"   alone {alone['adamw']:.2f} and {alone['learnopt']:.2f} ms"
        )
    path = write_record(
        chosen.out / "step-cost.json", threads=torch.get_num_threads(), kernel=library.load() is not None,
        steps=chosen.steps, networks=rows,
    )  # fmt: skip
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

"""Inner steps a second on one core: our unroll against a loop over modules and against batching by hand.

    python benchmarks/throughput.py --out results/throughput

(a) `loop`: `nn.Module` and `torch.optim.Adam`, one run after the other, what a user would write.
(b) `by hand`: all runs in batched matrix products written for this network, with Adam: the ceiling.
(c) `unroll`: `learnopt.unroll` of any module, with the learned rule, which costs more than Adam; building the runs and
recording their passes included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnopt import meta_network
from learnopt.kernels import library
from learnopt.provenance import write_record
from learnopt.task import Batch, Task
from learnopt.unroll import Problem, Telling, unroll

CLASSES, ROWS = 10, 32
Forward = Callable[[list[Tensor], Tensor], Tensor]


class Attention(nn.Module):
    """One pre-norm Transformer block over 16 tokens of 8 numbers, mean-pooled."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.norm = nn.Linear(8, width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 32), nn.Linear(32, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        b, t, d = h.shape
        q, k, v = self.qkv(self.norm(h)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.mT / (d // self.heads) ** 0.5, -1)
        h = h + self.out((weights @ v).transpose(1, 2).reshape(b, t, d))
        h = h + self.down(F.gelu(self.up(self.norm2(h))))
        return self.head(h.mean(1))


def mlp_by_hand(p: list[Tensor], x: Tensor) -> Tensor:
    """`(N, rows, 64)` to logits; weights `(N, out, in)`."""
    h = torch.relu(torch.baddbmm(p[1][:, None], x, p[0].mT))
    return torch.baddbmm(p[3][:, None], h, p[2].mT)


def cnn_by_hand(p: list[Tensor], x: Tensor) -> Tensor:
    """All runs as groups of one convolution; `x` is `(N, rows, 1, 8, 8)`."""
    n, rows = x.shape[:2]
    h = x.transpose(0, 1).reshape(rows, n, 8, 8)
    for weight, bias in ((p[0], p[1]), (p[2], p[3])):
        h = F.conv2d(h, weight.flatten(0, 1), bias.flatten(), padding=1, groups=n)
        h = F.max_pool2d(torch.relu(h), 2)
    flat = h.view(rows, n, -1).transpose(0, 1)
    return torch.baddbmm(p[5][:, None], flat, p[4].mT)


def attention_by_hand(p: list[Tensor], x: Tensor) -> Tensor:
    """The same block with a leading run dimension in every product; `x` is `(N, rows, 16, 8)`."""
    n, b, t, _ = x.shape

    def linear(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm(bias[:, None], h.reshape(n, -1, h.shape[-1]), weight.mT).view(*h.shape[:-1], -1)

    def norm(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:]) * weight[:, None, None] + bias[:, None, None]

    h = linear(x, p[0], p[1])
    d = h.shape[-1]
    q, k, v = linear(norm(h, p[2], p[3]), p[4], p[5]).view(n, b, t, 3, 2, -1).permute(3, 0, 1, 4, 2, 5)
    weights = torch.softmax(q @ k.mT / (d // 2) ** 0.5, -1)
    h = h + linear((weights @ v).transpose(2, 3).reshape(n, b, t, d), p[6], p[7])
    h = h + linear(F.gelu(linear(norm(h, p[8], p[9]), p[10], p[11])), p[12], p[13])
    return torch.baddbmm(p[15][:, None], h.mean(2), p[14].mT)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 12, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, CLASSES),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Forward, tuple[int, ...]]] = {
    "mlp 64-32-10": (lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)), mlp_by_hand, (64,)),
    "cnn 6-12": (cnn, cnn_by_hand, (1, 8, 8)),
    "transformer 16": (Attention, attention_by_hand, (16, 8)),
}


class Synthetic(Task):
    """Random inputs and classes; batches are cut from memory, so that the network and the optimizer are timed."""

    name, kind, datasets, steps = "synthetic", "benchmark", frozenset(["none"]), 100

    def __init__(self, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        g = torch.Generator().manual_seed(0)
        self.make = make
        self.x, self.y = torch.randn(4096, *shape, generator=g), torch.randint(CLASSES, (4096,), generator=g)
        self.windows = tuple(t.unfold(0, ROWS, 1).movedim(-1, 1) for t in (self.x, self.y))  # (starts, rows, ...)

    def _module(self) -> nn.Module:
        return self.make()

    def batch(self, seed: int, step: int) -> Batch:
        start = (seed * 977 + step * ROWS) % (4096 - ROWS)
        return self.x[start : start + ROWS], self.y[start : start + ROWS]

    def batches(self, seeds: Sequence[int], step: int) -> Batch:
        starts = (torch.tensor(list(seeds)) * 977 + step * ROWS) % (4096 - ROWS)
        return tuple(w.index_select(0, starts) for w in self.windows)

    def validation(self) -> Batch:
        return self.x[:256], self.y[:256]

    def loss(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])


def loop(task: Synthetic, steps: int) -> int:
    model = task.make()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for t in range(steps):
        optimizer.zero_grad()
        task.loss(model, task.batch(0, t)).backward()
        optimizer.step()
    return steps


def by_hand(task: Synthetic, forward: Forward, runs: int, steps: int) -> int:
    models = [task.make() for _ in range(runs)]
    each = [list(m.parameters()) for m in models]
    params = [torch.stack([p[i].detach() for p in each]).requires_grad_() for i in range(len(each[0]))]
    optimizer = torch.optim.Adam(params, 1e-3)
    for t in range(steps):
        x, y = task.batches(range(runs), t)
        optimizer.zero_grad()
        F.cross_entropy(forward(params, x).flatten(0, 1), y.flatten(), reduction="sum").div(ROWS).backward()
        optimizer.step()
    return runs * steps


def unrolled(task: Synthetic, runs: int, steps: int) -> int:
    problem = Problem(task, list(range(runs)))
    thetas = meta_network.initial_theta(torch.Generator().manual_seed(0)).expand(runs, -1)
    unroll(problem, thetas, problem.begin(), 0, steps, Telling(steps))
    return runs * steps


def rates(timed: dict[str, Callable[[int], int]], steps: int, repeats: int) -> dict[str, list[float]]:
    """Inner steps a second of this thread's time on its core, in turns, after a warm-up."""
    for work in timed.values():
        work(5)
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, work in timed.items():
            start = time.thread_time()
            found[name].append(work(steps) / (time.thread_time() - start))
    return found


def median_ratio(found: dict[str, list[float]], a: str, b: str) -> float:
    """Of the turns: what slows a machine down slows neighbours down alike."""
    return statistics.median(x / y for x, y in zip(found[a], found[b], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/throughput"))
    parser.add_argument("--runs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=500, help="of every run")
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows = []
    for name, (make, forward, shape) in NETWORKS.items():
        task = Synthetic(make, shape)
        timed: dict[str, Callable[[int], int]] = {
            "loop": lambda steps, task=task: loop(task, steps),
            "by hand": lambda steps, task=task, f=forward: by_hand(task, f, chosen.runs, steps),
            "unroll": lambda steps, task=task: unrolled(task, chosen.runs, steps),
        }
        found = rates(timed, chosen.steps, chosen.repeats)
        middle = {k: statistics.median(v) for k, v in found.items()}
        pairs = (("unroll", "loop"), ("unroll", "by hand"), ("by hand", "loop"))
        ratios = {f"{a} / {b}": median_ratio(found, a, b) for a, b in pairs}
        rows.append({"network": name, "inner_steps_per_second": found, "median": middle, "median_ratio": ratios})
        print(
            f"{name:16s}", *(f"{k} {v:.0f} " for k, v in middle.items()), *(f"  {k} {v:.2f}" for k, v in ratios.items())
        )
    path = write_record(
        chosen.out / "throughput.json", runs=chosen.runs, steps=chosen.steps, rows_per_batch=ROWS,
        kernel=library.load() is not None, clock="time of the thread on its core", networks=rows,
    )  # fmt: skip
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

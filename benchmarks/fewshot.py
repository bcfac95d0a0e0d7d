"""A meta-batch of sinusoid tasks: vmapped, in our loop, and task by task with `higher`.

    OMP_NUM_THREADS=1 python benchmarks/fewshot.py --out results/fewshot/speed

One meta-gradient of MAML over 25 tasks of ten points, network 1-40-40-1; the three take turns, so that whatever else
the machine does hits all of them. All give the same gradient.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import higher
import torch
from torch import Tensor, nn

from learnopt.fewshot import MAML, Episode
from learnopt.fewshot.problems.sinusoid import network
from learnopt.fewshot.sources.sinusoids import Sinusoids
from learnopt.provenance import write_record

LR = 0.01


def with_higher(model: nn.Module, episodes: Episode, steps: int) -> list[Tensor]:
    """The meta-gradient as `higher`'s own examples take it."""
    optimizer = torch.optim.SGD(model.parameters(), LR)
    total = [torch.zeros_like(p) for p in model.parameters()]
    for sx, sy, qx, qy in zip(*episodes, strict=True):
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (fast, inner):
            for _ in range(steps):
                inner.step(nn.functional.mse_loss(fast(sx), sy))
            loss = nn.functional.mse_loss(fast(qx), qy)
            for t, g in zip(total, torch.autograd.grad(loss, list(model.parameters())), strict=True):
                t += g / len(episodes.support_x)
    return total


def ways(model: nn.Module, episodes: Episode, steps: int) -> dict[str, Callable[[], list[Tensor]]]:
    """The three, by name."""
    vmapped, looped = (MAML(model, LR, steps, vectorise=v) for v in (True, False))
    return {
        "vmapped": lambda: vmapped.meta_gradients(episodes)[1],
        "looped": lambda: looped.meta_gradients(episodes)[1],
        "higher": lambda: with_higher(model, episodes, steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/fewshot/speed"))
    parser.add_argument("--tasks", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=15)
    chosen = parser.parse_args()
    rows = []
    for steps in (1, 5):
        torch.manual_seed(0)
        three = ways(network(), Sinusoids().draw(0, chosen.tasks), steps)
        gradients = {name: way() for name, way in three.items()}  # the first warms up
        for name, found in gradients.items():
            for g, expected in zip(found, gradients["higher"], strict=True):
                torch.testing.assert_close(g, expected, rtol=1e-3, atol=1e-5, msg=f"{name} differs from higher")
        seconds: dict[str, list[float]] = {name: [] for name in three}
        for _ in range(chosen.repeats):
            for name, way in three.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
        ratios = sorted(h / v for h, v in zip(seconds["higher"], seconds["vmapped"], strict=True))
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        faster = statistics.median(ratios)
        rows.append({
            "steps": steps, "tasks": chosen.tasks, "seconds": seconds, "medians": middle, "higher_over_vmapped": faster,
            "range": [ratios[0], ratios[-1]],
        })  # fmt: skip
        shown = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in middle.items())
        print(f"{steps} inner steps: {shown}; vmapped {faster:.1f} times faster than higher {rows[-1]['range']}")
    record = write_record(chosen.out / "speed.json", threads=torch.get_num_threads(), rows=rows)
    print(f"wrote {record}")


if __name__ == "__main__":
    main()

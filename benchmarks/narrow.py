"""Replace an artifact's per-parameter MLP by one of fewer units that says the same: what a step costs falls with them.

LEARNOPT_WIDTHS=12,8,4 python benchmarks/narrow.py results/meta-train-v1/full learnopt/weights/v1.safetensors --units 2

Inputs and outputs of the MLP are sampled from runs of `meta_train` under the artifact's own weights; the smaller
MLP starts from some of its units and is fitted by Adam to the directions that the outputs make, at equal shares of
gradient and momentum. Nothing else of the artifact is changed. LEARNOPT_WIDTHS are those of the artifact; what is
written is of other widths. The card says by how much the directions differ on samples that were not fitted.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from learnopt import artifact, carded, meta_network, rule
from learnopt.provenance import origin
from learnopt.tasks.source import SuiteSource
from learnopt.unroll import Problem, Runs, Telling, unroll

STEPS = (100, 300)
MOMENTS, SAMPLES = 6, 60
"""Steps of a run that are looked at, and parameters of each tensor in one of them."""
ITERATIONS, BATCH, RATE = 3000, 4096, 3e-3
RAW = 0.01
"""Weight of the raw outputs' own error, where directions say little about them."""
MLP = ("mlp_in", "mlp_context", "mlp_bias", "mlp_out", "mlp_out_bias")


class Seen(NamedTuple):
    """Samples of what the MLP was told and said."""

    x: Tensor  # (S, P)
    context: Tensor  # (S, WIDTH)
    outputs: Tensor  # (S, 2)


def observe(theta: Tensor, tasks: int, seed: int) -> Seen:
    """Run tasks and watch the MLP."""
    rng, source, found = np.random.default_rng(seed), SuiteSource(), []
    watched = rule.parameter_outputs

    def watch(w: dict[str, Tensor], x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        said = watched(w, x, context)
        chosen = torch.as_tensor(rng.integers(0, x.shape[-1], SAMPLES))
        told = context[0].expand(x.shape[-1], -1)[chosen]
        found.append(Seen(x[0][:, chosen].mT, told, torch.stack(said, -1)[0][chosen]))
        return said

    for number in range(tasks):
        problem = Problem(source.sample(rng), [number], kernel=False)
        steps = int(rng.integers(*STEPS))
        runs, at = problem.begin(), 0
        for moment in sorted(rng.choice(np.arange(1, steps), MOMENTS, replace=False)):
            runs = _go_on(problem, theta, runs, at, int(moment), steps)
            with mock.patch.object(rule, "parameter_outputs", watch):
                runs = _go_on(problem, theta, runs, int(moment), int(moment) + 1, steps)
            at = int(moment) + 1
    return Seen(*map(torch.cat, zip(*found, strict=True)))


def _go_on(problem: Problem, theta: Tensor, runs: Runs, start: int, stop: int, steps: int) -> Runs:
    return unroll(problem, theta, runs, start, stop, Telling(steps))[0] if stop > start else runs


def directions(x: Tensor, outputs: Tensor) -> Tensor:
    """What the outputs make of columns, `(S,)`, as in `rule.advance`."""
    rate, added = outputs.unbind(-1)
    s = 0.76 * rate / (1 + rate.abs())
    return x[:, :2].mean(-1) * (1 + s) / (1 - s) + 0.3 * added


class Small(torch.nn.Module):
    """The MLP of fewer units; what it is told of a tensor are mixtures of what the large one was told.

    Args:
        large: the large MLP's weights by name.
        kept: its units to start from.
    """

    def __init__(self, large: dict[str, Tensor], seen: Seen, kept: tuple[int, ...]) -> None:
        super().__init__()
        units = list(kept)
        inner = (seen.x @ large["mlp_in"] + seen.context).clamp(min=0)[:, units]
        solved = torch.linalg.lstsq(torch.cat([inner, torch.ones(len(inner), 1)], 1), seen.outputs).solution
        start = {
            "columns": large["mlp_in"][:, units], "mixture": torch.eye(large["mlp_in"].shape[1])[:, units],
            "bias": torch.zeros(len(units)), "out": solved[:-1], "out_bias": solved[-1],
        }  # fmt: skip
        self.parts = torch.nn.ParameterDict({name: value.clone() for name, value in start.items()})

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        p = self.parts
        inner = (x @ p["columns"] + context @ p["mixture"] + p["bias"]).clamp(min=0)
        return inner @ p["out"] + p["out_bias"]

    def weights(self, large: dict[str, Tensor]) -> dict[str, Tensor]:
        """By the names of the meta-network."""
        p = {name: value.detach() for name, value in self.parts.items()}
        new = (
            p["columns"], large["mlp_context"] @ p["mixture"], large["mlp_bias"] @ p["mixture"] + p["bias"], p["out"],
            p["out_bias"][None],
        )  # fmt: skip
        return dict(zip(MLP, new, strict=True))


def fit(small: Small, seen: Seen) -> None:
    """Fit it in place."""
    optimizer = torch.optim.Adam(small.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, ITERATIONS)
    wanted, spread = directions(seen.x, seen.outputs), seen.outputs.std(0)
    for _ in range(ITERATIONS):
        i = torch.randint(len(wanted), (BATCH,))
        said = small(seen.x[i], seen.context[i])
        error = (directions(seen.x[i], said) - wanted[i]).square().mean() / wanted.square().mean()
        raw = ((said - seen.outputs[i]) / spread).square().mean()
        optimizer.zero_grad()
        (error + RAW * raw).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def difference(small: Small, seen: Seen) -> float:
    """Root mean square of how directions differ, as a share of their own."""
    wanted = directions(seen.x, seen.outputs)
    return float((directions(seen.x, small(seen.x, seen.context)) - wanted).norm() / wanted.norm())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    p.add_argument("weights", help="name or path of an artifact")
    p.add_argument("out", type=Path, help="file to write, ending in .safetensors")
    p.add_argument("--units", type=int, default=2)
    p.add_argument("--tasks", type=int, default=60)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    loaded = artifact.load(a.weights)
    large = {name: value[0] for name, value in meta_network.unpack(loaded.theta).items()}
    whole = observe(loaded.theta, a.tasks, a.seed)
    order = torch.randperm(len(whole.x))
    cut = len(order) // 5
    unseen, seen = (Seen(*(part[rows] for part in whole)) for rows in (order[:cut], order[cut:]))
    best: tuple[float, Small] | None = None
    for kept in combinations(range(meta_network.WIDTH), a.units):
        small = Small(large, seen, kept)
        fit(small, seen)
        off = difference(small, unseen)
        print(f"from units {kept}: directions differ by {off:.2%}")
        if best is None or off < best[0]:
            best = off, small
    assert best is not None
    tensors = {f"rule.{name}": value for name, value in (large | best[1].weights(large)).items()}
    size = sum(t.numel() for t in tensors.values())
    tensors |= {f"stop.{name}": value for name, value in (loaded.stop or {}).items()}
    architecture = {**loaded.card["architecture"], "width": a.units, "meta_parameters": size}
    narrowed = {**origin(), "from": loaded.digest, "seed": a.seed, "samples": len(order), "difference": best[0]}
    carded.write(a.out, tensors, {**loaded.card, "architecture": architecture, "narrowed": narrowed})
    print(f"wrote {a.out}")


if __name__ == "__main__":
    main()

"""Estimators of the meta-gradient: noise and bias for their compute, by horizon.

    python benchmarks/estimators.py --weights default --out results/estimators

Every estimator sees the same episodes several times, each time with other noise. Told apart are:

- `cosine`: between two independent estimates, each the mean over all episodes: 0 is noise, 1 is the gradient (the
  estimator's own: noise, not bias);
- `cosine per core minute`: what it would be after a minute of one core, by the law of averages;
- `agreement`: cosine of its mean with the mean of antithetic ES, with the noise of both divided out: 1 is no bias
  against the smoothed objective; empty where the noise is too large to say.

Estimators that truncate run the whole episode, and their windows' estimates are added up.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from learnopt import artifact
from learnopt.episodes import draw, episode
from learnopt.estimators import ESTIMATORS, Imitation
from learnopt.meta_config import MetaTrainConfig
from learnopt.meta_train import make_estimator
from learnopt.provenance import write_record
from learnopt.tasks.source import SuiteSource


@dataclasses.dataclass(frozen=True)
class Job:
    estimator: str
    horizon: int
    number: int
    repeat: int
    pairs: int
    window: int
    weights: str


def run(job: Job) -> tuple[Job, Tensor, float]:
    """Gradient of one episode, and the seconds it took."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    settings = MetaTrainConfig(
        estimator=job.estimator, pairs=job.pairs, sigma=0.03, window=job.window,
        steps_min=job.horizon, steps_max=job.horizon, seed=17,
    )  # fmt: skip
    theta = artifact.load(job.weights).theta
    estimator = make_estimator(settings)
    drawn = episode(draw(settings, "benchmark", job.number), SuiteSource())
    drawn = dataclasses.replace(drawn, seed=drawn.seed + 7919 * job.repeat, steps=job.horizon)
    total, carry, first = torch.zeros_like(theta), None, True
    began = time.perf_counter()
    while first or carry is not None:
        estimate = estimator.estimate(theta, drawn, carry)
        total += estimator.gradient(theta.numel(), [estimate])
        carry, first = estimate.carry, False
    return job, total, time.perf_counter() - began


def cosine(gradients: list[Tensor]) -> float:
    """Mean cosine over all pairs of repeats."""
    each = [float(cosine_similarity(a, b, dim=0)) for a, b in combinations(gradients, 2)]
    return sum(each) / len(each)


def extrapolated(value: float, factor: float) -> float:
    """The cosine between two estimates of `factor` times the compute."""
    value = min(max(value, 0.0), 0.999)
    ratio = factor * value / (1 - value)
    return ratio / (1 + ratio)


def table(results: list[tuple[Job, Tensor, float]], repeats: int) -> list[dict[str, Any]]:
    """One row per estimator and horizon."""
    rows = []
    for horizon in sorted({job.horizon for job, _, _ in results}):
        means: dict[str, list[Tensor]] = {}
        seconds: dict[str, float] = {}
        for name in dict.fromkeys(job.estimator for job, _, _ in results):
            mine = [r for r in results if r[0].estimator == name and r[0].horizon == horizon]
            means[name] = [torch.stack([g for j, g, _ in mine if j.repeat == k]).mean(0) for k in range(repeats)]
            seconds[name] = sum(s for _, _, s in mine) / repeats
        reference = torch.stack(means["es"]).mean(0)
        sure = extrapolated(cosine(means["es"]), repeats)
        for name, gradients in means.items():
            own = cosine(gradients)
            reliable = extrapolated(own, repeats)
            agreement = float(cosine_similarity(torch.stack(gradients).mean(0), reference, dim=0))
            said = reliable > 0.1 and sure > 0.1 and name != "es"
            rows.append({
                "horizon": horizon, "estimator": name, "seconds": round(seconds[name], 2), "cosine": round(own, 4),
                "cosine per core minute": round(extrapolated(own, 60 / seconds[name]), 4),
                "agreement": round(agreement / (reliable * sure) ** 0.5, 2) if said else None,
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/estimators"))
    parser.add_argument("--weights", default="default")
    parser.add_argument("--horizons", default="50,500,2000")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--workers", type=int, default=4)
    chosen = parser.parse_args()
    horizons = [int(h) for h in chosen.horizons.split(",")]
    jobs = [
        Job(name, horizon, number, repeat, chosen.pairs, min(chosen.window, horizon), chosen.weights)
        for horizon in horizons for name in ESTIMATORS if name != Imitation.name
        for number in range(chosen.episodes) for repeat in range(chosen.repeats)
    ]  # fmt: skip
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(run, jobs))
    rows = table(results, chosen.repeats)
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    settings = {k: str(v) for k, v in vars(chosen).items()}
    print(f"wrote {write_record(chosen.out / 'estimators.json', settings=settings, rows=rows)}")


if __name__ == "__main__":
    main()

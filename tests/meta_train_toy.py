"""`python meta_train_toy.py OUT ESTIMATOR META_STEPS WORKERS`: a small meta-training run, for the kill -9 test.

The same under `torchrun` runs on all ranks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor
from toy import ToySource

from learnopt.episodes import EpisodeSpec, episode
from learnopt.estimators import Estimate, Estimator
from learnopt.meta_config import MetaTrainConfig
from learnopt.meta_train import MetaTrainer
from learnopt.ranks import RankedPool, launched
from learnopt.workers import Pool


def config(estimator: str, meta_steps: int) -> MetaTrainConfig:
    return MetaTrainConfig(
        estimator=estimator, meta_steps=meta_steps, episodes=2, pairs=2, window=6, steps_min=8, steps_max=16,
        valid_every=3, valid_steps=8, checkpoint_minutes=0, seed=5, frozen=("mlp_bias",),
    )  # fmt: skip


class Here(Pool):
    """Runs episodes in this process."""

    def __init__(self) -> None: ...

    def estimate(
        self, estimator: Estimator, theta: Tensor, specs: list[EpisodeSpec], carries: list[dict[str, Any] | None]
    ) -> list[Estimate]:
        return [
            estimator.estimate(theta, episode(spec, ToySource()), c) for spec, c in zip(specs, carries, strict=True)
        ]

    def validate(self, theta: Tensor, config: MetaTrainConfig, seeds: int) -> dict[str, float]:
        return {"none": float(theta.norm())}


def main() -> None:
    out, estimator, meta_steps, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with (RankedPool if launched() else Pool)(ToySource(), workers) as pool:
        trainer = MetaTrainer(config(estimator, meta_steps), ToySource(), out, pool)
        trainer.listener = lambda row: print(f"{row['meta_step']} {os.getpid()}\n", end="", flush=True)
        trainer.run()


if __name__ == "__main__":
    main()

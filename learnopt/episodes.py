"""Where meta-training gets its episodes from: tasks by a source, everything else drawn here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from learnopt.estimators import Episode
from learnopt.meta_config import MetaTrainConfig
from learnopt.task import Task, seed_of
from learnopt.unroll import Telling


class TaskSource(Protocol):
    """Gives tasks to workers; small and picklable, since every worker process receives a copy."""

    def sample(self, rng: np.random.Generator) -> Task:
        """Draw a training task."""

    def validation(self) -> list[Task]:
        """The fixed tasks that checkpoints are selected on."""


@dataclass(frozen=True)
class EpisodeSpec:
    """What the main process knows of an episode; the task itself is built by the worker."""

    seed: int
    steps: int
    telling: Telling


def draw(config: MetaTrainConfig, *where: object) -> EpisodeSpec:
    """The episode at `where` (estimator slot and number): a function of the settings and these alone."""
    seed = seed_of(config.seed, "episode", *where)
    rng = np.random.default_rng(seed)
    steps = round(math.exp(rng.uniform(math.log(config.steps_min), math.log(config.steps_max))))
    unknown, wrong, withheld = rng.random(3)
    factor = 2.0 ** rng.uniform(-1, 1)
    horizon = steps
    if unknown < config.horizon_unknown:
        horizon = 0
    elif wrong < config.horizon_wrong:
        horizon = max(1, round(steps * factor))
    return EpisodeSpec(seed, steps, Telling(horizon, loss=bool(withheld >= config.loss_withheld)))


def episode(spec: EpisodeSpec, source: TaskSource, device: str = "cpu") -> Episode:
    """Build the episode's task; its runs are to live on `device`."""
    task = source.sample(np.random.default_rng(seed_of("task", spec.seed)))
    return Episode(task, spec.seed, spec.steps, spec.telling, device)

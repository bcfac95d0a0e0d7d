"""Suites as sources of meta-training tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learnopt.task import Task
from learnopt.tasks.augmentations import augment
from learnopt.tasks.suites import families, suite


@dataclass(frozen=True)
class SuiteSource:
    """Samples the families of one suite by their weights and validates on the tasks of another."""

    train: str = "meta_train"
    valid: str = "meta_valid"
    augmented: bool = True

    def sample(self, rng: np.random.Generator) -> Task:
        """A task of the training suite, augmented unless switched off."""
        members = families(self.train)
        weights = np.array([w for _, w in members], dtype=float)
        family = members[rng.choice(len(members), p=weights / weights.sum())][0]
        task = family.sample(rng)
        return augment(task, rng) if self.augmented else task

    def check(self) -> None:
        """Raise ValueError now, naming the choices, if a suite does not exist or cannot be sampled."""
        families(self.train)
        if not suite(self.valid):
            raise ValueError(f"suite {self.valid!r} has no tasks to validate on")

    def validation(self) -> list[Task]:
        """The validation suite's fixed tasks."""
        return suite(self.valid)

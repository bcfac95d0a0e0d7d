"""The named suites: which families and tasks each holds. A new family is one line here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from learnopt.task import Task, TaskFamily
from learnopt.tasks import data_folder, package_data
from learnopt.tasks.augmentations import augment
from learnopt.tasks.autoencoding import AutoencodingFamily
from learnopt.tasks.coordinates import CoordinateFamily
from learnopt.tasks.csv_file import CSV_PREFIX, csv_task
from learnopt.tasks.embeddings import BagFamily, FactorisationFamily, SetFamily
from learnopt.tasks.fixed import TaskMaker
from learnopt.tasks.graphs import GraphFamily, NodeFamily
from learnopt.tasks.held_out import held_out_makers
from learnopt.tasks.images import (
    DrawingFamily,
    PatternFamily,
    convolutional,
    flat_mlp,
    recurrent_rows,
    vision_transformer,
)
from learnopt.tasks.landscapes import LandscapeFamily
from learnopt.tasks.language import GrammarFamily, TextFamily
from learnopt.tasks.meta_valid import META_VALID
from learnopt.tasks.stress import STRESS
from learnopt.tasks.tabular import generated_tables, real_tables

SAMPLED_TASKS = 24


def _meta_train_families() -> list[tuple[TaskFamily, float]]:
    families: list[tuple[TaskFamily, float]] = [
        (generated_tables(), 0.12),
        (real_tables(), 0.2 if package_data.tables() else 0.08),
        (PatternFamily("pattern-conv", convolutional), 0.13),
        (PatternFamily("pattern-vit", vision_transformer), 0.06),
        (PatternFamily("pattern-rnn", recurrent_rows), 0.05),
        (PatternFamily("pattern-mlp", flat_mlp), 0.05),
        (AutoencodingFamily(), 0.09),
        (TextFamily(), 0.09),
        (GrammarFamily(), 0.06),
        (CoordinateFamily(), 0.1),
        (NodeFamily(), 0.08),
        (GraphFamily(), 0.03),
        (FactorisationFamily(), 0.05),
        (BagFamily(), 0.06),
        (SetFamily(), 0.02),
        (LandscapeFamily(), 0.04),
    ]
    if data_folder.available(data_folder.OMNIGLOT["omniglot:small1"]):
        families.append((DrawingFamily(), 0.08))
    return families


FAMILIES: dict[str, Callable[[], list[tuple[TaskFamily, float]]]] = {"meta_train": _meta_train_families}


def _meta_train() -> list[Task]:
    """A fixed augmented sample from the families, each family once before any comes twice."""
    families = [family for family, _ in _meta_train_families()]
    generators = [np.random.default_rng([7, i]) for i in range(SAMPLED_TASKS)]
    return [augment(families[i % len(families)].sample(rng), rng) for i, rng in enumerate(generators)]


def _all_of(makers: dict[str, TaskMaker]) -> list[Task]:
    return [make() for make in makers.values()]


SUITES: dict[str, Callable[[], list[Task]]] = {
    "meta_train": _meta_train,
    "meta_valid": lambda: _all_of(META_VALID),
    "held_out": lambda: _all_of(held_out_makers()),
    "stress": lambda: _all_of(STRESS),
}


def families(suite_name: str) -> list[tuple[TaskFamily, float]]:
    """`(family, sampling weight)` of a suite that is a distribution; weights need not sum to 1.

    Raises:
        ValueError: for a suite without families.
    """
    if suite_name not in FAMILIES:
        raise ValueError(f"no task families under {suite_name!r}; choose from: {', '.join(FAMILIES)}")
    return FAMILIES[suite_name]()


def suite(name: str) -> list[Task]:
    """The fixed tasks of a suite, in order.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}; choose from: {', '.join(SUITES)}")
    return SUITES[name]()


def get_task(name: str) -> Task:
    """The task called `name` of `held_out`, `stress` or `meta_valid`, or a CSV file's: `csv:FILE[?target=COLUMN]`.

    Raises:
        ValueError: for an unknown name, or a file that no task can be made of.
    """
    if name.startswith(CSV_PREFIX):
        return csv_task(name)
    makers = held_out_makers() | STRESS | META_VALID
    if name not in makers:
        raise ValueError(
            f"unknown task {name!r}; choose from: {', '.join(makers)}, or {CSV_PREFIX}FILE[?target=COLUMN]"
        )
    return makers[name]()

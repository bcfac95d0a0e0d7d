"""Sine waves: regression from ten points, as in Finn, Abbeel and Levine 2017."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from learnopt.fewshot.baselines import Pretrained, Scratch
from learnopt.fewshot.episode import EpisodeSource
from learnopt.fewshot.experiment import Entry, Measured
from learnopt.fewshot.maml import ANIL, FOMAML, MAML, MetaSGD
from learnopt.fewshot.reptile import Reptile
from learnopt.fewshot.rules import SGD, Adam
from learnopt.fewshot.sources.sinusoids import Sinusoids

SHOTS, QUERIES, META_BATCH, MEASURED = 10, 40, 25, 10
META_STEPS = {
    "maml-1": 12_000, "maml-5": 8_000, "fomaml-5": 4_000, "anil-5": 4_000, "metasgd-1": 8_000, "lslr-5": 4_000,
    "reptile": 12_000, "pretrain": 3_000, "scratch": 0,
}  # fmt: skip


def network() -> nn.Module:
    """The 1-40-40-1 network of the paper."""
    return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def entries(random_frequency: bool = False, scale: float = 1.0) -> list[Entry]:
    """All learners at the settings of the record, with `scale` times its meta-steps."""
    train = Sinusoids(SHOTS, QUERIES, random_frequency)
    tests: dict[str, EpisodeSource] = {"10 shots": Sinusoids(SHOTS, 100, random_frequency)}
    falling: dict[str, Any] = {"meta_lr": 5e-3, "meta_schedule": "cosine"}
    makers: dict[str, Callable[[int], Measured]] = {
        "maml-1": lambda seed: MAML(network(), 0.01, 1, **falling),
        "maml-5": lambda seed: MAML(network(), 0.01, 5, **falling),
        "fomaml-5": lambda seed: FOMAML(network(), 0.01, 5, **falling),
        "anil-5": lambda seed: ANIL(network(), 0.01, 5, **falling),
        "metasgd-1": lambda seed: MetaSGD(network(), 0.01, 1, **falling),
        "lslr-5": lambda seed: MetaSGD(network(), 0.01, 5, rates="tensor", schedule="tensor", **falling),
        "reptile": lambda seed: Reptile(network(), 0.02, 5, inner_batch=10, meta_lr=1.0),
        "pretrain": lambda seed: Pretrained(network(), SGD(0.01), 1, meta_schedule="cosine"),
        "scratch": lambda seed: Scratch(network(), Adam(0.01), 1),
    }
    published = {
        "maml-1": "0.77 ± 0.11 after one step (Li et al. 2017, table 1)",
        "metasgd-1": "0.53 ± 0.09 after one step (Li et al. 2017, table 1)",
    }
    return [
        Entry(name, make, tests, train, steps, META_BATCH, MEASURED, (0, 1, 5, 10), published.get(name, ""))
        for name, make in makers.items()
        for steps in [max(1, round(scale * META_STEPS[name])) if META_STEPS[name] else 0]
    ]

"""Ratings: adapt to a new user from five of them, between item means and the best that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from learnopt.fewshot.baselines import Pretrained, Scratch
from learnopt.fewshot.episode import EpisodeSource
from learnopt.fewshot.experiment import Entry, Measured
from learnopt.fewshot.maml import ANIL, FOMAML, MAML, MetaSGD
from learnopt.fewshot.meta_lstm import MetaLSTM
from learnopt.fewshot.rules import SGD, Adam
from learnopt.fewshot.sources.ratings import MEAN, BestPossible, ItemMeans, Ratings

TRAITS, META_BATCH, STEPS = 8, 25, 5
"""Numbers that an item is embedded in; users per meta-step; inner steps."""


def network(items: int) -> nn.Module:
    """An embedding of items with a linear head, which is the user: its weights are taste, its bias is mood."""
    embedding, head = nn.Embedding(items, TRAITS), nn.Linear(TRAITS, 1)
    with torch.no_grad():
        embedding.weight.mul_(TRAITS**-0.5)
        head.bias.fill_(MEAN)
    return nn.Sequential(embedding, head)


def entries(shots: int = 5, scale: float = 1.0) -> list[Entry]:
    """All learners at the settings of the record.

    Args:
        shots: ratings of a new user.
        scale: multiple of the record's meta-steps.
    """
    ratings = Ratings(shots)
    items = ratings.items
    tests: dict[str, EpisodeSource] = {f"{shots} ratings": ratings}
    steps = max(1, round(1500 * scale))
    found = [
        Entry("item-means", lambda seed: ItemMeans(ratings), tests),
        Entry("best-possible", lambda seed: BestPossible(ratings), tests),
    ]
    makers: dict[str, tuple[Callable[[int], Measured], int]] = {
        "scratch": (lambda seed: Scratch(network(items), Adam(0.03), STEPS), 0),
        "pretrain": (lambda seed: Pretrained(network(items), SGD(0.3), STEPS, **_falling()), steps),
        "maml": (lambda seed: MAML(network(items), 0.3, STEPS, **_falling()), steps),
        "fomaml": (lambda seed: FOMAML(network(items), 0.3, STEPS, **_falling()), steps),
        "anil": (lambda seed: ANIL(network(items), 0.3, STEPS, **_falling()), steps),
        "metasgd": (lambda seed: MetaSGD(network(items), 0.3, STEPS, **_falling()), steps),
        "metalstm": (lambda seed: MetaLSTM(network(items), 0.3, STEPS, hidden=10, seed=seed, **_falling()), steps),
    }
    return found + [
        Entry(name, make, tests, ratings if meta_steps else None, meta_steps, META_BATCH, STEPS, (0, 1, STEPS))
        for name, (make, meta_steps) in makers.items()
    ]


def _falling() -> dict[str, Any]:
    return {"meta_lr": 1e-2, "meta_schedule": "cosine", "clip": 1.0}

"""Ratings of a catalogue by users of low-rank taste: adapt to a new user from a handful of ratings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learnopt.fewshot.episode import Episode, EpisodeSource, generator
from learnopt.fewshot.evaluation import EVALUATED_AT_ONCE, Evaluation, joined
from learnopt.task import seed_of

MEAN, NOISE, QUALITY = 3.5, 0.3, 0.4
"""The usual rating, in stars; the deviation of a user's whims; that of how good an item is to all."""


@dataclass(frozen=True)
class Ratings:
    """`MEAN + quality[item] + taste[user] . traits[item] + whim`; a task is a user, examples are item numbers.

    Traits are the same for all users and so scaled that tastes spread the ratings of an item by one star.

    Args:
        shots: ratings to adapt on.
        queries: ratings to be judged on, of other items.
        items: of the catalogue.
        rank: traits of an item.
        catalogue: seed of the items.
    """

    shots: int = 5
    queries: int = 15
    items: int = 100
    rank: int = 3
    catalogue: int = 0

    def __post_init__(self) -> None:
        for what in ("shots", "queries", "items", "rank"):
            if getattr(self, what) < 1:
                raise ValueError(f"{what} must be 1 or more, got {getattr(self, what)!r}")
        if self.shots + self.queries > self.items:
            raise ValueError(f"{self.shots} shots and {self.queries} queries need as many items, got {self.items}")

    def items_of(self) -> tuple[Tensor, Tensor]:
        """Quality `(items,)` and traits `(items, rank)` of the catalogue."""
        g = generator("catalogue", self.catalogue, self.items, self.rank)
        quality = QUALITY * torch.randn(self.items, generator=g)
        return quality, torch.randn(self.items, self.rank, generator=g) * self.rank**-0.5

    def draw(self, seed: int, count: int) -> Episode:
        g = generator("ratings", seed)
        quality, traits = self.items_of()
        taste = torch.randn(count, self.rank, generator=g)
        x = torch.rand(count, self.items, generator=g).argsort(1)[:, : self.shots + self.queries]
        y = MEAN + quality[x] + torch.einsum("nir,nr->ni", traits[x], taste)
        y = (y + NOISE * torch.randn(y.shape, generator=g))[..., None]
        k = self.shots
        return Episode(x[:, :k], y[:, :k], x[:, k:], y[:, k:])

    def describe(self) -> str:
        return (
            f"ratings, {self.shots} shots, {self.queries} queries, {self.items} items of rank {self.rank}, "
            f"catalogue {self.catalogue}"
        )


class ItemMeans:
    """Every item's mean rating, known exactly, for every user: what not adapting is worth at best."""

    name = "item-means"

    def __init__(self, ratings: Ratings) -> None:
        self.ratings = ratings

    def predict(self, e: Episode) -> Tensor:
        """Ratings of the queries of all tasks, `(B, Q)`."""
        return MEAN + self.ratings.items_of()[0][e.query_x]

    def evaluate(self, tasks: EpisodeSource, count: int = 1000, *, seed: int = 0) -> Evaluation:
        """As `Learner.evaluate`, on the same tasks."""
        parts = []
        for start in range(0, count, EVALUATED_AT_ONCE):
            e = tasks.draw(seed_of("evaluate", seed, start), min(EVALUATED_AT_ONCE, count - start))
            loss = (self.predict(e) - e.query_y[..., 0]).square().mean(1, keepdim=True)
            parts.append((loss, loss, loss))
        return joined(parts, False)


class BestPossible(ItemMeans):
    """The posterior mean of somebody who knows the catalogue: no learner can have a lower expected squared error."""

    name = "best-possible"

    def predict(self, e: Episode) -> Tensor:
        quality, traits = self.ratings.items_of()
        seen = traits[e.support_x]  # (B, S, rank)
        rest = e.support_y[..., 0] - MEAN - quality[e.support_x]
        precision = seen.mT @ seen / NOISE**2 + torch.eye(self.ratings.rank)
        taste = torch.linalg.solve(precision, (seen.mT @ rest[..., None]) / NOISE**2)
        personal: Tensor = traits[e.query_x] @ taste
        return super().predict(e) + personal[..., 0]

"""Embedding families for meta-training: matrix factorisation, bags of tokens, sets, mixture densities."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from learnopt.task import Batch, Task, TaskFamily
from learnopt.tasks import data_folder
from learnopt.tasks.draws import chance, log_integer, log_uniform, pick, torch_generator
from learnopt.tasks.initialisation import drawn
from learnopt.tasks.networks import mlp
from learnopt.tasks.rows import ACCURACY, RowTask, cross_entropy, split, squared_error
from learnopt.tasks.tabular import horizon


class Factorisation(nn.Module):
    """`mean + user bias + item bias + user . item` for pairs `(B, 2)`; output `(B, 1)`."""

    def __init__(self, users: int, items: int, rank: int, scale: float, biases: bool, offset: int = 0) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, rank), nn.Embedding(items, rank)
        for embedding in (self.user, self.item):
            nn.init.normal_(embedding.weight, std=scale)
        self.biases = biases
        if biases:
            self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
            nn.init.zeros_(self.user_bias.weight)
            nn.init.zeros_(self.item_bias.weight)
            self.mean = nn.Parameter(torch.zeros(()))

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(-1)
        score = (self.user(user) * self.item(item)).sum(-1, keepdim=True)
        return score + self.mean + self.user_bias(user) + self.item_bias(item) if self.biases else score


class FactorisationFamily(TaskFamily):
    """Low-rank matrices of which few noisy entries are seen."""

    name = "factorisation"
    datasets = frozenset(["gen:ratings"])

    def sample(self, rng: np.random.Generator) -> Task:
        users, items, rank = log_integer(rng, 20, 100), log_integer(rng, 15, 80), int(rng.integers(1, 5))
        values = rng.standard_normal((users, rank)) @ rng.standard_normal((rank, items)) / np.sqrt(rank)
        values += rng.normal(0, 0.5, (users, 1)) + rng.normal(0, 0.5, items) + pick(rng, [0.0, 1.0, 3.0])
        values += rng.uniform(0, 0.7) * rng.standard_normal(values.shape)
        if chance(rng, 0.4):
            values = values.round().clip(-4, 5)
        pairs = np.stack(np.meshgrid(np.arange(users), np.arange(items), indexing="ij"), -1).reshape(-1, 2)
        rows = (torch.from_numpy(pairs).long(), torch.tensor(values.reshape(-1, 1), dtype=torch.float32))
        width = int(rng.integers(2, 13))
        make = partial(Factorisation, users, items, width, pick(rng, [1.0, 1.0, 0.1, 0.3, 0.01]), chance(rng, 0.5))
        train, valid = split(rows, int(len(pairs) * log_uniform(rng, 0.1, 0.7)), torch_generator(rng))
        return RowTask(
            f"factorisation-{int(rng.integers(10**9))}",
            "factorisation",
            "gen:ratings",
            steps=horizon(rng),
            module=make,
            train=train,
            valid=valid,
            batch_size=log_integer(rng, 16, 128),
            objective=squared_error,
        )


class Bag(nn.Module):
    """Mean (or attention-weighted mean) of token embeddings `(B, T)`, then a network; `(B, outputs)`."""

    def __init__(self, vocabulary: int, width: int, sizes: list[int], scale: float, attentive: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=scale)
        self.score = nn.Linear(width, 1) if attentive else None
        self.network = mlp([width, *sizes])

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        if self.score is None:
            return self.network(h.mean(-2))
        return self.network((torch.softmax(self.score(h), -2) * h).sum(-2))


def topic_bags(rng: np.random.Generator, rows: int, vocabulary: int, length: int, classes: int) -> Batch:
    """Bags of tokens from class-specific unigram mixtures."""
    table = rng.dirichlet(np.full(vocabulary, 0.1), classes) + rng.uniform(0.3, 3) * rng.dirichlet(np.ones(vocabulary))
    cumulative = (table / table.sum(1, keepdims=True)).cumsum(1)
    label = rng.integers(classes, size=rows)
    tokens = np.stack([np.searchsorted(cumulative[k], rng.random(length)) for k in label]).clip(max=vocabulary - 1)
    return torch.from_numpy(tokens).long(), torch.from_numpy(label).long()


class BagFamily(TaskFamily):
    """Classification of bags of tokens: generated topics, and film reviews where the data folder is there."""

    def __init__(self) -> None:
        self.name = "bags"
        self.reviews = data_folder.available(data_folder.REVIEWS)
        self.datasets = frozenset(["gen:topics", "text:movie-reviews"] if self.reviews else ["gen:topics"])

    def sample(self, rng: np.random.Generator) -> Task:
        vocabulary = log_integer(rng, 40, 300)
        rows: Batch
        if self.reviews and chance(rng, 0.35):
            dataset, classes, rows = (
                "text:movie-reviews",
                2,
                (data_folder.review_tokens(300, 48), data_folder.reviews()[1]),
            )
            vocabulary, train_rows = 301, log_integer(rng, 64, 500)
        else:
            dataset, classes, train_rows = "gen:topics", int(rng.integers(2, 9)), log_integer(rng, 150, 2000)
            rows = topic_bags(rng, train_rows + 256, vocabulary, int(rng.integers(8, 33)), classes)
        width, hidden = log_integer(rng, 4, 40), pick(rng, [[], [], [16], [32]])
        scale, attentive = pick(rng, [1.0, 1.0, 0.1, 0.3]), chance(rng, 0.3)
        make = drawn(rng, partial(Bag, vocabulary, width, [*hidden, classes], scale, attentive))
        train, valid = split(rows, train_rows, torch_generator(rng), 256)
        return _task(rng, "bag", dataset, make, train, valid)


class Sets(nn.Module):
    """DeepSets: `(B, n, columns)` to `(B, outputs)`. Source: Zaheer et al. 2017."""

    def __init__(self, columns: int, width: int, outputs: int) -> None:
        super().__init__()
        self.element, self.whole = mlp([columns, width, width]), mlp([width, width, outputs])

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(self.element(x).mean(-2))


class SetFamily(TaskFamily):
    """Which distribution a small sample of points comes from."""

    name = "sets"
    datasets = frozenset(["gen:sets"])

    def sample(self, rng: np.random.Generator) -> Task:
        columns, points, classes = int(rng.integers(1, 5)), int(rng.integers(4, 13)), int(rng.integers(2, 6))
        train_rows = log_integer(rng, 150, 2000)
        label = rng.integers(classes, size=train_rows + 256)
        mix = rng.standard_normal((classes, columns, columns)) + np.eye(columns)
        x = (
            rng.standard_normal((len(label), points, columns)) @ mix[label]
            + 0.4 * rng.standard_normal((classes, 1, columns))[label]
        )
        rows = (torch.tensor(x, dtype=torch.float32), torch.from_numpy(label).long())
        make = drawn(rng, partial(Sets, columns, log_integer(rng, 8, 32), classes))
        train, valid = split(rows, train_rows, torch_generator(rng), 256)
        return _task(rng, "deepsets", "gen:sets", make, train, valid)


def _task(rng: np.random.Generator, kind: str, dataset: str, make: object, train: Batch, valid: Batch) -> Task:
    return RowTask(
        f"{kind}-{int(rng.integers(10**9))}",
        kind,
        dataset,
        steps=horizon(rng),
        module=make,  # type: ignore[arg-type]
        train=train,
        valid=valid,
        batch_size=log_integer(rng, 8, 64),
        objective=cross_entropy,
        metric=ACCURACY,
    )

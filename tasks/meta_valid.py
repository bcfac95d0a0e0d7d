"""The `meta_valid` suite: fixed tasks on which checkpoints of a meta-training run are compared; all can be vmapped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from learnopt.task import Task
from learnopt.tasks import validation_data as data
from learnopt.tasks.attention import Patches, Transformer
from learnopt.tasks.autoencoding import Vae, gaussian_bound
from learnopt.tasks.convolution import cnn
from learnopt.tasks.coordinates import siren
from learnopt.tasks.corpora import ALPHABET, characters, words
from learnopt.tasks.embeddings import Bag, Factorisation
from learnopt.tasks.fixed import TaskMaker, fixed_task, flat, given_split, strided
from learnopt.tasks.graphs import NodeClassifier
from learnopt.tasks.landscapes import Quadratic
from learnopt.tasks.networks import mlp, residual_mlp
from learnopt.tasks.recurrence import Recurrent, WindowModel
from learnopt.tasks.rows import cross_entropy, mean_square, squared_error, windows

TOPICS = "text:pydoc-topics"
SYMBOLS = len(ALPHABET)


def _iris(name: str, kind: str, module: Callable[[], nn.Module], steps: int, raw: bool = False) -> Task:
    rows = data.raw_iris() if raw else data.iris()
    return fixed_task(
        name, kind, "sklearn:iris", rows, module, train_rows=75, steps=steps, objective=cross_entropy, batch_size=16
    )


def _spirals(name: str, kind: str, module: Callable[[], nn.Module], train_rows: int) -> Task:
    rows = data.spirals()
    return fixed_task(
        name,
        kind,
        "gen:spirals",
        rows,
        module,
        train_rows=train_rows,
        steps=500,
        objective=cross_entropy,
        valid_rows=256,
    )


def _friedman(name: str, kind: str, module: Callable[[], nn.Module], train_rows: int) -> Task:
    rows = data.friedman()
    return fixed_task(
        name,
        kind,
        "gen:friedman",
        rows,
        module,
        train_rows=train_rows,
        steps=500,
        objective=squared_error,
        valid_rows=256,
    )


def _perlin(name: str, kind: str, module: Callable[[], nn.Module]) -> Task:
    return fixed_task(
        name,
        kind,
        "gen:perlin",
        data.perlin(),
        module,
        train_rows=600,
        steps=300,
        objective=cross_entropy,
        batch_size=16,
        valid_rows=128,
    )


def _perlin_vae() -> Task:
    x = flat(data.perlin()[0])
    module = partial(Vae, 64, 32, 6)
    return fixed_task(
        "perlin-vae",
        "vae",
        "gen:perlin",
        (x, x),
        module,
        train_rows=500,
        steps=400,
        objective=gaussian_bound,
        valid_rows=256,
    )


def _perlin_autoencoder() -> Task:
    x = flat(data.perlin()[0])
    module = partial(mlp, [64, 32, 8, 32, 64])
    return fixed_task(
        "perlin-autoencoder",
        "autoencoder",
        "gen:perlin",
        (x, x),
        module,
        train_rows=500,
        steps=400,
        objective=squared_error,
        valid_rows=256,
    )


def _perlin_siren() -> Task:
    module = partial(siren, 2, 32, 2, 1, 12.0)
    return fixed_task(
        "perlin-siren",
        "siren",
        "gen:perlin",
        data.perlin_landscape(),
        module,
        train_rows=1200,
        steps=400,
        objective=squared_error,
        batch_size=64,
        valid_rows=400,
    )


def _bowl() -> Task:
    """One vector and nothing else: what models of lone vectors and scalars ask for."""
    points, transform = data.bowl()
    module = partial(Quadratic, transform, 0.1, 1)
    return fixed_task(
        "bowl-vector",
        "quadratic",
        "gen:bowl",
        (points, points),
        module,
        train_rows=256,
        steps=200,
        objective=mean_square,
        batch_size=16,
    )


def _templates(name: str, kind: str, sizes: list[int]) -> Task:
    return fixed_task(
        name,
        kind,
        "gen:perlin-templates",
        data.templates(),
        partial(mlp, sizes),
        train_rows=500,
        steps=400,
        objective=cross_entropy,
    )


def _rings() -> Task:
    features, adjacency, label = data.ring_graph()
    module = partial(NodeClassifier, features, adjacency, 16, 3, 2, "relu", 0.0)
    rows = (torch.arange(len(label)), label)
    return fixed_task(
        "rings-graph", "graph", "gen:ring-graph", rows, module, train_rows=36, steps=200, objective=cross_entropy
    )


def _ratings() -> Task:
    module = partial(Factorisation, data.CLUSTERED_USERS, data.CLUSTERED_ITEMS, 8, 0.3, True)
    return fixed_task(
        "tastes-factorisation",
        "factorisation",
        "gen:clustered-ratings",
        data.clustered_ratings(),
        module,
        train_rows=900,
        steps=500,
        objective=squared_error,
        batch_size=64,
    )


def _topics(name: str, kind: str, module: Callable[[], nn.Module], length: int, batch_size: int) -> Task:
    stream = characters(TOPICS)
    train, valid = windows(stream[:40_000], length), windows(stream[41_000:], length)
    return given_split(
        name,
        kind,
        TOPICS,
        train,
        strided(valid, 5 * length, 1536 // length),
        module,
        steps=400,
        objective=cross_entropy,
        batch_size=batch_size,
    )


def _topic_words() -> Task:
    stream = words(TOPICS, 200)
    train, valid = windows(stream[:6000], 8), windows(stream[6100:], 8)
    module = partial(WindowModel, 200, 200, 10, 24, 3)
    return given_split(
        "topics-words",
        "embedding-mlp",
        TOPICS,
        train,
        strided(valid, 40, 128),
        module,
        steps=300,
        objective=cross_entropy,
        batch_size=24,
    )


def _topic_bag() -> Task:
    train, valid = data.topic_bags(300, 16, 8)
    module = partial(Bag, 300, 12, [8], 0.3, False)
    return given_split("topics-bag", "bag", TOPICS, train, valid, module, steps=400, objective=cross_entropy)


def _perlin_vit() -> nn.Module:
    return Patches(2, 4, Transformer(8, 16, 6, inputs=8, blocks=1, pooled=True))


META_VALID: dict[str, TaskMaker] = {
    "iris-linear": partial(_iris, "iris-linear", "linear", partial(mlp, [4, 3]), 300),
    "iris-mlp": partial(_iris, "iris-mlp", "mlp", partial(mlp, [4, 24, 24, 3], "tanh"), 300),
    "iris-raw-linear": partial(_iris, "iris-raw-linear", "linear", partial(mlp, [6, 3]), 400, raw=True),
    "spirals-mlp": partial(_spirals, "spirals-mlp", "mlp", partial(mlp, [8, 32, 32, 3], "relu"), 200),
    "spirals-deep": partial(_spirals, "spirals-deep", "deep-mlp", partial(mlp, [8, *[16] * 7, 3], "tanh"), 500),
    "friedman-mlp": partial(_friedman, "friedman-mlp", "mlp", partial(mlp, [10, 40, 40, 1], "gelu", "layer"), 150),
    "friedman-wide": partial(_friedman, "friedman-wide", "mlp", partial(mlp, [10, 160, 160, 1], "relu"), 600),
    "friedman-residual": partial(
        _friedman, "friedman-residual", "residual-mlp", partial(residual_mlp, 10, 24, 1, 2, "relu", "layer"), 600
    ),
    "friedman-residual-bn": partial(
        _friedman, "friedman-residual-bn", "residual-mlp", partial(residual_mlp, 10, 24, 1, 2, "relu", "batch"), 300
    ),
    "perlin-cnn": partial(_perlin, "perlin-cnn", "cnn", partial(cnn, [1, 6, 12], 8, 6)),
    "perlin-cnn-bn": partial(
        _perlin, "perlin-cnn-bn", "cnn-bn", partial(cnn, [1, 6, 12], 8, 6, norm="batch", pool=True)
    ),
    "perlin-cnn-wide": partial(_perlin, "perlin-cnn-wide", "cnn", partial(cnn, [1, 32, 48], 8, 6, pool=True)),
    "perlin-vit": partial(_perlin, "perlin-vit", "vit", _perlin_vit),
    "perlin-vae": _perlin_vae,
    "perlin-autoencoder": _perlin_autoencoder,
    "perlin-siren": _perlin_siren,
    "templates-linear": partial(_templates, "templates-linear", "linear", [64, 10]),
    "templates-wide": partial(_templates, "templates-wide", "mlp", [64, 192, 10]),
    "bowl-vector": _bowl,
    "rings-graph": _rings,
    "tastes-factorisation": _ratings,
    "topics-transformer": partial(
        _topics,
        "topics-transformer",
        "transformer",
        partial(Transformer, 16, 16, SYMBOLS, vocabulary=SYMBOLS, blocks=1, causal=True),
        16,
        12,
    ),
    "topics-gru": partial(
        _topics, "topics-gru", "gru", partial(Recurrent, "gru", 20, SYMBOLS, vocabulary=SYMBOLS), 12, 16
    ),
    "topics-words": _topic_words,
    "topics-bag": _topic_bag,
}

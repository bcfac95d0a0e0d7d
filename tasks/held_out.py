"""The `held_out` suite: the tasks optimizers are judged by. No data set here is in `meta_train` or `meta_valid`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from learnopt.task import Task
from learnopt.tasks import benchmark_data as data
from learnopt.tasks import benchmark_networks as nets
from learnopt.tasks import data_folder
from learnopt.tasks.autoencoding import Vae, bernoulli_bound
from learnopt.tasks.coordinates import fourier_network, siren
from learnopt.tasks.corpora import ALPHABET
from learnopt.tasks.embeddings import Factorisation
from learnopt.tasks.fixed import TaskMaker, fixed_task, flat, given_split, strided
from learnopt.tasks.graphs import NodeClassifier
from learnopt.tasks.networks import mlp, residual_mlp
from learnopt.tasks.rows import Objective, cross_entropy, squared_error, windows
from learnopt.tasks.tables import standardised

DIGITS, CANCER, DIABETES = "sklearn:digits", "sklearn:breast_cancer", "sklearn:diabetes"
CHINA, FLOWER, DESCRIPTIONS = "sklearn:china.jpg", "sklearn:flower.jpg", "text:sklearn-descr"
SYMBOLS = len(ALPHABET)
Make = Callable[[], nn.Module]


def _digits(name: str, kind: str, module: Make, steps: int, train_rows: int = 1200, vectors: bool = False) -> Task:
    images, label = data.digits()
    rows = (flat(images) if vectors else images, label)
    return fixed_task(name, kind, DIGITS, rows, module, train_rows=train_rows, steps=steps, objective=cross_entropy)


def _digit_pixels(name: str, kind: str, module: Make, steps: int, objective: Objective) -> Task:
    x = data.digit_pixels()
    return fixed_task(
        name, kind, DIGITS, (x, x), module, train_rows=1200, steps=steps, objective=objective, batch_size=64
    )


def _cancer(name: str, kind: str, module: Make, steps: int, scaled: bool) -> Task:
    rows = data.breast_cancer(scaled)
    return fixed_task(name, kind, CANCER, rows, module, train_rows=300, steps=steps, objective=cross_entropy)


def _diabetes(name: str, kind: str, module: Make, steps: int) -> Task:
    rows = data.diabetes()
    return fixed_task(name, kind, DIABETES, rows, module, train_rows=300, steps=steps, objective=squared_error)


def _photograph(name: str, kind: str, dataset: str, module: Make, stride: int, steps: int) -> Task:
    rows = data.pixel_rows(data.photograph(dataset.removeprefix("sklearn:"), stride))
    train_rows = int(0.8 * len(rows[0]))
    return fixed_task(
        name,
        kind,
        dataset,
        rows,
        module,
        train_rows=train_rows,
        steps=steps,
        objective=squared_error,
        batch_size=128,
        valid_rows=1000,
    )


def _patch_autoencoder() -> Task:
    x = flat(data.patches(data.photograph("flower.jpg", 2), 6))
    module = partial(mlp, [108, 48, 12, 48, 108], "gelu")
    return fixed_task(
        "flower-autoencoder", "autoencoder", FLOWER, (x, x), module, train_rows=1200, steps=500, objective=squared_error
    )


def _denoising() -> Task:
    clean = data.patches(data.photograph("china.jpg", 2), 8)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    rows = (clean + 0.3 * noise, clean)
    return fixed_task(
        "china-denoiser",
        "cnn",
        CHINA,
        rows,
        nets.denoiser,
        train_rows=900,
        steps=400,
        objective=squared_error,
        batch_size=16,
        valid_rows=250,
    )


def _characters(name: str, kind: str, module: Make, steps: int, length: int = 24) -> Task:
    train, valid = data.description_characters()
    return given_split(
        name,
        kind,
        DESCRIPTIONS,
        windows(train, length),
        strided(windows(valid, length), length, 250),
        module,
        steps=steps,
        objective=cross_entropy,
        batch_size=16,
    )


def _next_word() -> Task:
    vocabulary, context = 400, 4
    parts = [torch.cat([pair[i] for pair in data.description_words(vocabulary)]) for i in (0, 1)]
    train, valid = ((s[:-1].unfold(0, context, 1), s[context:]) for s in parts)
    module = partial(nets.NextWord, vocabulary, context)
    return given_split(
        "descr-words",
        "embedding-mlp",
        DESCRIPTIONS,
        train,
        strided(valid, 2, 1000),
        module,
        steps=600,
        objective=cross_entropy,
    )


def _bag() -> Task:
    train, valid = (data.description_bags(500, 16, part) for part in (0, 1))
    module = partial(nets.BagClassifier, 500, int(train[1].max()) + 1)
    return given_split("descr-bag", "bag", DESCRIPTIONS, train, valid, module, steps=500, objective=cross_entropy)


def _graph(name: str, dataset: str, source: str, nodes: int, labelled: int, classes: int) -> Task:
    features, adjacency, label = data.neighbour_graph(source, nodes, 6)
    module = partial(NodeClassifier, features, adjacency, 24, classes, 2, "relu", 0.0)
    rows = (torch.arange(nodes), label)
    return fixed_task(
        name,
        "graph",
        dataset,
        rows,
        module,
        train_rows=labelled,
        steps=300,
        objective=cross_entropy,
        batch_size=labelled,
    )


def _factorisation() -> Task:
    matrix = data.digit_pixels()[:200] * 4
    pairs = torch.cartesian_prod(torch.arange(200), torch.arange(64))
    rows = (pairs, matrix.reshape(-1, 1))
    module = partial(Factorisation, 200, 64, 8, 0.3, True)
    return fixed_task(
        "digits-factorisation",
        "factorisation",
        DIGITS,
        rows,
        module,
        train_rows=5000,
        steps=1000,
        objective=squared_error,
        batch_size=128,
        valid_rows=1000,
    )


OFFLINE: dict[str, TaskMaker] = {
    "digits-softmax": partial(_digits, "digits-softmax", "linear", partial(mlp, [64, 10]), 400, vectors=True),
    "digits-mlp": partial(_digits, "digits-mlp", "mlp", partial(mlp, [64, 128, 64, 10]), 400, vectors=True),
    "digits-mlp-small-data": partial(
        _digits, "digits-mlp-small-data", "mlp", partial(mlp, [64, 64, 10], "silu"), 400, 150, vectors=True
    ),
    "digits-deep-tanh": partial(
        _digits, "digits-deep-tanh", "deep-mlp", partial(mlp, [64, *[32] * 10, 10], "tanh"), 600, vectors=True
    ),
    "digits-cnn": partial(_digits, "digits-cnn", "cnn", partial(nets.small_cnn, 10), 400),
    "digits-cnn-bn": partial(_digits, "digits-cnn-bn", "cnn-bn", partial(nets.small_cnn, 10, 8, "batch"), 300),
    "digits-cnn-gn": partial(_digits, "digits-cnn-gn", "cnn-gn", partial(nets.small_cnn, 10, 8, "group"), 300),
    "digits-resnet": partial(_digits, "digits-resnet", "resnet", partial(nets.small_resnet, 10), 300),
    "digits-vit": partial(_digits, "digits-vit", "vit", partial(nets.VisionTransformer, 10), 500),
    "digits-attention": partial(_digits, "digits-attention", "attention", partial(nets.AttentionPool, 10), 500),
    "digits-lstm": partial(_digits, "digits-lstm", "lstm", partial(nets.RowLstm, 10), 400),
    "digits-autoencoder": partial(
        _digit_pixels, "digits-autoencoder", "autoencoder", partial(mlp, [64, 48, 10, 48, 64]), 600, squared_error
    ),
    "digits-vae": partial(_digit_pixels, "digits-vae", "vae", partial(Vae, 64, 64, 8), 800, bernoulli_bound),
    "digits-graph": partial(_graph, "digits-graph", DIGITS, "digits", 300, 60, 10),
    "digits-factorisation": _factorisation,
    "cancer-mlp": partial(_cancer, "cancer-mlp", "mlp", partial(mlp, [30, 64, 32, 2], "relu", "none", 0.2), 400, True),
    "cancer-raw-logistic": partial(_cancer, "cancer-raw-logistic", "linear", partial(mlp, [30, 2]), 500, False),
    "cancer-graph": partial(_graph, "cancer-graph", CANCER, "cancer", 300, 40, 2),
    "diabetes-mlp": partial(_diabetes, "diabetes-mlp", "mlp", partial(mlp, [10, 64, 64, 1], "gelu"), 400),
    "diabetes-residual": partial(
        _diabetes, "diabetes-residual", "residual-mlp", partial(residual_mlp, 10, 32, 1, 2, "relu", "layer"), 400
    ),
    "china-siren": partial(
        _photograph, "china-siren", "siren", CHINA, partial(siren, 2, 48, 2, 3, 30.0), stride=8, steps=400
    ),
    "flower-fourier": partial(
        _photograph,
        "flower-fourier",
        "fourier-net",
        FLOWER,
        partial(fourier_network, 2, 32, 64, 2, 3, 2.0),
        stride=8,
        steps=600,
    ),
    "flower-autoencoder": _patch_autoencoder,
    "china-denoiser": _denoising,
    "descr-transformer": partial(
        _characters, "descr-transformer", "transformer", partial(nets.CharTransformer, SYMBOLS, 24), 400
    ),
    "descr-gru": partial(_characters, "descr-gru", "gru", partial(nets.CharGru, SYMBOLS), 800),
    "descr-words": _next_word,
    "descr-bag": _bag,
}

QUICK: tuple[str, ...] = (
    "digits-mlp",
    "digits-cnn",
    "digits-resnet",
    "digits-lstm",
    "cancer-mlp",
    "diabetes-residual",
    "china-siren",
    "descr-transformer",
)


def _table(name: str, dataset: str, sizes: list[int], dropout: float, train_rows: int) -> Task:
    table = data_folder.table(dataset)
    classes = table.target.dtype == torch.int64
    outputs = int(table.target.max()) + 1 if classes else 1
    rows = (standardised(table.features.numpy()), table.target)
    return fixed_task(
        name,
        "mlp",
        dataset,
        rows,
        partial(mlp, [rows[0].shape[1], *sizes, outputs], "relu", "none", dropout),
        train_rows=train_rows,
        steps=600,
        objective=cross_entropy if classes else squared_error,
        valid_rows=1000,
    )


def _omniglot(name: str, kind: str, module: Make) -> Task:
    images, _, character = data_folder.omniglot("omniglot:small2", 14)
    return fixed_task(
        name,
        kind,
        "omniglot:small2",
        (images, character),
        module,
        train_rows=1500,
        steps=600,
        objective=cross_entropy,
    )


OMNIGLOT_CLASSES = 106
# task name -> (the file it needs, its maker)
_FOLDER_TABLES: dict[str, tuple[str, TaskMaker]] = {
    name: (data_folder.TABLES[dataset][0], partial(_table, name, dataset, sizes, dropout, rows))
    for name, dataset, sizes, dropout, rows in (
        ("abalone-mlp", "csv:abalone", [48, 48], 0.0, 2500),
        ("wine-quality-mlp", "csv:wine-quality", [64, 32], 0.1, 3000),
        ("banknote-mlp", "csv:banknote", [32], 0.0, 700),
        ("pima-mlp", "csv:pima", [48, 24], 0.3, 450),
    )
}
_FOLDER_DRAWINGS: dict[str, tuple[str, TaskMaker]] = {
    name: (data_folder.OMNIGLOT["omniglot:small2"], partial(_omniglot, name, kind, module))
    for name, kind, module in (
        ("omniglot-cnn-bn", "cnn-bn", partial(nets.small_cnn, OMNIGLOT_CLASSES, 14, "batch")),
        ("omniglot-resnet", "resnet", partial(nets.small_resnet, OMNIGLOT_CLASSES, 24)),
    )
}
FROM_FOLDER = _FOLDER_TABLES | _FOLDER_DRAWINGS


def held_out_makers() -> dict[str, TaskMaker]:
    """Task name to maker, with the tasks of the data folder where their files are there."""
    return OFFLINE | {name: make for name, (file, make) in FROM_FOLDER.items() if data_folder.available(file)}

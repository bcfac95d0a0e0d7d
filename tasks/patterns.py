"""Generated image classes: each class is a random texture recipe, each image a noisy, shifted draw of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Recipe = Callable[[np.random.Generator, int, np.ndarray, np.ndarray], np.ndarray]


def _stripes(rng: np.random.Generator, n: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(0.6, 2.5)
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    return np.sin(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)


def _checkers(rng: np.random.Generator, n: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cell = int(rng.integers(1, 4))
    shift = rng.integers(0, 2 * cell, (2, n, 1, 1))
    return (((x + shift[0]) // cell + (y + shift[1]) // cell) % 2) * 2.0 - 1.0


def _blobs(rng: np.random.Generator, n: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size, radius, image = x.shape[-1], rng.uniform(0.8, 2.5), np.zeros((n, *x.shape[1:]))
    for _ in range(int(rng.integers(1, 4))):
        centre = rng.uniform(0.2, 0.8, 2) * size
        jitter = rng.normal(0, 0.1 * size, (2, n, 1, 1))
        image += np.exp(-((x - centre[0] - jitter[0]) ** 2 + (y - centre[1] - jitter[1]) ** 2) / (2 * radius**2))
    return image * 2 - 0.5


def _rings(rng: np.random.Generator, n: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size, radius = x.shape[-1], rng.uniform(0.15, 0.45) * x.shape[-1]
    jitter = rng.normal(0, 0.08 * size, (2, n, 1, 1))
    distance = np.hypot(x - size / 2 - jitter[0], y - size / 2 - jitter[1])
    return 2 * np.exp(-((distance - radius) ** 2) / 1.5) - 0.5


def _texture(rng: np.random.Generator, n: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size = x.shape[-1]
    power = rng.uniform(0.5, 3)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None] * rng.uniform(0.3, 3), np.fft.fftfreq(size)[None]) + 1 / size
    image = np.fft.ifft2(np.fft.fft2(rng.standard_normal((n, size, size))) / frequency**power).real
    return image / (image.std((1, 2), keepdims=True) + 1e-8)


def _template(rng: np.random.Generator, n: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size = x.shape[-1]
    glyph = (
        np.kron(rng.standard_normal((size // 2 + 1, size // 2 + 1)) > 0.3, np.ones((2, 2)))[:size, :size] * 2.0 - 1.0
    )
    offsets = rng.integers(-1, 2, (n, 2))
    rolled = np.stack([np.roll(glyph, (a, b), (0, 1)) for a in (-1, 0, 1) for b in (-1, 0, 1)])
    return rolled[(offsets[:, 0] + 1) * 3 + offsets[:, 1] + 1]


RECIPES: tuple[Recipe, ...] = (_stripes, _checkers, _blobs, _rings, _texture, _template, _template)


def patterns(rng: np.random.Generator, rows: int, size: int, channels: int, classes: int) -> tuple[Tensor, Tensor]:
    """Images `(rows, channels, size, size)`, standardised as a whole, and classes `(rows,)`.

    Noise, contrast and the share of images whose class is hidden in another class's texture vary between draws.
    """
    y, x = np.meshgrid(np.arange(size, dtype=float), np.arange(size, dtype=float), indexing="ij")
    x, y = x[None], y[None]
    label = rng.integers(classes, size=rows)
    images = np.empty((rows, channels, size, size))
    for number in range(classes):
        mine = np.flatnonzero(label == number)
        image = RECIPES[int(rng.integers(len(RECIPES)))](rng, len(mine), x, y)
        colour = rng.normal(0.5, 1, channels) if channels > 1 else np.ones(1)
        images[mine] = image[:, None] * colour[:, None, None]
    images *= np.exp(0.3 * rng.standard_normal((rows, 1, 1, 1)))
    images += np.exp(rng.uniform(np.log(0.05), np.log(1.2))) * rng.standard_normal(images.shape)
    images = (images - images.mean()) / images.std()
    return torch.tensor(images, dtype=torch.float32), torch.tensor(label, dtype=torch.int64)

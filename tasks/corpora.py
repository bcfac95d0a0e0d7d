"""Text that ships with installed packages, as token streams, read once a process."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor

from learnopt.tasks import data_folder

MAX_CHARACTERS = 200_000
ALPHABET = " abcdefghijklmnopqrstuvwxyz0.,()"  # 32 symbols: every digit is written 0, all else is a space


def _numpy_docstrings() -> str:
    texts = (getattr(np, name).__doc__ or "" for name in sorted(dir(np)) if not name.startswith("_"))
    return "\n".join(texts)


def _library_sources() -> str:
    """Source text of modules of Python's library; they are read, not imported."""
    folder = Path(os.__file__).parent
    return "\n".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in LIBRARY_MODULES)


def _pydoc_topics() -> str:
    return "\n".join(topics[name] for name in sorted(topics))


def _reviews() -> str:
    return "\n".join(data_folder.reviews()[0])


LIBRARY_MODULES = ("argparse", "inspect", "statistics", "subprocess", "tarfile", "typing")
CORPORA: dict[str, Callable[[], str]] = {
    "text:numpy-docstrings": _numpy_docstrings,
    "text:library-sources": _library_sources,
    "text:movie-reviews": _reviews,
    "text:pydoc-topics": _pydoc_topics,
}


def normalised(text: str) -> str:
    """Lower case, digits as 0, runs of anything outside `ALPHABET` as one space."""
    text = re.sub(r"[0-9]", "0", text.lower())
    return re.sub(r"[^a-z0.,()]+", " ", text)


@lru_cache(maxsize=8)
def characters(corpus: str) -> Tensor:
    """The corpus as numbers of `ALPHABET`'s symbols, `(characters,)` int64, at most `MAX_CHARACTERS`."""
    text = normalised(CORPORA[corpus]()[: 2 * MAX_CHARACTERS])[:MAX_CHARACTERS]
    number = {symbol: i for i, symbol in enumerate(ALPHABET)}
    return torch.tensor([number[symbol] for symbol in text])


@lru_cache(maxsize=16)
def words(corpus: str, vocabulary: int) -> Tensor:
    """The corpus as word numbers in `0..vocabulary - 1`, 0 for all rarer words, `(words,)` int64."""
    text = re.findall(r"[a-z]+|[.,]", normalised(CORPORA[corpus]()))[:MAX_CHARACTERS]
    number = {word: i + 1 for i, (word, _) in enumerate(Counter(text).most_common(vocabulary - 1))}
    return torch.tensor([number.get(word, 0) for word in text])

"""Few-shot classification from any labelled arrays: `ways` classes a task, some examples of each."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learnopt.fewshot.episode import Episode, generator

Array = Tensor | NDArray[Any]


class FewShot:
    """Episodes of `ways` classes with `shots` support and `queries` query examples each, all different.

    Args:
        x: examples, `(n, ...)`, a tensor or an array; floats become float32 in an array.
        y: class numbers, `(n,)`; a task numbers its classes anew from 0.
        turned: each task's classes are turned by 0, 90, 180 or 270 degrees (`x` is `(n, channels, height, width)`),
            each drawn by itself: four classes out of one, as is usual with Omniglot (Santoro et al. 2016).

    Raises:
        ValueError: more ways than classes, too few examples of a class, or arrays that do not fit.
    """

    def __init__(
        self, x: Array, y: Array, ways: int = 5, shots: int = 1, queries: int = 15, *, turned: bool = False
    ) -> None:
        x, y = _tensor(x, "x"), _tensor(y, "labels")
        for what, value in (("ways", ways), ("shots", shots), ("queries", queries)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{what} must be a whole number of 1 or more, got {value!r}")
        if y.dim() != 1 or len(x) != len(y) or not len(y):
            raise ValueError(f"need a label for each example, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
        if y.is_floating_point():
            raise ValueError(f"labels must be class numbers, got {y.dtype}")
        classes, counts = torch.unique(y, return_counts=True)
        if ways > len(classes):
            raise ValueError(f"{ways} ways need as many classes, the data have {len(classes)}")
        if int(counts.min()) < shots + queries:
            scarce = int(counts.argmin())
            raise ValueError(
                f"{shots} shots and {queries} queries need {shots + queries} examples of every class, class "
                f"{int(classes[scarce])} has {int(counts[scarce])}"
            )
        if turned and (x.dim() < 3 or x.shape[-1] != x.shape[-2]):
            raise ValueError(f"only square images can be turned, got examples of shape {tuple(x.shape[1:])}")
        self.x, self.ways, self.shots, self.queries, self.turned = x, ways, shots, queries, turned
        self._order, self._counts = y.argsort(stable=True), counts
        self._starts = counts.cumsum(0) - counts
        digest = hashlib.blake2b(np.ascontiguousarray(x.numpy(force=True)).tobytes(), digest_size=6)
        digest.update(y.numpy(force=True).tobytes())
        self._digest = digest.hexdigest()

    def draw(self, seed: int, count: int) -> Episode:
        g = generator("few-shot", seed)
        each = self.shots + self.queries
        picked = torch.rand(count, len(self._counts), generator=g).argsort(1)[:, : self.ways]
        keys = torch.rand(count, self.ways, int(self._counts.max()), generator=g)
        beyond = torch.arange(keys.shape[-1]) >= self._counts[picked][..., None]
        within = keys.masked_fill(beyond, 2.0).argsort(-1)[..., :each]
        x = self.x[self._order[self._starts[picked][..., None] + within]]  # (count, ways, each, ...)
        if self.turned:
            quarters = torch.randint(4, (count, self.ways), generator=g)
            for k in (1, 2, 3):
                x[quarters == k] = x[quarters == k].rot90(k, (-2, -1))
        y = torch.arange(self.ways)[None, :, None].expand(count, self.ways, each)
        parts = [(v[:, :, : self.shots], v[:, :, self.shots :]) for v in (x, y)]
        (sx, qx), (sy, qy) = ([p.flatten(1, 2) for p in pair] for pair in parts)
        return Episode(sx, sy, qx, qy)

    def describe(self) -> str:
        turned = ", turned" if self.turned else ""
        return (
            f"{self.ways} ways, {self.shots} shots, {self.queries} queries of {len(self._counts)} classes "
            f"({self._digest}){turned}"
        )


def _tensor(values: Array, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must be numbers, got dtype {array.dtype}")
    return torch.from_numpy(np.array(array, np.float32 if array.dtype.kind == "f" else None))

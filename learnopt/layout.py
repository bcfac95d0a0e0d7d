"""What an optimizer can know about a parameter tensor from its shape alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import torch
from torch import Tensor

JOIN_BELOW = 4096
"""Vectors up to this size are moved together: for them the number of calls costs more than a copy."""


@dataclass(frozen=True)
class TensorShape:
    """A parameter tensor seen as a matrix where it is one; dimensions of size 1 do not count."""

    shape: tuple[int, ...]

    @cached_property
    def dims(self) -> tuple[int, ...]:
        return tuple(d for d in self.shape if d != 1)

    @property
    def role(self) -> str:
        """`scalar`, `vector`, `matrix` (two dimensions above 1) or `convolution` (three or more)."""
        return ("scalar", "vector", "matrix", "convolution")[min(len(self.dims), 3)]

    @property
    def is_matrix(self) -> bool:
        """True for matrices and convolutions: tensors that have rows, columns and singular values."""
        return len(self.dims) >= 2

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns): output channels by everything else, torch's order for `Linear` and `Conv*d`."""
        return (self.dims[0], math.prod(self.dims[1:])) if self.is_matrix else (1, self.size)

    @property
    def fan_in(self) -> int:
        """Inputs that a unit sums over; 10 stands for the unknown fan of vectors and scalars."""
        return self.matrix[1] if self.is_matrix else 10


class Layout:
    """The parameter tensors that a rule advances together, in order.

    Attributes:
        equalised: number of the tensor whose columns `equalise` weighs: the first of the matrices, which reads
            the data, unless it is a convolution; or None.
    """

    def __init__(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        self.tensors = tuple(TensorShape(s) for s in shapes)
        # not the process's default dtype and device: layouts are shared, and the kernel reads their memory
        numbers = partial(torch.tensor, dtype=torch.float32, device="cpu")
        self.is_matrix = torch.tensor([t.is_matrix for t in self.tensors], dtype=torch.bool, device="cpu")
        self.root_fan = numbers([t.fan_in for t in self.tensors]).sqrt()
        network = self._network()
        columns = [self._columns(t) + place + network for t, place in zip(self.tensors, self._places(), strict=True)]
        self.columns = numbers(columns).reshape(len(self.tensors), -1)
        self.sizes = numbers([t.size for t in self.tensors])
        small = [not t.is_matrix and t.size <= JOIN_BELOW for t in self.tensors]
        first = next((k for k, t in enumerate(self.tensors) if t.is_matrix), None)
        self.equalised = first if first is not None and self.tensors[first].role == "matrix" else None
        self.joined = tuple(k for k, joins in enumerate(small) if joins)
        self.single = tuple(k for k, joins in enumerate(small) if not joins)
        self.joined_sizes = [self.tensors[k].size for k in self.joined]
        owners = torch.tensor(self.joined, dtype=torch.long, device="cpu")
        self.joined_index = owners.repeat_interleave(torch.tensor(self.joined_sizes, dtype=torch.long, device="cpu"))

    @staticmethod
    def of(shapes: Sequence[Sequence[int]]) -> Layout:
        """The layout of these shapes; built once per distinct list."""
        return _cached(tuple(tuple(s) for s in shapes))

    @staticmethod
    def _columns(t: TensorShape) -> list[float]:
        rows, columns = t.matrix
        aspect = max(-4.0, min(4.0, math.log(max(rows, 1) / max(columns, 1)))) / 4 if t.is_matrix else 0.0
        is_matrix, is_convolution = float(t.role == "matrix"), float(t.role == "convolution")
        return [math.log(max(t.size, 1)) / 8, is_matrix, is_convolution, aspect]

    def _places(self) -> list[list[float]]:
        """Of each tensor, whether it is the first and whether it is the last of the matrices."""
        matrices = [k for k, t in enumerate(self.tensors) if t.is_matrix]
        ends = (matrices[0], matrices[-1]) if matrices else (-1, -1)
        return [[float(k == end) for end in ends] for k in range(len(self.tensors))]

    def _network(self) -> list[float]:
        """What all tensors share, in the order of the `TENSOR` columns."""
        roles = [t.role for t in self.tensors]
        matrices, convolutions = sum(t.is_matrix for t in self.tensors), roles.count("convolution")
        vectors = roles.count("vector")
        ends = [t.matrix for t in self.tensors if t.is_matrix] or [(10, 10)]  # as an unknown fan
        return [
            math.log(max(sum(t.size for t in self.tensors), 1)) / 8,
            math.log(max(matrices, 1)),
            convolutions / max(matrices, 1),
            math.log((vectors + 1) / (matrices + 1)),
            math.log(ends[0][1]),
            math.log(ends[-1][0]),
        ]

    def joined_means(self, values: Tensor) -> Tensor:
        """Mean over each of the joined vectors: `(N, L, F)`, with the vectors end to end, to `(N, joined, F)`.

        Vectors of one size go together: a matrix of averages would take their number times their length in memory.
        """
        parts = torch.split(values, self.joined_sizes, 1)
        alike: dict[int, list[int]] = {}
        for i, size in enumerate(self.joined_sizes):
            alike.setdefault(size, []).append(i)
        means = list(parts)
        for size, places in alike.items():
            together = torch.stack([parts[i] for i in places], 1).sum(2) / max(size, 1)
            for i, mean in zip(places, together.unbind(1), strict=True):
                means[i] = mean
        return torch.stack(means, 1)

    def units(self, rms0: Tensor) -> Tensor:
        """Each tensor's unit of weight, `(N, tensors)`, from the root mean squares at initialisation, `(N, tensors)`.

        A matrix is measured by itself. Tensors that start at zero, vectors and scalars are measured by the network:
        the geometric mean over its matrices of rms * sqrt(fan_in), divided by their own sqrt(fan_in).
        """
        root_fan, is_matrix = self.root_fan.to(rms0.device), self.is_matrix.to(rms0.device)
        scale = rms0 * root_fan
        counted = is_matrix & (rms0 > 0)
        counted = torch.where(counted.any(-1, keepdim=True), counted, rms0 > 0)
        logs = torch.where(counted, scale.clamp_min(1e-37).log(), torch.zeros_like(scale))
        number = counted.sum(-1, keepdim=True)
        network = torch.where(number > 0, (logs.sum(-1, keepdim=True) / number.clamp_min(1)).exp(), 1.0)
        own = is_matrix & (rms0 * root_fan > 1e-6 * network)
        return torch.where(own, rms0, network / root_fan)


@lru_cache(maxsize=256)
def _cached(shapes: tuple[tuple[int, ...], ...]) -> Layout:
    return Layout(shapes)

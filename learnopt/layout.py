"""What an optimizer can know about a parameter tensor from its shape alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

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
    """The parameter tensors that a rule advances together, in order."""

    def __init__(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        self.tensors = tuple(TensorShape(s) for s in shapes)
        self.is_matrix = torch.tensor([t.is_matrix for t in self.tensors], dtype=torch.bool)
        self.root_fan = torch.tensor([t.fan_in for t in self.tensors], dtype=torch.float32).sqrt()
        columns = [
            self._columns(t) + place + self._network() for t, place in zip(self.tensors, self._places(), strict=True)
        ]
        self.columns = torch.tensor(columns).reshape(len(self.tensors), -1)
        self.sizes = torch.tensor([float(t.size) for t in self.tensors])
        self.joined = tuple(k for k, t in enumerate(self.tensors) if not t.is_matrix and t.size <= JOIN_BELOW)
        self.single = tuple(k for k in range(len(self.tensors)) if k not in set(self.joined))
        self.joined_sizes = [self.tensors[k].size for k in self.joined]
        sizes = torch.tensor(self.joined_sizes, dtype=torch.long)
        self.joined_index = torch.tensor(self.joined, dtype=torch.long).repeat_interleave(sizes)
        owner = torch.arange(len(self.joined)).repeat_interleave(sizes)
        self.joined_mean = (torch.arange(len(self.joined))[:, None] == owner) / sizes[:, None].clamp_min(1)

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

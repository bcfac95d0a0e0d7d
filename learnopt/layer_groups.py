"""Parameter tensors put together by the layer they belong to, few enough for people to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from learnopt.layout import TensorShape

MOST = 7
_RANGES = 4
"""A stack of numbered layers is shown as so many ranges at most."""


class Group(NamedTuple):
    """Some layers; the indices are places in the list of names."""

    name: str
    matrices: list[int]  # tensors of two dimensions or more, ones of size 1 not counted
    others: list[int]  # biases, normalisation, scalars

    def label(self, shapes: Sequence[Sequence[int]]) -> str:
        """The name, with the shape behind it where one matrix is all there is."""
        if len(self.matrices) != 1:
            return self.name
        return f"{self.name} ({' x '.join(map(str, shapes[self.matrices[0]]))})"


def group(names: Sequence[str], shapes: Sequence[Sequence[int]], most: int = MOST) -> list[Group]:
    """At most `most` groups in the order of the tensors.

    A layer is what a module's path says up to its first number ("encoder.layers.3"), or else up to its second part
    ("bert.embeddings"). Where there are too many, numbered layers of one stack become ranges ("encoder.layers.0-5"),
    and after that neighbours are joined.
    """
    found: dict[str, list[int]] = {}
    for i, name in enumerate(_without_common_start(names)):
        found.setdefault(_layer(name), []).append(i)
    layers = list(found.items())
    for ranges in range(_RANGES, 0, -1):
        if len(layers) <= most:
            break
        layers = _in_ranges(list(found.items()), ranges)
    if len(layers) > most:
        layers = [_joined(part, " to ") for part in _split(layers, most)]
    return [_with_roles(name, members, shapes) for name, members in layers]


def _without_common_start(names: Sequence[str]) -> list[str]:
    """The names without the parts that all begin with ("module.", "model."), as long as layers remain."""
    paths = [name.split(".") for name in names]
    while all(len(p) >= 2 for p in paths) and len({p[0] for p in paths}) == 1 and max(map(len, paths)) >= 3:
        paths = [p[1:] for p in paths]
    return [".".join(p) for p in paths]


def _layer(name: str) -> str:
    module = name.split(".")[:-1] or [name]
    end = next((i + 1 for i, part in enumerate(module) if part.isdecimal()), 2)
    return ".".join(module[:end])


_Layers = list[tuple[str, list[int]]]


def _in_ranges(layers: _Layers, ranges: int) -> _Layers:
    """Numbered layers of one stack, those whose names differ in the last number alone, in `ranges` parts at most."""
    stacks: dict[str, _Layers] = {}
    for label, members in layers:
        numbered = re.fullmatch(r"((?:.+\.)?)\d+", label)
        stacks.setdefault(numbered[1] if numbered else label, []).append((label, members))
    return [_joined(part, "-") for stack in stacks.values() for part in _split(stack, ranges)]


def _split(layers: _Layers, parts: int) -> list[_Layers]:
    """About equally long parts of neighbours, none empty."""
    parts = min(parts, len(layers))
    ends = [len(layers) * i // parts for i in range(parts + 1)]
    return [layers[a:b] for a, b in pairwise(ends)]


def _joined(part: _Layers, link: str) -> tuple[str, list[int]]:
    """Neighbours as one; ranges ("-") end in the last number alone."""
    first, last = part[0][0], part[-1][0]
    end = last.rpartition(".")[2] if link == "-" else last
    return first if len(part) == 1 else f"{first}{link}{end}", [i for _, members in part for i in members]


def _with_roles(name: str, members: list[int], shapes: Sequence[Sequence[int]]) -> Group:
    matrices = [i for i in members if TensorShape(tuple(shapes[i])).is_matrix]
    return Group(name, matrices, [i for i in members if i not in set(matrices)])

"""Figures that people read of a recording: per layer, per direction, over all parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learnopt.layer_groups import Group, group
from learnopt.recording import Recording

DIRECTIONS = ("gradient", "momentum", "orthogonal")


def layers(kept: Recording) -> list[Group]:
    """The recorded tensors by layer."""
    return group(kept.names, kept.shapes)


def stepped(kept: Recording) -> NDArray[np.bool_]:
    """Which tensors had a decision about them by then, `(rows, tensors)`."""
    return kept.values("gradient") + kept.values("momentum") > 0


def learning_rate(kept: Recording, members: Sequence[int]) -> NDArray[np.float64]:
    """Geometric mean of some tensors' learning rates, `(rows,)`; NaN where none moved."""
    rates = kept.values("learning_rate")[:, list(members)].astype(np.float64)
    moved = rates > 0
    logs = np.log(np.where(moved, rates, 1.0)).sum(1)
    return np.where(moved.any(1), np.exp(logs / np.maximum(moved.sum(1), 1)), np.nan)


def directions(kept: Recording) -> dict[str, NDArray[np.float64]]:
    """Shares of `DIRECTIONS` in every tensor's step, `(rows, tensors)` each; NaN before its first step.

    The orthogonalised direction takes its share first, gradient and momentum share the rest.
    """
    orthogonal, there = kept.values("orthogonal").astype(np.float64), stepped(kept)
    shares = {name: (1 - orthogonal) * kept.values(name) for name in DIRECTIONS[:2]} | {"orthogonal": orthogonal}
    return {name: np.where(there, share, np.nan) for name, share in shares.items()}


def amount(kept: Recording, name: str) -> NDArray[np.float64]:
    """`decay` or `pull` of every tensor, `(rows, tensors)`; NaN before its first step."""
    return np.where(stepped(kept), kept.values(name).astype(np.float64), np.nan)


def over_parameters(kept: Recording, values: NDArray[Any], members: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Means over all parameters of some tensors, `(rows,)`, of values per tensor, `(rows, tensors)`; NaN where all
    are."""
    chosen = list(range(len(kept.names)) if members is None else members)
    sizes = np.array([math.prod(kept.shapes[i]) for i in chosen], dtype=np.float64)
    own = values[:, chosen]
    known = np.isfinite(own)
    total = known @ sizes
    return np.where(total > 0, np.where(known, own, 0.0) @ sizes / np.maximum(total, 1), np.nan)


def scalars(kept: Recording, row: int = -1) -> dict[str, float]:
    """One row as a flat dictionary; what is not known is left out, and without rows it is empty."""
    if not kept.rows:
        return {}
    one = replace(kept, rows=[kept.rows[row]])
    found = {name: one.column(name) for name in ("loss", "loss_average", "schedule", "stop_probability", "skipped")}
    found |= {name: over_parameters(one, amount(one, name)) for name in ("decay", "pull")}
    found |= {f"direction/{name}": over_parameters(one, share) for name, share in directions(one).items()}
    for layer in layers(one):
        rates = {"": layer.matrices or layer.others, "/others": layer.others if layer.matrices else []}
        found |= {f"learning_rate/{layer.name}{end}": learning_rate(one, own) for end, own in rates.items() if own}
    return {name: float(values[0]) for name, values in found.items() if math.isfinite(values[0])}

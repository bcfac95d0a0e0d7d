"""What the tuner has learned, as it ships: one artifact per optimizer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learnopt import carded
from learnopt.carded import ArtifactError
from learnopt.tuner import aligned, diagnosis_network, meta_features
from learnopt.tuner.forest import Forest
from learnopt.tuner.probes import CHANNELS, SHARES, Probe, change, on_grid

FORMAT = 3
FOLDER = Path(__file__).resolve().parents[1] / "weights" / "tuner"
MOST_REGRET = 2.0
"""Regrets are clipped here before they are learned: how bad a hopeless rate is must not matter."""
SCHEDULE = "cosine"
"""Schedule of the runs whose regret is expected, and of the probes."""


class Configuration(NamedTuple):
    """Settings that are recommended."""

    lr: float
    schedule: str
    weight_decay: float


@dataclass(frozen=True)
class Knowledge:
    """Loaded weights and the grid that they speak about.

    Attributes:
        weight_decay: of the runs whose regret is expected, and of the probes.
        portfolio: configurations in the order in which they should be tried without knowing anything.
        mean: usual meta-features, `(F,)`.
        prior: from meta-features to the regret of every rate.
        forest: from `aligned.rows` to the regret of the rates around the best probe.
        diagnosis: members of the network of `diagnose`.
        levels: usual log of the best final loss over the one before training, and over the best probe's of each length,
            `(1 + len(SHARES),)`.
    """

    optimizer: str
    rates: tuple[float, ...]
    weight_decay: float
    portfolio: tuple[Configuration, ...]
    mean: Tensor
    prior: Forest
    forest: Forest
    diagnosis: tuple[dict[str, Tensor], ...]
    levels: Tensor
    card: dict[str, Any]

    def expect(self, features: Sequence[float] | None, probes: Sequence[Probe]) -> Tensor:
        """Expected regret of every rate with a cosine schedule, `(len(rates),)`.

        Args:
            features: meta-features; None where there are none: those of the average task are taken.
            probes: of one length.
        """
        meta = (self.mean if features is None else torch.tensor(list(features), dtype=torch.float32))[None]
        if not probes:
            return self.prior.predict(aligned.clipped(meta))[0]
        found, probed = on_grid(probes, self.rates)
        log_share = torch.tensor([math.log2(max(probe.share for probe in probes))])
        seen, best = aligned.rows(found[None], log_share, probed[None], meta)
        return aligned.spread(self.forest.predict(seen), best, len(self.rates), MOST_REGRET)[0]

    def level(self, probes: Sequence[Probe]) -> float:
        """Expected log of the best final validation loss over the one before training: by what is usual in the corpus,
        after the best probe if there is one. The median; half of the tasks are off by more than about a third."""
        reached = {p.share: change(p.valid, p.start) for p in sorted(probes, key=lambda p: -p.valid) if not p.failed}
        if not reached:
            return float(self.levels[0])
        share = max(reached)
        further = self.levels[1 + min(range(len(SHARES)), key=lambda i: abs(SHARES[i] - share))]
        return min(reached[share], 0.0) + float(further)


def save(path: Path, knowledge: Knowledge, fields: dict[str, Any]) -> Path:
    """Write an artifact: tensors to `path`, the grid, the portfolio and `fields` to its card."""
    tensors = {f"{kind}.{k}": v for kind in ("prior", "forest") for k, v in getattr(knowledge, kind)._asdict().items()}
    tensors |= {f"diagnosis{i}.{k}": v for i, w in enumerate(knowledge.diagnosis) for k, v in w.items()}
    tensors |= {"mean": knowledge.mean, "levels": knowledge.levels}
    card = {
        "format": FORMAT, "features_version": meta_features.VERSION, "channels": list(CHANNELS), "shares": list(SHARES),
        "features": list(meta_features.NAMES), "optimizer": knowledge.optimizer, "rates": list(knowledge.rates),
        "weight_decay": knowledge.weight_decay, "portfolio": [list(c) for c in knowledge.portfolio], **fields,
    }  # fmt: skip
    return carded.write(path, tensors, card)


def names() -> list[str]:
    """Optimizers that there is shipped knowledge about."""
    return sorted(p.stem for p in FOLDER.glob("*.safetensors"))


def load(name: str | os.PathLike[str]) -> Knowledge:
    """The shipped knowledge about an optimizer, or an artifact of one's own by its path.

    Raises:
        ValueError: there is none, or it is damaged or of another version; one line.
    """
    shipped = FOLDER / f"{name}.safetensors"
    path = shipped if isinstance(name, str) and name in names() else Path(name)
    if path.suffix != ".safetensors":
        raise ArtifactError(
            f"no knowledge about {str(name)!r} ships; choose from: {', '.join(names())}, or a .safetensors file of "
            "`learnopt tune-train`"
        )
    return _load(path, path.stat().st_mtime_ns if path.exists() else 0)


def checked(knowledge: Knowledge, optimizer: str) -> Knowledge:
    """Knowledge that a user has given, about an optimizer.

    Raises:
        ValueError: it is none, or about another optimizer, whose rates are others.
    """
    if not isinstance(knowledge, Knowledge):
        raise ValueError(f"knowledge must be what tuner.knowledge.load returns, got {type(knowledge).__name__}")
    if knowledge.optimizer != optimizer:
        raise ValueError(f"the knowledge is about {knowledge.optimizer!r}, the optimizer is {optimizer!r}")
    return knowledge


@lru_cache(maxsize=8)
def _load(path: Path, modified: int) -> Knowledge:
    data, card = carded.read_bytes(path)
    wanted = {"format": FORMAT, "features_version": meta_features.VERSION, "channels": list(CHANNELS)}
    wanted |= {"shares": list(SHARES)}
    for key, value in wanted.items():
        if card.get(key) != value:
            raise ArtifactError(f"{path} has {key} {card.get(key)!r}, this version needs {value!r}")
    tensors = carded.tensors_of(path, data)
    for name, tensor in tensors.items():
        carded.check_finite(path, name, tensor)
    try:
        rates = tuple(float(r) for r in card["rates"])
        return Knowledge(
            str(card["optimizer"]), rates, float(card["weight_decay"]),
            tuple(Configuration(*c) for c in card["portfolio"]), tensors["mean"],
            _forest(path, tensors, "prior", len(meta_features.NAMES), len(rates)),
            _forest(path, tensors, "forest", aligned.COLUMNS, aligned.WIDTH),
            _members(path, tensors, "diagnosis", diagnosis_network.initial(torch.Generator())),
            tensors["levels"], card,
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is not an artifact of the tuner: {error} is missing or wrong") from error


def _forest(path: Path, tensors: dict[str, Tensor], kind: str, columns: int, outputs: int) -> Forest:
    found = Forest(*(tensors[f"{kind}.{field}"] for field in Forest._fields))
    if not found.fits(columns, outputs):
        raise ArtifactError(f"{path}: {kind} is no forest from {columns} columns to {outputs} outputs")
    return found


def _members(
    path: Path, tensors: dict[str, Tensor], kind: str, like: dict[str, Tensor]
) -> tuple[dict[str, Tensor], ...]:  # fmt: skip
    count = len({k.split(".")[0] for k in tensors if k.startswith(kind)})
    members = tuple({k: tensors[f"{kind}{i}.{k}"] for k in like} for i in range(count))
    for member in members:
        for key, tensor in member.items():
            if tensor.shape != like[key].shape:
                shapes = f"{tuple(tensor.shape)}, this version needs {tuple(like[key].shape)}"
                raise ArtifactError(f"{path}: tensor {key} is {shapes}")
    return members

"""Meta-weights on disk: a safetensors file and a JSON card beside it. Loading executes no code."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learnopt import carded, features, meta_network, stop_head
from learnopt.carded import ArtifactError

__all__ = ["Artifact", "ArtifactError", "load", "locate", "names", "save"]

FORMAT = 1
DEFAULT = "v1"
"""What `weights="default"` stands for."""

_FOLDER = Path(__file__).resolve().parent / "weights"


@dataclass(frozen=True)
class Artifact:
    """Loaded meta-weights.

    Attributes:
        theta: the rule's meta-weights, `(meta_network.SIZE,)`.
        stop: the stop head's weights by name, or None where it has not been learned.
        card: how they were made.
        path: where they came from.
    """

    theta: Tensor
    stop: dict[str, Tensor] | None
    card: dict[str, Any]
    path: Path

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors' file."""
        return str(self.card["sha256"])


def names() -> list[str]:
    """Names of the artifacts that ship, oldest first."""
    return sorted(p.stem for p in _FOLDER.glob("*.safetensors"))


def save(path: Path, theta: Tensor, stop: dict[str, Tensor] | None, fields: dict[str, Any]) -> Path:
    """Write `path` (ending in .safetensors) and its card atomically.

    Args:
        fields: further entries of the card: suite, command, config, seeds, commit, date, versions.
    """
    tensors = {f"rule.{k}": v[0] for k, v in meta_network.unpack(theta).items()}
    tensors |= {f"stop.{k}": v for k, v in (stop or {}).items()}
    card = {
        "format": FORMAT,
        "features_version": features.VERSION,
        "architecture": {**_widths(), "meta_parameters": meta_network.SIZE},
        **fields,
    }  # fmt: skip
    return carded.write(path, tensors, card)


def _widths() -> dict[str, int]:
    return {"hidden": meta_network.HIDDEN, "context": meta_network.CONTEXT, "width": meta_network.WIDTH}


def locate(name: str | os.PathLike[str]) -> Path:
    """The tensors' file of a shipped name, "default", or a path with or without its ending.

    Raises:
        ArtifactError: there is none.
    """
    if not isinstance(name, str | os.PathLike):
        raise ArtifactError(f"weights must be a name or a path, got {name!r}")
    text = str(os.fspath(name))
    shipped = _FOLDER / f"{DEFAULT if text == 'default' else text}.safetensors"
    if shipped.parent == _FOLDER and shipped.exists():
        return shipped
    path = Path(text) if text.endswith(".safetensors") else Path(text + ".safetensors")
    if path.exists():
        return path
    raise ArtifactError(f"unknown weights {text!r}; choose from: default, {', '.join(names())}, or the path of a file")


def load(name: str | os.PathLike[str] = "default") -> Artifact:
    """Read an artifact by name or path and check that it is whole and fits this version.

    An artifact from before columns were added gets weights of zero for them: it decides as it did.

    Raises:
        ArtifactError: one line that names the file and what is wrong with it.
    """
    path = locate(name)
    status, card = path.stat(), path.with_suffix(".json")
    modified = (status.st_mtime_ns, card.stat().st_mtime_ns if card.exists() else 0)
    return _load(path, modified, status.st_size)


@lru_cache(maxsize=8)
def _load(path: Path, modified: tuple[int, int], size: int) -> Artifact:
    data, card = carded.read_bytes(path)
    if card.get("format") != FORMAT:
        raise ArtifactError(f"{path} has artifact format {card.get('format')!r}, this version reads {FORMAT}")
    added = _columns_since(card.get("features_version"))
    if added is None:
        was = card.get("features_version")
        raise ArtifactError(f"{path} was trained on features version {was!r}, this version has {features.VERSION}")
    _check_widths(path, card.get("architecture"))
    tensors = carded.tensors_of(path, data)
    stop = {f"stop.{k}": s for k, s in stop_head.SHAPES.items()}
    expected = {f"rule.{k}": (a - added * (k in _OVER_COLUMNS), b) for k, (a, b) in meta_network.SHAPES.items()}
    if any(k.startswith("stop.") for k in tensors):
        expected |= stop
    _check(path, tensors, expected)
    rule = {k: tensors[f"rule.{k}"] for k in meta_network.SHAPES}
    rule |= {k: torch.nn.functional.pad(rule[k], (0, 0, 0, added)) for k in _OVER_COLUMNS}
    theta = torch.cat([part.flatten() for part in rule.values()])
    head = {k: tensors[f"stop.{k}"] for k in stop_head.SHAPES} if "stop.in" in tensors else None
    return Artifact(theta, head, card, path)


_OVER_COLUMNS = ("lstm_in", "tensor_skip")
"""Parts of theta with a row for every column; those of `TENSOR` come last."""


def _columns_since(version: Any) -> int | None:
    """How many columns were added at the end of `TENSOR` since `version`; None where more than that was changed."""
    if not isinstance(version, int) or version > features.VERSION:
        return None
    since = [features.ADDED.get(v) for v in range(version + 1, features.VERSION + 1)]
    return None if None in since else sum(n for n in since if n is not None)


def _check_widths(path: Path, said: Any) -> None:
    """Refuse a meta-network of other widths than the process has; cards that do not say are judged by the tensors."""
    own = _widths()
    found = {k: said[k] for k in own if k in said} if isinstance(said, dict) else {}
    if found.keys() == own.keys() and found != own:
        a, b = (",".join(str(widths[k]) for k in own) for widths in (found, own))
        raise ArtifactError(
            f"{path} has a meta-network of widths {a}, this process one of {b}; start it with {meta_network.WIDTHS}={a}"
        )


def _check(path: Path, tensors: dict[str, Tensor], expected: dict[str, tuple[int, int]]) -> None:
    missing, foreign = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or foreign:
        what = [f"lacks {', '.join(missing[:3])}"] * bool(missing) + [f"has unknown {', '.join(foreign[:3])}"] * bool(
            foreign
        )
        raise ArtifactError(f"{path} is not an artifact of this rule: it {' and '.join(what)}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            got = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ArtifactError(f"{path}: tensor {name} is {got}, this rule needs {shape} torch.float32")
        carded.check_finite(path, name, tensor)

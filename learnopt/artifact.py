"""Meta-weights on disk: a safetensors file and a JSON card beside it. Loading executes no code."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from learnopt import features, meta_network, stop_head
from learnopt.atomic import write_bytes

FORMAT = 1
DEFAULT = "v1"
"""What `weights="default"` stands for."""

_FOLDER = Path(__file__).resolve().parent / "weights"


class ArtifactError(ValueError):
    """An artifact is missing, damaged, foreign or made for another version; the message says which and names it."""


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
    tensors = {f"rule.{k}": v[0].contiguous() for k, v in meta_network.unpack(theta).items()}
    tensors |= {f"stop.{k}": v.contiguous() for k, v in (stop or {}).items()}
    data = tensors_to_bytes(tensors)
    card = {
        "format": FORMAT,
        "features_version": features.VERSION,
        "architecture": {
            "hidden": meta_network.HIDDEN, "context": meta_network.CONTEXT, "width": meta_network.WIDTH,
            "meta_parameters": meta_network.SIZE,
        },
        **fields,
        "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
    # the tensors first: a crash in between leaves a card that does not match, which `load` refuses
    write_bytes(path, data)
    write_bytes(path.with_suffix(".json"), (json.dumps(card, indent=2, default=str) + "\n").encode())
    return path


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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    card = _read_card(path.with_suffix(".json"))
    if hashlib.sha256(data).hexdigest() != card.get("sha256"):
        raise ArtifactError(f"{path} is damaged or does not belong to its card: its SHA-256 differs ({size} bytes)")
    if card.get("format") != FORMAT:
        raise ArtifactError(f"{path} has artifact format {card.get('format')!r}, this version reads {FORMAT}")
    added = _columns_since(card.get("features_version"))
    if added is None:
        was = card.get("features_version")
        raise ArtifactError(f"{path} was trained on features version {was!r}, this version has {features.VERSION}")
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a safetensors file: {error}") from error
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


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"card {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ArtifactError(f"card {path} is not valid JSON: {error}") from error
    if not isinstance(card, dict):
        raise ArtifactError(f"card {path} is not a JSON object but {type(card).__name__}")
    return card


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
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{path}: tensor {name} holds values that are not finite")

"""The learned stopper's weights on disk: which ship, and how they are read and written."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from learnopt import carded
from learnopt.carded import ArtifactError
from learnopt.stopping import curve_features
from learnopt.stopping.curve_network import CurveNetwork

FORMAT = 1
DEFAULT = "stopper-v1"
"""What `weights="default"` stands for."""
_FOLDER = Path(__file__).resolve().parents[1] / "weights"


class Loaded(NamedTuple):
    """A curve network and how it was made."""

    network: CurveNetwork
    card: dict[str, Any]
    path: Path


def save(path: Path, network: CurveNetwork, fields: dict[str, Any]) -> Path:
    """Write `path` (ending in .safetensors) and its card; `fields` are further entries of the card."""
    card = {"kind": "stopper", "format": FORMAT, "features_version": curve_features.VERSION}
    return carded.write(path, dict(network.state_dict()), {**card, **fields})


def load(name: str | os.PathLike[str] = "default") -> Loaded:
    """Read weights by the name of shipped ones or by path, and check that they fit.

    Raises:
        ArtifactError: one line that names the file and what is wrong with it.
    """
    path = _locate(name)
    status = path.stat()
    return _load(path, status.st_mtime_ns, status.st_size)


def _locate(name: str | os.PathLike[str]) -> Path:
    if not isinstance(name, str | os.PathLike):
        raise ArtifactError(f"weights must be a name or a path, got {name!r}")
    text = str(os.fspath(name))
    places = [_FOLDER / f"{DEFAULT if text == 'default' else text}.safetensors", Path(text), Path(text + ".safetensors")]
    for path in places:
        if path.suffix == ".safetensors" and path.is_file():
            return path
    raise ArtifactError(f"unknown stopper weights {text!r}; choose from: default, {DEFAULT}, or the path of a file")


@lru_cache(maxsize=8)
def _load(path: Path, modified: int, size: int) -> Loaded:
    data, card = carded.read_bytes(path)
    if card.get("kind") != "stopper":
        raise ArtifactError(f"{path} holds no stopper but {card.get('kind', 'meta-weights')!s}")
    for key, here in (("format", FORMAT), ("features_version", curve_features.VERSION)):
        if card.get(key) != here:
            raise ArtifactError(f"{path} has {key} {card.get(key)!r}, this version reads {here}")
    tensors = carded.tensors_of(path, data)
    network = CurveNetwork()
    expected = {k: (tuple(v.shape), v.dtype) for k, v in network.state_dict().items()}
    found = {k: (tuple(v.shape), v.dtype) for k, v in tensors.items()}
    if expected != found:
        odd = sorted(k for k in expected | found if expected.get(k) != found.get(k))
        raise ArtifactError(f"{path}: {odd[0]} is {found.get(odd[0])}, this version needs {expected.get(odd[0])}")
    for key, tensor in tensors.items():
        carded.check_finite(path, key, tensor)
    with torch.no_grad():
        network.load_state_dict(tensors)
    return Loaded(network.requires_grad_(False), card, path)

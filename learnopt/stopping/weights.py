"""The learned stopper's and pruner's weights on disk: which ship, how they are read and written."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from learnopt import carded
from learnopt.carded import ArtifactError
from learnopt.stopping import curve_features, peer_features
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.peer_network import PeerNetwork

FORMAT = 1
DEFAULT = "v2"
"""What `weights="default"` stands for."""
_FOLDER = Path(__file__).resolve().parents[1] / "weights" / "stopper"


class Loaded(NamedTuple):
    """Both networks, and how they were made."""

    curve: CurveNetwork
    peer: PeerNetwork
    card: dict[str, Any]
    path: Path


def save(path: Path, curve: CurveNetwork, peer: PeerNetwork, fields: dict[str, Any]) -> Path:
    """Write `path` (ending in .safetensors) and its card; `fields` are further entries of the card."""
    tensors = {
        f"{name}.{k}": v for name, net in (("curve", curve), ("peer", peer)) for k, v in net.state_dict().items()
    }
    return carded.write(path, tensors, {**_expected(), **fields})


def _expected() -> dict[str, Any]:
    """Entries of the card that must agree."""
    versions = {"curve_features": curve_features.VERSION, "peer_features": peer_features.VERSION}
    return {"kind": "stopper", "format": FORMAT, **versions}


def names() -> list[str]:
    """Names of the weights that ship."""
    return sorted(p.stem for p in _FOLDER.glob("*.safetensors"))


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
    for path in (
        _FOLDER / f"{DEFAULT if text == 'default' else text}.safetensors",
        Path(text),
        Path(text + ".safetensors"),
    ):
        if path.suffix == ".safetensors" and path.is_file():
            return path
    raise ArtifactError(
        f"unknown stopper weights {text!r}; choose from: default, {', '.join(names())}, or the path of a file"
    )


@lru_cache(maxsize=8)
def _load(path: Path, modified: int, size: int) -> Loaded:
    data, card = carded.read_bytes(path)
    for key, here in _expected().items():
        if card.get(key) != here:
            raise ArtifactError(f"{path} has {key} {card.get(key)!r}, the stopper of this version reads {here!r}")
    tensors = carded.tensors_of(path, data)
    curve, peer = CurveNetwork(), PeerNetwork()
    networks: list[tuple[str, nn.Module]] = [("curve", curve), ("peer", peer)]
    expected = {f"{name}.{k}": (tuple(v.shape), v.dtype) for name, n in networks for k, v in n.state_dict().items()}
    found = {k: (tuple(v.shape), v.dtype) for k, v in tensors.items()}
    if expected != found:
        odd = min(k for k in expected | found if expected.get(k) != found.get(k))
        raise ArtifactError(f"{path}: {odd} is {found.get(odd)}, this version needs {expected.get(odd)}")
    for key, tensor in tensors.items():
        carded.check_finite(path, key, tensor)
    with torch.no_grad():
        for name, network in networks:
            network.load_state_dict(
                {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            )
            network.requires_grad_(False)
    return Loaded(curve, peer, card, path)

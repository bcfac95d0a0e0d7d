"""Tensors on disk with a JSON card beside them that says how they were made. Reading executes no code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from learnopt.atomic import write_bytes


class ArtifactError(ValueError):
    """An artifact is missing, damaged, foreign or made for another version; the message says which and names it."""


def write(path: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> Path:
    """Write `path` (ending in .safetensors) and its card atomically; the card gets the file's SHA-256."""
    data = tensors_to_bytes({k: v.contiguous() for k, v in tensors.items()})
    card = {**card, "sha256": hashlib.sha256(data).hexdigest()}
    # the tensors first: a crash in between leaves a card that does not match, which `read` refuses
    write_bytes(path, data)
    write_bytes(path.with_suffix(".json"), (json.dumps(card, indent=2, default=str) + "\n").encode())
    return path


def read_bytes(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The tensors' file, as it is, and the card that belongs to it.

    Raises:
        ArtifactError: one line that names the file and what is wrong with it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    card = _read_card(path.with_suffix(".json"))
    if hashlib.sha256(data).hexdigest() != card.get("sha256"):
        size = len(data)
        raise ArtifactError(f"{path} is damaged or does not belong to its card: its SHA-256 differs ({size} bytes)")
    return data, card


def tensors_of(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors in the bytes of `path`.

    Raises:
        ArtifactError: it is no safetensors file.
    """
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a safetensors file: {error}") from error


def check_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Raise ArtifactError for a tensor with values that are not finite."""
    if not torch.isfinite(tensor).all():
        raise ArtifactError(f"{path}: tensor {name} holds values that are not finite")


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

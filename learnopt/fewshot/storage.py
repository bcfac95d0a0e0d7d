"""Learners on disk: one safetensors file with its JSON card inside, written at once. Loading executes no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from learnopt.atomic import write_bytes

FORMAT = 1


def write(path: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> Path:
    """Write tensors and card to `path` atomically; returns it."""
    contiguous = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    write_bytes(path, save(contiguous, {"card": json.dumps({"format": FORMAT, **card})}))
    return path


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and card of a file that `write` made.

    Raises:
        ValueError: the file is missing, damaged or of another kind; the message names it.
    """
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {}).get("card", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a learner: {error}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else None
        raise ValueError(f"{path} is not a learner of this version: its format is {found!r}, not {FORMAT}")
    return tensors, card

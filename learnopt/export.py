"""Turn a meta-training checkpoint into an artifact that users can load."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

from learnopt import artifact
from learnopt.checkpoint import Checkpoint
from learnopt.meta_config import MetaTrainConfig
from learnopt.provenance import commit

WEIGHTS = "weights.safetensors"


def weights(out: Path, state: Checkpoint, config: MetaTrainConfig, command: str) -> None:
    """Write the best theta so far, by the validation suite, with a card that says how it was made."""
    fields: dict[str, Any] = {
        "name": out.name, "suite": config.suite, "valid_suite": config.valid_suite, "command": command,
        "config": config.model_dump(), "seeds": [config.seed], "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(), "meta_steps": state.meta_step, "kept_meta_step": state.best_step,
        "valid_score": state.best_score, "inner_steps": state.inner_steps,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__},
    }  # fmt: skip
    artifact.save(out / WEIGHTS, state.best_theta, None, fields)

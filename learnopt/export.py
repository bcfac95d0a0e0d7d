"""Turn a meta-training checkpoint into an artifact that users can load."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from learnopt import artifact
from learnopt.checkpoint import Checkpoint
from learnopt.meta_config import MetaTrainConfig
from learnopt.provenance import commit

WEIGHTS, LAST = "weights.safetensors", "last.safetensors"


def with_stop_head(source: artifact.Artifact, path: Path, stop: dict[str, Tensor], found: dict[str, Any]) -> Path:
    """Write `source`'s rule with a stop head to `path`; `found` says how the head was learned."""
    made = {"format", "features_version", "architecture", "sha256"}
    fields = {k: v for k, v in source.card.items() if k not in made}
    return artifact.save(path, source.theta, stop, {**fields, "name": path.stem, **found})


def weights(out: Path, state: Checkpoint, config: MetaTrainConfig, command: str) -> None:
    """Write the best theta so far by the validation suite, and the last, with cards that say how they were made.

    Both are means over meta-steps. The last one is what a further phase goes on from.
    """
    fields: dict[str, Any] = {
        "name": out.name, "suite": config.suite, "valid_suite": config.valid_suite, "command": command,
        "config": config.model_dump(mode="json"), "seeds": [config.seed], "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(), "meta_steps": state.meta_step, "inner_steps": state.inner_steps,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__},
    }  # fmt: skip
    best = {"kept_meta_step": state.best_step, "valid_score": state.best_score}
    artifact.save(out / WEIGHTS, state.best_theta, None, fields | best)
    artifact.save(
        out / LAST, state.average, None, fields | {"name": f"{out.name} (last)", "kept_meta_step": state.meta_step}
    )

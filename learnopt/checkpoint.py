"""What a meta-training run keeps on disk: a checkpoint that resumes exactly, and a log that plots are drawn from."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learnopt import meta_network
from learnopt.atomic import write_bytes
from learnopt.features import VERSION, LossHistory
from learnopt.meta_config import MetaTrainConfig
from learnopt.rule import RuleState
from learnopt.unroll import Runs

FILE, LOG = "checkpoint.pt", "log.jsonl"


@dataclass
class Checkpoint:
    """All that the next meta-step depends on."""

    theta: Tensor
    first: Tensor
    second: Tensor
    average: Tensor
    meta_step: int
    inner_steps: int
    best_theta: Tensor
    best_score: float
    best_step: int
    carries: list[dict[str, Any] | None]
    generations: list[int]

    @staticmethod
    def fresh(theta: Tensor, config: MetaTrainConfig) -> Checkpoint:
        """The state before the first meta-step."""
        zero, n = torch.zeros_like(theta), config.episodes
        return Checkpoint(
            theta, zero, zero.clone(), theta.clone(), 0, 0, theta.clone(), float("inf"), 0, [None] * n, [0] * n
        )


def save_checkpoint(folder: Path, state: Checkpoint, config: MetaTrainConfig) -> None:
    """Write the checkpoint atomically; it holds tensors and plain values only, no code."""
    plain = {k: v for k, v in _fields(state).items() if k != "carries"}
    plain["carries"] = [None if c is None else {**c, "runs": _plain(c["runs"])} for c in state.carries]
    plain["config"] = json.dumps(config.model_dump(mode="json"))
    plain["features_version"] = VERSION
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    write_bytes(folder / FILE, buffer.getvalue())


def _fields(state: Checkpoint) -> dict[str, Any]:
    """The fields without copying their tensors."""
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def load_checkpoint(folder: Path, config: MetaTrainConfig) -> Checkpoint | None:
    """The saved state, or None where there is none.

    Raises:
        ValueError: the file is damaged, or belongs to a run with other settings.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        plain = torch.load(path, weights_only=True)
        saved = json.loads(plain.pop("config"))
        version = plain.pop("features_version")
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); remove it to start anew"
        ) from error
    if version != VERSION:
        raise ValueError(f"{path} was made with features version {version}, this is version {VERSION}")
    if len(plain["theta"]) != meta_network.SIZE:
        count = len(plain["theta"])
        raise ValueError(
            f"{path} has {count} meta-weights, this process {meta_network.SIZE}; see {meta_network.WIDTHS}"
        )
    now = config.model_dump(mode="json")
    # what is older than a setting was made with its default
    saved = {**MetaTrainConfig.model_validate({}).model_dump(mode="json"), **saved}
    changed = [k for k in now if k != "checkpoint_minutes" and saved[k] != now[k]]
    if changed:
        what = ", ".join(f"{k} {saved[k]!r} -> {now[k]!r}" for k in changed)
        raise ValueError(f"{folder} holds a run with other settings ({what}); choose another folder with --out")
    carries = [None if c is None else {**c, "runs": _runs(c["runs"])} for c in plain.pop("carries")]
    return Checkpoint(**plain, carries=carries)


def _plain(runs: Runs) -> dict[str, Any]:
    state = runs.state._asdict()
    moments = {k: list(state.pop(k)) for k in ("fast", "average", "square")}
    history = state.pop("history")._asdict()
    return {"params": list(runs.params), "moments": moments, "history": dict(history), "state": dict(state)}


def _runs(plain: dict[str, Any]) -> Runs:
    moments = {k: tuple(v) for k, v in plain["moments"].items()}
    fields: dict[str, Any] = {**moments, **plain["state"], "history": LossHistory(**plain["history"])}
    state = RuleState(**fields)
    return Runs(plain["params"], state)


class MetaLog:
    """One JSON line per meta-step. Lines beyond the checkpoint are dropped on resume: they will be made again."""

    def __init__(self, folder: Path, meta_step: int) -> None:
        self.path = folder / LOG
        self.rows = [r for r in read_log(folder) if r["meta_step"] <= meta_step]

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; it reaches the disk with the next `flush`."""
        self.rows.append(row)

    def flush(self) -> None:
        """Write the whole log atomically."""
        text = "".join(json.dumps(r) + "\n" for r in self.rows)
        write_bytes(self.path, text.encode())


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; empty where there is none."""
    path = folder / LOG
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

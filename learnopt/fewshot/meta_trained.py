"""An outer loop around slow tensors: meta-steps of Adam, a checkpoint that resumes, a file to keep the result in."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from learnopt.fewshot import storage
from learnopt.fewshot.fitting import Fitting, Row
from learnopt.task import seed_of

META_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
}
"""Multiplier of the meta learning rate by the share of meta-steps done."""


class MetaTrained(ABC):
    """Whatever has slow tensors that meta-steps improve.

    Args:
        meta_lr: learning rate of the outer loop (Adam, unless a learner says otherwise).
        meta_schedule: its course over `fit`: constant, linear or cosine, to zero.
        clip: largest norm of a meta-gradient; longer ones are cut to it.

    Attributes:
        history: rows of the last `fit`.
        cpu_seconds: processor time that `fit` has spent on meta-steps.

    Raises:
        ValueError: a setting cannot be used; the message names it.
    """

    name: ClassVar[str]

    def __init__(self, *, meta_lr: float, meta_schedule: str, clip: float | None = None) -> None:
        if not meta_lr > 0:
            raise ValueError(f"meta_lr must be above 0, got {meta_lr!r}")
        if meta_schedule not in META_SCHEDULES:
            raise ValueError(f"meta_schedule must be one of {', '.join(META_SCHEDULES)}, got {meta_schedule!r}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be above 0, got {clip!r}")
        self.meta_lr, self.meta_schedule, self.clip = meta_lr, meta_schedule, clip
        self.history: list[Row] = []
        self.cpu_seconds = 0.0

    @abstractmethod
    def slow(self) -> dict[str, Tensor]:
        """Everything that is meta-learned, by name: leaves that require gradients."""

    def settings(self) -> dict[str, Any]:
        """What defines the learner, for checkpoints and cards: plain values."""
        return {
            "method": self.name, "meta_lr": self.meta_lr, "meta_schedule": self.meta_schedule, "clip": self.clip,
            "shapes": {n: list(p.shape) for n, p in self.slow().items()},
        }  # fmt: skip

    def meta_optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer of the slow tensors, in their order; a group's "share" multiplies its `meta_lr`."""
        return torch.optim.Adam(list(self.slow().values()), lr=self.meta_lr)

    def update(self, loss: float, gradients: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> Row:
        """One update of the slow tensors, in the order of `slow`; left out where it would not be finite."""
        norm = float(torch.stack([g.norm() for g in gradients]).norm())
        row: Row = {"meta_loss": short(loss), "gradient_norm": short(norm)}
        if not math.isfinite(norm):
            return row | {"skipped": 1}
        for p, g in zip(self.slow().values(), gradients, strict=True):
            p.grad = g if self.clip is None or norm <= self.clip else g * (self.clip / norm)
        optimizer.step()
        optimizer.zero_grad()
        return row

    def outer_loop(
        self, step: Callable[[int, torch.optim.Optimizer], Row], meta_steps: int, config: dict[str, Any], *,
        seed: int, out: str | Path | None, progress: bool,
    ) -> list[Row]:  # fmt: skip
        """Call `step` with the number of each meta-step and the meta-optimizer, from a checkpoint on if there is one.

        Global random state inside is a function of the seed and the number; outside it stays as it is.

        Args:
            config: what the run is a function of, beside `settings`, the seed, and the number of meta-steps where a
                schedule depends on it.
        """
        optimizer = self.meta_optimizer()
        config = self.settings() | config | {"seed": seed}
        if self.meta_schedule != "constant":
            config["meta_steps"] = meta_steps
        fitting = Fitting(
            config, lambda: self._tensors(optimizer), lambda saved: self._restore(optimizer, saved),
            None if out is None else Path(out),
        )  # fmt: skip

        def one(k: int) -> Row:
            rate = self.meta_lr * META_SCHEDULES[self.meta_schedule](k / meta_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("share", 1.0)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of("meta-step", seed, k))
                return step(k, optimizer)

        try:
            self.history = fitting.run(one, meta_steps, self.name, progress)
        finally:
            self.cpu_seconds = fitting.cpu_seconds
        if skipped := sum(row.get("skipped", 0) for row in self.history):
            warnings.warn(f"{skipped} of {meta_steps} meta-steps were skipped: their meta-gradient was not finite; "
                          "lower the inner rate or the number of steps", RuntimeWarning, stacklevel=3)  # fmt: skip
        return self.history

    def save(self, path: str | Path) -> Path:
        """Write all slow tensors and a card to a safetensors file."""
        return storage.write(
            Path(path), dict(self.slow()), {"settings": self.settings(), "cpu_seconds": self.cpu_seconds}
        )

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote into this learner.

        Raises:
            ValueError: the file is damaged or of another learner or model.
        """
        tensors, card = storage.read(Path(path))
        method = card.get("settings", {}).get("method")
        if method != self.name:
            raise ValueError(f"{path} holds a learner of method {method!r}, not {self.name!r}")
        self._put(tensors, str(path))

    def _put(self, tensors: dict[str, Tensor], where: str) -> None:
        slow = self.slow()
        wrong = [n for n in slow if n not in tensors or tensors[n].shape != slow[n].shape]
        wrong += [n for n in tensors if n not in slow]
        if wrong:
            raise ValueError(
                f"{where} does not fit this model: tensor {wrong[0]!r} is missing, unknown or of another shape"
            )
        with torch.no_grad():
            for name, p in slow.items():
                p.copy_(tensors[name])

    def _tensors(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        moments = {
            f"meta.{i}.{key}": torch.as_tensor(value)
            for i, entry in optimizer.state_dict()["state"].items()
            for key, value in entry.items()
            if value is not None
        }
        return dict(self.slow()) | moments

    def _restore(self, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
        self._put({n: x for n, x in tensors.items() if not n.startswith("meta.")}, "the checkpoint")
        state: dict[int, dict[str, Tensor]] = {}
        for name, x in tensors.items():
            if name.startswith("meta."):
                _, i, key = name.split(".", 2)
                state.setdefault(int(i), {})[key] = x
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def short(value: float) -> float:
    """A number as rows hold it: seven digits, however long the run."""
    return float(f"{value:.7g}")


def check_whole(**values: Any) -> None:
    """Raise ValueError unless every value is a whole number of 1 or more; the message names it."""
    for what, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{what} must be a whole number of 1 or more, got {value!r}")

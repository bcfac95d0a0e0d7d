"""What tuning ends with."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learnopt.atomic import write_bytes
from learnopt.baselines import multiplier
from learnopt.stopping.stopper import as_number
from learnopt.tuner.probes import Probe
from learnopt.tuner.probing import OPTIMIZERS


@dataclass(frozen=True)
class TuneResult:
    """A recommendation.

    Attributes:
        optimizer: "adamw" or "sgd" (momentum 0.9).
        lr: learning rate, the peak of the schedule.
        interval: of learning rates that are expected to be within 10 % of its final loss.
        schedule: "constant" or "cosine" (linear warm-up over 5 % of the steps, then to 0).
        weight_decay: in the unit of the torch optimizer.
        batch_size: of the training batches; 0: unknown.
        steps: length of a full run.
        expected_loss: validation loss to expect at its end.
        decided: False where the probes did not tell; the values are then the best guess, and `reason` says why.
        reason: why, in one paragraph.
        curve: per learning rate of the grid: `lr`, `expected_loss` (None: over 1.6 times the least, how much over is
            not known), and `probe_loss` with `probe_steps` where probed.
        probes: the runs that were made.
        steps_used, seconds_used: what they cost.
        interrupted: whether Ctrl-C or the end of the time cut the search short.
        weights: state dict of the best probe's model, on the CPU; empty where no probe ended.
        judged_by_all: whether the probes were judged by all of the validation data; False: by 2,000 rows or 20 batches.
    """

    optimizer: str
    lr: float
    interval: tuple[float, float]
    schedule: str
    weight_decay: float
    batch_size: int
    steps: int
    expected_loss: float
    decided: bool
    reason: str
    curve: tuple[dict[str, float | None], ...]
    probes: tuple[Probe, ...]
    steps_used: int
    seconds_used: float
    interrupted: bool
    weights: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    judged_by_all: bool = True

    def build(
        self, model: nn.Module, steps: int | None = None
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """The recommended optimizer for `model` and its scheduler, to be stepped after every step.

        Args:
            steps: length of the run; None: the one that was tuned for.
        """
        total = self.steps if steps is None else steps
        if total < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        params = [p for p in model.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS[self.optimizer](params, lr=self.lr, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: multiplier(self.schedule, min(step, total - 1), total)
        )
        return optimizer, scheduler

    @property
    def best_probe(self) -> Probe | None:
        """The probe with the least validation loss, whose weights are `weights`; None where none ended."""
        ended = [p for p in self.probes if math.isfinite(p.valid)]
        return min(ended, key=lambda p: p.valid) if ended else None

    def keep_better(self, model: nn.Module, loss: float | Callable[[nn.Module], float]) -> float:
        """The better of two trained models: where the best probe ended lower than `model`, load its weights into that.

        A full run that overfits, or was not foreseen right, may end higher than a probe did.

        Args:
            model: trained as recommended.
            loss: a function from a model to its validation loss, which judges both (the probe's as a copy of `model`);
                or the validation loss of `model` as a number, by the loss and all of the data that were tuned with.

        Returns:
            The validation loss of the weights that the model has now.

        Warns:
            UserWarning: `loss` is a number, and the probes were judged by only a part of the data: the model is kept.
        """
        own, probe = loss(model) if callable(loss) else loss, self.best_probe
        own = as_number(own, "loss")
        if probe is None:
            return own
        theirs = probe.valid
        if callable(loss):
            other = copy.deepcopy(model)
            other.load_state_dict(self.weights)
            theirs = as_number(loss(other), "loss")
        elif not self.judged_by_all:
            warnings.warn(
                f"loss {own:.4g} cannot be compared with the probes', which were judged by only a part of the data, so "
                "the model is kept; give a function from a model to its validation loss, which judges both",
                stacklevel=2,
            )
            return own
        if own <= theirs or math.isnan(theirs):
            return own
        model.load_state_dict(self.weights)
        return theirs

    def entry(self) -> dict[str, Any]:
        """For JSON: everything but weights and the probes' training losses; numbers that are not finite are None."""
        entry = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("probes", "weights")}
        entry["probes"] = [{"lr": p.lr, "steps": p.steps, "valid": p.valid} for p in self.probes]
        clean: dict[str, Any] = json.loads(json.dumps(entry), parse_constant=lambda _: None)
        return clean

    def plot(self, path: str | Path) -> Path:
        """Draw expected loss and probes over the learning rate to a picture."""
        from learnopt.tuner.picture import draw

        return draw(self.entry(), Path(path))

    def save(self, folder: str | Path) -> list[Path]:
        """Write `tuning.json` and `tuning.png` into a folder."""
        target = Path(folder) / "tuning.json"
        write_bytes(target, (json.dumps(self.entry(), indent=1) + "\n").encode())
        return [target, self.plot(Path(folder) / "tuning.png")]

    def __str__(self) -> str:
        head = f"{self.optimizer}, learning rate {self.lr:.3g} [{self.interval[0]:.2g}, {self.interval[1]:.2g}]"
        rest = f"{self.schedule} schedule, weight decay {self.weight_decay:g}, {self.steps} steps"
        doubt = "" if self.decided else " (cannot decide)"
        expected = f", expected loss {self.expected_loss:.4g}" if math.isfinite(self.expected_loss) else ""
        return f"{head}, {rest}{expected}{doubt}"

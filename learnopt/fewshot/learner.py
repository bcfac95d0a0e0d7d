"""What all meta-learners share: `fit` on a distribution of tasks, `adapt` to a new one, `evaluate` on many."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnopt.fewshot import storage
from learnopt.fewshot.admission import admit, check_forward
from learnopt.fewshot.engine import OverTasks
from learnopt.fewshot.episode import Episode, EpisodeSource, as_source, check
from learnopt.fewshot.evaluation import EVALUATED_AT_ONCE, Evaluation, joined
from learnopt.fewshot.fitting import Fitting, Row
from learnopt.task import seed_of

META_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
}
"""Multiplier of the meta learning rate by the share of meta-steps done."""

OutputLoss = Callable[[Tensor, Tensor], Tensor]
"""Scalar loss of a model's outputs and the labels."""


def default_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy where labels are class numbers, mean squared error where they are floating-point targets."""
    return F.mse_loss(outputs, y) if y.is_floating_point() else F.cross_entropy(outputs, y)


class Learner(ABC):
    """A meta-learner around a model.

    Args:
        model: any `nn.Module` that is a function of parameters and input; `fit` changes its parameters in place.
        loss: scalar loss of outputs and labels; None: by the labels, see `default_loss`.
        meta_lr: learning rate of the outer loop (Adam, unless a learner says otherwise).
        meta_schedule: its course over `fit`: constant, linear or cosine, to zero.
        clip: largest norm of a meta-gradient; longer ones are cut to it.
        vectorise: tasks by `vmap` (True), in a loop (False), or whichever torch can (None).

    Attributes:
        over_tasks: how tasks are run; `over_tasks.reason` says why `vmap` could not, where it could not.
        transductive: whether queries of one task see each other, through BatchNorm.
        history: rows of the last `fit`.
        cpu_seconds: processor time that `fit` has spent on meta-steps.

    Raises:
        ValueError: the model or a setting cannot be used; the message names it.
    """

    name: ClassVar[str]

    def __init__(
        self, model: nn.Module, *, loss: OutputLoss | None = None, meta_lr: float = 1e-3,
        meta_schedule: str = "constant", clip: float | None = None, vectorise: bool | None = None,
    ) -> None:  # fmt: skip
        if not meta_lr > 0:
            raise ValueError(f"meta_lr must be above 0, got {meta_lr!r}")
        if meta_schedule not in META_SCHEDULES:
            raise ValueError(f"meta_schedule must be one of {', '.join(META_SCHEDULES)}, got {meta_schedule!r}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be above 0, got {clip!r}")
        self.transductive = admit(model)
        self.model, self.loss = model, loss or default_loss
        self.meta_lr, self.meta_schedule, self.clip = meta_lr, meta_schedule, clip
        self.over_tasks = OverTasks(vectorise)
        self.history: list[Row] = []
        self.cpu_seconds = 0.0

    # what a learner must say

    @abstractmethod
    def meta_loss(self, episodes: Episode) -> Tensor:
        """Mean loss over a batch of tasks, shape `()`, with the graph to all `slow` tensors."""

    @abstractmethod
    def adapt(self, x: Tensor, y: Tensor) -> nn.Module:
        """The model for a new task, from its support set; self and global random state stay as they are."""

    @abstractmethod
    def curves(self, episodes: Episode, steps: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Query losses, support losses and accuracies after each number of steps, each `(B, steps + 1)`."""

    # what it may say

    def slow(self) -> dict[str, Tensor]:
        """Everything that is meta-learned, by name: leaves that require gradients."""
        return {f"model.{n}": p for n, p in self.model.named_parameters() if p.requires_grad}

    def settings(self) -> dict[str, Any]:
        """What defines the learner, for checkpoints and cards: plain values."""
        return {
            "method": self.name, "meta_lr": self.meta_lr, "meta_schedule": self.meta_schedule, "clip": self.clip,
            "shapes": {n: list(p.shape) for n, p in self.slow().items()},
        }  # fmt: skip

    def meta_optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer of the slow tensors."""
        return torch.optim.Adam(list(self.slow().values()), lr=self.meta_lr)

    def meta_gradients(self, episodes: Episode) -> tuple[float, list[Tensor]]:
        """Meta-loss and a gradient for every slow tensor."""
        loss = self.meta_loss(episodes)
        slow = self.slow()
        found = torch.autograd.grad(loss, list(slow.values()), allow_unused=True)
        if unused := [n for n, g in zip(slow, found, strict=True) if g is None]:
            raise ValueError(f"parameter {unused[0]!r} has no part in the meta-loss; give it requires_grad=False")
        return float(loss.detach()), [g for g in found if g is not None]

    # what all share

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.model.parameters()).device

    def fit(
        self, tasks: EpisodeSource | Sequence[Episode], meta_steps: int = 1000, *, meta_batch: int = 4, seed: int = 0,
        out: str | Path | None = None, progress: bool = True,
    ) -> list[Row]:  # fmt: skip
        """Meta-learn; a function of the model's weights, the tasks and the seed, wherever it was interrupted.

        Args:
            tasks: a source, or a list of episodes to draw from.
            meta_batch: tasks per meta-step.
            out: folder of a checkpoint; the same call goes on from it. Ctrl-C saves first.
            progress: show a bar with the time left.

        Returns:
            One row per meta-step: `meta_loss`, `gradient_norm`, and `skipped` where an update that was not finite was
            left out.

        Raises:
            ValueError: the tasks cannot be used, or `out` holds a run with other settings.
        """
        for what, value in (("meta_steps", meta_steps), ("meta_batch", meta_batch)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{what} must be a whole number of 1 or more, got {value!r}")
        source = as_source(tasks)
        first = self.draw(source, "check", seed, 0, 1)
        check_forward(self.model, first.support_x[0])
        if self.transductive and progress:
            print(f"{self.name}: transductive (BatchNorm sees a task's queries together)")
        optimizer = self.meta_optimizer()
        config = self.settings() | {"tasks": source.describe(), "meta_batch": meta_batch, "seed": seed}
        if self.meta_schedule != "constant":
            config["meta_steps"] = meta_steps
        fitting = Fitting(
            config, lambda: self._tensors(optimizer), lambda saved: self._restore(optimizer, saved),
            None if out is None else Path(out),
        )  # fmt: skip

        def step(k: int) -> Row:
            for group in optimizer.param_groups:
                group["lr"] = self.meta_lr * META_SCHEDULES[self.meta_schedule](k / meta_steps)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of("meta-step", seed, k))
                return self.meta_step(self.draw(source, "fit", seed, k, meta_batch), optimizer)

        try:
            self.history = fitting.run(step, meta_steps, self.name, progress)
        finally:
            self.cpu_seconds = fitting.cpu_seconds
        if skipped := sum(row.get("skipped", 0) for row in self.history):
            warnings.warn(f"{skipped} of {meta_steps} meta-steps were skipped: their meta-gradient was not finite; "
                          "lower the inner rate or the number of steps", RuntimeWarning, stacklevel=2)  # fmt: skip
        return self.history

    def meta_step(self, episodes: Episode, optimizer: torch.optim.Optimizer) -> Row:
        """One update of the slow tensors; left out where it would not be finite."""
        loss, gradients = self.meta_gradients(episodes)
        norm = float(torch.stack([g.norm() for g in gradients]).norm())
        row: Row = {"meta_loss": _short(loss), "gradient_norm": _short(norm)}
        if not math.isfinite(norm):
            return row | {"skipped": 1}
        for p, g in zip(self.slow().values(), gradients, strict=True):
            p.grad = g if self.clip is None or norm <= self.clip else g * (self.clip / norm)
        optimizer.step()
        optimizer.zero_grad()
        return row

    def draw(self, source: EpisodeSource, *key: Any) -> Episode:
        """Tasks number `key` of a source, checked, on the model's device; the last of `key` is how many."""
        return check(source.draw(seed_of(*key[:-1]), key[-1])).to(self.device)

    def evaluate(
        self, tasks: EpisodeSource | Sequence[Episode], count: int = 1000, *, steps: int | None = None, seed: int = 0
    ) -> Evaluation:
        """Adapt to `count` tasks and measure on their queries; warns where adaptation failed.

        Args:
            steps: inner steps, for learners that take them; None: as trained.
            seed: of the tasks: the same for every learner that is compared.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, got {count!r}")
        source, parts, classified = as_source(tasks), [], False
        for start in range(0, count, EVALUATED_AT_ONCE):
            many = min(EVALUATED_AT_ONCE, count - start)
            episodes = self.draw(source, "evaluate", seed, start, many)
            classified = not episodes.query_y.is_floating_point()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of("evaluate", seed, start))
                parts.append(self.curves(episodes, steps))
        evaluation = joined([tuple(x.cpu() for x in part) for part in parts], classified)  # type: ignore[misc]
        evaluation.warn(self.name)
        return evaluation

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


def _short(value: float) -> float:
    return float(f"{value:.7g}")

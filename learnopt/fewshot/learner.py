"""What all meta-learners share: `fit` on a distribution of tasks, `adapt` to a new one, `evaluate` on many."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnopt.fewshot.admission import admit, check_forward
from learnopt.fewshot.engine import OverTasks
from learnopt.fewshot.episode import Episode, EpisodeSource, as_source, check
from learnopt.fewshot.evaluation import EVALUATED_AT_ONCE, Evaluation, joined
from learnopt.fewshot.fitting import Row
from learnopt.fewshot.meta_trained import MetaTrained, check_whole
from learnopt.task import seed_of

OutputLoss = Callable[[Tensor, Tensor], Tensor]
"""Scalar loss of a model's outputs and the labels."""


def default_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy where labels are class numbers, mean squared error where they are floating-point targets.

    Raises:
        ValueError: there are not as many outputs as targets.
    """
    if not y.is_floating_point():
        return F.cross_entropy(outputs, y)
    if outputs.numel() != y.numel():
        raise ValueError(f"the model's outputs have shape {tuple(outputs.shape)}, the targets {tuple(y.shape)}")
    return F.mse_loss(outputs, y.reshape(outputs.shape))


class Learner(MetaTrained):
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

    def __init__(
        self, model: nn.Module, *, loss: OutputLoss | None = None, meta_lr: float = 1e-3,
        meta_schedule: str = "constant", clip: float | None = None, vectorise: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(meta_lr=meta_lr, meta_schedule=meta_schedule, clip=clip)
        self.transductive = admit(model)
        self.model, self.loss = model, loss or default_loss
        self.over_tasks = OverTasks(vectorise)

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

    def check_labels(self, episodes: Episode) -> None:
        """Raise ValueError for class numbers `(B, ...)` that there is no output for."""

    def slow(self) -> dict[str, Tensor]:
        """Everything that is meta-learned, by name: leaves that require gradients."""
        return {f"model.{n}": p for n, p in self.model.named_parameters() if p.requires_grad}

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
        check_whole(meta_steps=meta_steps, meta_batch=meta_batch)
        source = as_source(tasks)
        first = self.draw(source, "check", seed, 0, 1)
        check_forward(self.model, first.support_x[0])
        if self.transductive and progress:
            print(f"{self.name}: transductive (BatchNorm sees a task's queries together)")

        def step(k: int, optimizer: torch.optim.Optimizer) -> Row:
            return self.meta_step(self.draw(source, "fit", seed, k, meta_batch), optimizer)

        config = {"tasks": source.describe(), "meta_batch": meta_batch}
        return self.outer_loop(step, meta_steps, config, seed=seed, out=out, progress=progress)

    def meta_step(self, episodes: Episode, optimizer: torch.optim.Optimizer) -> Row:
        """One update of the slow tensors on a batch of tasks."""
        return self.update(*self.meta_gradients(episodes), optimizer)

    def draw(self, source: EpisodeSource, *key: Any) -> Episode:
        """Tasks number `key` of a source, checked, on the model's device; the last of `key` is how many."""
        episodes = check(source.draw(seed_of(*key[:-1]), key[-1])).to(self.device)
        self.check_labels(episodes)
        return episodes

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

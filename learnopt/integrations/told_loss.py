"""Losses that a trainer computes, on their way to the step that they belong to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from learnopt.optimizer import LearnedOptimizer


class ToldLoss:
    """Hands an optimizer the losses collected since its last step, where its trainer calls `step` without.

    Args:
        reduction: of the losses of one step's micro-batches: `sum` if each is its share of the step's loss, `mean` if
            each stands for the whole of it.
    """

    def __init__(self, optimizer: LearnedOptimizer, reduction: Literal["sum", "mean"]) -> None:
        self._reduce = torch.mean if reduction == "mean" else torch.sum
        self._losses: list[Tensor] = []
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def add(self, loss: Tensor) -> None:
        """Collect the loss of one micro-batch."""
        self._losses.append(loss.detach())

    def clear(self) -> None:
        """Forget what was collected for a step that was not taken (a scaler found infinite gradients)."""
        self._losses.clear()

    def remove(self) -> None:
        """Leave the optimizer as it was."""
        self._handle.remove()

    def _take(self) -> Tensor | None:
        if not self._losses:
            return None
        loss = self._reduce(torch.stack([x.reshape(()) for x in self._losses]))
        self._losses.clear()
        return loss

    def _before_step(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        if kwargs.get("loss") is not None:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        if closure is None:
            return args, kwargs | {"loss": self._take()}
        return args[:1], kwargs | {"closure": self._after(closure)}

    def _after(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def with_told_loss() -> Any:  # the last micro-batch's loss is collected inside the closure
            returned, told = closure(), self._take()
            return returned if told is None else told

        return with_told_loss

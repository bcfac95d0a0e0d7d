"""Gradient descent on a small network, in steps that can be put on disk and gone on from exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 1e-3
NORM = 1.0
"""Gradients are cut to this norm."""


class Descent:
    """AdamW with a one-cycle learning rate.

    Args:
        network: changed in place.
        loss: of the next iteration, drawn by the generator it is given.
        seed: of the generator.
    """

    def __init__(
        self, network: nn.Module, loss: Callable[[torch.Generator], Tensor], iterations: int, rate: float, seed: int
    ) -> None:
        self.network, self.iterations, self.done = network, iterations, 0
        self._loss, self._generator = loss, torch.Generator().manual_seed(seed)
        self._optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=WEIGHT_DECAY)
        rising = max(0.1, 1.5 / iterations)  # a share that comes to one step exactly makes OneCycleLR divide by zero
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, rate, total_steps=iterations, pct_start=rising
        )

    def step(self) -> float:
        """One iteration; returns its loss."""
        loss = self._loss(self._generator)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), NORM)
        self._optimizer.step()
        self._schedule.step()
        self.done += 1
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """All that the next iteration depends on, as tensors and plain values."""
        return {
            "done": self.done, "network": self.network.state_dict(), "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(), "generator": self._generator.get_state(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.done = int(state["done"])
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._generator.set_state(state["generator"])

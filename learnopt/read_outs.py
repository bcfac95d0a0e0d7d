"""What `LearnedOptimizer` decided, for people and training loops to read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from learnopt import memory

_STOP_AFTER = 20
"""Losses that must have been seen before `should_stop` may be true."""
_NUMBER, _STOP = (memory.RUN_FIELDS.index(name) for name in ("number", "stop"))


class ReadOuts(Optimizer):
    """The read-outs of an optimizer that keeps its state as `memory` says; no look creates state."""

    _meta: dict[str, Any]

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _run_keeper(self) -> Tensor | None:
        """The parameter whose state holds the run's, None before the first step."""
        return next((p for p in self._params() if "run" in self.state.get(p, {})), None)

    def _run(self, device: torch.device | None = None) -> Tensor:
        keeper = self._run_keeper()
        if keeper is None:
            return memory.new_run(device)
        run: Tensor = self.state[keeper]["run"]
        return run

    def learning_rates(self) -> list[float]:
        """Effective learning rate of every parameter tensor in the last step, in units of weight, in the groups' order.

        The size of a typical step of one parameter; 0 before a tensor's first step.
        """
        return [row["learning_rate"] for row in self.explain()]

    def explain(self) -> list[dict[str, Any]]:
        """What was decided for every parameter tensor in the last step, in the groups' order.

        Keys: `shape`, `learning_rate`, `decay` (share of the weight removed), `gradient`, `momentum` (mixture of
        directions, sums to 1), `orthogonal` (share of the orthogonalised direction) and `pull` (share of the way back
        to the averaged weights).
        """
        return [
            {"shape": tuple(p.shape), **memory.decided(self.state.get(p, {}).get("memory"))} for p in self._params()
        ]

    @property
    def schedule(self) -> float:
        """Schedule multiplier of the last step, warm-up and decay included; 0 before the first."""
        return float(memory.read_run(self._run()).schedule)

    @property
    def stop_probability(self) -> float:
        """Probability that the best validation loss will not improve any more, smoothed over about 10 steps."""
        return float(memory.read_run(self._run()).stop)

    @property
    def should_stop(self) -> bool:
        """True when the meta-network is sure that going on is pointless; needs losses to be given."""
        run = self._run()
        return float(run[_NUMBER]) >= _STOP_AFTER and float(run[_STOP]) > self._meta["threshold"]

    @property
    def skipped_steps(self) -> int:
        """Steps that were skipped because a gradient or the loss was not finite."""
        return int(memory.read_run(self._run()).skipped)

"""Line search over one constant of the rule: how much of an output's bias the validation suite wants added.

Meta-training cannot find such constants to the last percent, because its runs are chaotic; unperturbed runs with
several seeds can, for one output at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from learnopt import meta_network, objective
from learnopt.task import Task, seed_of
from learnopt.unroll import Problem, Telling, unroll

LIMIT = 1.0
"""Largest change of a task's log loss that counts: no task decides alone."""


class Scores(NamedTuple):
    """Change of the log loss against no shift, one entry per shift."""

    mean: Tensor  # over tasks, each within +-LIMIT
    error: Tensor  # standard error of the mean
    better: Tensor  # share of tasks with a lower loss


@dataclass(frozen=True)
class LineSearch:
    """Candidates on a line through theta.

    Args:
        theta: meta-weights, `(SIZE,)`.
        output: raw output whose bias is shifted, of `meta_network.OUTPUTS`.
        shifts: what is added to it; the first one is the reference, 0.
        seeds: runs per task and shift, the same initialisations and batches for all shifts.
    """

    theta: Tensor
    output: str
    shifts: tuple[float, ...]
    seeds: int = 6

    def __post_init__(self) -> None:
        if self.output not in meta_network.OUTPUTS:
            raise ValueError(f"unknown output {self.output!r}; choose from {', '.join(meta_network.OUTPUTS)}")
        if not self.shifts or self.shifts[0] != 0:
            raise ValueError(f"the first shift is the reference and must be 0, got {list(self.shifts)}")

    def candidates(self) -> Tensor:
        """Theta with each shift, `(S, SIZE)`."""
        rows = self.theta.repeat(len(self.shifts), 1)
        bias = meta_network.unpack(rows)["tensor_bias"]  # (S, 1, OUT): a view of the rows
        bias[:, 0, meta_network.OUTPUTS.index(self.output)] += torch.tensor(self.shifts)
        return rows

    def losses(self, task: Task, steps: int) -> Tensor:
        """Log of the final validation loss in units of the initial loss, mean over seeds, `(S,)`."""
        problem = Problem(task, [seed_of("line search", i) for i in range(self.seeds)], copies=len(self.shifts))
        theta = self.candidates().repeat_interleave(self.seeds, 0)
        _, t = unroll(problem, theta, problem.begin(), 0, steps, Telling(steps), valid_at=(steps,))
        return objective.log_loss(t.valid[-1], t.losses[0].median()).view(-1, self.seeds).mean(1)


def scores(losses: Tensor) -> Scores:
    """From log losses `(tasks, S)`, the reference first."""
    change = (losses - losses[:, :1]).clamp(-LIMIT, LIMIT)
    error = change.std(0) / len(change) ** 0.5 if len(change) > 1 else torch.zeros(change.shape[1])
    return Scores(change.mean(0), error, (change < 0).float().mean(0))

"""Meta-training over the processes of a `torchrun`: every rank runs its share of the episodes.

What travels per meta-step is what the episodes report: seeds, paired differences of losses, and the gradients of those
estimators that have one; never parameters of inner runs. All ranks then take the same meta-step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from learnopt.episodes import EpisodeSpec, TaskSource
from learnopt.estimators import Estimate, Estimator
from learnopt.meta_config import MetaTrainConfig
from learnopt.workers import Pool

T = TypeVar("T")
_ELSEWHERE: dict[str, Any] = {"elsewhere": True}
"""Stands for the carry of an episode that another rank goes on with."""


class RankLostError(ValueError):
    """Another rank has gone; the run can be resumed."""


def launched() -> bool:
    """True in a process that `torchrun` started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


class RankedPool(Pool):
    """The worker processes of this rank, and the other ranks behind them.

    Args:
        workers: processes of this rank.
    """

    def __init__(self, source: TaskSource, workers: int, device: str = "cpu") -> None:
        dist.init_process_group("gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        super().__init__(source, workers, device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:  # gloo's threads may still hold tensors; once the interpreter ends, giving them up aborts the process
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """True for the rank that writes files and speaks to people."""
        return self.rank == 0

    def estimate(
        self, estimator: Estimator, theta: Tensor, specs: list[EpisodeSpec], carries: list[dict[str, Any] | None]
    ) -> list[Estimate]:
        """Run this rank's share, and exchange what came out; the same list on every rank."""
        own = super().estimate(estimator, theta, self._share(specs), self._share(carries))
        told = [replace(e, carry=None if e.carry is None else _ELSEWHERE) for e in own]
        merged = self._merge(told, len(specs))
        merged[self.rank :: self.size] = own
        return merged

    def validate(self, theta: Tensor, config: MetaTrainConfig, seeds: int) -> dict[str, float]:
        """Meta-loss per task of the validation suite, each task by one rank."""
        every = list(range(len(self.source.validation())))
        return dict(self._merge(self._scores(theta, config, seeds, self._share(every)), len(every)))

    def agree(self, value: T) -> T:
        """The leading rank's value, on every rank."""
        held = [value]
        self._exchange(lambda: dist.broadcast_object_list(held, src=0))
        return held[0]

    def collect(self, carries: list[dict[str, Any] | None]) -> list[dict[str, Any] | None]:
        """All carries as the ranks that own them have them."""
        return self._merge(self._share(carries), len(carries))

    def _share(self, items: Sequence[T]) -> list[T]:
        return list(items[self.rank :: self.size])

    def _merge(self, own: list[T], total: int) -> list[T]:
        parts: list[list[T]] = [[] for _ in range(self.size)]
        self._exchange(lambda: dist.all_gather_object(parts, own))
        merged: list[Any] = [None] * total
        for rank, part in enumerate(parts):
            merged[rank :: self.size] = part
        return merged

    def _exchange(self, what: Callable[[], object]) -> None:
        try:
            what()
        except RuntimeError as error:
            raise RankLostError(
                f"rank {self.rank} of {self.size} lost the others ({str(error).splitlines()[0]}); "
                "the same command goes on from the last checkpoint"
            ) from error

"""What few-shot learners train on: episodes, each a support set to adapt on with a query set to be judged on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from learnopt.task import seed_of


class Episode(NamedTuple):
    """A task's data, or those of `B` tasks with a leading dimension more.

    Labels are class numbers (an integer dtype) or regression targets (a float dtype).
    """

    support_x: Tensor  # (S, ...)
    support_y: Tensor  # (S,) or (S, targets)
    query_x: Tensor  # (Q, ...)
    query_y: Tensor  # (Q,) or (Q, targets)

    def to(self, device: torch.device | str) -> Episode:
        """The same on `device`."""
        return Episode(*(x.to(device) for x in self))


@runtime_checkable
class EpisodeSource(Protocol):
    """A distribution of tasks."""

    def draw(self, seed: int, count: int) -> Episode:
        """`count` tasks, stacked: a function of the arguments alone, never of global random state."""
        ...

    def describe(self) -> str:
        """One line with everything that defines the distribution; a run is resumed only with an equal one."""
        ...


class EpisodeList:
    """A finite set of tasks of equal shapes, drawn from with replacement.

    Raises:
        ValueError: there are none, or their shapes differ.
    """

    def __init__(self, episodes: Sequence[Episode]) -> None:
        if not episodes:
            raise ValueError("tasks must hold at least one episode, got none")
        shapes = [tuple(tuple(x.shape) for x in e) for e in episodes]
        if odd := next((s for s in shapes if s != shapes[0]), None):
            raise ValueError(f"all episodes of a list must have equal shapes, got {shapes[0]} and {odd}")
        self._stacked = Episode(*(torch.stack(parts) for parts in zip(*episodes, strict=True)))

    def draw(self, seed: int, count: int) -> Episode:
        rows = torch.randint(len(self._stacked.support_x), (count,), generator=generator("list", seed))
        return Episode(*(x[rows] for x in self._stacked))

    def describe(self) -> str:
        sums = [float(x.double().sum()) for x in self._stacked]
        return f"list of {len(self._stacked.support_x)} episodes, sums {sums}"


def as_source(tasks: EpisodeSource | Sequence[Episode]) -> EpisodeSource:
    """`tasks` as a source.

    Raises:
        ValueError: it is neither a source nor a sequence of episodes.
    """
    if isinstance(tasks, EpisodeSource):
        return tasks
    if isinstance(tasks, Sequence) and all(isinstance(e, Episode) for e in tasks):
        return EpisodeList(tasks)
    raise ValueError(f"tasks must be a source with draw(seed, count) or a list of Episode, got {type(tasks).__name__}")


def generator(*parts: object) -> torch.Generator:
    """A generator that is a function of `parts` alone."""
    return torch.Generator().manual_seed(seed_of(*parts))


def check(episode: Episode) -> Episode:
    """The episodes (with a leading task dimension) if a learner can use them.

    Raises:
        ValueError: lengths differ, a set is empty, or something is not finite; the message names the part.
    """
    for x, y, part in ((*episode[:2], "support"), (*episode[2:], "query")):
        check_pairs(x, y, part, batch_dims=1)
    return episode


def check_pairs(x: Tensor, y: Tensor, part: str, batch_dims: int = 0) -> None:
    """As `check`, for the examples and labels of one set."""
    for value, what in ((x, "examples"), (y, "labels")):
        if not isinstance(value, Tensor):
            raise ValueError(f"{part} {what} must be a tensor, got {type(value).__name__}")
    if x.shape[: batch_dims + 1] != y.shape[: batch_dims + 1] or x.dim() <= batch_dims:
        raise ValueError(f"{part} has examples of shape {tuple(x.shape)} but labels of shape {tuple(y.shape)}")
    if not x.shape[batch_dims]:
        raise ValueError(f"{part} set must hold at least one example, got shape {tuple(x.shape)}")
    for value, what in ((x, "examples"), (y, "labels")):
        if (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            worst = value[~torch.isfinite(value)].flatten()[0].item()
            raise ValueError(f"{part} {what} must be finite, got {bad} of {value.numel()} that are not ({worst})")

"""Learned metrics: an embedding in which examples of one class lie close together, whatever the class.

Sources: Snell, Swersky and Zemel 2017 (prototypical networks); Bromley et al. 1993 and Koch, Zemel and Salakhutdinov
2015 (Siamese networks).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.func import functional_call

from learnopt.fewshot.episode import Episode, EpisodeSource, as_source, check_pairs
from learnopt.fewshot.learner import Learner
from learnopt.fewshot.meta_trained import check_whole
from learnopt.fewshot.rules import Params
from learnopt.task import seed_of

VERIFIED_AT_ONCE = 50
"""Tasks whose pairs `Siamese.verify` holds in memory together."""


class Classifier(nn.Module):
    """A learner adapted to a task: `forward(x)` gives a logit for each of its classes, `(n, ways)`."""

    support: Tensor
    labels: Tensor

    def __init__(self, learner: MetricLearner, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.embedding = copy.deepcopy(learner.model)
        self._score, self._ways = learner.score, int(y.max()) + 1
        self._scale = {name: value.detach().clone() for name, value in learner.scale().items()}
        with torch.no_grad():
            self.register_buffer("support", self.embedding(x))
        self.register_buffer("labels", y.clone())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self._score(self._scale, self.support, self.labels, self.embedding(x), self._ways)
        return logits


class MetricLearner(Learner):
    """A learner whose model maps examples to vectors, `(n, ...)` to `(n, features)`; nothing is trained in `adapt`."""

    @staticmethod
    @abstractmethod
    def score(scale: Params, support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> Tensor:
        """Logits `(Q, ways)` of embedded queries `(Q, F)`, given the embedded support set `(S, F)`."""

    def check_labels(self, episodes: Episode) -> None:
        ways, most = ways_of(episodes.support_y), int(episodes.query_y.max())
        if most >= ways:
            raise ValueError(f"queries have label {most}, the support sets only 0 to {ways - 1}")

    def scale(self) -> Params:
        """Slow tensors besides the embedding; empty unless the learner has some."""
        return {}

    def meta_loss(self, episodes: Episode) -> Tensor:
        losses: Tensor = self._over(episodes, self._task_loss)
        return losses.mean()

    def curves(self, episodes: Episode, steps: int | None) -> tuple[Tensor, Tensor, Tensor]:
        if steps is not None:
            raise ValueError(f"{self.name} adapts without inner steps, got steps={steps!r}")

        def measured(e: Episode, scale: Params, ways: int, support: Tensor, queries: Tensor) -> tuple[Tensor, ...]:
            logits = self.score(scale, support, e.support_y, queries, ways)
            own = self.score(scale, support, e.support_y, support, ways)
            right = (logits.argmax(-1) == e.query_y).float().mean()
            return self.loss(logits, e.query_y), self.loss(own, e.support_y), right

        query, support, right = self._over(episodes, measured)
        return query[:, None], support[:, None], right[:, None]

    def adapt(self, x: Tensor, y: Tensor) -> nn.Module:
        """A classifier for the support set's classes; self and global random state stay as they are.

        Args:
            x: examples, `(S, ...)`.
            y: class numbers 0 to ways - 1, `(S,)`, each with at least one example.

        Raises:
            ValueError: the support set cannot be used; the message names what is wrong.
        """
        check_pairs(x, y, "support")
        ways_of(y[None])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("adapt"))
            return Classifier(self, x.to(self.device), y.to(self.device))

    def _task_loss(self, e: Episode, scale: Params, ways: int, support: Tensor, queries: Tensor) -> Any:
        return self.loss(self.score(scale, support, e.support_y, queries, ways), e.query_y)

    def _over(self, episodes: Episode, of: Any) -> Any:
        """`of(episode, scale, ways, embedded support, embedded queries)` for every task."""
        ways = ways_of(episodes.support_y)

        def one(slow: tuple[Params, Params], e: Episode) -> Any:
            params, scale = slow
            both = functional_call(self.model, params, (torch.cat([e.support_x, e.query_x]),))
            support, queries = both[: len(e.support_x)], both[len(e.support_x) :]
            return of(e, scale, ways, support, queries)

        return self.over_tasks(one, (dict(self.model.named_parameters()), self.scale()), episodes)


def ways_of(labels: Tensor) -> int:
    """Number of classes in support labels `(B, S)`.

    Raises:
        ValueError: labels are not whole numbers, or a task lacks an example of a class; the message names it.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"a metric learner classifies: labels must be class numbers, got {labels.dtype}")
    if int(labels.min()) < 0:
        raise ValueError(f"labels must be 0 or more, got {int(labels.min())}")
    ways = int(labels.max()) + 1
    there = (labels[..., None] == torch.arange(ways, device=labels.device)).any(1)
    if not bool(there.all()):
        lacking = int((~there).any(0).nonzero()[0, 0])
        raise ValueError(f"every class from 0 to {ways - 1} needs a support example; class {lacking} has none")
    return ways


def _members(labels: Tensor, ways: int, like: Tensor) -> Tensor:
    """Share of every support example in its class's mean, `(ways, S)`."""
    member = (labels == torch.arange(ways, device=labels.device)[:, None]).to(like)
    return member / member.sum(1, keepdim=True)


def _square_distances(a: Tensor, b: Tensor) -> Tensor:
    """Between the rows of `a` `(n, F)` and of `b` `(m, F)`: `(n, m)`."""
    return (a[:, None] - b[None]).square().sum(-1)


class Prototypical(MetricLearner):
    """A class is the mean of its embedded examples; a query's logits are minus the squared distances to them."""

    name = "prototypical"

    @staticmethod
    def score(scale: Params, support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> Tensor:
        return -_square_distances(queries, _members(labels, ways, support) @ support)


class Siamese(MetricLearner):
    """Two examples are the same with probability `sigmoid(offset - slope * d)`, `d = norm(f(x1) - f(x2))`.

    Trained on all pairs of a support and a query example, both kinds weighted alike. As a classifier, a class scores
    the mean logit of its support examples.

    Args:
        rest: as in `Learner`.
    """

    name = "siamese"

    def __init__(self, model: nn.Module, **rest: Any) -> None:
        super().__init__(model, **rest)
        like = next(model.parameters())
        self._scale = {k: like.new_tensor(v).requires_grad_() for k, v in (("offset", 1.0), ("slope", 1.0))}

    def scale(self) -> Params:
        return dict(self._scale)

    def slow(self) -> dict[str, Tensor]:
        return super().slow() | {f"scale.{n}": x for n, x in self._scale.items()}

    @staticmethod
    def same(scale: Params, a: Tensor, b: Tensor) -> Tensor:
        """Logits that the rows of `a` and of `b` are of one class, `(n, m)`."""
        return scale["offset"] - scale["slope"] * (_square_distances(a, b) + 1e-8).sqrt()

    @staticmethod
    def score(scale: Params, support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> Tensor:
        return Siamese.same(scale, queries, support) @ _members(labels, ways, support).mT

    def _task_loss(self, e: Episode, scale: Params, ways: int, support: Tensor, queries: Tensor) -> Any:
        logits = self.same(scale, queries, support)
        same = (e.query_y[:, None] == e.support_y).to(logits)
        each = F.binary_cross_entropy_with_logits(logits, same, reduction="none")
        alike, different = ((each * w).sum() / w.sum().clamp_min(1) for w in (same, 1 - same))
        return (alike + different) / 2

    def verify(self, tasks: EpisodeSource | Sequence[Episode], count: int = 200, *, seed: int = 0) -> dict[str, float]:
        """Same or different, for pairs of a support and a query example of unseen tasks.

        Returns:
            `accuracy` at probability 0.5, both kinds of pairs weighted alike; `auc`, the area under the curve of true
            by false positives; `pairs`, how many.
        """
        check_whole(count=count)
        source, logits, same = as_source(tasks), [], []
        for start in range(0, count, VERIFIED_AT_ONCE):
            episodes = self.draw(source, "verify", seed, start, min(VERIFIED_AT_ONCE, count - start))
            with torch.no_grad():
                found = self._over(episodes, lambda e, scale, ways, a, b: self.same(scale, b, a))
            logits.append(found.flatten().cpu())
            same.append((episodes.query_y[:, :, None] == episodes.support_y[:, None]).flatten().cpu())
        score, truth = torch.cat(logits), torch.cat(same)
        accuracy = ((score[truth] > 0).double().mean() + (score[~truth] <= 0).double().mean()) / 2
        return {"accuracy": float(accuracy), "auc": float(roc_auc_score(truth, score)), "pairs": float(len(score))}

"""What a meta-learner has to beat: raw inputs, learning from scratch, and pretraining with fine-tuning."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnopt.fewshot.episode import Episode, EpisodeSource, generator
from learnopt.fewshot.evaluation import EVALUATED_AT_ONCE, Evaluation, joined
from learnopt.fewshot.maml import InnerLoop
from learnopt.fewshot.metric import Prototypical, ways_of
from learnopt.task import seed_of


class Pretrained(InnerLoop):
    """One model for all tasks at once, then fine-tuned: `fit` minimises the loss before any inner step."""

    name = "pretrain"

    def meta_loss(self, episodes: Episode) -> Tensor:
        x = torch.cat([episodes.support_x, episodes.query_x], 1).flatten(0, 1)
        y = torch.cat([episodes.support_y, episodes.query_y], 1).flatten(0, 1)
        return self.loss(self.model(x), y)


class Scratch(InnerLoop):
    """A model at its random initialisation, trained on the support set alone."""

    name = "scratch"


class RawPixels:
    """The class whose mean example lies nearest to a query, in raw inputs."""

    name = "raw-pixels"

    def evaluate(self, tasks: EpisodeSource, count: int = 1000, *, seed: int = 0) -> Evaluation:
        """As `Learner.evaluate`, on the same tasks."""
        parts = []
        for start in range(0, count, EVALUATED_AT_ONCE):
            e = tasks.draw(seed_of("evaluate", seed, start), min(EVALUATED_AT_ONCE, count - start))
            ways = ways_of(e.support_y)
            logits = [
                [Prototypical.score({}, s.flatten(1), y, of.flatten(1), ways) for of in (q, s)]
                for s, y, q in zip(e.support_x, e.support_y, e.query_x, strict=True)
            ]
            queries, own = (torch.stack(values) for values in zip(*logits, strict=True))
            losses = [
                F.cross_entropy(z.mT, y, reduction="none").mean(1, keepdim=True)
                for z, y in ((queries, e.query_y), (own, e.support_y))
            ]
            right = (queries.argmax(-1) == e.query_y).float().mean(1, keepdim=True)
            parts.append((losses[0], losses[1], right))
        return joined(parts, True)


def pretrain_classifier(
    body: nn.Module, images: Tensor, labels: Tensor, ways: int, *, steps: int = 1000, batch: int = 64,
    lr: float = 1e-3, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """Train `body` and a head on all classes at once, then replace the head by one of zeros for `ways` classes.

    Args:
        body: images to vectors; a copy is trained.
        labels: class numbers, `(n,)`.
    """
    body, g = copy.deepcopy(body), generator("pretrain", seed)
    features, classes = body(images[:1]).shape[-1], int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("pretrain", seed))
        model = nn.Sequential(body, nn.Linear(features, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        rows = torch.randint(len(images), (batch,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    head = nn.Linear(features, ways)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(body, head)

"""Few-shot image classification: one network, its learners, and the baselines that they have to beat."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from learnopt.fewshot.baselines import Pretrained, RawPixels, Scratch, pretrain_classifier
from learnopt.fewshot.episode import EpisodeSource
from learnopt.fewshot.experiment import Entry, Measured
from learnopt.fewshot.maml import ANIL, MAML
from learnopt.fewshot.meta_lstm import MetaLSTM
from learnopt.fewshot.metric import Prototypical, Siamese
from learnopt.fewshot.reptile import Reptile
from learnopt.fewshot.rules import SGD, Adam
from learnopt.fewshot.sources.labelled import FewShot

CHANNELS, EMBEDDED = 32, 64
"""Channels of each convolution, and numbers an image is embedded in."""

QUERIES, REPTILE_SHOTS = 5, 15
"""Queries a class; examples a class that Reptile trains on, as in its paper."""

METRIC_WAYS = 20
"""Classes a task that the metric learners train on, where there are as many."""

Images = tuple[Tensor, Tensor]
"""Images `(n, 1, size, size)` and class numbers `(n,)`."""

GATES = 5
"""Units of Meta-LSTM's reader, one for each of a network's 20,000 parameters: fewer than the paper's 20, for time."""

PUBLISHED = {
    "maml": "98.7 / 99.9 (20-way 95.8 / 98.9; Finn et al. 2017, table 1)",
    "anil": "(20-way 96.2 / 98.0; Raghu et al. 2020, table 2)",
    "reptile": "95.4 / 98.9 (20-way 88.1 / 96.7), without transduction (Nichol et al. 2018, table 2)",
    "siamese": "97.3 / 98.4 (20-way 88.2 / 97.0; Koch 2015 as Finn et al. 2017, table 1, give it)",
    "prototypical": "98.8 / 99.7 (20-way 96.0 / 98.9; Snell et al. 2017, table 1)",
}
"""Accuracies in per cent on the whole of Omniglot, 5-way 1-shot / 5-shot, as the papers report them."""

PUBLISHED_ELSEWHERE = {"metalstm": "mini-ImageNet: 43.4 / 60.6 (Ravi and Larochelle 2017, table 1)"}
"""The same on other images than Omniglot's."""


def body(size: int) -> nn.Module:
    """Three strided convolutions without normalisation: `(n, 1, size, size)` to `(n, features)`."""
    layers: list[nn.Module] = []
    for before in (1, CHANNELS, CHANNELS):
        layers += [nn.Conv2d(before, CHANNELS, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


def features(size: int) -> int:
    """Numbers that `body` makes of an image."""
    for _ in range(3):
        size = (size + 1) // 2
    return CHANNELS * size * size


def classifier(size: int, outputs: int) -> nn.Module:
    """`body` with a linear head."""
    return nn.Sequential(body(size), nn.Linear(features(size), outputs))


def entries(
    train: Images, test: Images, ways: tuple[int, ...], scale: float = 1.0, turned: bool = False,
    published: dict[str, str] | None = None,
) -> list[Entry]:  # fmt: skip
    """All learners at the settings of the record.

    Args:
        ways: classes a task; the metric learners meet all of them, the others have a network for each.
        scale: multiple of the record's meta-steps.
        turned: whether a class turned by quarters is another class, in training.
    """
    known, size = PUBLISHED_ELSEWHERE | (published or {}), train[0].shape[-1]
    tests: dict[int, dict[str, EpisodeSource]] = {
        w: {f"{w}-way {shots}-shot": FewShot(*test, w, shots, QUERIES) for shots in (1, 5)} for w in ways
    }
    everything = {name: source for group in tests.values() for name, source in group.items()}
    many = FewShot(*train, min(METRIC_WAYS, len(set(train[1].tolist()))), 1, QUERIES, turned=turned)
    found = [Entry("raw-pixels", lambda seed: RawPixels(), everything)]
    for kind in (Prototypical, Siamese):
        steps = max(1, round(5000 * scale))
        found.append(
            Entry(
                kind.name, partial(_metric, kind, size), everything, many, steps, 1, published=known.get(kind.name, "")
            )
        )
    for w in ways:
        suffix = "" if w == ways[0] else f"-{w}"
        own = FewShot(*train, w, 1, QUERIES, turned=turned)
        longer = FewShot(*train, w, 1, REPTILE_SHOTS - 1, turned=turned)
        pretraining = max(1, round(1000 * scale))
        rows: list[tuple[str, Callable[[int], Measured], EpisodeSource | None, int, int, tuple[int, ...]]] = [
            ("scratch", partial(_scratch, size, w), None, 0, 20, (0, 10, 20)),
            ("pretrain", partial(_pretrained, train, w, pretraining), None, 0, 20, (0, 10, 20)),
            ("maml", partial(_maml, MAML, size, w), own, 1500, 10, (0, 1, 5, 10)),
            ("anil", partial(_maml, ANIL, size, w), own, 1000, 10, (0, 1, 5, 10)),
            ("reptile", partial(_reptile, size, w), longer, 800, 30, (0, 5, 10, 30)),
        ]
        if w == ways[0]:
            rows.append(("metalstm", partial(_meta_lstm, size, w), own, 300, 5, (0, 1, 5)))
        for name, make, source, steps, measured, shown in rows:
            meta_steps = max(1, round(steps * scale * 5 / w)) if source else 0
            text = known.get(name, "")
            found.append(Entry(name + suffix, make, tests[w], source, meta_steps, 4, measured, shown, text))
    return found


def _metric(kind: type[Prototypical] | type[Siamese], size: int, seed: int) -> Measured:
    return kind(classifier(size, EMBEDDED), meta_schedule="cosine")


def _maml(kind: type[MAML], size: int, ways: int, seed: int) -> Measured:
    return kind(classifier(size, ways), 0.1, 5, meta_lr=2e-3 if kind is MAML else 1e-3, meta_schedule="cosine")


def _scratch(size: int, ways: int, seed: int) -> Measured:
    return Scratch(classifier(size, ways), Adam(0.003), 10)


def _pretrained(train: Images, ways: int, steps: int, seed: int) -> Measured:
    model = pretrain_classifier(body(train[0].shape[-1]), *train, ways, steps=steps, seed=seed)
    return Pretrained(model, SGD(0.1), 10)


def _meta_lstm(size: int, ways: int, seed: int) -> Measured:
    # first order: with MAML's 2e-3 the network dies after a few hundred meta-steps
    slower: dict[str, Any] = {"meta_lr": 5e-4, "meta_schedule": "cosine", "clip": 1.0}
    return MetaLSTM(classifier(size, ways), 0.1, 5, hidden=GATES, seed=seed, **slower)


def _reptile(size: int, ways: int, seed: int) -> Measured:
    inner = Adam(1e-3, betas=(0.0, 0.999))
    return Reptile(classifier(size, ways), steps=8, inner_batch=2 * ways, rule=inner, meta_lr=1.0)

"""What learners refuse: models, episodes and settings that cannot be used."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from fewshot_toy import Blobs, classifier
from torch import Tensor, nn

from learnopt.fewshot import MAML, Episode, Prototypical, Reptile, Siamese
from learnopt.fewshot.episode import EpisodeList


class Counting(nn.Module):
    """Changes a buffer as it goes."""

    def __init__(self, inner: nn.Module, replace: bool) -> None:
        super().__init__()
        self.inner, self.replace = inner, replace
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.replace:
            self.seen = self.seen + 1
        else:
            self.seen += 1
        return self.inner(x)


@pytest.mark.parametrize("replace", [True, False])
def test_buffers_that_change_are_refused(replace: bool) -> None:
    model = Counting(classifier(), replace)
    with pytest.raises(ValueError, match="changes its buffer 'seen' in the forward pass"):
        MAML(model, 0.1, 1).fit(Blobs(), 1, progress=False)
    assert float(model.seen) == 0


def wrong(**parts: Tensor) -> Episode:
    return Blobs().draw(0, 2)._replace(**parts)


def nan_at(x: Tensor) -> Tensor:
    x = x.clone().float()
    x.view(-1)[1] = float("nan")
    return x


E = Blobs().draw(0, 2)
BAD_EPISODES = {
    "nan labels": (wrong(support_y=nan_at(E.support_y)), r"support labels must be finite, got 1 of 12 .* \(nan\)"),
    "nan examples": (wrong(query_x=nan_at(E.query_x)), "query examples must be finite, got 1 of 96"),
    "lengths": (wrong(support_y=E.support_y[:, :2]), r"support has examples of shape \(2, 6, 4\) but labels of shape"),
    "empty": (wrong(query_x=E.query_x[:, :0], query_y=E.query_y[:, :0]), "query set must hold at least one example"),
    "label beyond": (wrong(query_y=E.query_y + 1), r"the model has . outputs, for labels 0 to .; got label"),
    "no tensor": (wrong(query_y=[0, 1]), "query labels must be a tensor, got list"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BAD_EPISODES)
def test_bad_episodes_are_named(name: str) -> None:
    episode, message = BAD_EPISODES[name]

    class Source:
        def draw(self, seed: int, count: int) -> Episode:
            return episode

        def describe(self) -> str:
            return "bad"

    with pytest.raises(ValueError, match=message):
        MAML(classifier(), 0.1, 1).fit(Source(), 1, progress=False)


X, Y = E.support_x[0], E.support_y[0]
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "running statistics": (
        lambda: MAML(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))),
        "layer '1' is BatchNorm1d with running statistics.*GroupNorm.*track_running_stats=False",
    ),
    "no module": (lambda: MAML(3), "model must be a torch.nn.Module, got int"),  # type: ignore[arg-type]
    "frozen": (lambda: MAML(nn.Flatten()), "Flatten has no parameter with requires_grad=True"),
    "steps": (lambda: MAML(classifier(), steps=0), "steps must be a whole number of 1 or more, got 0"),
    "meta_lr": (lambda: MAML(classifier(), meta_lr=0), "meta_lr must be above 0, got 0"),
    "clip": (lambda: MAML(classifier(), clip=-1), "clip must be above 0, got -1"),
    "schedule": (lambda: MAML(classifier(), meta_schedule="up"), "constant, linear, cosine, got 'up'"),
    "meta_steps": (lambda: MAML(classifier()).fit(Blobs(), 0), "meta_steps must be a whole number of 1 or more, got 0"),
    "meta_batch": (lambda: MAML(classifier()).fit(Blobs(), 1, meta_batch=0), "meta_batch must be .*, got 0"),
    "tasks": (lambda: MAML(classifier()).fit(3), r"a source with draw\(seed, count\) or a list of Episode, got int"),  # type: ignore[arg-type]
    "no episodes": (lambda: MAML(classifier()).fit([]), "at least one episode, got none"),
    "count": (lambda: MAML(classifier()).evaluate(Blobs(), 0), "count must be 1 or more, got 0"),
    "nan support": (lambda: MAML(classifier()).adapt(nan_at(X), Y), "support examples must be finite"),
    "labels": (lambda: MAML(classifier()).adapt(X, Y + 1), "the model has 3 outputs, for labels 0 to 2; got label 3"),
    "negative": (lambda: MAML(classifier()).adapt(X, Y - 1), "got label -1"),
    "adapt steps": (lambda: MAML(classifier()).adapt(X, Y, steps=-1), "steps must be .*, got -1"),
    "reptile rule": (lambda: Reptile(classifier(), inner_batch=0), "inner_batch must be 1 or more, got 0"),
    "float labels": (lambda: Prototypical(classifier()).adapt(X, Y.float()), "labels must be class numbers"),
    "gap": (lambda: Prototypical(classifier()).adapt(X, Y * 2), "class 1 has none"),
    "metric steps": (lambda: Siamese(classifier()).evaluate(Blobs(), 5, steps=3), "without inner steps, got steps=3"),
    "unequal": (
        lambda: EpisodeList([Episode(X, Y, X, Y), Episode(X[:3], Y[:3], X, Y)]),
        "all episodes of a list must have equal shapes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_parameter_without_a_part_is_named() -> None:
    model = classifier()
    model.register_parameter("idle", nn.Parameter(torch.zeros(2)))
    with pytest.raises(ValueError, match=r"parameter 'model\.idle' has no part in the meta-loss"):
        Prototypical(model).fit(Blobs(), 1, progress=False)


def quantities(flat: bool) -> list[Episode]:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 6, 4, generator=g), torch.randn(3, 6, 1, generator=g)
    return [Episode(a, b[:, 0] if flat else b, a, b[:, 0] if flat else b) for a, b in zip(x, y, strict=True)]


def test_targets_may_be_flat() -> None:
    torch.manual_seed(0)
    first = nn.Linear(4, 1)
    rows = [MAML(copy.deepcopy(first), 0.1, 1).fit(quantities(flat), 2, progress=False) for flat in (True, False)]
    assert rows[0] == rows[1]
    with pytest.raises(ValueError, match=r"outputs have shape \(6, 2\), the targets \(6,\)"):
        MAML(nn.Linear(4, 2), 0.1, 1).fit(quantities(True), 1, progress=False)


@pytest.mark.parametrize("kind", [Prototypical, Siamese])
def test_queries_of_classes_without_support_are_refused(kind: type[Prototypical] | type[Siamese]) -> None:
    learner = kind(nn.Linear(4, 2))
    episode = Episode(*(part[0] for part in wrong(query_y=E.query_y + 1)))
    with pytest.raises(ValueError, match=r"queries have label ., the support sets only 0 to"):
        learner.fit([episode], 1, progress=False)


def test_classes_of_pixels_are_counted_along_their_own_dimension() -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    x, y = torch.randn(3, 1, 2, 2), torch.full((3, 2, 2), 4)
    assert isinstance(MAML(Pixels(), 0.1, 1).adapt(x, y), Pixels)
    with pytest.raises(ValueError, match="the model has 5 outputs, for labels 0 to 4; got label 5"):
        MAML(Pixels(), 0.1, 1).adapt(x, y + 1)

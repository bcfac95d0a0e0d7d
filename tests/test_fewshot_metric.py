"""Learned metrics and the baselines."""

from __future__ import annotations

import pytest
import torch
from fewshot_toy import Blobs, classifier
from torch import nn
from torch.nn import functional

from learnopt.fewshot import Episode, Prototypical, Siamese
from learnopt.fewshot.baselines import Pretrained, RawPixels, Scratch, pretrain_classifier
from learnopt.fewshot.evaluation import Evaluation, moments
from learnopt.fewshot.rules import SGD


def test_prototypes_are_class_means() -> None:
    e = Blobs(shots=3).draw(0, 1)
    x, y, q = e.support_x[0], e.support_y[0], e.query_x[0]
    model = classifier(8)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    logits = Prototypical(model).adapt(x[order], y[order])(q)
    means = torch.stack([model(x[y == k]).mean(0) for k in range(3)])
    torch.testing.assert_close(logits, -(torch.cdist(model(q), means) ** 2), rtol=1e-4, atol=1e-4)


def test_siamese_scores_are_mean_pair_logits() -> None:
    e = Blobs(shots=2).draw(0, 1)
    x, y, q = e.support_x[0], e.support_y[0], e.query_x[0]
    learner = Siamese(classifier(8))
    with torch.no_grad():
        learner.slow()["scale.slope"].fill_(2.0)
    logits = learner.adapt(x, y)(q)
    pairs = 1.0 - 2.0 * torch.cdist(learner.model(q), learner.model(x))
    expected = torch.stack([pairs[:, y == k].mean(1) for k in range(3)], 1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_siamese_pairs_that_are_alike_and_others_count_alike() -> None:
    e, learner = Blobs(shots=2).draw(0, 2), Siamese(classifier(8))
    each = []
    for k in range(2):
        logits = 1.0 - torch.cdist(learner.model(e.query_x[k]), learner.model(e.support_x[k]))
        same = e.query_y[k][:, None] == e.support_y[k]
        each.append((functional.softplus(-logits[same]).mean() + functional.softplus(logits[~same]).mean()) / 2)
    torch.testing.assert_close(learner.meta_loss(e), torch.stack(each).mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Prototypical, Siamese])
def test_an_adapted_metric_does_not_change_when_fitting_goes_on(kind: type[Prototypical] | type[Siamese]) -> None:
    e = Blobs().draw(0, 1)
    learner = kind(classifier(8))
    adapted = learner.adapt(e.support_x[0], e.support_y[0])
    before = adapted(e.query_x[0])
    learner.fit(Blobs(), 3, progress=False)
    assert torch.equal(adapted(e.query_x[0]), before)
    assert not torch.equal(learner.adapt(e.support_x[0], e.support_y[0])(e.query_x[0]), before)


@pytest.mark.parametrize("kind", [Prototypical, Siamese])
def test_adapt_is_what_evaluate_measures(kind: type[Prototypical] | type[Siamese]) -> None:
    learner, e = kind(classifier(8)), Blobs().draw(0, 4)
    rights = learner.curves(e, None)[2][:, 0]
    for i in range(4):
        logits = learner.adapt(e.support_x[i], e.support_y[i])(e.query_x[i])
        assert float((logits.argmax(1) == e.query_y[i]).float().mean()) == pytest.approx(float(rights[i]))


def test_verification_of_a_perfect_and_of_a_useless_metric() -> None:
    class Sorted:
        """Classes at 0, 1, 2: any pair can be told."""

        def draw(self, seed: int, count: int) -> Episode:
            y = torch.arange(3).repeat(count, 2)
            x = y[..., None].float()
            return Episode(x, y, x, y)

        def describe(self) -> str:
            return "sorted"

    learner = Siamese(nn.Linear(1, 1, bias=False))
    weight = next(learner.model.parameters())
    with torch.no_grad():
        weight.fill_(10.0)
    assert learner.verify(Sorted(), 4) == {"accuracy": 1.0, "auc": 1.0, "pairs": 4 * 36}
    with torch.no_grad():
        weight.fill_(0.0)
    assert learner.verify(Sorted(), 4) == {"accuracy": 0.5, "auc": 0.5, "pairs": 4 * 36}


def test_raw_pixels_are_nearest_means_on_the_same_tasks() -> None:
    class One(Blobs):
        def draw(self, seed: int, count: int) -> Episode:
            return super().draw(7, count)

    e = One().draw(0, 20)
    rights = []
    for sx, sy, qx, qy in zip(*e, strict=True):
        means = torch.stack([sx[sy == k].mean(0) for k in range(3)])
        rights.append(float((torch.cdist(qx, means).argmin(1) == qy).float().mean()))
    found = RawPixels().evaluate(One(), 20)
    assert found.accuracies is not None
    assert found.accuracies[:, 0].tolist() == pytest.approx(rights)


def test_pretraining_minimises_the_loss_before_adaptation() -> None:
    learner, e = Pretrained(classifier(), SGD(0.1), 1), Blobs().draw(0, 3)
    x, y = (torch.cat([a, b], 1).flatten(0, 1) for a, b in ((e.support_x, e.query_x), (e.support_y, e.query_y)))
    torch.testing.assert_close(learner.meta_loss(e), nn.functional.cross_entropy(learner.model(x), y))
    assert Scratch(classifier(), SGD(0.1), 1).evaluate(Blobs(), 20, steps=5).accuracies is not None


def test_a_pretrained_classifier_gets_a_new_head_and_keeps_its_body() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(20)
    images = torch.eye(6)[labels] + 0.1 * torch.randn(120, 6, generator=g)
    body = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
    before = body[0].weight.clone()
    model = pretrain_classifier(body, images, labels, 3, steps=50)
    assert torch.equal(body[0].weight, before)
    assert not torch.equal(model[0][0].weight, before)
    assert model(images).abs().max() == 0
    assert model(images).shape == (120, 3)


def test_moments_state_mean_and_median_and_say_overflow() -> None:
    found = moments(torch.tensor([1.0, 2.0, 3.0, 10.0]))
    assert found["mean"] == 4.0
    assert found["half"] == pytest.approx(1.96 * torch.tensor([1.0, 2, 3, 10]).std().item() / 2)
    overflow = moments(torch.tensor([1.0, 2.0, 3.0, float("nan"), float("inf")]))
    assert overflow == {"mean": None, "half": None, "median": 3.0}


def test_failures_are_counted_against_the_support_loss() -> None:
    support = torch.tensor([[1.0, 0.5], [1.0, 2.1], [1.0, float("nan")], [1.0, 1.9]])
    evaluation = Evaluation(torch.zeros(4, 2), support)
    assert evaluation.failed == [0, 2]
    with pytest.warns(RuntimeWarning, match="on 2 of 4 tasks after 1 steps"):
        evaluation.warn("it")

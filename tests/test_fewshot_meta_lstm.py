"""Gates whose cell state is the parameters, and the ratings that they learn from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from learnopt.fewshot import MetaLSTM
from learnopt.fewshot.episode import Episode
from learnopt.fewshot.meta_lstm import GateRule
from learnopt.fewshot.sources.ratings import BestPossible, ItemMeans, Ratings


def test_open_and_closed_gates_are_gradient_descent() -> None:
    rule, params = GateRule(0.2, hidden=3), {"w": torch.randn(4)}
    theta = rule.theta(params)
    theta["gates"], theta["bias"] = torch.zeros_like(theta["gates"]), torch.tensor([40.0, math.log(0.2 / 0.8)])
    grads = {"w": torch.randn(4)}
    moved, _ = rule.step(theta, params, grads, rule.init(params), torch.tensor(1.0))
    assert torch.allclose(moved["w"], params["w"] - 0.2 * grads["w"], atol=1e-6)


def test_meta_lstm_learns_ratings_and_leaves_its_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 4), nn.Linear(4, 1))
    learner, source = MetaLSTM(model, 0.3, 3, meta_lr=2e-2, clip=1.0), Ratings(items=30, rank=2)
    before = learner.evaluate(source, 100).losses[:, -1].mean()
    loss = learner.meta_loss(source.draw(0, 3))
    gradients = torch.autograd.grad(loss, list(learner.slow().values()))
    assert all(bool(g.abs().sum() > 0) for g in gradients)
    learner.fit(source, 60, meta_batch=10, progress=False)
    found = learner.evaluate(source, 100).losses
    assert found[:, -1].mean() < 0.8 * found[:, 0].mean() < 0.8 * before
    kept = {n: p.clone() for n, p in model.named_parameters()}
    e = source.draw(1, 1)
    adapted = learner.adapt(e.support_x[0], e.support_y[0])
    assert all(torch.equal(p, kept[n]) for n, p in model.named_parameters())
    assert not torch.equal(adapted[1].weight, model[1].weight)  # type: ignore[union-attr,index]


def test_gates_learn_at_a_rate_of_their_own() -> None:
    torch.manual_seed(0)
    learner = MetaLSTM(nn.Linear(1, 1), 0.1, 3, hidden=3, meta_lr=1e-2, gate_share=0.25)
    before = {n: p.detach().clone() for n, p in learner.slow().items()}
    x = torch.randn(2, 3, 1)
    learner.fit([Episode(x[0], x[0] ** 2, x[1], x[1] ** 2)], 1, progress=False)
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in learner.slow().items()}
    for name, step in moved.items():  # Adam's first step is as long as its rate
        assert step == pytest.approx(0.25e-2 if name.startswith("rule.") else 1e-2, rel=1e-2), name
    assert learner.settings()["gate_share"] == 0.25


def test_best_possible_of_ratings_is_ridge_regression_and_a_bound() -> None:
    source = Ratings(shots=6)
    best, means = (kind(source).evaluate(source, 400).losses.mean() for kind in (BestPossible, ItemMeans))
    assert source.describe() != Ratings().describe()
    assert 0.09 < best < 0.5 * means
    e = source.draw(3, 1)
    quality, traits = source.items_of()
    a, b = traits[e.support_x[0]].double(), (e.support_y[0, :, 0] - 3.5 - quality[e.support_x[0]]).double()
    # gradient descent on the penalised squares reaches the same taste
    taste = torch.zeros(3, dtype=torch.double)
    for _ in range(20_000):
        taste -= 0.005 * (a.T @ (a @ taste - b) + 0.09 * taste)
    expected = 3.5 + quality[e.query_x[0]] + traits[e.query_x[0]] @ taste.float()
    assert torch.allclose(BestPossible(source).predict(e)[0], expected, atol=1e-3)
    assert len(set(torch.cat([e.support_x[0], e.query_x[0]]).tolist())) == 21, "queries are other items"

"""Meta-gradients against finite differences and against `higher`, and the usual mistakes of tutorials."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import higher
import pytest
import torch
from fewshot_toy import Lines, network
from torch import nn

from learnopt.fewshot import ANIL, FOMAML, MAML, Episode, Learner, MetaSGD, Prototypical, Siamese
from learnopt.fewshot.maml import InnerLoop
from learnopt.fewshot.rules import SGD, Adam, RMSprop

DOUBLE = Lines(dtype=torch.float64).draw(1, 3)
LEARNERS: dict[str, Callable[[], InnerLoop]] = {
    "maml": lambda: MAML(network(True), 0.1, 3),
    "anil": lambda: ANIL(network(True), 0.1, 3),
    "metasgd": lambda: MetaSGD(network(True), 0.1, 3),
    "metasgd-scheduled": lambda: MetaSGD(network(True), 0.1, 3, rates="tensor", schedule="tensor"),
    "metasgd-shared": lambda: MetaSGD(network(True), 0.1, 3, schedule="shared"),
    "momentum": lambda: MAML(network(True), steps=3, rule=SGD(0.1, 0.5, nesterov=True)),
    "rmsprop": lambda: MAML(network(True), steps=3, rule=RMSprop(0.02, eps=1e-3)),
    "adam": lambda: MAML(network(True), steps=3, rule=Adam(0.05, eps=1e-3)),
}


def gradients(learner: Learner, episodes: Episode = DOUBLE) -> dict[str, torch.Tensor]:
    return dict(zip(learner.slow(), learner.meta_gradients(episodes)[1], strict=True))


@pytest.mark.parametrize(("name", "vectorise"), [*((name, True) for name in LEARNERS), ("maml", False)])
def test_meta_gradients_equal_finite_differences(name: str, vectorise: bool) -> None:
    learner = LEARNERS[name]()
    learner.over_tasks.vectorise = vectorise
    found, h = gradients(learner), 1e-5
    for key, p in learner.slow().items():
        flat, expected = p.detach().view(-1), torch.zeros(p.numel(), dtype=p.dtype)
        for i in range(p.numel()):
            sides = []
            for side in (h, -h):
                flat[i] += side
                sides.append(learner.meta_loss(DOUBLE).detach())
                flat[i] -= side
            expected[i] = (sides[0] - sides[1]) / (2 * h)
        torch.testing.assert_close(found[key].reshape(-1), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradients_equal_those_of_higher(first_order: bool) -> None:
    learner = (FOMAML if first_order else MAML)(network(True), 0.1, 3)
    model = network(True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for sx, sy, qx, qy in zip(*DOUBLE, strict=True):
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (fast, steps):
            for _ in range(3):
                loss = nn.functional.mse_loss(fast(sx), sy)
                steps.step(loss, grad_callback=(lambda gs: [g.detach() for g in gs]) if first_order else None)
            losses.append(nn.functional.mse_loss(fast(qx), qy))
    theirs = torch.autograd.grad(torch.stack(losses).mean(), list(model.parameters()))
    found = list(gradients(learner).values())
    for ours, expected in zip(found, theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


def test_first_order_differs_from_second() -> None:
    one, two = gradients(MAML(network(True), 0.1, 3)), gradients(FOMAML(network(True), 0.1, 3))
    assert any((one[n] - two[n]).abs().max() > 1e-3 for n in one)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_slow_tensor_receives_a_gradient(name: str) -> None:
    for key, g in gradients(LEARNERS[name]()).items():
        assert g.abs().max() > 1e-8, key


@pytest.mark.parametrize("kind", [Prototypical, Siamese])
def test_every_slow_tensor_of_a_metric_receives_a_gradient(kind: type[Learner]) -> None:
    from fewshot_toy import Blobs, classifier

    found = gradients(kind(classifier(8)), Blobs().draw(0, 3))
    if kind is Prototypical:  # a shift of all embeddings changes no distance
        assert float(found.pop("model.2.bias").abs().max()) < 1e-5
    else:
        found.pop("model.2.bias")
    for key, g in found.items():
        assert g.abs().max() > 1e-7, key


@pytest.mark.parametrize("name", LEARNERS)
def test_the_order_of_tasks_does_not_matter(name: str) -> None:
    there, back = LEARNERS[name](), LEARNERS[name]()
    turned = Episode(*(x.flip(0) for x in DOUBLE))
    ours, theirs = gradients(there), gradients(back, turned)
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-9, atol=1e-12)
    one, other = there.curves(DOUBLE, 3)[0], back.curves(turned, 3)[0]
    torch.testing.assert_close(one, other.flip(0), rtol=1e-9, atol=1e-12)


def test_a_task_does_not_see_the_others() -> None:
    learner = MAML(network(True), 0.1, 3)
    alone = torch.cat([learner.curves(Episode(*(x[i : i + 1] for x in DOUBLE)), 3)[0] for i in range(3)])
    torch.testing.assert_close(learner.curves(DOUBLE, 3)[0], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LEARNERS)
def test_adapt_leaves_the_model_and_random_state_untouched(name: str) -> None:
    learner = LEARNERS[name]()
    before, state = copy.deepcopy(learner.model.state_dict()), torch.get_rng_state()
    grads = [p.grad for p in learner.model.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        adapted = learner.adapt(DOUBLE.support_x[0], DOUBLE.support_y[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], x) for n, x in learner.model.state_dict().items())
    assert grads == [p.grad for p in learner.model.parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(adapted.parameters(), learner.model.parameters(), strict=True)]
    assert moved == [n in learner.fast_names for n, _ in learner.model.named_parameters()]
    assert all(
        a.data_ptr() != b.data_ptr() for a, b in zip(adapted.parameters(), learner.model.parameters(), strict=True)
    )


def test_adapt_is_what_evaluate_measures() -> None:
    learner = MAML(network(True), 0.1, 3)
    adapted = learner.adapt(DOUBLE.support_x[1], DOUBLE.support_y[1])
    loss = nn.functional.mse_loss(adapted(DOUBLE.query_x[1]), DOUBLE.query_y[1])
    torch.testing.assert_close(learner.curves(DOUBLE, 3)[0][1, -1], loss, rtol=1e-9, atol=0)

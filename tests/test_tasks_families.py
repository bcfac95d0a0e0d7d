"""Task families: reproducible draws, vectorisation; augmentations change what they say and nothing else."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learnopt.task import Batch, Task
from learnopt.tasks import families, get_task
from learnopt.tasks.augmentations import (
    BatchSize,
    InputNoise,
    LabelNoise,
    LossScaled,
    Reparametrised,
    ReparametrisedModule,
    Wrapped,
    augment,
)
from learnopt.tasks.autoencoding import Vae
from learnopt.unroll import Problem

FAMILIES = {family.name: family for family, _ in families("meta_train")}


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def is_random(task: Task) -> bool:
    """Whether training draws noise (dropout, latent codes), which a vectorised run draws otherwise than a loop."""
    while isinstance(task, Wrapped):
        task = task.inner
    return any(isinstance(m, Vae) or (isinstance(m, nn.Dropout) and m.p > 0) for m in task.build(0).modules())


def vectorised_and_looped(task: Task) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Validation losses, training losses and gradients both ways; training is left out where it draws noise."""
    results = []
    for vectorise in (True, False):
        problem = Problem(task, [1, 2], vectorise=vectorise)
        valid, losses, grads = problem.valid_losses(problem.start), torch.zeros(2), torch.zeros(2, 1)
        if not is_random(task):
            params = [p.clone().requires_grad_() for p in problem.start]
            losses = problem.losses(params, problem.batch(0))
            grads = torch.cat([g.flatten(1) for g in torch.autograd.grad(losses.sum(), params)], 1)
        results.append((valid, losses.detach(), grads))
    return results


def close(a: Tensor, b: Tensor, rtol: float, atol: float) -> bool:
    return bool(b.isfinite().all()) and torch.allclose(a, b, rtol=rtol, atol=atol)


def test_names_and_weights() -> None:
    members = families("meta_train")
    assert len(FAMILIES) == len(members)
    assert all(weight > 0 for _, weight in members)


@pytest.mark.parametrize("name", FAMILIES)
def test_vectorised_equals_looped(name: str) -> None:
    fast, slow = vectorised_and_looped(FAMILIES[name].sample(np.random.default_rng([1, 2])))
    assert close(fast[0], slow[0], 1e-4, 1e-6)
    assert close(fast[1], slow[1], 1e-4, 1e-6)
    assert close(fast[2], slow[2], 1e-3, 1e-4 * float(slow[2].abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_vectorised_equals_looped_when_reparametrised_and_scaled(name: str) -> None:
    fast, slow = vectorised_and_looped(
        LossScaled(Reparametrised(FAMILIES[name].sample(np.random.default_rng([1, 3])), 7.0), 0.2)
    )
    assert close(fast[0], slow[0], 1e-4, 1e-6)
    assert close(fast[1], slow[1], 1e-4, 1e-6)
    assert close(fast[2], slow[2], 1e-3, 1e-4 * float(slow[2].abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_equals_vectorised(name: str) -> None:
    problem = Problem(FAMILIES[name].sample(np.random.default_rng([1, 4])), [1, 2])
    params = [p.requires_grad_() for p in problem.start]
    problem.gradients(params, problem.batch(0), recorded=True)
    found = []
    for recorded in (True, False):
        torch.manual_seed(3)
        loss, grads = problem.gradients(params, problem.batch(1), recorded=recorded)
        found.append((loss, torch.cat([torch.zeros(2) if g is None else g.flatten() for g in grads])))
    assert any(problem._recordings.values())
    (loss, gradient), (slow_loss, slow_gradient) = found
    assert close(loss, slow_loss, 1e-4, 1e-6)
    assert close(gradient, slow_gradient, 1e-3, 1e-4 * float(slow_gradient.abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_several_streams_at_once_are_their_batches_stacked(name: str) -> None:
    task = FAMILIES[name].sample(np.random.default_rng([1, 5]))
    for wrapped in (task, LossScaled(BatchSize(task, 21), 2.0), LabelNoise(task, 0.5)):
        assert same(wrapped.batches([3, 1, 2**62], 4), Task.batches(wrapped, [3, 1, 2**62], 4))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_draw_is_a_function_of_the_generator(name: str) -> None:
    family = FAMILIES[name]
    state = torch.get_rng_state()
    a, b, c = (family.sample(np.random.default_rng(s)) for s in (5, 5, 6))
    assert a.name == b.name != c.name
    assert same(a.batch(0, 1), b.batch(0, 1))
    assert same(a.validation(), b.validation())
    assert same(tuple(a.build(0).parameters()), tuple(b.build(0).parameters()))
    assert torch.equal(state, torch.get_rng_state())
    for task in (a, c):
        assert task.datasets
        assert task.datasets <= family.datasets
        assert 100 <= task.steps <= 2000
        model = task.build(0)
        loss = task.loss(model, task.batch(0, 0))
        assert loss.shape == ()
        assert torch.isfinite(loss)


def test_a_draw_leaves_numpy_and_other_draws_alone() -> None:
    rng = np.random.default_rng(0)
    first, second = (FAMILIES["table"].sample(rng) for _ in range(2))
    assert first.name != second.name


@pytest.mark.parametrize("scale", [1e-3, 1.0, 250.0])
@pytest.mark.parametrize("name", ["digits-cnn-bn", "digits-lstm", "descr-transformer", "cancer-graph"])
def test_reparametrised_module_computes_the_same(name: str, scale: float) -> None:
    task = get_task(name)
    model = task.build(0)
    wrapped = ReparametrisedModule(copy.deepcopy(model), scale)
    batch = task.batch(0, 0)
    losses = []
    for m in (model, wrapped):
        m.train()
        losses.append(task.loss(m, batch))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    theirs = dict(wrapped.named_parameters())
    for n, p in model.named_parameters():
        other = theirs.pop(n.replace(".", "__"))
        torch.testing.assert_close(other * scale, p)
        assert p.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(other.grad / scale, p.grad, rtol=1e-3, atol=1e-5)
    assert not theirs
    for m in (model, wrapped):  # with the running statistics that the training pass left
        m.eval()
    with torch.no_grad():
        torch.testing.assert_close(task.loss(wrapped, batch), task.loss(model, batch), rtol=1e-4, atol=1e-5)


def test_a_reparametrised_task_starts_from_smaller_weights() -> None:
    task = get_task("iris-mlp")
    wrapped = Reparametrised(task, 10.0)
    rms = [float(next(t.build(0).parameters()).detach().square().mean().sqrt()) for t in (task, wrapped)]
    assert rms[0] / rms[1] == pytest.approx(10, rel=0.3)
    assert wrapped.datasets == task.datasets
    assert (wrapped.kind, wrapped.steps, wrapped.metric_name) == (task.kind, task.steps, task.metric_name)


def test_loss_scale_multiplies_training_and_validation_loss_but_not_the_metric() -> None:
    task = get_task("iris-mlp")
    model = task.build(0)
    scaled = LossScaled(task, 300.0)
    for batch in (task.batch(0, 0), task.validation()):
        torch.testing.assert_close(scaled.loss(model, batch), 300 * task.loss(model, batch))
        assert torch.equal(scaled.metric(model, batch), task.metric(model, batch))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_label_noise_moves_its_share_of_the_targets(share: float) -> None:
    task = get_task("friedman-mlp")  # real-valued targets: another row's target shows
    noisy = LabelNoise(task, share)
    changed, total = 0, 0
    for step in range(150):
        (x, y), (nx, ny) = task.batch(0, step), noisy.batch(0, step)
        assert torch.equal(x, nx)
        assert set(ny.flatten().tolist()) <= set(y.flatten().tolist())
        changed += int((y != ny).sum())
        total += len(y)
    deviation = math.sqrt(share * (1 - share) / total)
    assert changed / total == pytest.approx(share * 31 / 32, abs=4 * deviation + 0.02 * share)
    assert same(noisy.batch(0, 1), noisy.batch(0, 1))
    assert same(noisy.validation(), task.validation())


def test_input_noise_is_multiplicative_and_spares_tokens() -> None:
    task = get_task("friedman-mlp")
    noise = [(InputNoise(task, 0.2).batch(0, s)[0] / task.batch(0, s)[0] - 1).flatten() for s in range(50)]
    assert float(torch.cat(noise).std()) == pytest.approx(0.2, rel=0.05)
    assert torch.equal(InputNoise(task, 0.2).batch(0, 0)[1], task.batch(0, 0)[1])
    tokens = get_task("topics-gru")
    assert same(InputNoise(tokens, 0.2).batch(0, 0), tokens.batch(0, 0))


@pytest.mark.parametrize("rows", [1, 7, 16, 40])
def test_batch_size(rows: int) -> None:
    task = get_task("iris-mlp")
    sized = BatchSize(task, rows)
    x, y = sized.batch(3, 2)
    assert x.shape == (rows, 4)
    assert y.shape == (rows,)
    assert same((x, y), sized.batch(3, 2))
    if rows <= 16:
        assert same((x, y), tuple(t[:rows] for t in task.batch(3, 2)))


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        BatchSize(get_task("iris-mlp"), 0)


def test_random_augmentation_is_reproducible_and_sometimes_none() -> None:
    task = get_task("iris-mlp")

    def depth(t: Task) -> int:
        return 1 + depth(t.inner) if isinstance(t, Wrapped) else 0

    names: list[list[str]] = [[augment(task, np.random.default_rng(s)).name for s in range(60)] for _ in range(2)]
    assert names[0] == names[1]
    depths = [depth(augment(task, np.random.default_rng(s))) for s in range(60)]
    assert 0.15 < depths.count(0) / 60 < 0.6
    assert max(depths) >= 2


def test_augmented_loss_has_finite_gradients() -> None:
    task: Task = get_task("iris-mlp")
    for seed in range(20):
        wrapped = augment(task, np.random.default_rng(seed))
        model = wrapped.build(0)
        loss: Tensor = wrapped.loss(model, wrapped.batch(0, 0))
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())

"""The unroll: vmapped against looped, whole against segments, and models that `vmap` cannot take."""

from __future__ import annotations

import copy

import pytest
import torch
from fewshot_toy import Blobs, Lines, classifier, network
from torch import Tensor, nn

from learnopt.fewshot import MAML, Episode, Prototypical, Siamese
from learnopt.fewshot.engine import OverTasks, detached, unroll
from learnopt.fewshot.normalisation import ElementaryNorms
from learnopt.fewshot.rules import Adam, Params


class Recurrent(nn.Module):
    """Reads a point as a sequence of four numbers, with a layer that torch cannot vmap."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell = kind(1, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x[..., None])[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x[..., None])).mean(1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


MODELS = {
    "mlp": classifier,
    "convolutional": convolutional,
    "attention": Attending,
    "batchnorm": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_vmap_equals_the_loop(name: str) -> None:
    torch.manual_seed(0)
    model, episodes = MODELS[name]().double(), Blobs().draw(0, 4)
    episodes = episodes._replace(support_x=episodes.support_x.double(), query_x=episodes.query_x.double())
    results = []
    for vectorise in (True, False):
        learner = MAML(model, 0.1, 2, vectorise=vectorise)
        loss, gradients = learner.meta_gradients(episodes)
        with torch.no_grad():
            results.append([torch.tensor(loss, dtype=torch.float64), *gradients, *learner.curves(episodes, 3)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [Prototypical, Siamese])
def test_vmap_equals_the_loop_for_metrics(kind: type[Prototypical] | type[Siamese]) -> None:
    episodes = Blobs().draw(0, 4)
    one, two = (kind(classifier(8), vectorise=v).meta_gradients(episodes) for v in (True, False))
    for a, b in zip(one[1], two[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_layers_that_vmap_cannot_take_run_in_a_loop(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    learner = MAML(Recurrent(kind), 0.1, 2)
    assert learner.over_tasks.vectorise is None
    learner.fit(Blobs(), 2, meta_batch=3, progress=False)
    assert learner.over_tasks.vectorise is False
    assert learner.over_tasks.reason
    assert all(row["gradient_norm"] > 0 for row in learner.history)


def test_the_default_is_vmap() -> None:
    learner = MAML(classifier(), 0.1, 2)
    learner.meta_gradients(Blobs().draw(0, 2))
    assert learner.over_tasks.vectorise is True


def test_a_model_at_fault_raises_its_own_error() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        MAML(nn.Linear(7, 3), 0.1, 1).meta_gradients(Blobs().draw(0, 2))


def loss(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (torch.tanh(x @ params["w"]) - y).square().mean()


def problem() -> tuple[Params, list[tuple[Tensor, Tensor]]]:
    e = Lines(shots=6, dtype=torch.float64).draw(0, 8)
    return {"w": torch.full((1, 1), 0.3, dtype=torch.float64)}, list(zip(e.support_x, e.support_y, strict=True))


def test_segments_with_carried_state_equal_the_whole() -> None:
    params, batches = problem()
    whole = unroll(loss, Adam(0.1), {}, params, None, batches)
    first = unroll(loss, Adam(0.1), {}, params, None, batches[:3])
    second = unroll(loss, Adam(0.1), {}, first.params, detached(first.state), batches[3:])
    assert torch.equal(torch.cat([first.losses, second.losses]), whole.losses)
    assert torch.equal(second.params["w"], whole.params["w"])


def test_a_truncated_unroll_has_the_full_gradient_when_it_is_as_long() -> None:
    params, batches = problem()

    def gradient(length: int) -> Tensor:
        start = {"w": params["w"].clone().requires_grad_()}
        at, state, total = start, None, torch.zeros((), dtype=torch.float64)
        for k in range(0, len(batches), length):
            end = unroll(loss, Adam(0.1), {}, at, state, batches[k : k + length])
            total = total + end.losses.sum()
            at, state = detached(end.params), detached(end.state)
        return torch.autograd.grad(total, start["w"])[0]

    def full() -> Tensor:
        start = params["w"].clone().requires_grad_()
        return torch.autograd.grad(unroll(loss, Adam(0.1), {}, {"w": start}, None, batches).losses.sum(), start)[0]

    torch.testing.assert_close(gradient(len(batches)), full(), rtol=0, atol=0)
    assert not torch.allclose(gradient(2), full())


def test_losses_keep_their_graph_without_second_derivatives_when_asked() -> None:
    params, batches = problem()
    start = {"w": params["w"].clone().requires_grad_()}
    assert not unroll(loss, Adam(0.1), {}, start, None, batches, second_order=False).losses.requires_grad
    kept = unroll(loss, Adam(0.1), {}, start, None, batches, second_order=False, keep_losses=True).losses
    (found,) = torch.autograd.grad(kept.sum(), start["w"])
    # gradients taken as constants: every iterate moves with the start one to one
    at, expected = dict(params), torch.zeros(1, 1, dtype=torch.float64)
    state = Adam(0.1).init(at)
    for batch in batches:
        grads = torch.func.grad(loss)(at, batch)
        expected += grads["w"]
        at, state = Adam(0.1).step({}, at, grads, state, torch.zeros(()))
    torch.testing.assert_close(found, expected)


def test_results_come_back_as_a_tree() -> None:
    each = {"a": torch.arange(3.0), "b": (torch.ones(3, 2),)}
    for vectorise in (True, False, None):
        out = OverTasks(vectorise)(lambda s, t: {"sum": t["a"] + s, "rest": t["b"]}, torch.tensor(1.0), each)
        assert torch.equal(out["sum"], torch.tensor([1.0, 2.0, 3.0]))
        assert out["rest"][0].shape == (3, 2)


def test_attention_settings_are_restored() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    MAML(network(), 0.1, 1).meta_gradients(Lines().draw(0, 2))
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_dropout_draws_differ_between_tasks_and_repeat_with_the_seed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    one = Blobs().draw(0, 1)
    same = Episode(*(x.expand(2, *x.shape[1:]) for x in one))
    learner = MAML(model, 0.1, 1)
    losses = learner.curves(same, 1)[0]
    assert losses[0, 0] != losses[1, 0]
    a, b = (learner.evaluate(Blobs(), 5).losses for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_elementary_norms_equal_torchs(training: bool, affine: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, 5, 3, dtype=torch.float64)
    batch = nn.BatchNorm2d(4, affine=affine).double()
    batch(x + 1)  # running statistics that are not 0 and 1
    batch.train(training)
    layer = nn.LayerNorm((5, 3), elementwise_affine=affine).double()
    for p in [*batch.parameters(), *layer.parameters()]:
        nn.init.normal_(p)
    expected = copy.deepcopy(batch)(x), layer(x)
    with ElementaryNorms():
        found = batch(x), layer(x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [nn.LayerNorm(6), nn.BatchNorm1d(6, track_running_stats=False), nn.GroupNorm(2, 6)])
def test_second_derivatives_of_norms_equal_finite_differences(layer: nn.Module) -> None:
    torch.manual_seed(0)
    learner = MAML(nn.Sequential(nn.Linear(4, 6), layer, nn.Tanh(), nn.Linear(6, 3)).double(), 0.1, 2, vectorise=True)
    drawn = Blobs().draw(0, 2)
    episodes = drawn._replace(support_x=drawn.support_x.double(), query_x=drawn.query_x.double())
    found = learner.meta_gradients(episodes)[1]
    for p, g in zip(learner.slow().values(), found, strict=True):
        along = torch.randn(p.shape, dtype=p.dtype)
        sides = []
        for h in (1e-5, -2e-5):
            p.data += h * along
            sides.append(learner.meta_loss(episodes).detach())
        p.data += 1e-5 * along
        torch.testing.assert_close((g * along).sum(), (sides[0] - sides[1]) / 2e-5, rtol=1e-6, atol=1e-8)

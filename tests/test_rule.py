"""The rule: fast paths against slow ones, the hand-designed rule it starts from, and freedom from units."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toy import ToyTask

from learnopt import course, equalise, features, meta_network, rule
from learnopt.layout import Layout
from learnopt.orthogonal import orthogonalise
from learnopt.unroll import Problem, Telling, unroll


def random_theta(seed: int = 1, spread: float = 0.15) -> Tensor:
    """Meta-weights with every output at work, so that no path is switched off by a zero."""
    g = torch.Generator().manual_seed(seed)
    return meta_network.initial_theta(g) + spread * torch.randn(meta_network.SIZE, generator=g)


def draw(shapes: list[tuple[int, ...]], n: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(seed)
    params = [0.3 * torch.randn(n, *s, generator=g) for s in shapes]
    return params, [torch.randn(n, *s, generator=g) for s in shapes]


SHAPES: list[tuple[int, ...]] = [(5, 4), (5,), (3, 5, 2, 2), (3,), (), (1, 6)]


def test_batched_equals_one_by_one() -> None:
    n, horizon = 3, torch.tensor(10.0)
    theta = torch.stack([random_theta(s) for s in range(n)])
    params, _ = draw(SHAPES, n)
    layout = Layout.of(SHAPES)
    together, state = list(params), rule.init_state(layout, params)
    alone = [[p[i : i + 1] for p in params] for i in range(n)]
    states = [rule.init_state(layout, a) for a in alone]
    for t in range(4):
        _, grads = draw(SHAPES, n, seed=t + 1)
        loss = torch.rand(n, generator=torch.Generator().manual_seed(t)) + 0.5
        together, state, _ = rule.apply(meta_network.unpack(theta), layout, together, grads, state, loss, horizon)
        for i in range(n):
            g = [x[i : i + 1] for x in grads]
            w = meta_network.unpack(theta[i])
            alone[i], states[i], _ = rule.apply(w, layout, alone[i], g, states[i], loss[i : i + 1], horizon)
    for i in range(n):
        for a, b in zip(together, alone[i], strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1e-4, atol=1e-6)


def test_joined_vectors_equal_vectors_one_by_one() -> None:
    params, grads = draw(SHAPES, 2)
    layout, w = Layout.of(SHAPES), meta_network.unpack(random_theta())
    assert len(layout.joined) == 4
    state = rule.init_state(layout, params)
    decision, state = rule.decide(w, layout, state, torch.ones(2), torch.tensor(10.0))
    new, moved = rule.move(w, layout, params, grads, state, decision)
    rms, usual = state.statistics[..., features.STATISTICS.index("weight")].sqrt(), rule.usual_square(state)
    for k, shape in enumerate(layout.tensors):
        one = rule.advance(
            w, shape, decision, k, rms[:, k], state.unit[:, k], usual[:, k],
            params[k], grads[k], state.fast[k], state.average[k], state.square[k],
            equalise.column_factors(layout, state.square) if k == layout.equalised else None,
        )  # fmt: skip
        torch.testing.assert_close(new[k], one.param)
        torch.testing.assert_close(moved.square[k], one.square)
        torch.testing.assert_close(moved.statistics[:, k], one.statistics)


class SlowRule:
    """The documented hand-designed rule, tensor by tensor and step by step, in double precision."""

    def __init__(self, params: list[Tensor], horizon: int) -> None:
        self.p = [p.double().clone() for p in params]
        self.m = [[torch.zeros_like(p), torch.zeros_like(p)] for p in self.p]
        self.average = [torch.zeros_like(p) for p in self.p]
        self.total = 0.0
        self.t, self.horizon = 0, horizon
        scales = [self.rms(p) * p.shape[1] ** 0.5 for p in self.p if p.dim() == 2]
        network = math.exp(sum(math.log(s) for s in scales) / len(scales))
        self.start = [self.rms(p) for p in self.p]
        self.unit = [self.rms(p) if p.dim() == 2 else network / 10**0.5 for p in self.p]

    @staticmethod
    def rms(p: Tensor) -> float:
        return float(p.square().mean().sqrt())

    def step(self, grads: list[Tensor]) -> None:
        t, e = self.t, math.e
        schedule = min(1.0, (t + 1) / self.horizon / 0.03) * max(1 - t / self.horizon, 0.005)
        weights = [1 / (1 + e**1.5), e**1.5 / (1 + e**1.5)]
        ending = max(0.0, ((t + 1) / self.horizon - 0.9) / 0.1)
        pull = 0.3 / (1 + e ** (6 - 8 * ending))
        # binomial weights, the exact form of a polynomial average
        weight = math.comb(t + 5, 5)
        self.total += weight
        for k, g in enumerate(x.double() for x in grads):
            cut, f = g, torch.ones(1)
            if k == 0 and t:  # the first matrix's columns, by the gradients before
                log = self.m[k][1].mean(0).sqrt().log()
                log -= log.mean()
                f = (-0.5 * log * ((log.std(correction=0) - 0.7) / 0.7).clamp(0, 1)).exp()
            if t >= 10:
                before = self.m[k][1] / (1 - 0.995**t)
                cut = torch.minimum(g.abs(), 3 * before.clamp_min(float(before.mean())).sqrt()) * g.sign()
            for i, beta in enumerate((0.9, 0.995)):
                self.m[k][i] = self.m[k][i] * beta + (1 - beta) * (cut if i < 1 else cut * cut)
            fast, square = (self.m[k][i] / (1 - b ** (t + 1)) for i, b in enumerate((0.9, 0.995)))
            a = [(g / square.sqrt()).clamp(-4, 4), fast / square.sqrt()]
            u = sum(w * x for w, x in zip(weights, a, strict=True))
            step = 0.01 * (self.rms(self.p[k]) + self.unit[k]) * schedule
            decay = 0.0
            if g.dim() == 2:
                momentum = (weights[0] * cut + weights[1] * fast) * f
                o = orthogonalise(momentum[None])[0] * max(g.shape) ** 0.5
                u, decay = (0.5 * u + 0.5 * o) * f, 0.005 * schedule
                decay *= max(0.0, 1 - (self.start[k] / self.rms(self.p[k])) ** 2)
            away = self.p[k] - self.average[k] if t else 0.0
            decayed = self.p[k] * (1 - decay * (10 * u * self.p[k].sign()).clamp(0, 1))
            self.p[k] = decayed - step * u - pull * away
            self.average[k] = self.average[k] + (self.p[k] - self.average[k]) * weight / self.total
        self.t += 1


def test_zero_output_weights_give_the_documented_rule() -> None:
    shapes: list[tuple[int, ...]] = [(6, 4), (6,), (3, 6)]
    params, _ = draw(shapes, 1)
    layout, w = Layout.of(shapes), meta_network.unpack(meta_network.initial_theta(torch.Generator().manual_seed(0)))
    state, slow = rule.init_state(layout, params), SlowRule([p[0] for p in params], 30)
    for t in range(30):
        _, grads = draw(shapes, 1, seed=t)
        grads[0] *= torch.tensor([0.1, 1.0, 3.0, 40.0])  # raw inputs
        if t % 7 == 0:
            for g in grads:
                g.view(-1)[t % g.numel()] *= 40  # an outlier
        params, state, _ = rule.apply(w, layout, params, grads, state, torch.ones(1), torch.tensor(30.0))
        slow.step([g[0] for g in grads])
    for a, b in zip(params, slow.p, strict=True):
        torch.testing.assert_close(a[0].double(), b, rtol=1e-4, atol=1e-5)


def test_an_outlier_enters_the_moments_cut_and_a_first_gradient_whole() -> None:
    params, _ = draw([(4, 3), (4,)], 1)
    layout, w = Layout.of([(4, 3), (4,)]), meta_network.unpack(random_theta())
    state, horizon = rule.init_state(layout, params), torch.tensor(0.0)
    quiet = [torch.zeros_like(p) for p in params]  # zeros so far say nothing of what is usual
    for t in range(30):
        grads = [torch.ones_like(p) for p in params] if t >= 12 else quiet
        params, state, _ = rule.apply(w, layout, params, grads, state, None, horizon)
        if t == 12:
            assert all((x > 0.005).all() for x in state.square)
    before, wild = state, [1e6 * torch.ones_like(p) for p in params]
    _, state, _ = rule.apply(w, layout, params, wild, state, None, horizon)
    for old, new in zip(before.square, state.square, strict=True):
        weight = 0.005 / (1 - 0.995**31)
        torch.testing.assert_close(new, old * (1 - weight) + weight * rule.CLIP**2 * old, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 40), (40, 6), (6, 13), (6, 12), (1, 5)])
def test_orthogonalise_is_the_published_iteration(shape: tuple[int, int]) -> None:
    m = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).double()
    m[0] = m[0, :, :1] * m[0, :1]  # of rank one
    x = m / m.norm(dim=(-2, -1), keepdim=True)
    x = x.mT if shape[0] > shape[1] else x
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x.mT if shape[0] > shape[1] else x
    torch.testing.assert_close(orthogonalise(m), x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(orthogonalise(m.float()).double(), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(130, 150), (150, 130), (100, 300), (65, 65)])
def test_large_matrices_are_orthogonalised_in_blocks(shape: tuple[int, int]) -> None:
    m = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    tall = shape[0] > shape[1]
    o, x = (y.mT if tall else y for y in (orthogonalise(m), m))
    each = {130: 44, 100: 50, 65: 33}[min(shape)]
    for start in range(0, min(shape), each):
        block = orthogonalise(x[:, start : start + each])
        torch.testing.assert_close(o[:, start : start + each], block, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12), (4, 40), (40, 4)])
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_orthogonalise_against_svd(shape: tuple[int, int], scale: float) -> None:
    m = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(m, full_matrices=False)
    m = u @ torch.diag_embed(s.clamp_min(0.3)) @ v  # the iteration needs longer for singular values near zero
    o = orthogonalise(m * scale)
    inside = u.mT @ o @ v.mT
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    assert ((diagonal > 0.5) & (diagonal < 1.3)).all()
    assert (inside - torch.diag_embed(diagonal)).abs().max() < 1e-3


def trajectory(weight_scale: float, loss_scale: float, theta: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Losses in units of the scale and final weights in the original units, of a bilinear-plus-tanh network."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(40, 64, 6, generator=g)
    target = torch.sin(x @ torch.randn(6, 2, generator=g))
    params = [
        torch.randn(8, 6, generator=g) / 6**0.5,
        0.1 * torch.randn(8, generator=g),
        torch.randn(2, 8, generator=g) / 3,
    ]
    params.append(torch.zeros(2))
    params = [p[None] / weight_scale for p in params]
    layout = Layout.of([p.shape[1:] for p in params])
    state, w, losses = rule.init_state(layout, params), meta_network.unpack(theta), []
    for t in range(40):
        params = [p.detach().requires_grad_() for p in params]
        a, b, c, d = (p[0] * weight_scale for p in params)
        out = torch.tanh(x[t] @ a.T + b) @ c.T + d
        loss = loss_scale * (out - target[t]).square().mean()
        grads = list(torch.autograd.grad(loss, params))
        with torch.no_grad():
            params, state, _ = rule.apply(w, layout, params, grads, state, loss[None], torch.tensor(40.0))
        losses.append(float(loss.detach()) / loss_scale)
    return torch.tensor(losses), [p[0].detach() * weight_scale for p in params]


@pytest.mark.parametrize(("weight_scale", "loss_scale", "tolerance"), [
    (1 / 64, 1, 1e-5), (64, 1, 1e-5), (1, 1024, 1e-5), (1, 1 / 1024, 1e-5), (64, 1024, 1e-5),
    (0.01, 1, 2e-3), (100, 1, 2e-3), (1, 1e-3, 2e-3), (1, 1e3, 2e-3),
])  # fmt: skip
def test_trajectory_does_not_depend_on_units(weight_scale: float, loss_scale: float, tolerance: float) -> None:
    theta = random_theta(spread=0.1)
    losses, weights = trajectory(1.0, 1.0, theta)
    scaled, scaled_weights = trajectory(weight_scale, loss_scale, theta)
    assert losses[-10:].mean() < losses[:10].mean()
    torch.testing.assert_close(scaled, losses, rtol=tolerance, atol=1e-6)
    for a, b in zip(scaled_weights, weights, strict=True):
        torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=3 * tolerance)


def test_decay_stops_at_the_scale_of_the_initialisation() -> None:
    params, _ = draw([(4, 4)], 1)
    layout, w = Layout.of([(4, 4)]), meta_network.unpack(random_theta())
    state = rule.init_state(layout, params)

    def decay(growth: float) -> float:
        statistics = state.statistics.clone()
        statistics[..., features.STATISTICS.index("weight")] *= growth**2
        grown = state._replace(statistics=statistics)
        decision, _ = rule.decide(w, layout, grown, None, torch.tensor(0.0))
        return float(decision.decay)

    assert decay(0.5) == decay(1.0) == 0
    assert decay(1.5) > 0


def test_no_step_is_longer_than_the_bound() -> None:
    params, _ = draw(SHAPES, 2)
    layout, w = Layout.of(SHAPES), meta_network.unpack(meta_network.initial_theta(torch.Generator().manual_seed(0)))
    state = rule.init_state(layout, params)

    def shares(log_step: float) -> Tensor:
        nudge = torch.zeros(2, len(SHAPES), len(meta_network.OUTPUTS))
        nudge[..., meta_network.OUTPUTS.index("log_step")] = log_step
        decision, _ = rule.decide(w, layout, state, None, torch.tensor(30.0), nudge)
        return decision.step_size / (state.rms0 + state.unit)

    torch.testing.assert_close(shares(0.0), torch.full((2, len(SHAPES)), rule.STEP))
    torch.testing.assert_close(shares(50.0), torch.full((2, len(SHAPES)), course.LONGEST))


def test_the_bound_rises_where_batches_agree() -> None:
    at = course.longest_step(torch.tensor([[-1.0, 0.5, 0.9, 1.0, 1.2, 1.0]]), torch.tensor([9.0, 9, 9, 9, 9, 5]))
    expected = [0.1, 0.1 + 0.07 * 0.5**16, 0.1 + 0.07 * 0.9**16, 0.17, 0.17, 0.1]
    assert at[0].tolist() == pytest.approx(expected)

    shapes = [(4, 3), (5,)]
    params, grads = draw(shapes, 1)
    layout, w = Layout.of(shapes), meta_network.unpack(meta_network.initial_theta(torch.Generator().manual_seed(0)))
    state = rule.init_state(layout, params)
    nudge = torch.zeros(1, 2, len(meta_network.OUTPUTS))
    nudge[..., meta_network.OUTPUTS.index("log_step")] = 50.0
    g, found = torch.Generator().manual_seed(1), []
    for _ in range(9):
        noise = torch.randn(grads[1].shape, generator=g)
        size = rule.decide(w, layout, state, None, torch.tensor(30.0), nudge)[0].step_size
        weights = state.statistics[..., features.STATISTICS.index("weight")].sqrt()
        found.append((size / (torch.minimum(weights, 1e3 * state.unit) + state.unit))[0])
        params, state, _ = rule.apply(w, layout, params, [grads[0], noise], state, None, torch.tensor(30.0), nudge)
    assert torch.stack(found[1:6]).flatten().tolist() == pytest.approx([course.LONGEST] * 10)
    assert found[-1][0] > 0.99 * course.FARTHEST
    assert found[-1][1] < 1.1 * course.LONGEST


def test_base_schedule_by_hand() -> None:
    def at(step: int, horizon: int) -> float:
        return float(course.base_schedule(torch.tensor(float(step)), torch.tensor(float(horizon))))

    assert [at(t, 1000) for t in (0, 29, 500, 999)] == pytest.approx([1 / 30, 0.971, 0.5, course.FLOOR])
    assert at(5000, 1000) == pytest.approx(course.FLOOR)
    assert [at(t, 0) for t in (0, 9, 99, 300, 20000)] == pytest.approx([0.02, 0.2 / 1.09, 2 / 1.99, 0.5, 2 / 201])


def test_untold_horizon_and_withheld_loss_still_train() -> None:
    problem = Problem(ToyTask(), [1, 2])
    theta = meta_network.initial_theta(torch.Generator().manual_seed(0))
    _, told = unroll(problem, theta, problem.begin(), 0, 60, Telling(60))
    _, untold = unroll(problem, theta, problem.begin(), 0, 60, Telling(0, loss=False))
    assert untold.losses[-10:].mean() < 0.95 * untold.losses[:5].mean()
    assert not torch.equal(told.losses[-1], untold.losses[-1])


def test_unpack_refuses_another_size() -> None:
    with pytest.raises(ValueError, match=r"7 meta-weights"):
        meta_network.unpack(torch.zeros(7))

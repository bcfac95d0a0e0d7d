"""Node perturbation: its two factors, each against the exact one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy import ToyTask

from learnopt import features, meta_network, objective
from learnopt.estimators import Episode, Estimator, NodePerturbation, nodes
from learnopt.layout import Layout
from learnopt.unroll import Problem, Telling, Trajectory, unroll

STEPS = 9
OUT = len(meta_network.OUTPUTS)


def theta(spread: float = 0.1) -> Tensor:
    """Random output weights, but an MLP that says nothing: what it hears of the LSTM is not part of the replay."""
    g = torch.Generator().manual_seed(2)
    drawn = meta_network.initial_theta(g) + spread * torch.randn(meta_network.SIZE, generator=g)
    return drawn * (1 - meta_network.mask(["mlp_out", "mlp_out_bias"]))


def exact(problem: Problem, weights: Tensor, nudges: Tensor) -> tuple[Tensor, Trajectory]:
    """Meta-loss of an unroll with its graph."""
    runs, start, parts = problem.begin(), 0, []
    x = tuple(b[None].expand(problem.n, *b.shape) for b in problem.task.validation())
    valid = []
    for stop in objective.valid_at(0, STEPS, STEPS):
        runs, t = unroll(
            problem, weights, runs, start, stop, Telling(STEPS), differentiable=True, record=True,
            nudges=nudges[start:stop],
        )  # fmt: skip
        parts.append(t)
        valid.append(problem.losses(runs.params, x))
        start = stop
    seen = [t.tensor_columns for t in parts if t.tensor_columns is not None]
    whole = Trajectory(
        torch.cat([t.losses for t in parts]), torch.stack(valid), (), torch.cat([t.columns for t in parts]),
        torch.cat(seen),
    )  # fmt: skip
    return objective.meta_loss(whole, whole.losses[0].median().detach()).sum(), whole


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_the_chain_rule_over_outputs_is_the_exact_meta_gradient(kind: str) -> None:
    problem, weights = Problem(ToyTask(kind), [3]), theta().requires_grad_()
    nudges = torch.zeros(STEPS, 1, len(problem.layout.tensors), OUT, requires_grad=True)
    loss, trajectory = exact(problem, weights, nudges)
    wanted, whole = torch.autograd.grad(loss, [nudges, weights])
    replayed = nodes.replayed_gradient(weights, trajectory, wanted)
    heard = {k: v for k, v in meta_network.unpack(whole).items() if not k.startswith("mlp_")}
    # the columns themselves depend on theta: held fixed here, part of `wanted` there
    for name, part in heard.items():
        torch.testing.assert_close(meta_network.unpack(replayed)[name], part, rtol=2e-3, atol=2e-6, msg=name)
        assert part.abs().max() > 1e-5, f"no power in {name}"


def test_output_noise_has_the_correlations_it_promises() -> None:
    estimator = NodePerturbation(4000, 0.1)
    z = estimator._output_noise(Layout.of([(4, 3), (4,)]), 8, 5)
    assert z.shape == (8, 4000, 2, OUT)
    assert not z[:, :, 1, meta_network.OUTPUTS.index("gate")].any()
    assert not z[:, :, 1, meta_network.OUTPUTS.index("log_decay")].any()
    hats = nodes._hats(8)
    torch.testing.assert_close((hats**2).sum(1), torch.ones(8))
    same = torch.einsum("amk,bml->kalb", z[..., 0], z[..., 0]) / 4000
    torch.testing.assert_close(same, covariance(8), atol=0.09, rtol=0)
    independent = (z[0, :, 0, 0] * z[0, :, 0, 1]).mean()
    assert abs(float(independent)) < 0.08


def covariance(steps: int) -> Tensor:
    """Of the noise on one output of two tensors, `(n, K, n, K)`."""
    s, hats = nodes.SHARES, nodes._hats(steps)
    time = hats @ hats.mT
    shared, own = s["run"] + s["knot"] * time, s["tensor"] + s["tensor_knot"] * time
    eye = torch.eye(2)
    return shared[None, :, None] + own[None, :, None] * eye[:, None, :, None]


def test_estimate_is_the_smoothed_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undivided differences: E[d z / (2 sigma)] is the noise's covariance times the gradient at the outputs."""
    sigma, pairs, jobs = 0.02, 48, 10
    monkeypatch.setattr(objective, "paired", lambda losses: losses[: len(losses) // 2] - losses[len(losses) // 2 :])
    monkeypatch.setattr(Estimator, "problem", lambda self, e: Problem(e.task, [7] * self.pairs, copies=2))
    task, weights = ToyTask("bare"), theta()
    estimator = NodePerturbation(pairs, 1e-9, sigma_outputs=sigma)
    problem = Problem(task, [7])
    nudges = torch.zeros(STEPS, 1, 2, OUT, requires_grad=True)
    loss, trajectory = exact(problem, weights, nudges)
    (gradient,) = torch.autograd.grad(loss, nudges)
    spread = torch.tensor([nodes.SPREAD[name] for name in meta_network.OUTPUTS])
    smooth = torch.einsum(
        "katb,bto->ako", covariance(STEPS).permute(0, 1, 3, 2), (gradient[:, 0] * spread).transpose(0, 1)
    )
    smooth = smooth * estimator_mask(problem.layout)
    expected = nodes.replayed_gradient(weights, trajectory, smooth[:, None] / (2 * STEPS))
    got = torch.stack([
        estimator.estimate(weights, Episode(task, job, STEPS, Telling(STEPS))).gradient / (2 * sigma)  # type: ignore[operator]
        for job in range(jobs)
    ])  # fmt: skip
    mean, error = got.mean(0), got.std(0) / jobs**0.5
    checked = expected.abs() > 6 * error
    assert checked.sum() > 20, "the test has no power"
    off = ((mean - expected).abs() / error)[error > 0]
    assert (off < 6).float().mean() > 0.99  # t-distributed with 9 degrees of freedom, 1,700 of them
    cosine = torch.nn.functional.cosine_similarity(mean, expected, dim=0)
    assert cosine > 0.9


def estimator_mask(layout: Layout) -> Tensor:
    """1 where an output of a tensor has an effect, `(n, len(OUTPUTS))`."""
    z = NodePerturbation(1, 0.1)._output_noise(layout, 2, 0)
    return (z[0, 0] != 0).float()


def test_noise_lies_between_two_knots_and_is_as_large_everywhere() -> None:
    hats = nodes._hats(10)
    torch.testing.assert_close(hats[::3], torch.eye(nodes.KNOTS))
    torch.testing.assert_close(hats.square().sum(1), torch.ones(10))
    assert ((hats > 0).sum(1) <= 2).all()


def test_no_episode_weighs_more_than_the_median_one() -> None:
    g = torch.Generator().manual_seed(1)
    scale = 10.0 ** torch.arange(-3, 2)
    # a part of theta in large units and a frozen one must not decide which episode is long
    parts = meta_network.mask(["lstm_in"]) * 1e4 + meta_network.mask(["global_in"])
    gradients = scale[:, None] * torch.randn(5, meta_network.SIZE, generator=g) * parts
    expected = gradients * (scale.median() / scale).clamp(max=1)[:, None]
    got = nodes.clipped_mean(gradients)
    assert got[parts == 0].eq(0).all()
    torch.testing.assert_close(got, expected.mean(0), rtol=0.2, atol=0.05 * float(expected.mean(0).abs().max()))
    torch.testing.assert_close(nodes.clipped_mean(7 * gradients), 7 * got, rtol=1e-3, atol=0.1)
    one = gradients[:1]
    torch.testing.assert_close(nodes.clipped_mean(one), one[0])


def test_only_the_mlp_is_perturbed_in_its_weights() -> None:
    moved = meta_network.unpack(NodePerturbation(3, 0.1, ["mlp_in"]).perturbed(theta(), 5) - theta())
    for name, part in moved.items():
        assert bool(part.any()) == (name.startswith("mlp_") and name != "mlp_in"), name


def test_a_run_that_diverged_does_not_spoil_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> tuple[object, Trajectory]:
        runs, t = unroll(*args, **kwargs)  # type: ignore[arg-type]
        assert t.tensor_columns is not None
        for values in (t.losses[4:, 1], t.valid[-1:, 1], t.columns[4:, 1], t.tensor_columns[4:, 1]):
            values.fill_(float("nan"))
        return runs, t

    monkeypatch.setattr(nodes, "unroll", broken)
    estimate = NodePerturbation(2, 0.1).estimate(theta(), Episode(ToyTask(), 1, STEPS, Telling(STEPS)))
    assert estimate.gradient is not None
    assert estimate.gradient.isfinite().all()
    assert estimate.differences.isfinite().all()


def test_natural_gradient_divides_by_the_second_moments_of_the_columns() -> None:
    g = torch.Generator().manual_seed(0)
    wide, narrow = len(features.GLOBAL) + len(features.TENSOR), len(features.GLOBAL)
    x = torch.randn(200, wide, generator=g) @ torch.randn(wide, wide, generator=g)
    moments, plain = x.mT @ x / len(x), torch.randn(meta_network.SIZE, generator=g)
    before, after = (meta_network.unpack(v) for v in (plain, nodes.natural(plain, moments, 0.3)))
    for name, w in after.items():
        if name in ("lstm_in", "tensor_skip"):
            w = (moments + 0.3 * torch.eye(wide)) @ w
        elif name in ("global_in", "global_skip"):
            w = (moments[:narrow, :narrow] + 0.3 * torch.eye(narrow)) @ w
        torch.testing.assert_close(w, before[name], rtol=1e-2, atol=1e-2)


def test_natural_gradient_is_taken_when_damping_is_set() -> None:
    episode = Episode(ToyTask(), 3, 12, Telling(12))
    theta = meta_network.initial_theta(torch.Generator().manual_seed(0))
    plain, damped = (NodePerturbation(4, 0.05, damping=d) for d in (0.0, 0.5))
    a, b = plain.estimate(theta, episode), damped.estimate(theta, episode)
    assert a.inputs is None
    assert b.inputs is not None
    torch.testing.assert_close(a.gradient, b.gradient)
    expected = nodes.natural(a.gradient, b.inputs, 0.5)
    torch.testing.assert_close(damped.gradient(len(theta), [b]), expected)
    assert not torch.allclose(expected, a.gradient)

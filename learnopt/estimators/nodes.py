"""Node perturbation: noise on what the meta-network says, not on its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from learnopt import meta_network, objective
from learnopt.estimators.base import Episode, Estimate, Estimator
from learnopt.layout import Layout
from learnopt.task import seed_of
from learnopt.unroll import Trajectory, unroll

SPREAD = {"log_step": 0.75, "gradient": 2.5, "log_decay": 1.0, "gate": 2.5, "pull": 4.0}
"""Noise per raw output in units of the estimator's: about the same effect on a step each."""
KNOTS = 4
"""The noise changes along a run: linear between so many points."""
SHARES = {"run": 0.3, "knot": 0.25, "tensor": 0.25, "tensor_knot": 0.2}
"""Variance of the noise that all tensors and times share, all tensors share, all times share, nothing shares."""
_MLP = tuple(name for name in meta_network.SHAPES if name.startswith("mlp_"))


class NodePerturbation(Estimator):
    """Perturbs the raw outputs, correlates what happens with them, and takes the rest of the way by the chain rule.

    d meta-loss / d theta is the sum over steps and tensors of d meta-loss / d output (all consequences included) times
    d output / d theta (inputs held fixed). The second factor is known: a replay of the meta-network over the recorded
    columns. Only the first has to be estimated, and it has a few dozen dimensions where theta has two thousand (Werfel,
    Xie & Seung 2003: the noise of an estimate grows with the number of perturbed dimensions). Noise that is shared
    between tensors and times smooths the first factor: the estimate is a descent direction, not the gradient.

    The per-parameter MLP, whose outputs are too many, is perturbed in its weights, as in antithetic ES.

    Args:
        sigma: spread of the noise on the MLP's weights.
        sigma_outputs: spread of the noise on the raw outputs, times `SPREAD`.
        damping: of the natural gradient; 0 for the plain one. The columns are far from independent, so that a plain
            step mostly moves all outputs of all tasks together; divided by the columns' second moments plus this
            damping, it moves the outputs about equally in every direction that the columns span.
    """

    name = "nodes"
    settings = ("sigma_outputs", "damping")

    def __init__(
        self, pairs: int, sigma: float, frozen: Sequence[str] = (), sigma_outputs: float = 0.2, damping: float = 0.0
    ) -> None:
        super().__init__(pairs, sigma, frozen)
        self.sigma_outputs, self.damping = sigma_outputs, damping

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None = None) -> Estimate:
        """One episode from its initialisation to its horizon; `carry` is not used."""
        steps = episode.steps
        problem = self.problem(episode)
        z = self._output_noise(problem.layout, steps, episode.seed)
        nudge = self.sigma_outputs * torch.tensor([SPREAD[name] for name in meta_network.OUTPUTS]) * z
        _, trajectory = unroll(
            problem, self.perturbed(theta, episode.seed), problem.begin(), 0, steps, episode.telling,
            valid_at=objective.valid_at(0, steps, steps), nudges=torch.cat([nudge, -nudge], 1), record=True,
        )  # fmt: skip
        losses = objective.meta_loss(trajectory, trajectory.losses[0].median(), self.training)
        differences = objective.paired(losses)
        wanted = differences[:, None, None] * z / (self.pairs * z[0, 0, :, 0].numel() * steps)
        gradient = self._free(replayed_gradient(theta, trajectory, torch.cat([wanted, wanted], 1) / 2))
        gradient += differences @ self._noise(episode.seed, theta.numel()) / self.pairs
        inputs = second_moments(trajectory) if self.damping else None
        return Estimate(
            episode.seed, differences, float(losses.mean()), steps * problem.n, gradient=gradient, inputs=inputs
        )

    def gradient(self, size: int, estimates: list[Estimate]) -> Tensor:
        """Mean over episodes, `(size,)`, none longer than the median; the natural gradient when damping is set."""
        plain = clipped_mean(torch.stack([e.gradient for e in estimates if e.gradient is not None]))
        moments = [e.inputs for e in estimates if e.inputs is not None]
        return natural(plain, torch.stack(moments).mean(0), self.damping) if moments else plain

    def _noise(self, seed: int, size: int) -> Tensor:
        """Only the MLP's weights are perturbed themselves."""
        return super()._noise(seed, size) * meta_network.mask(_MLP)

    def _output_noise(self, layout: Layout, steps: int, seed: int) -> Tensor:
        """Standard normal noise, `(K, M, n, len(OUTPUTS))`, correlated as `SHARES` says; 0 where it has no effect."""
        generator = torch.Generator().manual_seed(seed_of("output noise", seed) % 2**63)
        m, n, out = self.pairs, len(layout.tensors), len(meta_network.OUTPUTS)
        shapes = {"run": (1, m, 1, out), "knot": (KNOTS, m, 1, out), "tensor": (1, m, n, out)}
        shapes["tensor_knot"] = (KNOTS, m, n, out)
        drawn = {name: torch.randn(shape, generator=generator) * SHARES[name] ** 0.5 for name, shape in shapes.items()}
        along = torch.einsum("tk,kmno->tmno", _hats(steps), drawn["knot"] + drawn["tensor_knot"])
        z = along + drawn["run"] + drawn["tensor"]
        matrices = torch.tensor([name in ("log_decay", "gate") for name in meta_network.OUTPUTS])
        masked: Tensor = z * (layout.is_matrix[:, None] | ~matrices)
        return masked


def clipped_mean(gradients: Tensor) -> Tensor:
    """Mean of `(E, SIZE)` over episodes, with those longer than the median cut to its length: `(SIZE,)`.

    Lengths are measured with every part of theta in units of its own spread.
    """
    unit = meta_network.mean_by_part((gradients**2).mean(0)).sqrt().clamp_min(1e-30)
    lengths = (gradients / unit).norm(dim=1)
    mean: Tensor = (gradients * (lengths.median() / lengths.clamp_min(1e-30)).clamp(max=1)[:, None]).mean(0)
    return mean


def replayed_gradient(theta: Tensor, trajectory: Trajectory, wanted: Tensor) -> Tensor:
    """Gradient with respect to theta, `(SIZE,)`, of the sum of `wanted` times the raw outputs.

    Args:
        trajectory: with recorded tensor columns; these inputs are held fixed. What a diverged run recorded counts as 0.
        wanted: `(K, N, n, len(OUTPUTS))`.
    """
    assert trajectory.tensor_columns is not None
    theta = theta.detach().clone().requires_grad_()
    columns, tensor_columns = (c.nan_to_num(0.0, 0.0, 0.0) for c in (trajectory.columns, trajectory.tensor_columns))
    with torch.enable_grad():
        w = meta_network.unpack(theta)
        out = meta_network.replay(w, columns, tensor_columns)
        (gradient,) = torch.autograd.grad((out * wanted).sum(), theta)
    return gradient


def second_moments(trajectory: Trajectory) -> Tensor:
    """Mean outer product of what the tensor level saw, `(G + T, G + T)`; what a diverged run recorded counts as 0."""
    assert trajectory.tensor_columns is not None
    columns, tensor_columns = (c.nan_to_num(0.0, 0.0, 0.0) for c in (trajectory.columns, trajectory.tensor_columns))
    x = torch.cat([columns[:, :, None].expand(-1, -1, tensor_columns.shape[2], -1), tensor_columns], -1).flatten(0, -2)
    return x.mT @ x / len(x)


def natural(gradient: Tensor, moments: Tensor, damping: float) -> Tensor:
    """The gradient with the parts that multiply the columns divided by the columns' damped second moments."""
    parts = {name: w[0] for name, w in meta_network.unpack(gradient.clone()).items()}
    for name in ("lstm_in", "tensor_skip", "global_in", "global_skip"):
        width = len(parts[name])
        damped = moments[:width, :width] + damping * torch.eye(width)
        parts[name] = torch.linalg.solve(damped, parts[name])
    return torch.cat([part.flatten() for part in parts.values()])


def _hats(steps: int) -> Tensor:
    """`(K, KNOTS)`: every step between two knots, with weights whose squares sum to 1."""
    place = torch.linspace(0, KNOTS - 1, steps)
    weights = (1 - (place[:, None] - torch.arange(KNOTS)).abs()).clamp_min(0)
    return torch.nn.functional.normalize(weights, dim=1)

"""Imitation of tuned AdamW: a warm start for meta-weights, by plain gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from learnopt import features, meta_network, rule
from learnopt.baselines.base import multiplier
from learnopt.batched_optimizers import AdamW
from learnopt.devices import generators_kept, moved
from learnopt.estimators.base import Episode, Estimate, Estimator, bounded
from learnopt.task import seed_of
from learnopt.unroll import Problem, Telling

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Learning rates that AdamW is tuned over."""
SCHEDULE = "cosine"
WEIGHT_DECAY = 0.01
EVERY = 4
"""One window in so many is learned from; through the others the state is only carried on."""
LENGTH = 0.1
"""Weight of a step's length beside its direction."""
_WEIGHT = features.STATISTICS.index("weight")
_TINY = 1e-30


class Teacher:
    """AdamW with warm-up and cosine decay over runs that have a learning rate each.

    Args:
        start: parameters at the initialisation, `(N, *shape)` each.
        lr: `(N,)`.
        steps: of the whole run.
    """

    def __init__(self, start: Sequence[Tensor], lr: Tensor, steps: int) -> None:
        self._adamw = AdamW([p.clone() for p in start], torch.full_like(lr, WEIGHT_DECAY))
        self._lr, self._steps = lr, steps

    @property
    def params(self) -> list[Tensor]:
        """Where the runs stand, `(N, *shape)` each; a new step leaves what was read before as it is."""
        return [p.clone() for p in self._adamw.params]

    def step(self, loss: Tensor, grads: Sequence[Tensor | None]) -> list[Tensor]:
        """One step of all runs; returns the new parameters. `loss` plays no part."""
        self._adamw.step(grads, self._lr * multiplier(SCHEDULE, self._adamw.steps, self._steps))
        return self.params


class Imitation(Estimator):
    """The gradient of the distance between the rule's steps and those of tuned AdamW along AdamW's own runs.

    The best of `RATES` by the final validation loss leads; at each of its points the rule is asked for its step, as if
    it had led all the way: its moments, averages and statistics are those of this run. Per tensor the distance is 1
    minus the cosine of the two steps, plus `LENGTH` times the Huber loss of the logarithm of their lengths' ratio. The
    pull towards the averaged weights, which AdamW does not have, is left out. The meta-loss in logs is this distance.

    It is no estimate of the meta-gradient: nothing better than AdamW can come of it, and meta-training is to go on from
    there (`start_from`). Source of the idea: Chen et al. 2020 (Training Stronger Baselines for Learning to Optimize).

    Args:
        pairs: runs per episode.
        sigma: not used; theta is not perturbed.
        window: steps that are backpropagated through at a time.
    """

    name = "imitation"
    measure = "distance from AdamW's steps"
    settings = ("window",)

    def __init__(self, pairs: int, sigma: float, frozen: Sequence[str] = (), window: int = 50) -> None:
        super().__init__(pairs, sigma, frozen)
        if window < 1:
            raise ValueError(f"window must be at least 1 step, got {window}")
        self.window = window

    def estimate(self, theta: Tensor, episode: Episode, carry: dict[str, Any] | None = None) -> Estimate:
        """One episode from its initialisation to its horizon; `carry` is not used."""
        seeds = [seed_of(episode.seed, i) for i in range(self.pairs)]
        rate = tuned_rate(episode, seeds)
        problem = Problem(episode.task, seeds, device=episode.device)
        teacher = Teacher(problem.start, torch.full((problem.n,), rate, device=problem.device), episode.steps)
        loss, gradient = self.follow(theta, problem, teacher, episode)
        taken = episode.steps * problem.n * (1 + len(RATES))
        return Estimate(episode.seed, torch.zeros(0), loss, taken, gradient=self._free(bounded(gradient)))

    def follow(self, theta: Tensor, problem: Problem, teacher: Teacher, episode: Episode) -> tuple[float, Tensor]:
        """Mean distance along the teacher's runs, and its gradient, `(SIZE,)`."""
        edges = [(at, min(at + self.window, episode.steps)) for at in range(0, episode.steps, self.window)]
        phase = seed_of("windows", episode.seed) % min(EVERY, len(edges))
        state = rule.init_state(problem.layout, problem.start)
        weights = moved(theta.detach().clone(), problem.device).requires_grad_()
        total, gradient, count = torch.zeros(()), torch.zeros_like(theta), 0
        with generators_kept(problem.device):
            for number, (start, stop) in enumerate(edges):
                learns = number % EVERY == phase
                with torch.set_grad_enabled(learns):
                    each, state = _window(weights, problem, teacher, state, range(start, stop), episode.telling)
                state = state.detached()
                if learns:
                    gradient += moved(torch.autograd.grad(each.sum(), weights)[0], "cpu")
                    total, count = total + moved(each.detach().sum(), "cpu"), count + len(each)
        return float(total / count), gradient.nan_to_num(0.0, 0.0, 0.0) / count

    def perturbed(self, theta: Tensor, seed: int) -> Tensor:
        """Theta itself, for every run."""
        return theta.expand(self.pairs, -1)


def tuned_rate(episode: Episode, seeds: list[int]) -> float:
    """The best of `RATES` for AdamW by the mean final validation loss of runs from `seeds`; ties go to the smallest."""
    problem = Problem(episode.task, seeds, copies=len(RATES), device=episode.device)
    lr = torch.tensor(RATES).repeat_interleave(len(seeds)).to(problem.device)
    teacher = Teacher(problem.start, lr, episode.steps)
    with generators_kept(problem.device):
        for t in range(episode.steps):
            teacher.step(*problem.gradients_at(teacher.params, t))
    valid = moved(problem.valid_losses(teacher.params), "cpu").view(len(RATES), len(seeds)).mean(1)
    return RATES[int(valid.nan_to_num(torch.inf).argmin())]


def _window(
    weights: Tensor, problem: Problem, teacher: Teacher, state: rule.RuleState, steps: range, telling: Telling
) -> tuple[Tensor, rule.RuleState]:
    """Distances of the steps `steps`, `(K,)`, and the state after them."""
    w, horizon = meta_network.unpack(weights), torch.tensor(float(telling.horizon), device=problem.device)
    distances = []
    for t in steps:
        params = teacher.params
        loss, grads = problem.gradients_at(params, t)
        dense = [
            torch.zeros_like(p) if g is None else g.nan_to_num(0.0, 0.0, 0.0)
            for g, p in zip(grads, params, strict=True)
        ]
        decision, decided = rule.decide(w, problem.layout, state, loss if telling.loss else None, horizon)
        decision = decision._replace(pull=torch.zeros_like(decision.pull))
        proposed, after = rule.move(w, problem.layout, params, dense, decided, decision)
        led = teacher.step(loss, grads)
        state = _as_led(after, state.average, decision.blend[:, 1], led)
        distances.append(distance(proposed, led, params))
    return torch.stack(distances), state


def _as_led(state: rule.RuleState, average: Sequence[Tensor], blend: Tensor, led: Sequence[Tensor]) -> rule.RuleState:
    """The state as it is after the teacher's step instead of the rule's own: of it the weights alone are part."""
    kept = tuple(torch.lerp(a, p, b) for a, p, b in zip(average, led, blend, strict=True))
    statistics = state.statistics.clone()
    statistics[..., _WEIGHT] = torch.stack([features.mean_square(p) for p in led], -1)
    return state._replace(average=kept, statistics=statistics)


def distance(proposed: Sequence[Tensor], led: Sequence[Tensor], params: Sequence[Tensor]) -> Tensor:
    """How far steps are from the teacher's: mean over runs, and over those tensors that the teacher moved, `()`.

    Args:
        proposed: parameters after the rule's step, `(N, *shape)` each; `led` after the teacher's, `params` before.
    """
    rows = []
    for new, wanted, old in zip(proposed, led, params, strict=True):
        a, b = ((x - old).reshape(len(old), -1) for x in (new, wanted))
        lengths = [(x * x).sum(1) for x in (a, b)]
        counts = (lengths[0] > _TINY) & (lengths[1] > _TINY) & lengths[0].isfinite() & lengths[1].isfinite()
        own, other = (torch.where(counts, x, 1.0) for x in lengths)  # so that the gradient of what is left out is 0
        cosine = (a * b).sum(1) * own.rsqrt() * other.rsqrt()
        ratio = (own / other).log() / 2
        length = torch.nn.functional.huber_loss(ratio, torch.zeros_like(ratio), reduction="none")
        rows.append(torch.stack([torch.where(counts, 1 - cosine + LENGTH * length, 0.0), counts.to(ratio)]))
    sums = torch.stack(rows).sum((0, 2))
    mean: Tensor = sums[0] / sums[1].clamp_min(1)
    return mean

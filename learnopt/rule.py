"""The learned update rule: the only place where its arithmetic lives.

Three levels decide (`decide`), one function moves a tensor (`advance`), both pure. Every tensor has a leading run
dimension `N`; a plain optimizer is the case `N = 1`. With zero output weights the rule is a hand-designed optimizer:
half normalised momentum, half orthogonalised momentum, steps relative to the weights, warm-up and linear decay, and
from the last tenth of a told horizon on a pull towards the average of the weights.

Sources: normalised momentum mixtures and per-parameter MLP after Metz et al. 2022 (VeLO) and Moudgil et al. 2025
(Celo); orthogonalised momentum after Jordan et al. 2024 (Muon); weights pulled towards their average after Zhang et al.
2019 (Lookahead), the polynomial average after Shamir and Zhang 2013; decay only where the step shrinks a weight after
Chen et al. 2025 (Cautious Weight Decay).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from learnopt import equalise, features
from learnopt.course import base_pull, base_schedule, longest_step
from learnopt.features import AVERAGE, AWAY, BETA_FAST, BETA_SQUARE, LossHistory
from learnopt.layout import Layout, TensorShape
from learnopt.meta_network import HIDDEN, parameter_outputs, schedule_logit, tensor_outputs
from learnopt.orthogonal import orthogonalise

STEP = 0.01
"""Base step as a share of (rms of the weights + their unit)."""
DECAY = 0.005
"""Base share of a matrix that decays per step at full schedule, where the step makes weights smaller anyway: decay that
never works against the gradients costs little where a task has to be fitted to the end."""
CAUTION = 0.1
"""Decay acts in full on weights whose direction (1 is an average one) leads that far towards zero."""
CLIP = 3.0
"""A gradient enters the moments cut at so many times the root mean square of what its parameter, or its whole tensor if
that is larger, had before: a few outlying examples are not to steer a run."""
CLIP_FROM = 10
"""Steps of a tensor before anything is cut."""
PULL = 0.3
"""Largest share of the way to the averaged weights that one step goes back."""
TINY = 1e-37
"""What quotients and roots are kept from zero by."""
LARGEST = 1e30
"""Squares of weights are counted as no larger, so that their sums stay finite."""


class RuleState(NamedTuple):
    """State of `N` runs over `n` tensors; the moments are tuples of `(N, *shape)`, one per tensor."""

    fast: tuple[Tensor, ...]
    average: tuple[Tensor, ...]  # of the weights
    square: tuple[Tensor, ...]
    hidden: Tensor  # (N, n, HIDDEN)
    cell: Tensor  # (N, n, HIDDEN)
    statistics: Tensor  # (N, n, len(STATISTICS))
    rms0: Tensor  # (N, n)
    unit: Tensor  # (N, n)
    peak: Tensor  # (N, n)
    age: Tensor  # (n,): steps that each tensor has taken
    history: LossHistory
    step: Tensor  # (): steps taken

    def detached(self) -> RuleState:
        """The same without its graph."""
        names = ("hidden", "cell", "statistics", "rms0", "unit", "peak", "age", "step")
        fast, average, square = (tuple(x.detach() for x in moment) for moment in self[:3])
        small: dict[str, Any] = {name: getattr(self, name).detach() for name in names}
        history = LossHistory(*(x.detach() for x in self.history))
        return self._replace(fast=fast, average=average, square=square, history=history, **small)


class Decision(NamedTuple):
    """What the meta-network decided for one step."""

    schedule: Tensor  # (N,): multiplier of every step size, warm-up and decay included
    columns: Tensor  # (N, len(GLOBAL)): what it saw of the run
    tensor_columns: Tensor  # (N, n, len(TENSOR)): what it saw of each tensor
    step_size: Tensor  # (N, n): learning rate per tensor, in units of weight
    decay: Tensor  # (N, n): share that decays of the weights that the step makes smaller anyway
    given_decay: Tensor  # (N, n): share of all weights that decays, where the user set one
    mixture: Tensor  # (N, n, 2): weights of gradient and momentum
    gate: Tensor  # (N, n): share of the orthogonalised direction; 0 for vectors and scalars
    context: Tensor  # (N, n, WIDTH): what the per-parameter MLP is told about its tensor
    pull: Tensor  # (N, n): share of the way back to the averaged weights
    blend: Tensor  # (n, 3): weights of the new values in the momentum, the averaged weights and the second moment


def init_state(layout: Layout, params: list[Tensor]) -> RuleState:
    """State before the first step; `params` are `(N, *shape)`, in the layout's order."""
    n, count = params[0].shape[0], len(params)
    weight = torch.stack([features.mean_square(p) for p in params], -1)
    zero = weight.new_zeros((), dtype=torch.float32)  # whatever the precision of the parameters
    # a product instead of an assignment, which vmap could not map
    statistics = weight[..., None] * zero.new_tensor([float(name == "weight") for name in features.STATISTICS])
    rms0 = weight.sqrt()
    zeros = zero.new_zeros(n, count, HIDDEN)
    return RuleState(
        fast=tuple(torch.zeros_like(p) for p in params),
        average=tuple(p.detach().clone() for p in params),
        square=tuple(torch.zeros_like(p) for p in params),
        hidden=zeros, cell=zeros, statistics=statistics, rms0=rms0, unit=layout.units(rms0),
        peak=zero.new_zeros(n, count), age=zero.new_zeros(count),
        history=features.empty_history(n, weight.device), step=zero,
    )  # fmt: skip


def decide(
    w: dict[str, Tensor], layout: Layout, state: RuleState, loss: Tensor | None, horizon: Tensor,
    nudge: Tensor | None = None,
) -> tuple[Decision, RuleState]:  # fmt: skip
    """The global and the per-tensor level: everything small, nothing of the size of the parameters.

    Args:
        w: from `unpack`.
        loss: batch losses before the step, `(N,)`, or None when withheld.
        horizon: told number of steps, shape `()`; 0 when unknown.
        nudge: added to the raw outputs per tensor, `(N, n, len(OUTPUTS))`; None for nothing.

    Returns:
        The decision, and the state with its small parts advanced.
    """
    history = features.observe(state.history, loss)
    columns, sizes = layout.columns.to(horizon.device), layout.sizes.to(state.unit)
    t = features.tensor_columns(state.statistics, state.rms0, state.unit, state.peak, columns, sizes, history)
    summary = features.summary(t, sizes)
    g = features.global_columns(history, state.step, horizon, summary)
    schedule = base_schedule(state.step, horizon) * torch.exp(2 * schedule_logit(w, g).clamp(-3, 3))
    out, hidden, cell = tensor_outputs(w, g, t, state.hidden, state.cell)
    out = out if nudge is None else out + nudge

    is_matrix = layout.is_matrix.to(g.device)
    rms = state.statistics[..., features.STATISTICS.index("weight")].sqrt()
    reach = torch.minimum(rms, 1e3 * state.unit) + state.unit  # bounded: a run that blows up does so slowly
    share = STEP * schedule[:, None] * torch.exp((2 * out[..., 0]).clamp(-7, 7))
    step_size = reach * torch.minimum(share, longest_step(features.agreement(t), state.age))
    # no decay below the scale of the initialisation: a sine network's frequencies, for one, are not to be forgotten
    grown = (1 - (state.rms0 / (rms + TINY)) ** 2).clamp_min(0)
    decay = (DECAY * schedule[:, None] * torch.exp(3 * out[..., 2].clamp(-3, 2))).clamp(0, 0.5) * is_matrix * grown
    gradient = torch.sigmoid(out[..., 1] - 1.5)
    mixture = torch.stack([gradient, 1 - gradient], -1)
    gate = torch.sigmoid(out[..., 3]) * is_matrix
    pull = PULL * torch.sigmoid(out[..., 4] + base_pull(state.step, horizon))
    told = hidden @ w["mlp_context"] + w["mlp_bias"]
    age = state.age + 1
    first, square = ((1 - b) / (1 - b**age) for b in (BETA_FAST, BETA_SQUARE))
    blend = torch.stack([first, AVERAGE / (age + AVERAGE - 1), square], -1)
    none = torch.zeros_like(decay)
    decision = Decision(schedule, g, t, step_size, decay, none, mixture, gate, told, pull, blend)
    return decision, state._replace(hidden=hidden, cell=cell, history=history, age=age, step=state.step + 1)


def usual_square(state: RuleState) -> Tensor:
    """Mean square of each tensor's gradients before this step, `(N, n)`; infinite where too few were seen to tell."""
    variance = state.statistics[..., features.STATISTICS.index("variance")]
    return torch.where((state.age > CLIP_FROM) & (variance > 0), variance, torch.inf)


class Move(NamedTuple):
    """What `advance` returns for one tensor: the new values, and means for the next decision."""

    param: Tensor
    fast: Tensor
    average: Tensor
    square: Tensor
    statistics: Tensor  # (N, len(STATISTICS)); (N, L, len(STATISTICS)) for joined vectors


def advance(
    w: dict[str, Tensor], shape: TensorShape, decision: Decision, k: int | Tensor, rms: Tensor, unit: Tensor,
    usual: Tensor, param: Tensor, grad: Tensor, fast: Tensor, average: Tensor, square: Tensor,
    factor: Tensor | None = None,
) -> Move:  # fmt: skip
    """Move tensor number `k` by one step; all tensors are `(N, *shape)`, `rms`, `unit` and `usual` `(N,)`.

    Several vectors joined end to end are moved by one call when `k` gives each parameter's tensor number, `(L,)`, and
    `rms`, `unit` and `usual` are `(N, L)`. `factor`, `(N, columns)`: of `equalise`. Moments and averages are stored
    bias-corrected: their first blend weight is 1.
    """
    size = param.shape
    param, grad, fast, average, square = (x.reshape(len(param), -1) for x in (param, grad, fast, average, square))
    one, width = (slice(k, k + 1), 1) if isinstance(k, int) else (k, len(k))
    chosen = (decision.step_size, decision.decay, decision.mixture, decision.context, decision.pull)
    step_size, decay, mixture, context, pull = (c[:, one] for c in chosen)  # (N, 1 or L, ...)
    blend = decision.blend[one].unbind(-1)
    limit = CLIP * (torch.maximum(square, usual.reshape(-1, width)) + TINY).sqrt()
    cut = torch.minimum(torch.maximum(grad, -limit), limit)
    fast = torch.lerp(fast, cut, blend[0])
    square = torch.lerp(square, cut * cut, blend[2])
    scale = (square + TINY).rsqrt()
    a0, a1 = (grad * scale).clamp_(-4, 4), fast * scale
    size_of_weights = (rms + 0.03 * unit + TINY).reshape(-1, width)
    away = param - average
    relative, b = (param / size_of_weights).clamp_(-3, 3), (AWAY * away / size_of_weights).clamp_(-3, 3)
    x = torch.stack([a0, a1, b, a0 * a1, a1 * b, relative], -2)  # (N, P, L)
    y0, y1 = parameter_outputs(w, x, context)
    s = 0.76 * y0 / (1 + y0.abs())
    rate = (1 + s) / (1 - s)  # exp(2 artanh(s)): within [1/7.3, 7.3], without a transcendental function
    mix = mixture.mT  # (N, 2, 1 or L)
    # nothing moves that has never had a gradient, such as the embedding of a word that was not met
    direction = (mix * x[:, :2]).sum(1) * rate + 0.3 * y1 * (square > 0)
    if shape.is_matrix:
        rows, columns = shape.matrix
        by_column = 1.0 if factor is None else factor[:, None]
        momentum = (mix[:, 0] * cut + mix[:, 1] * fast).view(-1, rows, columns) * by_column
        whole = orthogonalise(momentum).reshape(len(param), -1) * max(rows, columns) ** 0.5
        direction = torch.lerp(direction, whole, decision.gate[:, one])
        direction = (direction.view(-1, rows, columns) * by_column).reshape(len(param), -1)
    cautious = (direction * param.sign() / CAUTION).clamp(0, 1)
    shrunk = decay * cautious + decision.given_decay[:, one]
    new = param * (1 - shrunk) - step_size * direction - pull * away
    average = torch.lerp(average, new, blend[1])
    weight = new.square().clamp(max=LARGEST)
    if isinstance(k, int):
        products = x[:, :3] @ x[:, [0, 1, 2, 5]].mT / x.shape[-1]
        means = [products[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2), (1, 3))]
        statistics = torch.stack([*means, weight.mean(-1), square.mean(-1)], -1)
    else:
        statistics = torch.stack([a0 * a0, a1 * a1, b * b, x[:, 3], a0 * b, x[:, 4], a1 * relative, weight, square], -1)
    return Move(new.view(size), fast.view(size), average.view(size), square.view(size), statistics)


def move(
    w: dict[str, Tensor], layout: Layout, params: list[Tensor], grads: list[Tensor], state: RuleState,
    decision: Decision,
) -> tuple[list[Tensor], RuleState]:  # fmt: skip
    """Carry a decision out: every matrix by itself, all small vectors together. Pure."""
    statistics = state.statistics.clone()
    rms, usual = state.statistics[..., features.STATISTICS.index("weight")].sqrt(), usual_square(state)
    new, fast, average, square = list(params), list(state.fast), list(state.average), list(state.square)
    factors = equalise.column_factors(layout, state.square)
    for k in layout.single:
        shape = layout.tensors[k]
        moved = advance(
            w, shape, decision, k, rms[:, k], state.unit[:, k], usual[:, k],
            params[k], grads[k], fast[k], average[k], square[k], factors if k == layout.equalised else None,
        )  # fmt: skip
        new[k], fast[k], average[k], square[k], statistics[:, k] = moved
    if layout.joined:
        owner, joined = layout.joined_index.to(rms.device), layout.joined
        whole = [
            torch.cat([x[i].reshape(len(x[i]), -1) for i in joined], 1) for x in (params, grads, fast, average, square)
        ]
        each = (rms[:, owner], state.unit[:, owner], usual[:, owner])
        moved = advance(w, TensorShape((len(owner),)), decision, owner, *each, *whole)
        for values, target in zip(moved[:4], (new, fast, average, square), strict=True):
            for i, part in zip(joined, torch.split(values, layout.joined_sizes, 1), strict=True):
                target[i] = part.view(params[i].shape)
        statistics[:, list(joined)] = layout.joined_means(moved.statistics)
    state = state._replace(fast=tuple(fast), average=tuple(average), square=tuple(square))
    return new, with_statistics(state, statistics)


def with_statistics(state: RuleState, seen: Tensor) -> RuleState:
    """The state with what one step has seen of the tensors, `(N, n, len(STATISTICS))`, worked in."""
    statistics = features.smooth(state.statistics, seen, state.age)
    peak = torch.maximum(state.peak, statistics[..., features.STATISTICS.index("variance")])
    return state._replace(statistics=statistics, peak=peak)


def apply(
    w: dict[str, Tensor], layout: Layout, params: list[Tensor], grads: list[Tensor], state: RuleState,
    loss: Tensor | None, horizon: Tensor, nudge: Tensor | None = None,
) -> tuple[list[Tensor], RuleState, Decision]:  # fmt: skip
    """One step of all runs: `decide`, then `move`. Pure; arguments as there."""
    decision, state = decide(w, layout, state, loss, horizon, nudge)
    params, state = move(w, layout, params, grads, state, decision)
    return params, state, decision

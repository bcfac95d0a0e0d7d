"""Teach the curve network: at every moment of recorded curves, how much better does it still get, and when?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from learnopt.stopping import curve_features
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.descent import Descent
from learnopt.stopping.session import Session

QUESTIONS = 6
"""Amounts asked about at every moment of a training curve."""
BATCH = 192
RATE = 3e-3
MISSING = 0.1
"""Share of training curves in which some values are made NaN."""
COARSE = 0.25
"""Share of training curves that are rounded, as accuracies on small validation sets are."""
TOLD = 0.7
"""Share of training curves whose length is told."""


class Seen(NamedTuple):
    """Curves as the network reads them, with what came after."""

    states: list[curve_features.CurveState]  # T of them
    columns: Tensor  # (N, T, len(COLUMNS))
    gain: Tensor  # (N, T): improvement of the best value still to come
    share: Tensor  # (N, T): share of the rest of the run after which the best value comes
    best: Tensor  # (N, T)
    mask: Tensor  # (N, T): a moment with something before it and something after


def look(values: Tensor, steps: Tensor, told: Tensor) -> Seen:
    """Read curves to their ends.

    Args:
        values: `(N, T)`, NaN where missing or past a curve's end; steps likewise.
        told: `(N,)`, whether the length is told.
    """
    ends = steps.nan_to_num(-torch.inf).amax(1)
    horizon = torch.where(told, ends, 0)
    state, states, columns = curve_features.begin(len(values)), [], []
    for t in range(values.shape[1]):
        state = curve_features.advance(state, values[:, t], torch.where(torch.isnan(steps[:, t]), ends, steps[:, t]))
        states.append(state)
        columns.append(curve_features.columns(state, horizon))
    best = values.nan_to_num(torch.inf).cummin(1).values
    later = values.nan_to_num(torch.inf).flip(1).cummin(1)
    ahead = torch.cat([later.values.flip(1)[:, 1:], torch.full((len(values), 1), torch.inf)], 1)
    where = torch.cat(
        [values.shape[1] - 1 - later.indices.flip(1)[:, 1:], torch.zeros(len(values), 1, dtype=torch.long)], 1
    )
    rest = (ends[:, None] - steps).clamp_min(1e-9)
    share = ((steps.gather(1, where) - steps) / rest).nan_to_num(0).clamp(0, 1)
    alive = ~torch.isnan(steps) & (steps < ends[:, None]) & torch.isfinite(best)
    gain = torch.where(alive, (best - ahead).clamp_min(0), 0).nan_to_num(0)
    return Seen(states, torch.stack(columns, 1), gain, share, best, alive)


def vary(curves: Curves, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Variants of curves: measured less often, from a later start, cut short where that is a run too, rounded, with
    gaps."""
    values, steps = curves.values.clone(), curves.steps.clone()
    n, width = values.shape
    place = torch.arange(width)

    def draw() -> Tensor:
        return torch.rand(n, generator=generator)

    whole = draw() < 0.4
    end = torch.where(whole | ~curves.constant, curves.length.double(), curves.length * (0.3 + 0.7 * draw()))
    stride = torch.where(draw() < 0.5, 1, (draw() * 4).long() + 1)
    first = torch.where(draw() < 0.3, 0, (draw() * 3).long() + 1)
    keep = (place >= first[:, None]) & ((place - first[:, None]) % stride[:, None] == 0) & (place < end[:, None])
    gaps = (draw() < MISSING)[:, None] & (torch.rand(n, width, generator=generator) < 0.1)
    values[gaps] = torch.nan
    order = (~keep).long().argsort(dim=1, stable=True)
    kept = keep.gather(1, order)
    values, steps = (torch.where(kept, x.gather(1, order), torch.nan) for x in (values, steps))
    longest = max(2, int(kept.sum(1).max()))
    values = torch.where((draw() < COARSE)[:, None], rounded(values, draw()), values)
    return values[:, :longest], steps[:, :longest], draw() < TOLD


def rounded(values: Tensor, coarseness: Tensor) -> Tensor:
    """Curves `(N, T)` in whole steps of a share of the way from their first value to their best one.

    Args:
        coarseness: `(N,)`, from 0 (a step is 0.3 % of the way) to 1 (20 %).
    """
    first = values.gather(1, torch.isfinite(values).long().argmax(1)[:, None])
    way = first - values.nan_to_num(torch.inf).amin(1, keepdim=True)
    step = way * (0.003 * (0.2 / 0.003) ** coarseness[:, None])
    usable = torch.isfinite(step) & (step > 0)
    return torch.where(usable, (values / step.clamp_min(1e-300)).round() * step, values)


def questions(seen: Seen, peers: Tensor, generator: torch.Generator) -> Tensor:
    """Amounts to ask about, `(N, T, QUESTIONS)`: shares of the best value and of the range, ways to peers' best.

    Args:
        peers: `(N, QUESTIONS)`, best values of other runs of the same task.
    """
    n, t = seen.gain.shape
    draw = torch.rand(n, t, QUESTIONS, generator=generator, dtype=torch.float64)
    reach = torch.stack([(s.first - s.best).clamp_min(0) for s in seen.states], 1)
    best = torch.where(seen.mask, seen.best, 1.0)[..., None]
    amounts = best.abs() * 10 ** (-3.5 + 3 * draw)
    ranged = reach[..., None] * 10 ** (-4 + 4 * draw)
    to_peer = best - peers[:, None] * (1 - 0.01 * draw)
    kind = torch.randint(0, 3, (n, t, QUESTIONS), generator=generator)
    amounts = torch.where((kind == 1) & (ranged > 0), ranged, amounts)
    amounts = torch.where((kind == 2) & (to_peer > 0) & torch.isfinite(to_peer), to_peer, amounts)
    return amounts.clamp_min(1e-30)


def batch_loss(network: CurveNetwork, seen: Seen, amounts: Tensor) -> Tensor:
    """Mean cross-entropy of the answers, plus that of the time of the best value where something better comes."""
    known, _ = network.read(seen.columns)
    query = torch.stack([curve_features.query(s, amounts[:, t]) for t, s in enumerate(seen.states)], 1)
    answers = network.answer(known, query)
    truth = (seen.gain[..., None] > amounts).float()
    each = functional.binary_cross_entropy_with_logits(answers, truth, reduction="none").mean(-1)
    when = functional.binary_cross_entropy_with_logits(network.time(known), seen.share.float(), reduction="none")
    mask = seen.mask.float()
    better = mask * (seen.gain > 0)
    return (each * mask).sum() / mask.sum() + 0.1 * (when * better).sum() / better.sum().clamp_min(1)


def fit(curves: Curves, seed: int, iterations: int, session: Session | None = None) -> CurveNetwork:
    """A network taught by `curves`; every task counts alike.

    Args:
        session: keeps what was done; None: nothing does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CurveNetwork()
    members = [torch.nonzero(curves.task == i)[:, 0] for i in curves.numbers]
    bests = curves.values.nan_to_num(torch.inf).amin(1)

    def loss(generator: torch.Generator) -> Tensor:
        task = torch.randint(len(members), (BATCH,), generator=generator).tolist()
        index = torch.stack([_one(members[j], generator) for j in task])
        peers = bests[torch.stack([torch.stack([_one(members[j], generator) for _ in range(QUESTIONS)]) for j in task])]
        seen = look(*vary(curves.of(index), generator))
        return batch_loss(network, seen, questions(seen, peers, generator))

    (session or Session()).descend("stopper", Descent(network, loss, iterations, RATE, seed))
    return network


def _one(members: Tensor, generator: torch.Generator) -> Tensor:
    return members[torch.randint(len(members), (), generator=generator)]

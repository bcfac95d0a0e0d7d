"""Learn the tuner's networks and portfolio from a corpus."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from learnopt.task import seed_of
from learnopt.tuner import diagnosis_network, network
from learnopt.tuner.knowledge import CLIP, Configuration, Knowledge
from learnopt.tuner.lessons import MOST_REGRET, Lessons
from learnopt.tuner.probes import SHARES, channels

STEPS, BATCH, LR, DECAY = 800, 96, 3e-3, 0.1
DROPOUT = (0.3, 0.2)
BLIND = 0.5
"""Share of the examples without meta-features: with few tasks, they are soon learned by heart."""
SHIFTED, MOST_SHIFT = 0.4, 2
"""Share of the examples whose picture is moved along the rates by up to so many, without meta-features."""
WEIGHTS = (0.5, 0.5, 1.0, 2.0)
"""How often probes of each of `SHARES` are practised: the longest are what a usual budget pays for."""
AS_IF_FULL, AS_IF_WEIGHT = ((0, 2), (0, 3), (1, 3), (2, 3)), 0.3
"""Pairs of `SHARES`: runs of the first are practised as probes of the second, as if those were full ones."""

Progress = Callable[[int, int], None]


def learn(
    lessons: Lessons, optimizer: str, seed: int = 0, steps: int = STEPS, progress: Progress = lambda done, of: None
) -> Knowledge:
    """Everything there is to know of these lessons.

    Args:
        steps: training steps of each member of the networks.
        progress: called with members learned and their number.
    """
    mean, deviation = lessons.features.mean(0), lessons.features.std(0).nan_to_num(1.0) + 1e-3
    meta = ((lessons.features - mean) / deviation).clamp(-CLIP, CLIP)
    members, diagnosis, count = [], [], 2 * network.MEMBERS
    for i in range(network.MEMBERS):
        members.append(_member(lessons, meta, seed_of("tuner", seed, i), steps))
        progress(2 * i + 1, count)
        diagnosis.append(_diagnosis_member(lessons, seed_of("diagnosis", seed, i), steps))
        progress(2 * i + 2, count)
    return Knowledge(
        optimizer, lessons.rates, lessons.others, portfolio(lessons), mean, deviation, tuple(members),
        tuple(diagnosis), _levels(lessons), {},
    )  # fmt: skip


def portfolio(lessons: Lessons, length: int = 12) -> tuple[Configuration, ...]:
    """Configurations in the order that lowers the mean regret of the best one so far the fastest (greedy)."""
    regret = lessons.filled().flatten(1)  # (T, C * R)
    best, order = torch.full((len(regret),), float("inf")), []
    for _ in range(min(length, regret.shape[1])):
        after = torch.minimum(regret, best[:, None])
        k = int(after.mean(0).argmin())
        best = after[:, k]
        c, r = divmod(k, len(lessons.rates))
        order.append(Configuration(lessons.rates[r], *lessons.others[c]))
    return tuple(order)


def _levels(lessons: Lessons) -> Tensor:
    """`Knowledge.levels`; the best probe of a length is taken to be the best of all rates."""
    final = lessons.levels()
    probed = lessons.readings[:, :, :, 0].amin(-1).mean(1).clamp_max(0.0)  # (T, S)
    further = [(final - column)[~column.isnan()] for column in probed.unbind(1)]
    return torch.stack([final.median(), *(f.median() if len(f) else final.new_zeros(()) for f in further)])


def random_probed(best: Tensor, rates: int, generator: torch.Generator) -> Tensor:
    """Which rates are probed, as a search could have it, bool `(batch, rates)`: up to nine around a centre that is
    somewhat below the probes' best rate `best`, or anywhere; sometimes none at all."""
    batch = (len(best), 1)
    count = torch.randint(0, 10, batch, generator=generator)
    near = best[:, None] - torch.randint(-1, 4, batch, generator=generator)
    anywhere = rates * (0.25 + 0.7 * torch.rand(batch, generator=generator))
    centre = torch.where(torch.rand(batch, generator=generator) < 0.7, near, anywhere)
    noise = 3 * torch.rand(batch, generator=generator) * torch.rand(len(best), rates, generator=generator)
    away = (torch.arange(rates)[None] - centre).abs() + noise
    return away.argsort(1).argsort(1) < count


def _moved(
    found: Tensor, probed: Tensor, target: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Some of the examples moved along the rates: readings `(B, 4, R)`, probed `(B, R)`, targets `(B, C, R)`, and which
    were moved, `(B,)`.

    What comes in at an end is a copy of the end's, and unprobed.
    """
    batch, rates = probed.shape
    by = torch.randint(-MOST_SHIFT, MOST_SHIFT + 1, (batch,), generator=generator)
    by = torch.where(torch.rand(batch, generator=generator) < SHIFTED, by, 0)
    source = torch.arange(rates)[None] - by[:, None]
    inside, source = (source >= 0) & (source < rates), source.clamp(0, rates - 1)
    found, target = (x.gather(2, source[:, None].expand_as(x)) for x in (found, target))
    return found, probed.gather(1, source) & inside, target, by != 0


class _Examples(NamedTuple):
    """Short runs at all rates beside what is to be predicted from them; `E` examples."""

    readings: Tensor  # (E, 4, R)
    log_share: Tensor  # (E,)
    target: Tensor  # (E, C, R), nan where not known
    task: Tensor  # (E,)
    blind: Tensor  # (E,), whether its meta-features would be those of other runs
    weight: Tensor  # (E,), how often it is practised


def _examples(lessons: Lessons) -> _Examples:
    """Every recorded length beside the full runs; and beside a longer one, as if that were the full one."""
    targets, others = lessons.targets(), [schedule for schedule, _ in lessons.others]
    tasks, seeds, _, rates = targets.shape
    shape, parts = (tasks * seeds, -1, rates), []
    task = torch.arange(tasks).repeat_interleave(seeds)
    for i, share in enumerate(SHARES):
        parts.append((i, math.log2(share), targets.reshape(shape), 0.0, WEIGHTS[i]))
    for i, j in AS_IF_FULL:
        levels = lessons.readings[:, :, j, 0]
        target = torch.full_like(targets, torch.nan)
        regret = levels - levels.amin(-1, keepdim=True)
        target[:, :, others.index("cosine")] = regret.clamp_max(MOST_REGRET)
        parts.append((i, math.log2(SHARES[i] / SHARES[j]), target.reshape(shape), 1.0, AS_IF_WEIGHT))
    found = []
    for i, log_share, target, blind, weight in parts:
        readings = lessons.readings[:, :, i].reshape(shape)
        there = ~(readings.isnan().flatten(1).any(1) | target.isnan().flatten(1).all(1))
        fixed = torch.tensor([log_share, blind, weight]).expand(int(there.sum()), 3)
        found.append((readings[there], fixed[:, 0], target[there], task[there], fixed[:, 1] > 0, fixed[:, 2]))
    return _Examples(*(torch.cat(column) for column in zip(*found, strict=True)))


def _member(lessons: Lessons, meta: Tensor, seed: int, steps: int) -> network.Weights:
    generator = torch.Generator().manual_seed(seed)
    examples, rates = _examples(lessons), len(lessons.rates)
    w = network.initial(len(lessons.others), rates, generator)
    w["table"] = lessons.targets().nanmean((0, 1)).nan_to_num(MOST_REGRET)

    def loss() -> Tensor:
        chosen = torch.multinomial(examples.weight, BATCH, replacement=True, generator=generator)
        found, log_share, target, task, blind, _ = (column[chosen] for column in examples)
        probed = random_probed(found[:, 0].argmin(1), rates, generator)
        found, probed, target, moved = _moved(found, probed, target, generator)
        seen = channels(found, log_share[:, None].expand(-1, rates), probed)
        blind = blind | moved | (torch.rand(BATCH, generator=generator) < BLIND)
        regret = network.forward(w, meta[task] * ~blind[:, None], seen, DROPOUT)
        known = ~target.isnan()
        missed = torch.where(known, regret - target.nan_to_num(), 0.0)
        return missed.square().sum() / known.sum()

    return _fit(w, loss, steps, seed)


def _diagnosis_member(lessons: Lessons, seed: int, steps: int) -> network.Weights:
    """From the first `PARTS` or fewer training losses of a run at a constant rate to the decades between its rate and
    the best one; not trained where no such run was recorded."""
    generator = torch.Generator().manual_seed(seed)
    w = diagnosis_network.initial(generator)
    curves = lessons.train
    recorded = (~curves.isnan().flatten(1).all(1)).nonzero()[:, 0]
    if not len(recorded):
        return w
    logs = torch.tensor(lessons.rates).log10()
    constant = next(i for i, (schedule, _) in enumerate(lessons.others) if schedule == "constant")
    best = logs[lessons.targets().mean(1)[:, constant].nan_to_num(torch.inf).argmin(1)]
    _, seeds, rates, length = curves.shape

    def loss() -> Tensor:
        task = recorded[torch.randint(len(recorded), (BATCH,), generator=generator)]
        rate = torch.randint(rates, (BATCH,), generator=generator)
        end = int(torch.randint(diagnosis_network.POINTS, length + 1, (1,), generator=generator))
        seen = curves[task, torch.randint(seeds, (BATCH,), generator=generator), rate, :end]
        guess = diagnosis_network.forward(w, diagnosis_network.inputs(seen))
        return torch.nn.functional.smooth_l1_loss(guess, best[task] - logs[rate])

    return _fit(w, loss, steps, seed)


def _fit(w: network.Weights, loss: Callable[[], Tensor], steps: int, seed: int) -> network.Weights:
    leaves = [v.requires_grad_() for v in w.values()]
    optimizer = torch.optim.AdamW(leaves, lr=LR, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.autograd.backward(loss())
            optimizer.step()
            schedule.step()
    return {k: v.detach() for k, v in w.items()}

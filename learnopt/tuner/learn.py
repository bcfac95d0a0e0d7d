"""Learn the tuner's networks and portfolio from a corpus."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from learnopt.task import seed_of
from learnopt.tuner import diagnosis_network, network
from learnopt.tuner.knowledge import CLIP, Configuration, Knowledge
from learnopt.tuner.lessons import Lessons, encode_prefixes
from learnopt.tuner.probes import with_gaps

STEPS, BATCH, LR, DECAY = 800, 96, 3e-3, 0.1
DROPOUT = (0.3, 0.2)
BLIND = 0.5
"""Share of the examples without meta-features: with few tasks, they are soon learned by heart."""
SHIFTED, MOST_SHIFT = 0.4, 2
"""Share of the examples whose picture is moved along the rates by up to so many, without meta-features."""
LENGTHS = (1, 2, 3, 5, 8, 13, 20)
"""Lengths of probes that are practised, in parts."""

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
    """`Knowledge.levels`; the best probe is taken to be the best of all rates after `LENGTHS[-1]` parts."""
    final = lessons.levels()
    probed = lessons.readings[:, :, :, LENGTHS[-1] - 1, 0].amin(2).mean(1).clamp_max(0.0)
    return torch.stack([final.median(), (final - probed).median()])


def random_parts(batch: int, rates: int, centre: Tensor, generator: torch.Generator) -> Tensor:
    """Lengths of probes as a search could have them, `(batch, rates)`: some rates around `centre` (by each row's own
    preferences) at one length, a few of those prolonged, sometimes none at all."""
    count = torch.randint(0, 10, (batch, 1), generator=generator)
    noise = torch.randn(batch, rates, generator=generator) * 2.0
    away = (torch.arange(rates)[None] - centre[:, None]).abs() + noise
    probed = away.argsort(1).argsort(1) < count
    choose = torch.tensor(LENGTHS)
    short = choose[torch.randint(len(LENGTHS) - 2, (batch, 1), generator=generator)]
    long = choose[torch.randint(len(LENGTHS), (batch, rates), generator=generator)]
    prolonged = torch.rand(batch, rates, generator=generator) < 0.25
    return torch.where(probed, torch.where(prolonged, torch.maximum(short, long), short), 0)


def _moved(seen: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Some of the examples moved along the rates, `(B, CHANNELS, R)` and `(B, C, R)`, and which were, `(B,)`.

    What comes in at an end is a copy of the end's target, and unprobed.
    """
    batch, rates = len(seen), seen.shape[-1]
    by = torch.randint(-MOST_SHIFT, MOST_SHIFT + 1, (batch,), generator=generator)
    by = torch.where(torch.rand(batch, generator=generator) < SHIFTED, by, 0)
    source = torch.arange(rates)[None] - by[:, None]
    inside, source = (source >= 0) & (source < rates), source.clamp(0, rates - 1)
    seen = seen.gather(2, source[:, None].expand_as(seen)) * inside[:, None]
    return with_gaps(seen), target.gather(2, source[:, None].expand_as(target)), by != 0


def _member(lessons: Lessons, meta: Tensor, seed: int, steps: int) -> network.Weights:
    generator = torch.Generator().manual_seed(seed)
    target = lessons.targets()
    tasks, seeds, rates = len(target), lessons.final.shape[1], len(lessons.rates)
    w = network.initial(len(lessons.others), rates, generator)
    w["table"] = lessons.filled().mean(0)
    favourite = lessons.filled().mean(1).argmin(1).float()

    def loss() -> Tensor:
        task = torch.randint(tasks, (BATCH,), generator=generator)
        seed_ = torch.randint(seeds, (BATCH,), generator=generator)
        parts = random_parts(BATCH, rates, favourite[task], generator)
        seen, wanted, moved = _moved(encode_prefixes(lessons, task, seed_, parts), target[task], generator)
        blind = moved | (torch.rand(BATCH, generator=generator) < BLIND)
        regret = network.forward(w, meta[task] * ~blind[:, None], seen, DROPOUT)
        known = ~wanted.isnan()
        missed = torch.where(known, regret - wanted.nan_to_num(), 0.0)
        return missed.square().sum() / known.sum()

    return _fit(w, loss, steps, seed)


def _diagnosis_member(lessons: Lessons, seed: int, steps: int) -> network.Weights:
    """From the first `PARTS` or fewer training losses of a run to the decades between its rate and the best one."""
    generator = torch.Generator().manual_seed(seed)
    logs = torch.tensor(lessons.rates).log10()
    constant = next(i for i, (schedule, _) in enumerate(lessons.others) if schedule == "constant")
    best = logs[lessons.targets()[:, constant].argmin(1)]
    tasks, seeds, rates, length = lessons.train.shape
    w = diagnosis_network.initial(generator)

    def loss() -> Tensor:
        task = torch.randint(tasks, (BATCH,), generator=generator)
        rate = torch.randint(rates, (BATCH,), generator=generator)
        end = int(torch.randint(diagnosis_network.POINTS, length + 1, (1,), generator=generator))
        curves = lessons.train[task, torch.randint(seeds, (BATCH,), generator=generator), rate, :end]
        guess = diagnosis_network.forward(w, diagnosis_network.inputs(curves))
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

"""Learn what the tuner knows from a corpus: forests, portfolio, the networks of `diagnose`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from learnopt.task import seed_of
from learnopt.tuner import aligned, diagnosis_network
from learnopt.tuner.forest import Forest, forest
from learnopt.tuner.knowledge import MOST_REGRET, Configuration, Knowledge
from learnopt.tuner.lessons import Lessons
from learnopt.tuner.probes import SHARES

STEPS, BATCH, LR, DECAY, MEMBERS = 800, 96, 3e-3, 0.1, 5
"""Of the networks of `diagnose`."""
TREES, LEAF, LEAF_PRIOR, COLUMNS, COLUMNS_PRIOR = 60, 24, 3, 0.6, 0.3
"""Size of the forests, least examples in a leaf, share of the columns that a split chooses from."""
PRACTICE = (4, 6, 12, 24, 16)
"""Examples per task of probes of each of `SHARES`: the usual budget pays for quarters."""
MOST_PROBES, ASIDE, GAPS = 6, 1.8, 1.0
"""Examples have up to so many probes; their middle lies beside the best one by so many rates (standard deviation), and
a probe by up to so many where another would be nearer."""

Progress = Callable[[int, int], None]


def learn(
    lessons: Lessons, optimizer: str, seed: int = 0, steps: int = STEPS, progress: Progress = lambda done, of: None
) -> Knowledge:
    """Everything there is to know of these lessons.

    Args:
        steps: training steps of each member of the networks of `diagnose`.
        progress: called with parts learned and their number.
    """
    count = MEMBERS + 2
    prior = _prior(lessons, seed)
    progress(1, count)
    probed = _forest(lessons, seed)
    progress(2, count)
    diagnosis = []
    for i in range(MEMBERS):
        diagnosis.append(_diagnosis_member(lessons, seed_of("diagnosis", seed, i), steps))
        progress(3 + i, count)
    return Knowledge(
        optimizer, lessons.rates, lessons.others[0][1], portfolio(lessons), lessons.features.mean(0), prior, probed,
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
    """Which rates are probed, as a search could have it, bool `(batch, rates)`: up to `MOST_PROBES` side by side, or
    nearly so, around somewhere beside the column `best` of the probe that would be the best of all."""
    batch = (len(best), 1)
    count = torch.randint(1, MOST_PROBES + 1, batch, generator=generator)
    middle = (best[:, None] + ASIDE * torch.randn(batch, generator=generator)).clamp(0, rates - 1)
    away = (torch.arange(rates) - middle).abs() + GAPS * torch.rand(len(best), rates, generator=generator)
    return away.argsort(1).argsort(1) < count


def examples(lessons: Lessons, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random probes of recorded tasks, as `aligned.rows`, beside the regret of the rates around the best one,
    `(E, aligned.COLUMNS)` and `(E, aligned.WIDTH)`."""
    targets, features = lessons.usual(), lessons.features[:, None].expand(-1, lessons.final.shape[1], -1)
    found, wanted = [], []
    for i, share in enumerate(SHARES):
        readings = lessons.readings[:, :, i]  # (T, N, 4, R)
        there = ~readings.isnan().flatten(2).any(2)
        each = max(1, PRACTICE[i] // there.shape[1])
        seen, target, meta = (x[there].repeat_interleave(each, 0) for x in (readings, targets, features))
        probed = random_probed(seen[:, 0].argmin(1), seen.shape[-1], generator)
        rows, best = aligned.rows(seen, torch.full((len(seen),), math.log2(share)), probed, meta)
        found.append(rows)
        wanted.append(aligned.cut(target, best, MOST_REGRET))
    return torch.cat(found), torch.cat(wanted)


def _forest(lessons: Lessons, seed: int) -> Forest:
    rows, wanted = examples(lessons, torch.Generator().manual_seed(seed_of("tuner", seed)))
    return _grown(rows, wanted, LEAF, COLUMNS, seed)


def _prior(lessons: Lessons, seed: int) -> Forest:
    """From meta-features to the regret of every rate, a mean over the seeds."""
    return _grown(aligned.clipped(lessons.features), lessons.usual().mean(1), LEAF_PRIOR, COLUMNS_PRIOR, seed)


def _grown(rows: Tensor, wanted: Tensor, leaf: int, columns: float, seed: int) -> Forest:
    from sklearn.ensemble import ExtraTreesRegressor

    trees = ExtraTreesRegressor(TREES, min_samples_leaf=leaf, max_features=columns, random_state=seed)
    return forest(trees.fit(rows.numpy(), wanted.numpy()))


def _diagnosis_member(lessons: Lessons, seed: int, steps: int) -> dict[str, Tensor]:
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


def _fit(w: dict[str, Tensor], loss: Callable[[], Tensor], steps: int, seed: int) -> dict[str, Tensor]:
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

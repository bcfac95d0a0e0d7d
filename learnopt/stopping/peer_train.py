"""Teach the peer network to prune, on studies simulated under what it has learned so far.

First it learns to tell which trials will lead; then its decisions are optimised as a whole: the steps that a study
takes against the chance that it loses its best value.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from learnopt.stopping import studies
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.descent import Descent
from learnopt.stopping.peer_network import PeerNetwork
from learnopt.stopping.session import Session
from learnopt.stopping.studies import NEAR, Policy, Recorded, Study, Trials

ROUNDS = 4
"""Times that studies are simulated, the first with pruning at random."""
TRIALS = (30, 60, 100)
REPEATS = 100
"""A task gives one study for so many runs recorded of it, rounded up."""
RATE, TUNING_RATE = 3e-3, 1e-3
BATCH = 2048
BATCH_STUDIES = 24
PRICE = 2.0
"""What losing the best value costs, in whole unpruned studies."""
SOFTNESS = 0.5
"""Width of the sigmoid that stands for a decision while decisions are optimised."""
FIRST_ODDS = 4.0
"""The tuning of decisions starts from pruning below these log-odds of leading, negated."""
LEVELS = (-1.5, 1.5)
"""Log-odds between which a simulated study's threshold lies."""


class Played(NamedTuple):
    """A simulated study, ready to learn from."""

    inputs: Tensor  # (n, T, INPUTS): trials that could have been pruned
    leads: Tensor  # (n, T)
    wins: Tensor  # (n, T)
    reach: Tensor  # (m,): the moment at which each trial that comes near the best value does so
    which: Tensor  # (m,): their numbers among the n
    safe: bool  # the best value is found whatever is pruned
    steps: int  # of the whole study, unpruned


def fit(curve: CurveNetwork, curves: Curves, seed: int, iterations: int, session: Session | None = None) -> PeerNetwork:
    """A peer network taught by simulated studies of recorded tasks.

    Args:
        iterations: of the first network; those that tune decisions have half as many in every further round.
        session: keeps what was done; None: nothing does.

    Raises:
        ValueError: there is nothing that could have been pruned.
    """
    session = session or Session()
    tasks = studies.recorded(curve, curves)
    played: list[list[Played]] = []
    network = _fresh(seed)
    for number in range(ROUNDS):
        played = [*played[-1:], _play(curve, tasks, seed, number, network, session)]
        descent = _descent(network, played, number, iterations, seed)
        session.descend(f"pruner {number + 1}", descent)
        if number == 0:
            network.shift(FIRST_ODDS)
    return network


def _descent(network: PeerNetwork, played: list[list[Played]], number: int, iterations: int, seed: int) -> Descent:
    """What is learned from round `number` and the one before it."""
    if number == 0:
        inputs = torch.cat([p.inputs.flatten(0, 1) for p in played[0]])
        wins = torch.cat([p.wins.flatten() for p in played[0]])
        return Descent(network, partial(_leading, network, inputs, wins), iterations, RATE, seed)
    every = [p for each in played for p in each]
    return Descent(network, partial(_deciding, network, every), max(2, iterations // 2), TUNING_RATE, seed + number)


def _fresh(seed: int) -> PeerNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PeerNetwork()


def _play(
    curve: CurveNetwork, tasks: list[Recorded], seed: int, number: int, network: PeerNetwork, session: Session
) -> list[Played]:
    """A round of studies; what is gathered is only how each ended, the rest follows."""
    jobs = [(t, r) for t, task in enumerate(tasks) for r in range(-(-len(task.best) // REPEATS))]
    ready: dict[int, Study] = {}
    drawn: dict[int, Trials] = {}

    def make(i: int) -> list[int]:
        random, task = np.random.default_rng([seed, number, *jobs[i]]), tasks[jobs[i][0]]
        drawn[i] = studies.draw(task, int(random.choice(TRIALS)), random, varied=True)
        policy = at_random(random) if number == 0 else scores(network)
        level = 0.5 if number == 0 else float(torch.tensor(random.uniform(*LEVELS)).sigmoid())
        ready[i] = studies.simulate(curve, task, drawn[i], policy, level, keep=True)
        return ready[i].ends

    all_ends = session.gather(f"studies {number + 1}", len(jobs), make)
    found = []
    for i, ends in enumerate(all_ends):
        task = tasks[jobs[i][0]]
        if i not in ready:  # from a checkpoint
            random = np.random.default_rng([seed, number, *jobs[i]])
            drawn[i] = studies.draw(task, int(random.choice(TRIALS)), random, varied=True)
            ready[i] = Study(ends, studies.lessons(curve, task, drawn[i], ends))
        found.append(_played(task, drawn[i], ready[i]))
    useful = [p for p in found if p is not None]
    if not useful:
        raise ValueError("no recorded run could have been pruned: tasks need two runs that do not diverge at once")
    return useful


def at_random(random: np.random.Generator) -> Policy:
    """Prunes at a random moment, or not at all."""

    def policy(x: Tensor) -> Tensor:
        where = int(random.integers(len(x)))
        return (torch.arange(len(x)) < where).float() if random.random() < 0.7 else torch.ones(len(x))

    return policy


def scores(network: PeerNetwork) -> Policy:
    """The network's own judgement, from 0 to 1."""

    @torch.no_grad()
    def policy(x: Tensor) -> Tensor:
        return torch.sigmoid(network(x))

    return policy


def _played(task: Recorded, trials: Trials, study: Study) -> Played | None:
    """None where no trial could have been pruned."""
    if not study.lessons:
        return None
    best = task.best[trials.runs]
    full = best[:, -1].min()
    within = best <= full + NEAR * full.abs()
    judged = torch.tensor([each.number for each in study.lessons])
    free = within[:, -1].clone()
    free[judged] = False
    which = torch.nonzero(within[judged, -1])[:, 0]
    _, inputs, leads, wins = (list(parts) for parts in zip(*study.lessons, strict=True))
    return Played(
        torch.stack(inputs), torch.stack(leads), torch.stack(wins).float(), within[judged][which].long().argmax(1),
        which, bool(free.any()), best.numel(),
    )  # fmt: skip


def _leading(network: PeerNetwork, inputs: Tensor, wins: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy of the network as a forecast of which trials will lead, at moments drawn at random."""
    index = torch.randint(len(inputs), (BATCH,), generator=generator)
    return functional.binary_cross_entropy_with_logits(network(inputs[index]), wins[index])


def _deciding(network: PeerNetwork, played: list[Played], generator: torch.Generator) -> Tensor:
    """Mean price of studies whose trials are pruned with the probabilities that the network gives."""
    drawn = [played[i] for i in torch.randint(len(played), (BATCH_STUDIES,), generator=generator).tolist()]
    odds = network(torch.cat([p.inputs.flatten(0, 1) for p in drawn])).split([p.leads.numel() for p in drawn])
    return torch.stack([price(o.view_as(p.leads), p) for o, p in zip(odds, drawn, strict=True)]).mean()


def price(odds: Tensor, study: Played) -> Tensor:
    """Expected share of a study's steps taken, plus `PRICE` times the probability that its best value is lost.

    Args:
        odds: `(n, T)`, log-odds of going on at every moment of every trial.
    """
    on = torch.where(study.leads, 0.0, functional.logsigmoid(odds / SOFTNESS))
    alive = functional.pad(on.cumsum(1)[:, :-1], (1, 0))  # before the decision of each moment
    cost = alive.exp().sum() / study.steps
    if study.safe:
        return cost
    lost = -torch.expm1(alive[study.which].gather(1, study.reach[:, None])[:, 0].clamp(max=-1e-6))
    return cost + PRICE * lost.prod()

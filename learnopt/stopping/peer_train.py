"""Teach the peer network: studies are simulated from recorded runs, under the pruner that has been learned so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from learnopt.stopping import peer_features, peer_network, train
from learnopt.stopping.curve_features import CurveState
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.peer_features import Peers
from learnopt.stopping.peer_network import PeerNetwork

ROUNDS = 4
"""Times that studies are simulated, the first with pruning at random."""
TRIALS = (20, 60)
BEYOND = 15
"""Moments of a pruned trial that are learned from beyond the one where it is pruned."""
RATE = 3e-3
BATCH = 2048

Policy = Callable[[Tensor], Tensor]
"""From inputs `(T, inputs)` to the probability of becoming the best, `(T,)`."""


class Recorded(NamedTuple):
    """The runs of one task, read by the curve network once."""

    best: Tensor  # (N, T), inf where nothing finite has been seen
    known: Tensor  # (N, T, ...)
    states: CurveState  # fields (N, T, ...)
    horizon: float


@torch.no_grad()
def recorded(curve: CurveNetwork, curves: Curves) -> list[Recorded]:
    """Every task's runs as trials, without the value before the first step."""
    tasks = []
    for i in curves.numbers:
        runs = curves.of(curves.task == i)
        width = int(runs.length.min())
        values, steps = runs.values[:, 1:width], runs.steps[:, 1:width]
        seen = train.look(values, steps, torch.ones(len(values), dtype=torch.bool))
        known, _ = curve.read(seen.columns)
        states = CurveState(*(torch.stack(parts, 1) for parts in zip(*seen.states, strict=True)))
        tasks.append(Recorded(values.nan_to_num(torch.inf).cummin(1).values, known, states, float(steps[0, -1])))
    return tasks


def peers_of(task: Recorded, done: list[int], ends: list[int]) -> Peers:
    """Finished trials, each known up to its moment number `ends`."""
    t, last = torch.arange(task.best.shape[1]), torch.tensor(ends)
    best = task.best[done].clamp_max(1e300)
    at = best.gather(1, torch.minimum(t, last[:, None]))
    return Peers(at, t <= last[:, None], best.gather(1, last[:, None])[:, 0])


def moments(curve: CurveNetwork, task: Recorded, j: int, peers: Peers) -> Tensor:
    """Inputs of the peer network along trial `j`."""
    state = CurveState(*(field[j] for field in task.states))
    return peer_network.inputs(curve, task.known[j], state, peers, task.horizon)


class Study(NamedTuple):
    """A simulated study."""

    best: float  # best value seen in any trial
    completed: float  # best value of trials that were not pruned
    compute: float  # share of the steps taken
    inputs: list[Tensor]
    truth: list[Tensor]


def simulate(
    curve: CurveNetwork, task: Recorded, order: list[int], policy: Policy, threshold: float, leader: float,
    beyond: Callable[[], int] = lambda: 0,
) -> Study:  # fmt: skip
    """Run trials one after the other; one is pruned where its probability falls below a threshold.

    Args:
        order: numbers of the runs.
        threshold: for trials behind the best of the earlier ones; `leader` for those ahead of them; 0: never.
        beyond: moments after the pruning that are kept to learn from.
    """
    width = task.best.shape[1]
    done: list[int] = []
    ends: list[int] = []
    inputs: list[Tensor] = []
    truth: list[Tensor] = []
    for j in order:
        own, end = task.best[j], width - 1
        if not torch.isfinite(own[0]):
            end = 0
        elif done:
            peers = peers_of(task, done, ends)
            x = moments(curve, task, j, peers)
            chance = policy(x)
            stop = torch.where(own <= peers.final.min(), chance < leader, chance < threshold)
            stop[-1] = True
            end = int(stop.long().argmax())
            cut = min(width - 1, end + beyond())
            inputs.append(x[: cut + 1])
            truth.append(((own - own[-1]) > peer_features.amounts(own, peers))[: cut + 1].float())
        done.append(j)
        ends.append(end)
    reached = [float(task.best[j, k]) for j, k in zip(done, ends, strict=True)]
    whole = [b for b, k in zip(reached, ends, strict=True) if k == width - 1]
    return Study(
        min(reached), min(whole, default=float("inf")), sum(k + 1 for k in ends) / width / len(ends), inputs, truth
    )


def fit(
    curve: CurveNetwork, curves: Curves, seed: int, iterations: int, say: Callable[[str], None] = lambda text: None
) -> PeerNetwork:
    """A peer network taught by simulated studies of recorded tasks.

    Args:
        say: told a line after every round.
    """
    random, tasks = np.random.default_rng(seed), recorded(curve, curves)
    inputs: list[Tensor] = []
    truth: list[Tensor] = []
    network: PeerNetwork | None = None
    for number in range(ROUNDS):
        for task in tasks:
            trials = min(int(random.choice(TRIALS)), len(task.best))
            order = random.permutation(len(task.best))[:trials].tolist()
            level = 0.5 if network is None else float(random.uniform(0.005, 0.05))
            study = simulate(
                curve, task, order, _policy(network, random), level, level / 2, lambda: int(random.integers(BEYOND))
            )
            inputs += study.inputs
            truth += study.truth
        network = _fit_once(torch.cat(inputs), torch.cat(truth), seed + number, iterations)
        studies = len(tasks) * (number + 1)
        say(f"round {number + 1} of {ROUNDS}: {studies} studies, {sum(map(len, truth))} moments")
    assert network is not None
    return network


def _policy(network: PeerNetwork | None, random: np.random.Generator) -> Policy:
    if network is not None:
        return chances(network)

    def at_random(x: Tensor) -> Tensor:
        where = int(random.integers(len(x)))
        return (torch.arange(len(x)) < where).float() if random.random() < 0.7 else torch.ones(len(x))

    return at_random


def chances(network: PeerNetwork) -> Policy:
    """The network's own judgement."""

    @torch.no_grad()
    def policy(x: Tensor) -> Tensor:
        return torch.sigmoid(network(x))

    return policy


def _fit_once(inputs: Tensor, truth: Tensor, seed: int, iterations: int) -> PeerNetwork:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PeerNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=iterations, pct_start=0.1)
    for _ in range(iterations):
        index = torch.randint(len(inputs), (BATCH,), generator=generator)
        loss = functional.binary_cross_entropy_with_logits(network(inputs[index]), truth[index])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network

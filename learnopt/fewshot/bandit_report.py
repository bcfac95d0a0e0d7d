"""RL² beside the policies that need no training, all on the same bandits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learnopt.fewshot.bandit_policies import POLICIES
from learnopt.fewshot.bandits import Bandits, Policy, play
from learnopt.fewshot.evaluation import moments
from learnopt.fewshot.gittins import optimal_value
from learnopt.fewshot.rl2 import RL2
from learnopt.task import seed_of

SMALL = (5, 10)
"""Arms and pulls up to which optimal play is worked out as well."""

Row = dict[str, Any]


def returns(policy: Policy, arms: int, pulls: int, count: int, seed: int = 0) -> Tensor:
    """Successes of each pull of `count` held-out bandits, `(T, N)`; the same bandits for every policy."""
    generator = torch.Generator().manual_seed(seed_of("bandits to be judged on", seed))
    bandits = Bandits.sample(count, arms, generator)
    return play(policy, bandits, pulls, generator).rewards


def trained(arms: int, pulls: int, seed: int, fit: dict[str, Any], out: Path | None, progress: bool) -> RL2:
    """RL² with one seed; its checkpoint is in a folder of `out`."""
    learner = RL2(arms, pulls, seed=seed)
    folder = None if out is None else out / f"rl2-{arms}x{pulls}-{seed}"
    learner.fit(**fit, seed=seed, out=folder, progress=progress)
    return learner


def compare(
    arms: int, pulls: int, *, seeds: int, count: int, fit: dict[str, Any], out: Path | None, progress: bool = True
) -> list[Row]:
    """One row per policy: mean return with its 95 % interval over bandits, course of the pay, processor minutes.

    Args:
        seeds: of RL²; its row is of all of them, with the mean of each.
        count: held-out bandits.
        fit: arguments of `RL2.fit`.
    """
    learners = [trained(arms, pulls, seed, fit, out, progress) for seed in range(seeds)]
    rows = []
    for name, make in POLICIES.items():
        began = time.process_time()
        paid = returns(make(), arms, pulls, count)
        rows.append(_row(name, [paid], time.process_time() - began))
    seconds = sum(learner.cpu_seconds for learner in learners) / seeds
    rows.append(_row("rl2", [returns(x.agent(), arms, pulls, count) for x in learners], seconds))
    if arms <= SMALL[0] and pulls <= SMALL[1]:
        rows.append({"policy": "optimal", "mean": optimal_value(arms, pulls)})
    return rows


def _row(name: str, paid: list[Tensor], seconds: float) -> Row:
    means = torch.stack([p.sum(0) for p in paid])
    row: Row = {"policy": name, **moments(means.mean(0)), "cpu_minutes": round(seconds / 60, 2)}
    if len(paid) > 1:
        row["seeds"] = [round(float(m.mean()), 4) for m in means]
    return row | {"course": [round(float(x), 4) for x in torch.stack(paid).mean((0, 2))]}

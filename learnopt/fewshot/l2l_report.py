"""A learned rule beside hand-designed ones whose rates are tuned, on the same problems and batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from learnopt.fewshot.evaluation import moments
from learnopt.fewshot.l2l import losses
from learnopt.fewshot.learned import LearnedRule
from learnopt.fewshot.optimizees import Problems
from learnopt.fewshot.rules import SGD, Adam, Params, RMSprop, Rule
from learnopt.task import seed_of

RATES: Final = tuple(10 ** (k / 4) for k in range(-16, 5))
"""Learning rates tried for each hand-designed rule: four a decade, from 1e-4 to 10."""

Row = dict[str, Any]


def _nesterov(rate: float) -> Rule:
    return SGD(rate, momentum=0.9, nesterov=True)


RIVALS: Final[dict[str, Callable[[float], Rule]]] = {
    "sgd": SGD, "nesterov": _nesterov, "rmsprop": RMSprop, "adam": Adam,
}  # fmt: skip
"""Hand-designed rules by name, from their learning rate; momentum 0.9 in Nesterov's."""


class Setting(NamedTuple):
    """What a comparison is made on.

    Args:
        problems: the distribution.
        marks: numbers of steps to report the loss after; the last is the length of all runs.
        judged: problems to be judged on.
        tuning: problems to choose rates on, others than those.
    """

    problems: Problems
    marks: tuple[int, ...]
    judged: int
    tuning: int

    def courses(self, rule: Rule, theta: Params, part: str, steps: int | None = None) -> Tensor:
        """Losses after 0, 1, ... steps of a rule, `(problems, steps + 1)`."""
        count = self.tuning if part == "tuning" else self.judged
        return losses(rule, theta, self.problems, seed_of("l2l", part), count, (steps or self.marks[-1]) + 1)


def rival_rows(setting: Setting, title: str, note: Callable[[str], None]) -> list[Row]:
    """A row per hand-designed rule; each mark has the rate that was best there on the problems for tuning."""
    rows = []
    for name, make in RIVALS.items():
        began = time.process_time()
        tried = [setting.courses(make(rate), {}, "tuning").nan_to_num(torch.inf).mean(0) for rate in RATES]
        best = {mark: int(torch.stack(tried)[:, mark].argmin()) for mark in setting.marks}
        runs = {i: setting.courses(make(RATES[i]), {}, "test") for i in set(best.values())}
        found = {mark: runs[i][:, mark] for mark, i in best.items()}
        row = _row(name, found, runs[best[setting.marks[-1]]], time.process_time() - began)
        rows.append(row | {"rates": {str(mark): round(RATES[i], 6) for mark, i in best.items()}})
        note(f"{title}: {name} tuned")
    return rows


def learned_row(setting: Setting, name: str, rule: Rule, thetas: Sequence[Params], seconds: float) -> Row:
    """The row of a learned rule with the weights of several seeds, averaged over them.

    Args:
        seconds: of processor time that training one of them took.
    """
    runs = [setting.courses(rule, theta, "test") for theta in thetas]
    mean = torch.stack(runs).mean(0)
    row = _row(name, {mark: mean[:, mark] for mark in setting.marks}, mean, seconds)
    if len(runs) > 1:
        row["seeds"] = {str(mark): [round(float(run[:, mark].mean()), 5) for run in runs] for mark in setting.marks}
    return row


def shipped_rows(setting: Setting) -> list[Row]:
    """`LearnedOptimizer` with its shipped weights, told the number of steps (a run for each mark) and not told."""
    rows = []
    for told in (True, False):
        began = time.process_time()
        found, run = {}, torch.empty(0)
        for mark in setting.marks if told else setting.marks[-1:]:
            rule = LearnedRule(mark) if told else LearnedRule()
            run = setting.courses(rule, rule.theta({"any": torch.zeros(1)}), "test", mark)
            found[mark] = run[:, mark]
        if not told:
            found = {mark: run[:, mark] for mark in setting.marks}
        name = "LearnedOptimizer" if told else "LearnedOptimizer, steps unknown"
        rows.append(_row(name, found, run, time.process_time() - began))
    return rows


def crossing(course: Sequence[float], rival: Sequence[float], start: int = 5) -> int | None:
    """The first step after `start` from which on the rival's mean loss stays below; None if there is none."""
    above = [i for i, (own, other) in enumerate(zip(course, rival, strict=True)) if not other < own]
    last = max(above, default=0)
    return max(last + 1, start) if last + 1 < len(course) else None


def _row(name: str, found: dict[int, Tensor], run: Tensor, seconds: float) -> Row:
    return {
        "rule": name, "loss": {str(mark): moments(x) for mark, x in found.items()},
        "cpu_minutes": round(seconds / 60, 2), "course": [float(f"{x:.4g}") for x in run.mean(0)],
    }  # fmt: skip

"""Learned learning rates: per parameter or per tensor, with or without a learned course over the steps."""

from __future__ import annotations

import torch
from torch import Tensor

from learnopt.fewshot.rules import Params, Rule, State, checked_rate

RATES = ("parameter", "tensor")
SCHEDULES = ("none", "shared", "tensor")


class LearnedRates(Rule):
    """`p -= rate * schedule[t] * g` with rates and schedule learned; beyond `steps` the schedule's last value holds.

    Rates may become negative, as in Meta-SGD (Li et al. 2017).

    Args:
        lr: where all rates start.
        steps: length of the learned schedule.
        rates: one per "parameter" or per "tensor".
        schedule: "none", one "shared" by all tensors, or one per "tensor"; starts at 1.
    """

    def __init__(self, lr: float, steps: int, rates: str = "parameter", schedule: str = "none") -> None:
        for what, value, choices in (("rates", rates, RATES), ("schedule", schedule, SCHEDULES)):
            if value not in choices:
                raise ValueError(f"{what} must be one of {', '.join(choices)}, got {value!r}")
        self.lr, self.schedule_steps, self.rates, self.schedule = checked_rate(lr), steps, rates, schedule

    def theta(self, params: Params) -> Params:
        like = {n: p if self.rates == "parameter" else p.new_empty(()) for n, p in params.items()}
        learned = {f"rate.{n}": torch.full_like(x, self.lr) for n, x in like.items()}
        first = next(iter(params.values()))
        courses = {"none": [], "shared": [""], "tensor": list(params)}[self.schedule]
        return learned | {f"schedule.{n}": first.new_ones(self.schedule_steps) for n in courses}

    def init(self, params: Params) -> State:
        return {"step": torch.zeros(1, dtype=torch.int64, device=next(iter(params.values())).device)}

    def step(self, theta: Params, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        moved = {}
        for name, p in params.items():
            rate = theta[f"rate.{name}"]
            if self.schedule != "none":
                course = theta["schedule." if self.schedule == "shared" else f"schedule.{name}"]
                at = state["step"].clamp(max=self.schedule_steps - 1)
                rate = rate * course.index_select(0, at).squeeze(0)
            moved[name] = p - rate * grads[name]
        return moved, {"step": state["step"] + 1}

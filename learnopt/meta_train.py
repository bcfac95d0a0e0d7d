"""Meta-training: sample episodes, estimate the meta-gradient, step, save, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learnopt import artifact, meta_network
from learnopt.checkpoint import Checkpoint, MetaLog, load_checkpoint, save_checkpoint
from learnopt.episodes import EpisodeSpec, TaskSource, draw
from learnopt.estimators import ESTIMATORS, Estimate, Estimator
from learnopt.interrupt import deferred
from learnopt.meta_config import MetaTrainConfig
from learnopt.task import seed_of
from learnopt.workers import Pool

BETAS = (0.9, 0.98)
VALID_SEEDS = 2

Listener = Callable[[dict[str, Any]], None]
"""Receives the log row of every meta-step."""


def make_estimator(config: MetaTrainConfig) -> Estimator:
    """The estimator that the settings name."""
    kind = ESTIMATORS[config.estimator]
    own = {name: getattr(config, name) for name in kind.settings}
    estimator = kind(config.pairs, config.sigma, config.frozen, **own)
    estimator.kernel, estimator.training = config.kernel, config.training_share
    return estimator


@dataclass
class MetaTrainer:
    """State and steps of one meta-training run; a function of its settings, whatever the number of workers.

    Args:
        source: where tasks come from.
        out: folder of the checkpoint and the log.

    Attributes:
        saved: meta-step of the checkpoint on disk; 0 before there is one.
    """

    config: MetaTrainConfig
    source: TaskSource
    out: Path
    pool: Pool
    listener: Listener = lambda row: None
    on_save: Callable[[Checkpoint], None] = lambda state: None
    state: Checkpoint = field(init=False)
    saved: int = field(init=False)

    def __post_init__(self) -> None:
        self.estimator = make_estimator(self.config)
        saved = self.pool.agree(load_checkpoint(self.out, self.config) if self.pool.leads else None)
        self.state = saved or Checkpoint.fresh(self._start(), self.config)
        self.saved = self.state.meta_step
        self.log = MetaLog(self.out, self.state.meta_step)

    def _start(self) -> Tensor:
        if self.config.start_from is not None:
            return artifact.load(self.config.start_from).theta.clone()
        return meta_network.initial_theta(torch.Generator().manual_seed(seed_of("theta", self.config.seed) % 2**63))

    def run(self) -> Checkpoint:
        """Go on until the last meta-step; saves on the way, at the end and when interrupted."""
        saved = time.monotonic()
        try:
            self._validate_start()
            while self.state.meta_step < self.config.meta_steps:
                self.listener(self.step())
                if self.pool.agree(time.monotonic() - saved >= 60 * self.config.checkpoint_minutes):
                    self.save()
                    saved = time.monotonic()
            self.save()
        except BaseException:
            if all(c is None or "runs" in c for c in self.state.carries):  # all that a checkpoint needs is here
                with deferred():  # Ctrl-C pressed twice must not lose what the first one saves
                    self._write()
            raise
        return self.state

    def save(self) -> None:
        """Write log and checkpoint; a crash at any point leaves the previous pair usable."""
        own, self.state.carries = self.state.carries, self.pool.collect(self.state.carries)
        self._write()
        self.state.carries = own

    def _write(self) -> None:
        if not self.pool.leads:
            return
        self.log.flush()
        save_checkpoint(self.out, self.state, self.config)
        self.saved = self.state.meta_step
        self.on_save(self.state)

    def step(self) -> dict[str, Any]:
        """One meta-step; returns its log row. The state changes only when all of it has succeeded."""
        began, state = time.monotonic(), self.state
        specs = self._episodes()
        estimates = self.pool.estimate(self.estimator, state.theta, specs, state.carries)
        gradient = self.estimator.gradient(state.theta.numel(), estimates)
        if not gradient.isfinite().all():
            raise ValueError(f"meta-step {state.meta_step + 1}: the estimate of {self.estimator.name} is not finite")
        lr = self._learning_rate(state.meta_step)
        state = self._updated(gradient, lr, estimates)
        row: dict[str, Any] = {
            "meta_step": state.meta_step, "meta_loss": sum(e.meta_loss for e in estimates) / len(estimates),
            "gradient_norm": float(gradient.norm()), "meta_lr": lr,
            "inner_steps": sum(e.inner_steps for e in estimates),
        }  # fmt: skip
        if state.meta_step % self.config.valid_every == 0 or state.meta_step == self.config.meta_steps:
            state = self._validated(state, row)
        row["seconds"] = round(time.monotonic() - began, 3)
        self.log.add(row)  # a row too many is dropped on resume
        self.state = state
        return row

    def _episodes(self) -> list[EpisodeSpec]:
        state, slots = self.state, range(self.config.episodes)
        if not self.estimator.keeps_state:
            return [draw(self.config, state.meta_step, i) for i in slots]
        specs = [draw(self.config, i, state.generations[i]) for i in slots]
        for i in slots:
            if state.generations[i] == 0:  # cut the first episodes so that the particles do not stay in step
                share = (i + 1) / len(slots)
                specs[i] = EpisodeSpec(specs[i].seed, max(2, round(specs[i].steps * share)), specs[i].telling)
        return specs

    def _learning_rate(self, meta_step: int) -> float:
        final, share = self.config.meta_lr_final, meta_step / self.config.meta_steps
        return self.config.meta_lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share)))

    def _updated(self, gradient: Tensor, lr: float, estimates: list[Estimate]) -> Checkpoint:
        s = self.state
        k = s.meta_step + 1
        first = BETAS[0] * s.first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * s.second + (1 - BETAS[1]) * meta_network.mean_by_part(gradient**2)
        step = (first / (1 - BETAS[0] ** k)) / ((second / (1 - BETAS[1] ** k)).sqrt() + 1e-8)
        theta = s.theta - lr * step
        # iterate averaging (Polyak): the noise of the estimates is left in theta, not in what is kept
        average = torch.lerp(s.average, theta, max(1 / k, 1 - self.config.average))
        new = replace(
            s, theta=theta, first=first, second=second, average=average, meta_step=k,
            inner_steps=s.inner_steps + sum(e.inner_steps for e in estimates),
        )  # fmt: skip
        if self.estimator.keeps_state:
            new.carries = [e.carry for e in estimates]
            new.generations = [g + (e.carry is None) for g, e in zip(s.generations, estimates, strict=True)]
        return new

    def _validate_start(self) -> None:
        """Validate what meta-training starts from, unless that was done before it was interrupted."""
        if self.state.meta_step > 0 or self.state.best_score < math.inf:
            return
        row: dict[str, Any] = {"meta_step": 0}
        state = self._validated(self.state, row)
        if not self.log.rows:
            self.log.add(row)
        self.state = state

    def _validated(self, state: Checkpoint, row: dict[str, Any]) -> Checkpoint:
        scores = self.pool.validate(state.average, self.config, VALID_SEEDS)
        score = sum(scores.values()) / len(scores)
        row["valid"], row["valid_tasks"] = score, scores
        if not score < state.best_score:
            return state
        return replace(state, best_score=score, best_theta=state.average.clone(), best_step=state.meta_step)

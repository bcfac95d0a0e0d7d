"""`tune`: learning rate, schedule and weight decay for a model on a data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import nn

from learnopt.stopping.stopper import as_number, check_whole
from learnopt.tuner import meta_features
from learnopt.tuner.data import Loss, Source, source, usual_loss, usual_steps
from learnopt.tuner.knowledge import Knowledge, checked, load
from learnopt.tuner.probes import Probe
from learnopt.tuner.probing import OPTIMIZERS, Prober, TimeUp, judge, maker
from learnopt.tuner.random_state import random_state_kept, seeded
from learnopt.tuner.result import TuneResult
from learnopt.tuner.search import Recommendation, Search

Progress = Callable[[int, int], None]
TIMED_STEPS, SAFETY = 4, 0.8
"""Steps that tell how long a step takes; where the seconds are limited, so much of them is planned with."""
TOLD_APART = 0.5
"""Expected regrets this far above the least say no more than "much worse": those learned from were clipped."""


def tune(
    make_model: nn.Module | Callable[[], nn.Module], train_data: Any, val_data: Any = None, *,
    optimizer: str = "adamw", steps: int | None = None, budget: int | None = None, seconds: float | None = None,
    loss: Loss | None = None, batch_size: int | None = None, seed: int = 0, progress: bool | Progress = True,
    knowledge: Knowledge | None = None,
) -> TuneResult:  # fmt: skip
    """Recommend a learning rate, a schedule and a weight decay, from a learned prior and a few short runs.

    The model, the data and the generators of Python, numpy, torch and the loaders are left as found. Ctrl-C ends the
    search and returns the best so far.

    Args:
        make_model: returns a new, freshly initialised model; or a model, which is copied and stays as it is.
        train_data: `(X, y)` arrays or tensors, or batches of any type that can be iterated again, such as a DataLoader.
        val_data: likewise; None: a fifth of the rows is held back (arrays), or training batches judge (other data).
            Probes are judged by at most 2,000 rows of arrays, drawn at random, or 20 batches: of a DataLoader that
            reads in order, random ones too, else the first.
        optimizer: "adamw"; or "sgd" (momentum 0.9), for which there is no shipped knowledge: pass `knowledge`.
        steps: optimizer steps of the run that is tuned for; None: by a rule of thumb, about 30 epochs.
        budget: optimizer steps for all probes together; None: as many as one full run. 0: no probe, the prior alone.
        seconds: wall-clock limit of the whole search. A few further steps are timed first, so that probes are short
            enough to end in time.
        loss: `(model, batch) -> ()` tensor, for batches that are no pairs `(x, y)` or another loss. None: cross-entropy
            where y is whole numbers, else the mean squared error.
        batch_size: for arrays; None: by a rule of thumb.
        seed: of initialisation and batches.
        progress: True: a progress bar on stderr; or a function that is told steps done and their number.
        knowledge: learned from a corpus of one's own (`tuner.knowledge.load`); None: what ships.

    Raises:
        ValueError: an argument cannot be used; one line that names the received value.
    """
    _check(optimizer, steps, budget, seconds, loss)
    started = time.monotonic()
    known = load(optimizer) if knowledge is None else checked(knowledge, optimizer)
    with random_state_kept(train_data, val_data), torch.inference_mode(False), torch.enable_grad():
        make = maker(make_model, seed)
        data = source(train_data, val_data, batch_size, seed)
        total = usual_steps(data.rows, data.batch_size) if steps is None else steps
        work = _Work(make, data, loss or usual_loss(data), optimizer, total, seed, started, seconds)
        spend = total if budget is None else budget
        with _reporting(progress, spend) as tell:
            work.run(known, spend, tell)
    return work.result(known)


def _check(
    optimizer: str, steps: int | None, budget: int | None, seconds: float | None, loss: Loss | None
) -> None:  # fmt: skip
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose from: {', '.join(OPTIMIZERS)}")
    if steps is not None:
        check_whole(steps, "steps", 1)
    if budget is not None:
        check_whole(budget, "budget", 0)
    if seconds is not None and not as_number(seconds, "seconds") > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss must be a function of (model, batch), got {type(loss).__name__}")


class _Work:
    """A search under way."""

    def __init__(
        self, make: Callable[[], nn.Module], data: Source, loss: Loss, optimizer: str, steps: int, seed: int,
        started: float, seconds: float | None,
    ) -> None:  # fmt: skip
        self.make, self.data, self.loss, self.optimizer, self.steps, self.seed = (
            make,
            data,
            loss,
            optimizer,
            steps,
            seed,
        )
        self.started, self.deadline = started, math.inf if seconds is None else started + seconds
        self.features: list[float] | None = None
        self.start, self.used, self.interrupted = math.nan, 0, False
        self.search: Search | None = None
        self.prober: Prober | None = None

    def run(self, knowledge: Knowledge, budget: int, tell: Progress) -> None:
        """Measure the meta-features, probe until the budget or the time is spent."""

        def stepped() -> None:
            self.used += 1
            tell(min(self.used, budget), budget)

        try:
            self.features = self._features()
            self.prober = prober = self._prober(knowledge, stepped)
            self.search = Search(knowledge, self.features, self.steps, self._affordable(knowledge, budget))
            while (lr := self.search.ask()) is not None:
                before = self.used
                probe = prober.run(lr, self.search.share, self.search.length)
                self.search.tell(probe, self.used - before)
        except (KeyboardInterrupt, TimeUp):
            self.interrupted = True
        if self.search is None:
            self.search = Search(knowledge, self.features, self.steps, 0)

    def _prober(self, knowledge: Knowledge, stepped: Callable[[], None]) -> Prober:
        return Prober(
            self.make, self.optimizer, knowledge.weight_decay, self.loss, self.data, self.start, self.deadline,
            self.seed, stepped,
        )  # fmt: skip

    def _affordable(self, knowledge: Knowledge, budget: int) -> int:
        """Steps of the budget that there is time for: probes must be short enough to end."""
        if math.isinf(self.deadline) or budget == 0:
            return budget
        begun = time.monotonic()
        self._prober(knowledge, lambda: None).run(0.0, 1.0, TIMED_STEPS)
        now = time.monotonic()
        there_is = SAFETY * (self.deadline - now) * TIMED_STEPS / max(now - begun, 1e-9)
        self.interrupted = there_is < budget
        return int(min(budget, there_is))

    def _features(self) -> list[float]:
        model = self.make()
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError("the model has no trainable parameters")
        batches = list(islice(self.data.stream(), meta_features.BATCHES))
        seeded("features", self.seed)
        self.start = judge(model, self.loss, self.data)
        if not math.isfinite(self.start):
            raise ValueError(f"the validation loss is {self.start} before training; check the data and the loss")
        return meta_features.meta_features(model, self.loss, batches, steps=self.steps, rows=self.data.rows)

    def result(self, knowledge: Knowledge) -> TuneResult:
        """What is known now."""
        assert self.search is not None
        found = self.search.recommend()
        best = self.start * math.exp(found.level) if self.start > 0 else math.nan
        least = min(found.regrets)
        probed = {p.lr: p for p in self.search.probes}
        curve = tuple(
            {
                "lr": lr, "expected_loss": best * math.exp(regret - least) if regret - least < TOLD_APART else None,
                "probe_loss": probed[lr].valid if lr in probed else None,
                "probe_steps": probed[lr].steps if lr in probed else None,
            }
            for lr, regret in zip(knowledge.rates, found.regrets, strict=True)
        )  # fmt: skip
        return TuneResult(
            self.optimizer, found.configuration.lr, found.interval, found.configuration.schedule,
            found.configuration.weight_decay, self.data.batch_size, self.steps, best, not found.doubt,
            _reason(found, self.search.probes, self, knowledge), curve, tuple(self.search.probes), self.used,
            time.monotonic() - self.started, self.interrupted, self.prober.weights if self.prober else {},
            self.data.whole,
        )  # fmt: skip


def _reason(found: Recommendation, probes: list[Probe], work: _Work, knowledge: Knowledge) -> str:
    """The paragraph that says why."""
    chosen = found.configuration
    corpus = f"{knowledge.card.get('tasks', 'an unknown number of')} recorded training problems"
    said = [f"Cannot decide: {found.doubt}. "] if found.doubt else []
    if found.listed:
        first = chosen == knowledge.portfolio[0]
        said.append(
            f"Learning rate {chosen.lr:.3g} with a {chosen.schedule} schedule is "
            f"{'the first' if first else 'the first below what did harm'} of a list learned from {corpus}, which is "
            "what is tried when nothing is known."
        )
    elif found.doubt:
        seen = "the probes and meta-features" if probes else "meta-features alone"
        said.append(
            f"Learning rate {chosen.lr:.3g} with a {chosen.schedule} schedule is what a forest that learned from "
            f"{corpus} expects the least loss of, by {seen} of the model and the data."
        )
    else:
        rates = sorted({p.lr for p in probes})
        said.append(
            f"{len(rates)} learning rates from {rates[0]:.2g} to {rates[-1]:.2g} were probed, each by a whole run of "
            f"{probes[0].steps} steps; together {work.used / work.steps:.2g} of a full run of {work.steps}. "
        )
        best = min((p for p in probes if not p.failed), key=lambda p: p.valid)
        said.append(
            f"The best one brought the validation loss from {work.start:.4g} to {best.valid:.4g}, at {best.lr:.2g}. "
        )
        failed = sorted({p.lr for p in probes if p.failed})
        if failed:
            said.append(f"The loss left the finite numbers at {', '.join(f'{lr:.2g}' for lr in failed)}. ")
        said.append(
            f"A forest that learned from {corpus} what such short runs tell of long ones expects the least loss at "
            f"{chosen.lr:.3g} with a {chosen.schedule} schedule and weight decay {chosen.weight_decay:g}, and losses "
            f"within 10 % of it from {found.interval[0]:.2g} to {found.interval[1]:.2g}."
        )
    if not work.data.held_out:
        said.append(" No validation data was given: losses are those of training batches, and do not show overfitting.")
    if work.interrupted:
        said.append(" The search was cut short; this is the best so far.")
    return "".join(said)


class _reporting:
    """A context that gives a progress function: the user's, a bar's, or one that does nothing."""

    def __init__(self, progress: bool | Progress, total: int) -> None:
        self._progress, self._total = progress, total
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if callable(self._progress):
            return self._progress
        if not self._progress:
            return lambda done, of: None
        from rich.progress import Progress as Bar

        from learnopt import consoles

        self._bar = Bar(console=consoles.console(stderr=True), transient=True)
        self._bar.start()
        task = self._bar.add_task("tuning", total=self._total)
        return lambda done, of: self._bar.update(task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

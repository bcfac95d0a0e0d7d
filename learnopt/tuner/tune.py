"""`tune`: learning rate, schedule and weight decay for a model on a data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from torch import nn

from learnopt.tuner import meta_features
from learnopt.tuner.data import Loss, Source, source, usual_loss, usual_steps
from learnopt.tuner.knowledge import Knowledge, load
from learnopt.tuner.lanes import OPTIMIZERS, Lane, TimeUp, judge, maker, random_state_kept, seeded
from learnopt.tuner.probes import PARTS, Probe
from learnopt.tuner.result import TuneResult
from learnopt.tuner.search import Recommendation, Search

Progress = Callable[[int, int], None]
TOLD_APART = 0.5
"""Expected regrets this far above the least say no more than "much worse": those learned from were clipped."""


def tune(
    make_model: nn.Module | Callable[[], nn.Module], train_data: Any, val_data: Any = None, *,
    optimizer: str = "adamw", steps: int | None = None, budget: int | None = None, seconds: float | None = None,
    loss: Loss | None = None, batch_size: int | None = None, seed: int = 0, progress: bool | Progress = True,
    knowledge: Knowledge | None = None,
) -> TuneResult:  # fmt: skip
    """Recommend a learning rate, a schedule and a weight decay, from a learned prior and a few short probes.

    The model, the data and the generators of Python, numpy and torch are left as found. Ctrl-C ends the search and
    returns the best so far.

    Args:
        make_model: returns a freshly initialised model; or a model, which is copied and stays as it is.
        train_data: `(X, y)` arrays or tensors, or batches of any type that can be iterated again, such as a DataLoader.
        val_data: likewise; None: a fifth of the rows is held back (arrays), or training batches judge (other data).
        optimizer: "adamw"; or "sgd" (momentum 0.9), for which there is no shipped knowledge: pass `knowledge`.
        steps: optimizer steps of the run that is tuned for; None: by a rule of thumb, about 30 epochs.
        budget: optimizer steps for all probes together; None: as many as one full run. 0: no probe, the prior alone.
        seconds: wall-clock limit of the whole search.
        loss: `(model, batch) -> ()`, for batches that are no pairs `(x, y)` or another loss. None: cross-entropy
            where y is whole numbers, else the mean squared error.
        batch_size: for arrays; None: by a rule of thumb.
        seed: of initialisation and batches.
        progress: True: a progress bar on stderr; or a function that is told steps done and their number.
        knowledge: learned from a corpus of one's own (`tuner.knowledge.load`); None: what ships.

    Raises:
        ValueError: an argument cannot be used; one line that names the received value.
    """
    _check(optimizer, steps, budget, seconds)
    started = time.monotonic()
    known = load(optimizer) if knowledge is None else knowledge
    with random_state_kept():
        make = maker(make_model, seed)
        data = source(train_data, val_data, batch_size, seed)
        total = usual_steps(data.rows, data.batch_size) if steps is None else steps
        work = _Work(make, data, loss or usual_loss(data), optimizer, total, seed, started, seconds)
        spend = total if budget is None else budget
        with _reporting(progress, spend) as tell:
            work.run(known, spend, tell)
    return work.result(known)


def _check(optimizer: str, steps: int | None, budget: int | None, seconds: float | None) -> None:
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; choose from: {', '.join(OPTIMIZERS)}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if budget is not None and budget < 0:
        raise ValueError(f"budget must be at least 0 steps, got {budget}")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")


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

    def run(self, knowledge: Knowledge, budget: int, tell: Progress) -> None:
        """Measure the meta-features, probe until the budget or the time is spent."""
        lanes: dict[float, Lane] = {}
        try:
            self.features = self._features()
            self.search = Search(knowledge, self.features, budget / self.steps)
            while (asked := self.search.ask()) is not None:
                lr, parts = asked
                if lr not in lanes:
                    lanes[lr] = self._lane(lr, knowledge)
                self._probe(lanes[lr], parts, budget, tell)
        except (KeyboardInterrupt, TimeUp):
            self.interrupted = True
        if self.search is None:
            self.search = Search(knowledge, self.features, 0)

    def _probe(self, lane: Lane, parts: int, budget: int, tell: Progress) -> None:
        before, used = lane.parts, self.used

        def stepped() -> None:
            self.used += 1
            tell(min(self.used, budget), budget)

        assert self.search is not None
        probe = lane.advance(parts, stepped)
        # parts have a step at least, so that the budget of a very short run is spent in steps, not in parts
        cost = max(probe.parts - before, math.ceil((self.used - used) * PARTS / self.steps - 1e-9))
        self.search.tell(probe, cost)

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

    def _lane(self, lr: float, knowledge: Knowledge) -> Lane:
        decay = knowledge.others[0][1]
        return Lane(
            self.make(),
            self.optimizer,
            lr,
            decay,
            self.loss,
            self.data,
            self.start,
            self.steps,
            self.deadline,
            self.seed,
        )

    def result(self, knowledge: Knowledge) -> TuneResult:
        """What is known now."""
        assert self.search is not None
        found = self.search.recommend()
        if found.doubt and (self.search.probes or self.features is None):
            found = found._replace(configuration=knowledge.portfolio[0])
        best = self.start * math.exp(found.level) if self.start > 0 else math.nan
        least = min(found.regrets)
        longest = {p.lr: p for p in sorted(self.search.probes, key=lambda p: p.parts)}
        curve = tuple(
            {
                "lr": lr, "expected_loss": best * math.exp(regret - least) if regret - least < TOLD_APART else None,
                "probe_loss": longest[lr].valid if lr in longest else None,
                "probe_steps": longest[lr].parts * self.steps / PARTS if lr in longest else None,
            }
            for lr, regret in zip(knowledge.rates, found.regrets, strict=True)
        )  # fmt: skip
        return TuneResult(
            self.optimizer, found.configuration.lr, found.interval, found.configuration.schedule,
            found.configuration.weight_decay, self.data.batch_size, self.steps, best, not found.doubt,
            _reason(found, self.search.probes, self, knowledge), curve, tuple(self.search.probes), self.used,
            time.monotonic() - self.started, self.interrupted,
        )  # fmt: skip


def _reason(found: Recommendation, probes: list[Probe], work: _Work, knowledge: Knowledge) -> str:
    """The paragraph that says why."""
    chosen = found.configuration
    corpus = f"{knowledge.card.get('tasks', 'an unknown number of')} recorded training problems"
    said = [f"Cannot decide: {found.doubt}. "] if found.doubt else []
    if found.doubt and not probes and work.features is not None:
        said.append(
            f"Learning rate {chosen.lr:.3g} with a {chosen.schedule} schedule is what a network that learned from "
            f"{corpus} expects the least loss of, by the model's and the data's meta-features alone."
        )
    elif found.doubt:
        said.append(
            f"Learning rate {chosen.lr:.3g} with a {chosen.schedule} schedule is what is tried first when nothing is "
            f"known: the first of a list learned from {corpus}."
        )
    else:
        rates = sorted({p.lr for p in probes})
        said.append(
            f"{len(rates)} learning rates from {rates[0]:.2g} to {rates[-1]:.2g} were probed in {work.used} steps "
            f"({work.used / work.steps:.2g} of a full run of {work.steps}). "
        )
        best = min((p for p in probes if not p.failed), key=lambda p: (-p.parts, p.valid))
        said.append(
            f"The longest one brought the validation loss from {work.start:.4g} to {best.valid:.4g}, at {best.lr:.2g}. "
        )
        failed = sorted({p.lr for p in probes if p.failed})
        if failed:
            said.append(f"The loss left the finite numbers at {', '.join(f'{lr:.2g}' for lr in failed)}. ")
        said.append(
            f"A network that learned from {corpus} how such beginnings end expects the least loss at {chosen.lr:.3g} "
            f"with a {chosen.schedule} schedule and weight decay {chosen.weight_decay:g}, and losses within 10 % of it "
            f"from {found.interval[0]:.2g} to {found.interval[1]:.2g}."
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
        from rich.console import Console
        from rich.progress import Progress as Bar

        self._bar = Bar(console=Console(stderr=True), transient=True)
        self._bar.start()
        task = self._bar.add_task("tuning", total=self._total)
        return lambda done, of: self._bar.update(task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

"""Learning-rate decay on plateaus, and a stop when decaying has stopped helping."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from learnopt.stopping.stopper import Stopper, Verdict, check_number, check_whole

THRESHOLD_MODES = ("rel", "abs")


class DecayOnPlateau(Stopper):
    """Multiply the learning rate by `factor` where the metric stops improving; stop after `decays` of them.

    The decisions are those of `torch.optim.lr_scheduler.ReduceLROnPlateau`, with one difference: a relative threshold
    is a share of the size of the best value, so that it also works below zero.

    Args:
        optimizer: a torch optimizer whose groups' `lr` is changed; None: `Verdict.lr_factor` says what to do.
        factor: of the learning rate, below 1.
        patience: values without improvement that are tolerated; the next one decays.
        threshold: smallest improvement that counts.
        threshold_mode: "rel": a share of the best value; "abs": in units of the metric.
        cooldown: values after a decay during which none is counted as bad.
        min_lr: learning rates are not decayed below this; needs `optimizer`.
        decays: decays before a further plateau stops the run; None: never stop.
        mode: "min" or "max".
    """

    def __init__(
        self,
        optimizer: Any = None,
        *,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        decays: int | None = None,
        mode: str = "min",
    ) -> None:
        super().__init__(mode)
        if optimizer is not None and not hasattr(optimizer, "param_groups"):
            raise ValueError(f"optimizer must have param_groups, got {optimizer!r:.80}")
        if threshold_mode not in THRESHOLD_MODES:
            raise ValueError(f"threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        self.factor = check_number(factor, "factor", 0, 1)
        if self.factor == 1:
            raise ValueError("factor must be below 1, got 1: the learning rate would never fall")
        self.patience = check_whole(patience, "patience", 0)
        self.threshold, self.threshold_mode = check_number(threshold, "threshold", 0), threshold_mode
        self.cooldown = check_whole(cooldown, "cooldown", 0)
        self.min_lr = check_number(min_lr, "min_lr", 0)
        self.decays = None if decays is None else check_whole(decays, "decays", 0)
        self._optimizer = optimizer
        self._forget()

    def update(self, value: Any, step: float | None = None) -> Verdict:
        """As `Stopper.update`; a decay is carried out on the optimizer."""
        verdict = super().update(value, step)
        if verdict.lr_factor != 1 and self._optimizer is not None:
            for group in self._optimizer.param_groups:
                rate = max(float(group["lr"]) * verdict.lr_factor, self.min_lr)
                if isinstance(group["lr"], Tensor):  # in place, as torch's schedulers do: compiled steps hold on to it
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        return verdict

    def _forget(self) -> None:
        self._bad = self._cooling = self._done = 0
        self._reference = math.inf

    def _advance(self, value: float, step: float) -> Verdict:
        if self._improves(value):
            self._reference, self._bad = value, 0
        else:
            self._bad += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad = 0
        if self._bad <= self.patience:
            return Verdict(False, f"{self._bad} values without improvement, more than {self.patience} make a plateau")
        if self.decays is not None and self._done >= self.decays:
            return Verdict(True, f"a plateau after {self._done} decays of the learning rate")
        self._bad, self._cooling, self._done = 0, self.cooldown, self._done + 1
        return Verdict(False, f"a plateau: decay number {self._done} of the learning rate", lr_factor=self.factor)

    def _improves(self, value: float) -> bool:
        if math.isinf(self._reference):
            return not math.isnan(value)
        margin = self.threshold * (abs(self._reference) if self.threshold_mode == "rel" else 1.0)
        return value < self._reference - margin

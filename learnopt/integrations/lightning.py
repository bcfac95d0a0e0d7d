"""Lightning: a callback that logs what `LearnedOptimizer` decides, and ends training when it says so.

`configure_optimizers` knows the number of steps:
`return LearnedOptimizer(self.parameters(), total_steps=self.trainer.estimated_stepping_batches)`.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:  # the same library under its other name
    from pytorch_lightning import Callback, LightningModule, Trainer

from learnopt.integrations import decisions
from learnopt.integrations.told_loss import ToldLoss
from learnopt.optimizer import LearnedOptimizer

_log = logging.getLogger(__name__)


def _learned(trainer: Trainer) -> list[LearnedOptimizer]:
    return [o for o in trainer.optimizers if isinstance(o, LearnedOptimizer)]


class LearnedOptimizerCallback(Callback):  # type: ignore[misc]
    """Logs `LearnedOptimizer`'s decisions through the module's logger and stops the trainer.

    It also hands over the mean loss of all accumulated batches. Without it Lightning's closure tells the last batch's
    loss divided by `accumulate_grad_batches`, and nothing under `16-mixed` precision or manual optimisation.

    Validation and what is saved after it see the averaged weights (`LearnedOptimizer.eval()`), and so does whoever
    takes the module at the end of a training that was cut short or whose number of steps was not told.

    Args:
        layers: log the learning rate of every parameter tensor, not only schedule and stop probability.
        stop: set `trainer.should_stop` once every `LearnedOptimizer` says so, on all ranks.

    Attributes:
        stop_reason: one line that says why training was stopped; None where it was not.

    Raises:
        ValueError: at the start of training, if the module has no `LearnedOptimizer`.
    """

    def __init__(self, *, layers: bool = True, stop: bool = True) -> None:
        self.stop_reason: str | None = None
        self._layers, self._stop = layers, stop
        self._optimizers: list[LearnedOptimizer] = []
        self._told: ToldLoss | None = None
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget()
        self._optimizers = _learned(trainer)
        if not self._optimizers:
            found = ", ".join(type(o).__name__ for o in trainer.optimizers) or "none"
            raise ValueError(f"configure_optimizers must return a LearnedOptimizer, got {found}")
        if len(trainer.optimizers) == 1:  # of several, no one knows whose loss a backward pass is
            self._told = ToldLoss(self._optimizers[0], "mean")
        self.stop_reason, self._steps = None, trainer.global_step

    def on_train_batch_start(self, *_: Any) -> None:
        for optimizer in self._optimizers:
            optimizer.train()

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        for optimizer in _learned(trainer):
            optimizer.eval()

    def on_before_zero_grad(self, *_: Any) -> None:
        if self._told is not None:
            self._told.clear()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._told is not None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = 1.0 if scaler is None else scaler.get_scale()
            self._told.add(loss.detach() * (trainer.accumulate_grad_batches / scale))  # what training_step returned

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self._steps:  # still accumulating
            return
        self._steps = trainer.global_step
        every = trainer.log_every_n_steps
        if every and self._steps // len(trainer.optimizers) % every == 0:
            pl_module.log_dict(self._numbers(pl_module), on_step=True, on_epoch=False)
        if self._stop:
            self._end(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self._forget()
        self.on_validation_start(trainer)

    def on_exception(self, *_: Any) -> None:
        self._forget()

    def _numbers(self, module: LightningModule) -> dict[str, float]:
        logged: dict[str, float] = {}
        for i, optimizer in enumerate(self._optimizers):
            names = module.named_parameters() if self._layers else None
            prefix = decisions.PREFIX if len(self._optimizers) == 1 else f"{decisions.PREFIX}/{i}"
            logged |= decisions.numbers(optimizer, names, prefix)
        return logged

    def _end(self, trainer: Trainer) -> None:
        agreed = all(o.should_stop for o in self._optimizers)
        if trainer.strategy.reduce_boolean_decision(agreed, all=True) and self.stop_reason is None:
            trainer.should_stop = True
            self.stop_reason = self._optimizers[0].stop_reason
            if trainer.is_global_zero:
                _log.warning("training ends: %s", self.stop_reason)

    def _forget(self) -> None:
        if self._told is not None:
            self._told.remove()
        self._told = None

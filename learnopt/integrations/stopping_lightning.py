"""Lightning: a callback that ends training when a stopper says so."""

from __future__ import annotations

import copy
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:  # the same library under its other name
    from pytorch_lightning import Callback, LightningModule, Trainer

from learnopt.stopping.stopper import Stopper


class StopperCallback(Callback):  # type: ignore[misc]
    """Tells a stopper the monitored metric after every validation and stops the trainer when it says so.

    Steps are those of the optimizer (`trainer.global_step`): a `LearnedStopper(total_steps)` wants that unit too. The
    stopper's state is saved in Lightning's checkpoints. In distributed runs every rank must log the same value
    (`self.log(..., sync_dist=True)`).

    Args:
        stopper: any `Stopper`, or several composed by `&` and `|`; its `mode` says whether lower is better.
        monitor: name of a logged metric.

    Attributes:
        verdict: the last one, None before the first.

    Raises:
        ValueError: `stopper` is none; during training, if `monitor` has not been logged.
    """

    def __init__(self, stopper: Stopper, monitor: str = "val_loss") -> None:
        if not isinstance(stopper, Stopper):
            raise ValueError(f"stopper must be a Stopper of learnopt.stopping, got {stopper!r}")
        self.stopper, self.monitor = stopper, monitor
        self.verdict: Any = None

    @property
    def state_key(self) -> str:
        """Under which Lightning's checkpoints keep its state: one per metric."""
        return f"{type(self).__qualname__}[monitor={self.monitor}]"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the metric just logged; values of the sanity check do not count."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ValueError(f"monitor {self.monitor!r} has not been logged; logged: {logged}")
        self.verdict = self.stopper.update(trainer.callback_metrics[self.monitor], trainer.global_step)
        if trainer.strategy.reduce_boolean_decision(self.verdict.stop, all=False):  # one rank alone would wait for ever
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """What the stopper was told."""
        return copy.deepcopy(self.stopper.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on exactly where a checkpoint was taken."""
        self.stopper.load_state_dict(state_dict)

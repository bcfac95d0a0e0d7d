"""Transformers' `Trainer`: a callback that logs what `LearnedOptimizer` decides, tells it the loss and ends training.

    args = TrainingArguments(..., lr_scheduler_type="constant")  # the learned schedule is the schedule
    trainer = Trainer(model, args, train_dataset=data, optimizers=(LearnedOptimizer(model.parameters()), None))
    trainer.add_callback(LearnedOptimizerCallback(trainer))

Where the Trainer has to make the optimizer (`model_init`, hyperparameter search, FSDP):
`optimizer_cls_and_kwargs=(TrainersOptimizer, {})`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from learnopt.integrations import decisions
from learnopt.integrations.told_loss import ToldLoss
from learnopt.optimizer import LearnedOptimizer

_log = logging.getLogger(__name__)


class TrainersOptimizer(LearnedOptimizer):
    """`LearnedOptimizer` for `optimizer_cls_and_kwargs`.

    The Trainer gives its groups a `weight_decay` of 0 unless `TrainingArguments` say otherwise, which would switch the
    learned decay off; here groups that all have 0 have the learned one. `{"weight_decay": 0}` among the kwargs means 0.
    """

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        groups = list(params)
        if groups and all(isinstance(g, dict) and g.get("weight_decay") == 0 for g in groups):
            groups = [{k: v for k, v in g.items() if k != "weight_decay"} for g in groups]
        super().__init__(groups, *args, **kwargs)


class LearnedOptimizerCallback(TrainerCallback):  # type: ignore[misc]
    """Logs `LearnedOptimizer`'s decisions beside the Trainer's own logs, and stops training when it says so.

    The Trainer calls `step()` without the loss; the callback hands over what `trainer.training_step` returns, summed
    over accumulated batches. Where `total_steps` is unknown it tells the Trainer's number of steps, unless an
    `EarlyStoppingCallback` is there: then that number means little.

    The Trainer by itself evaluates at the averaged weights (it calls `LearnedOptimizer.eval()`) and saves them where it
    saves after that; with the callback the model has them at the end, too, unless the best one is loaded.

    Args:
        trainer: the Trainer that the callback is added to.
        layers: log the learning rate of every parameter tensor, not only schedule and stop probability.
        stop: set `control.should_training_stop` when the optimizer says so.

    Attributes:
        stop_reason: one line that says why training was stopped; None where it was not.

    Raises:
        ValueError: the Trainer would put a schedule of its own upon the learned one, or, at the start of training, its
            optimizer is no `LearnedOptimizer`.
    """

    def __init__(self, trainer: Trainer, *, layers: bool = True, stop: bool = True) -> None:
        kind = getattr(trainer.args.lr_scheduler_type, "value", trainer.args.lr_scheduler_type)
        if trainer.lr_scheduler is None and not kind.startswith("constant"):
            raise ValueError(
                f"lr_scheduler_type={kind!r} would act upon the learned schedule; give TrainingArguments "
                "lr_scheduler_type='constant', or the Trainer a scheduler of your own"
            )
        self.stop_reason: str | None = None
        self._trainer, self._layers, self._stop = trainer, layers, stop
        self._told: ToldLoss | None = None
        self._logging = False
        trainer.training_step = self._overheard(trainer.training_step)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        optimizer = decisions.find(kwargs["optimizer"])
        self._forget()
        self._told, self.stop_reason = ToldLoss(optimizer, "sum"), None
        early = any(isinstance(c, EarlyStoppingCallback) for c in self._trainer.callback_handler.callbacks)
        if optimizer.param_groups[0]["total_steps"] is None and not optimizer.state and not early:
            for group in optimizer.param_groups:
                group["total_steps"] = state.max_steps

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._told is not None:
            self._told.clear()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        optimizer = decisions.find(kwargs["optimizer"])
        if self._stop and self.stop_reason is None and optimizer.should_stop:
            control.should_training_stop = True
            self.stop_reason = optimizer.stop_reason
            if state.is_world_process_zero:
                _log.warning("training ends: %s", self.stop_reason)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._logging or "loss" not in (logs or {}):  # logs of training steps, not of evaluations and summaries
            return
        names = kwargs["model"].named_parameters() if self._layers else None
        self._logging = True
        try:
            self._trainer.log(decisions.numbers(decisions.find(kwargs["optimizer"]), names))
        finally:
            self._logging = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._forget()
        if not args.load_best_model_at_end:
            decisions.find(kwargs["optimizer"]).eval()

    def _overheard(self, training_step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def overheard(*args: Any, **kwargs: Any) -> Tensor:
            loss = training_step(*args, **kwargs)
            if self._told is not None:
                self._told.add(loss)
            return loss

        return overheard

    def _forget(self) -> None:
        if self._told is not None:
            self._told.remove()
        self._told = None

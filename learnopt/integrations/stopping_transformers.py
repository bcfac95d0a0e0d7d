"""Transformers' `Trainer`: a callback that ends training when a stopper says so."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from learnopt.stopping.stopper import Stopper


class StopperCallback(TrainerCallback):  # type: ignore[misc]
    """Tells a stopper the monitored metric after every evaluation and stops the Trainer when it says so.

    Steps are the Trainer's (`state.global_step`): a `LearnedStopper(total_steps)` wants `state.max_steps`. At the start
    of training the stopper is reset and told the evaluations in the Trainer's log: a run resumed from a checkpoint goes
    on exactly. To get the best weights back use the Trainer's own `load_best_model_at_end`.

    Args:
        stopper: any `Stopper`, or several composed by `&` and `|`; its `mode` says whether lower is better.
        monitor: name of an evaluation metric, with or without "eval_".

    Attributes:
        verdict: the last one, None before the first.

    Raises:
        ValueError: `stopper` is none; during training, if evaluations lack `monitor`: of several data
            sets one is enough.
    """

    def __init__(self, stopper: Stopper, monitor: str = "eval_loss") -> None:
        if not isinstance(stopper, Stopper):
            raise ValueError(f"stopper must be a Stopper of learnopt.stopping, got {stopper!r}")
        self.stopper = stopper
        self.monitor = monitor if monitor.startswith("eval_") else f"eval_{monitor}"
        self.verdict: Any = None
        self._judged, self._lacking = False, ""  # since the last step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the stopper what the log of a resumed run holds."""
        self.stopper.reset()
        self.verdict, self._judged, self._lacking = None, False, ""
        for entry in state.log_history:
            if self.monitor in entry:
                self.verdict = self.stopper.update(entry[self.monitor], entry["step"])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Judge the metric of the evaluation just done."""
        if not metrics or self.monitor not in metrics:
            self._lacking = ", ".join(sorted(metrics or {})) or "nothing"
            return
        self._judged = True
        self.verdict = self.stopper.update(metrics[self.monitor], state.global_step)
        if self.verdict.stop:
            control.should_training_stop = True

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Complain if all evaluations since the last step lacked the metric."""
        if self._lacking and not self._judged:
            raise ValueError(f"monitor {self.monitor!r} is not among the metrics: {self._lacking}")
        self._judged, self._lacking = False, ""

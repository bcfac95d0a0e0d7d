"""skorch: a callback that keeps what `LearnedOptimizer` decides in the history, and ends training when it says so.

`NeuralNetClassifier(Module, lr=1, optimizer=LearnedOptimizer, callbacks=[LearnedOptimizerCallback()])`. skorch hands
its own `lr`, by default 0.01, to every optimizer, where it would multiply the learned rates: it must be given as 1.
"""

from __future__ import annotations

from typing import Any

from skorch.callbacks import Callback, EarlyStopping
from torch.utils.data import IterableDataset

from learnopt.integrations import decisions

_DEFAULT_RATE = 0.01
"""skorch's own `lr`, which nobody chose."""


class LearnedOptimizerCallback(Callback):  # type: ignore[misc]
    """Writes `schedule` and `stop_probability` into the history after every epoch and stops when the optimizer says so.

    Where `total_steps` is unknown it tells the number of batches in `max_epochs`, unless an `EarlyStopping` is there:
    then that number means little. Validation, checkpoints and the fitted net have the averaged weights
    (`LearnedOptimizer.eval()`), unless a callback loads the best ones.

    Args:
        stop: end training as skorch's `EarlyStopping` does.

    Attributes:
        stop_reason_: one line that says why training was stopped; None where it was not.

    Raises:
        ValueError: at the start of training, if the optimizer is no `LearnedOptimizer` or has skorch's default `lr`.
    """

    def __init__(self, stop: bool = True) -> None:
        self.stop = stop

    def initialize(self) -> LearnedOptimizerCallback:
        self.stop_reason_: str | None = None
        return self

    def on_train_begin(self, net: Any, *_: Any, **__: Any) -> None:
        groups = decisions.find(net.optimizer_).param_groups
        if any(float(group["lr"]) == _DEFAULT_RATE for group in groups):
            raise ValueError(f"skorch's default lr={_DEFAULT_RATE} would multiply the learned rates: give the net lr=1")
        self.stop_reason_ = None

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, **_: Any) -> None:
        optimizer = decisions.find(net.optimizer_)
        early = any(isinstance(callback, EarlyStopping) for _, callback in net.callbacks_)
        if optimizer.param_groups[0]["total_steps"] is None and not optimizer.state and not early:
            batches = net.get_iterator(dataset_train, training=True)
            if hasattr(batches, "__len__") and not isinstance(dataset_train, IterableDataset):
                for group in optimizer.param_groups:
                    group["total_steps"] = net.max_epochs * len(batches)

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool = False, **_: Any) -> None:
        optimizer = decisions.find(net.optimizer_)
        optimizer.train() if training else optimizer.eval()

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        optimizer = decisions.find(net.optimizer_)
        net.history.record("schedule", optimizer.schedule)
        net.history.record("stop_probability", optimizer.stop_probability)
        if self.stop and optimizer.should_stop:
            self.stop_reason_ = optimizer.stop_reason
            if net.verbose:
                print(f"Stopping: {self.stop_reason_}")
            raise KeyboardInterrupt  # skorch's way to end `fit`

    def on_train_end(self, net: Any, *_: Any, **__: Any) -> None:
        if not any(getattr(callback, "load_best", False) for _, callback in net.callbacks_):
            decisions.find(net.optimizer_).eval()

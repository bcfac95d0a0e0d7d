"""skorch: the optimizer hears every loss; the callback tells the number of steps, keeps a history, and stops."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optimizer_toy import assert_same, network, values
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetRegressor
from skorch.callbacks import Checkpoint, EarlyStopping
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import Tensor, nn
from trainer_toy import data, impatient_weights, in_groups, losses_told, plain_loop

from learnopt import LearnedOptimizer
from learnopt.integrations.skorch import LearnedOptimizerCallback

X, Y = (np.asarray(t) for t in data().tensors)


def same() -> Dataset:
    """The rows to train on, to validate with."""
    return Dataset(X, Y)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def net(**options: Any) -> NeuralNetRegressor:
    usual = {
        "lr": 1, "optimizer": LearnedOptimizer, "max_epochs": 4, "batch_size": 8, "train_split": None, "verbose": 0,
        "callbacks": [LearnedOptimizerCallback()],
    }  # fmt: skip
    return NeuralNetRegressor(Toy, **(usual | options))


@pytest.mark.parametrize("callbacks", [[LearnedOptimizerCallback()], None], ids=["callback", "bare"])
def test_it_moves_as_in_a_plain_loop_that_tells_the_loss(callbacks: Any) -> None:
    options = {} if callbacks else {"optimizer__total_steps": 24}
    fitted = net(callbacks=callbacks, **options).fit(X, Y)
    truth, optimizer = plain_loop(in_groups(1, 4), 24)
    assert_same(values(fitted.module_), values(truth))
    assert losses_told(fitted.optimizer_) == 24
    assert fitted.optimizer_.stop_probability == optimizer.stop_probability
    assert fitted.optimizer_.param_groups[0]["total_steps"] == 24


def test_a_number_of_steps_that_was_given_is_left_alone() -> None:
    assert net(optimizer__total_steps=99).fit(X, Y).optimizer_.param_groups[0]["total_steps"] == 99


def test_a_run_that_began_without_a_number_of_steps_goes_on_without() -> None:
    fitted = net(callbacks=None, max_epochs=1).fit(X, Y)
    fitted.set_params(callbacks=[LearnedOptimizerCallback()]).initialize_callbacks()
    fitted.partial_fit(X, Y)
    assert losses_told(fitted.optimizer_) == 12
    assert "schedule" in fitted.history[-1]
    assert fitted.optimizer_.param_groups[0]["total_steps"] is None


def test_with_early_stopping_the_number_of_steps_stays_unknown() -> None:
    callbacks = [LearnedOptimizerCallback(), EarlyStopping("train_loss", sink=lambda _: None)]
    assert net(callbacks=callbacks).fit(X, Y).optimizer_.param_groups[0]["total_steps"] is None


def test_the_history_has_schedule_and_stop_probability() -> None:
    fitted = net().fit(X, Y)
    assert len(fitted.history[:, "schedule"]) == 4
    assert fitted.history[-1, "schedule"] == fitted.optimizer_.schedule
    assert fitted.history[-1, "stop_probability"] == fitted.optimizer_.stop_probability


@pytest.mark.parametrize("stop", [True, False])
def test_the_callback_ends_training_when_the_optimizer_says_so(
    stop: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = LearnedOptimizerCallback(stop=stop)
    fitted = net(optimizer__weights=impatient_weights(tmp_path), max_epochs=6, callbacks=[callback], verbose=1)
    fitted.fit(X, Y)
    assert len(fitted.history) == (4 if stop else 6)  # the end of the epoch in which 20 losses had been seen
    assert (callback.stop_reason_ is not None) is stop
    assert ("Stopping: " in capsys.readouterr().out) is stop


def test_skorchs_default_rate_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"skorch's default lr=0.01 would multiply the learned rates: give the net lr=1"
    ):
        net(lr=0.01).fit(X, Y)


def test_another_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a LearnedOptimizer, got SGD"):
        net(lr=0.1, optimizer=torch.optim.SGD).fit(X, Y)


def test_saved_parameters_go_on_exactly(tmp_path: Path) -> None:
    files = {
        "f_params": tmp_path / "model.pt", "f_optimizer": tmp_path / "optimizer.pt", "f_history": tmp_path / "h.json",
    }  # fmt: skip
    first = net(max_epochs=2, optimizer__total_steps=24).fit(X, Y)
    first.save_params(**files)
    again = net(max_epochs=2).initialize()
    again.load_params(**files)
    for each in (first, again):
        each.partial_fit(X, Y)
    assert_same(values(first.module_), values(again.module_))
    assert again.optimizer_.param_groups[0]["total_steps"] == 24
    assert losses_told(again.optimizer_) == 24


def test_a_pickled_net_goes_on_exactly() -> None:
    first = net(max_epochs=2, optimizer__total_steps=24).fit(X, Y)
    again = pickle.loads(pickle.dumps(first))
    for each in (first, again):
        each.partial_fit(X, Y)
    assert_same(values(first.module_), values(again.module_))


def test_scikit_learn_clones_and_searches() -> None:
    assert clone(net()).get_params()["optimizer"] is LearnedOptimizer
    search = GridSearchCV(net(), {"lr": [0.3, 1], "optimizer__weight_decay": [None, 0]}, cv=2, error_score="raise")
    search.fit(X, Y)
    assert search.best_estimator_.optimizer_.param_groups[0]["lr"] == search.best_params_["lr"]
    assert search.best_estimator_.optimizer_.param_groups[0]["total_steps"] == 24


class Watched(Toy):
    """Keeps the weights that it was validated with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.seen.append(values(self.net))
        return super().forward(x)


def test_validation_and_the_fitted_net_have_the_averaged_weights() -> None:
    callbacks = [LearnedOptimizerCallback(), EarlyStopping(patience=99, sink=lambda _: None)]
    fitted = NeuralNetRegressor(
        Watched, lr=1, optimizer=LearnedOptimizer, max_epochs=4, batch_size=8, train_split=predefined_split(same()),
        verbose=0, callbacks=callbacks,
    ).fit(X, Y)  # fmt: skip
    truth, optimizer = plain_loop(in_groups(1, 4), None)
    optimizer.eval()
    assert_same(fitted.module_.seen[-1], values(truth))
    assert_same(values(fitted.module_), values(truth))
    fitted.optimizer_.train()
    optimizer.train()
    assert_same(values(fitted.module_), values(truth))


def test_the_best_weights_that_a_callback_loads_stay(tmp_path: Path) -> None:
    keep = Checkpoint(monitor="valid_loss_best", load_best=True, dirname=str(tmp_path))
    callbacks = [LearnedOptimizerCallback(), EarlyStopping(patience=99, sink=lambda _: None), keep]
    fitted = net(train_split=predefined_split(same()), callbacks=callbacks).fit(X, Y)
    saved = torch.load(tmp_path / "params.pt", weights_only=True)
    assert_same(list(saved.values()), [p.detach() for p in fitted.module_.parameters()])

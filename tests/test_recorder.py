"""A recorder sees what there is to see, keeps within bounds, and changes nothing."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optimizer_toy import Written, assert_same, busy_weights, loss_of, network, optimised, snapshot, train, values

from learnopt import LearnedOptimizer, Recorder, recording
from learnopt.recorder import scalars
from learnopt.recording import RUN, TENSOR

NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("kernel", [True, False])
def test_it_changes_nothing(weights: str, kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel:
        monkeypatch.setattr("learnopt.kernels.library.load", lambda: None)
    monkeypatch.setattr("learnopt.recorder._SECONDS", 0.0)  # saves at every row
    results = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model, optimizer = optimised(weights, total_steps=40)
        if recorded:
            Recorder(optimizer, names=model, most=6, path=tmp_path / "run.json", writer=Written())
        losses = train(model, optimizer, range(30))
        drawn = torch.rand(1)
        results.append([*values(model), *snapshot(optimizer), optimizer._run(), torch.tensor(losses), drawn])
    assert_same(*results)


def test_rows_are_what_the_optimizer_says(weights: str) -> None:
    model, optimizer = optimised(weights, total_steps=30)
    recorder = Recorder(optimizer, names=model)
    for t in range(12):
        (loss,) = train(model, optimizer, range(t, t + 1))
        kept = recorder.recording
        assert kept.last_step == t + 1
        said = {"loss": loss, "schedule": optimizer.schedule, "stop_probability": optimizer.stop_probability}
        assert {name: kept.column(name)[-1] for name in said} == pytest.approx(said)
        for name in TENSOR:
            assert kept.values(name)[-1].tolist() == pytest.approx([row[name] for row in optimizer.explain()])
        assert kept.values("learning_rate")[-1].tolist() == pytest.approx(optimizer.learning_rates())
    assert kept.names == NAMES
    assert kept.shapes == [tuple(p.shape) for p in model.parameters()]
    losses = kept.column("loss")
    assert kept.column("loss_average")[4] == pytest.approx(losses[:5].mean(), rel=1e-5)


def test_it_thins_itself_out(weights: str) -> None:
    model, optimizer = optimised(weights)
    recorder = Recorder(optimizer, most=9)  # as 8
    losses = train(model, optimizer, range(100))
    assert recorder.recording.every == 16
    assert recorder.recording.column("step").tolist() == [1, 17, 33, 49, 65, 81, 97]
    recorder.close()
    kept = recorder.recording
    assert kept.column("step").tolist() == [1, 17, 33, 49, 65, 81, 97, 100]
    assert kept.column("loss").tolist() == pytest.approx([losses[int(s) - 1] for s in kept.column("step")])
    train(model, optimizer, range(3))
    recorder.close()
    assert kept.last_step == 100


def test_rows_stay_within_bounds_and_keep_the_first_and_the_last() -> None:
    kept = recording.Recording(["p"], [(1,)], 0.9, most=4)
    zeros = {name: [0.0] for name in TENSOR}
    for step in range(1, 1000):
        if (step - 1) % kept.every == 0:
            assert kept.add(dict.fromkeys(RUN, 0.0) | {"step": step}, zeros)
            assert kept.last_step == step
        assert len(kept.rows) <= 4
        assert kept.rows[0].run[0] == 1
    gaps = np.diff(kept.column("step"))
    assert (gaps == kept.every).all()


def test_every(weights: str) -> None:
    model, optimizer = optimised(weights)
    with Recorder(optimizer, every=5) as recorder:
        train(model, optimizer, range(12))
    assert recorder.recording.column("step").tolist() == [1, 6, 11, 12]


def test_losses_that_are_not_told_and_closures(weights: str) -> None:
    model, optimizer = optimised(weights)
    recorder = Recorder(optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    optimizer.zero_grad()
    loss_of(model, 0).backward()
    optimizer.step()
    assert "loss_average" not in recorder.latest()
    loss = optimizer.step(closure)
    assert math.isnan(recorder.recording.column("loss")[-1])
    assert recorder.recording.column("loss_average")[-1] == pytest.approx(float(loss.detach()))
    optimizer.step(loss=2.5)
    assert recorder.recording.column("loss")[-1] == 2.5


def test_maximised_objectives_keep_their_sign(weights: str) -> None:
    model, optimizer = optimised(weights, maximize=True)
    with Recorder(optimizer) as recorder:
        loss_of(model, 0).backward()
        optimizer.step(loss=7.0)
    assert recorder.latest()["loss"] == recorder.latest()["loss_average"] == 7.0


def test_skipped_steps_count(weights: str) -> None:
    model, optimizer = optimised(weights)
    recorder = Recorder(optimizer)
    train(model, optimizer, range(2))
    model[0].bias.grad.fill_(math.nan)  # type: ignore[union-attr]
    optimizer.step(loss=1.0)
    train(model, optimizer, range(2, 3))
    assert recorder.recording.column("step").tolist() == [1, 2, 3, 4]
    assert recorder.recording.column("skipped").tolist() == [0, 0, 1, 1]
    optimizer.zero_grad()
    optimizer.step()  # nothing to do, nothing to record
    assert recorder.recording.last_step == 4


def test_it_lets_go(weights: str) -> None:
    model, optimizer = optimised(weights)
    recorder = Recorder(optimizer)

    def interrupted() -> None:
        with recorder:
            train(model, optimizer, range(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not optimizer._optimizer_step_post_hooks
    train(model, optimizer, range(3))
    assert recorder.recording.last_step == 3


def test_copies_are_not_recorded(weights: str) -> None:
    model, optimizer = optimised(weights)
    recorder = Recorder(optimizer, names=model)
    train(model, optimizer, range(2))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert not other._optimizer_step_post_hooks
    assert recorder.recording.last_step == 2


def test_names(weights: str) -> None:
    model = network()
    groups = LearnedOptimizer(model.named_parameters(), weights=weights)
    assert Recorder(groups).recording.names == NAMES
    plain = LearnedOptimizer(model.parameters(), weights=weights)
    assert Recorder(plain).recording.names == [f"tensor {i}" for i in range(6)]
    assert Recorder(plain, names=list(model.named_parameters())).recording.names == NAMES
    assert Recorder(plain, names=[("first", model[0].weight)]).recording.names[:2] == ["first", "tensor 1"]


def test_parameters_that_come_later(weights: str) -> None:
    model = network()
    optimizer = LearnedOptimizer(model[:2].parameters(), weights=weights)
    recorder = Recorder(optimizer, names=model)
    train(model, optimizer, range(2))
    optimizer.add_param_group({"params": list(model[3].parameters())})
    train(model, optimizer, range(2, 4))
    assert recorder.recording.names == NAMES
    rates = recorder.recording.values("learning_rate")
    assert np.isnan(rates[:2, 4:]).all()
    assert (rates[3] > 0).all()


def test_going_back_forgets_what_came_after(weights: str) -> None:
    model, optimizer = optimised(weights)
    recorder = Recorder(optimizer)
    train(model, optimizer, range(3))
    kept = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, range(3, 7))
    optimizer.load_state_dict(kept)
    losses = train(model, optimizer, range(5, 6))
    assert recorder.recording.column("step").tolist() == [1, 2, 3, 4]
    assert recorder.recording.column("loss")[-1] == pytest.approx(losses[0])


def test_wrapped_optimizers_and_a_compiled_step(weights: str) -> None:
    class Wrapper:
        def __init__(self, inner: Any) -> None:
            self.optimizer = inner

    model, optimizer = optimised(weights)
    recorder = Recorder(Wrapper(Wrapper(optimizer)))
    step = torch.compile(optimizer.step, backend="eager")
    loss_of(model, 0).backward()
    for _ in range(3):
        step(loss=1.0)
    assert recorder.recording.column("step").tolist() == [1, 2, 3]


def test_without_parameters_there_is_nothing_to_record(weights: str) -> None:
    optimizer = LearnedOptimizer([{"params": []}], weights=weights)
    with Recorder(optimizer) as recorder:
        optimizer.step()
    assert recorder.recording.rows == []
    assert recorder.latest() == scalars(optimizer) == {}
    assert optimizer.stop_evidence() == []


def test_it_holds_no_graph(weights: str) -> None:
    model, optimizer = optimised(weights)
    recorder = Recorder(optimizer, every=10)
    loss = loss_of(model, 0)
    loss.backward()
    optimizer.step(loss=loss)
    assert isinstance(recorder._told, torch.Tensor)
    assert not recorder._told.requires_grad


def test_it_notes_the_reason_to_stop(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = optimised(weights)
    optimizer._meta["threshold"] = 0.0
    recorder = Recorder(optimizer, names=model)
    train(model, optimizer, range(25))
    assert recorder.recording.stopped is not None
    step, reason = recorder.recording.stopped
    assert step == 20
    assert reason.startswith("step 20: ")

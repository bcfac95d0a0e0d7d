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
from optimizer_toy import assert_same, busy_weights, loss_of, network, snapshot, train, values
from torch import nn

from learnopt import LearnedOptimizer, Recorder, recording
from learnopt.recorder import scalars
from learnopt.recording import RUN, TENSOR

NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


def made(weights: str, **options: Any) -> tuple[nn.Sequential, LearnedOptimizer]:
    model = network()
    return model, LearnedOptimizer(model.parameters(), weights=weights, **options)


@pytest.mark.parametrize("kernel", [True, False])
def test_it_changes_nothing(weights: str, kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel:
        monkeypatch.setattr("learnopt.kernels.library.load", lambda: None)
    monkeypatch.setattr("learnopt.recorder._SECONDS", 0.0)  # saves at every row
    results = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model, optimizer = made(weights, total_steps=40)
        if recorded:
            Recorder(optimizer, names=model, most=6, path=tmp_path / "run.json", writer=Written())
        losses = train(model, optimizer, range(30))
        drawn = torch.rand(1)
        results.append([*values(model), *snapshot(optimizer), optimizer._run(), torch.tensor(losses), drawn])
    assert_same(*results)


def test_rows_are_what_the_optimizer_says(weights: str) -> None:
    model, optimizer = made(weights, total_steps=30)
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
    model, optimizer = made(weights)
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
    model, optimizer = made(weights)
    with Recorder(optimizer, every=5) as recorder:
        train(model, optimizer, range(12))
    assert recorder.recording.column("step").tolist() == [1, 6, 11, 12]


def test_losses_that_are_not_told_and_closures(weights: str) -> None:
    model, optimizer = made(weights)
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
    model, optimizer = made(weights, maximize=True)
    with Recorder(optimizer) as recorder:
        loss_of(model, 0).backward()
        optimizer.step(loss=7.0)
    assert recorder.latest()["loss"] == recorder.latest()["loss_average"] == 7.0


def test_skipped_steps_count(weights: str) -> None:
    model, optimizer = made(weights)
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
    model, optimizer = made(weights)
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
    model, optimizer = made(weights)
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
    model, optimizer = made(weights)
    recorder = Recorder(optimizer)
    train(model, optimizer, range(3))
    kept = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, range(3, 7))
    optimizer.load_state_dict(kept)
    losses = train(model, optimizer, range(5, 6))
    assert recorder.recording.column("step").tolist() == [1, 2, 3, 4]
    assert recorder.recording.column("loss")[-1] == pytest.approx(losses[0])


def test_resuming_goes_on_with_the_file(weights: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    whole_model, whole = made(weights)
    with Recorder(whole, names=whole_model) as all_of_it:
        train(whole_model, whole, range(10))
    model, optimizer = made(weights)
    with Recorder(optimizer, names=model, path=path, resume=True):  # no file yet
        train(model, optimizer, range(6))
        kept = copy.deepcopy([optimizer.state_dict(), model.state_dict()])
        train(model, optimizer, range(6, 8))
    model, optimizer = made(weights)
    model.load_state_dict(kept[1])
    optimizer.load_state_dict(kept[0])
    with Recorder(optimizer, names=model, path=path, resume=True) as recorder:
        assert recorder.recording.last_step == 6
        train(model, optimizer, range(6, 10))
    ours, truth = recorder.recording, all_of_it.recording
    assert ours.column("step").tolist() == truth.column("step").tolist()
    np.testing.assert_allclose(ours.column("loss"), truth.column("loss"), rtol=1e-6)
    np.testing.assert_allclose(ours.values("learning_rate"), truth.values("learning_rate"), rtol=1e-4)
    other = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="is of other parameters"):
        Recorder(LearnedOptimizer(other.parameters(), weights=weights), names=other, path=path, resume=True)


class Written:
    """Stands in for a SummaryWriter."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        assert isinstance(scalar_value, float)
        assert math.isfinite(scalar_value)
        self.rows.append((tag, scalar_value, global_step))


def test_writers_get_it_at_once_or_afterwards(weights: str) -> None:
    model, optimizer = made(weights)
    live, later = Written(), Written()
    with Recorder(optimizer, names=model, writer=live) as recorder:
        train(model, optimizer, range(4))
    recorder.to_tensorboard(later)
    assert live.rows == later.rows
    assert {step for _, _, step in live.rows} == {1, 2, 3, 4}
    tags = {tag for tag, _, _ in live.rows}
    assert {"learnopt/loss", "learnopt/schedule", "learnopt/stop_probability", "learnopt/learning_rate/0"} <= tags


def test_scalars(weights: str) -> None:
    model, optimizer = made(weights)
    assert scalars(optimizer, model) == {}
    train(model, optimizer, range(3))
    before = optimizer.state_dict()
    found = scalars(optimizer, model)
    rates = optimizer.learning_rates()
    assert found["learning_rate/0"] == pytest.approx(rates[0], rel=1e-5)
    assert found["learning_rate/0/others"] == pytest.approx(rates[1], rel=1e-5)
    assert found["learning_rate/1"] == pytest.approx(math.sqrt(rates[2] * rates[3]), rel=1e-5)
    assert sum(found[f"direction/{name}"] for name in ("gradient", "momentum", "orthogonal")) == pytest.approx(1)
    rows, sizes = optimizer.explain(), [p.numel() for p in model.parameters()]
    decay = sum(row["decay"] * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes)
    assert found["decay"] == pytest.approx(decay, rel=1e-5)
    matrices = sum(row["orthogonal"] * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes)
    assert found["direction/orthogonal"] == pytest.approx(matrices, rel=1e-5)
    assert not optimizer._optimizer_step_post_hooks
    assert all(torch.equal(before["state"][i][k], v) for i, s in optimizer.state_dict()["state"].items()
               for k, v in s.items())  # fmt: skip


def test_wrapped_optimizers_and_a_compiled_step(weights: str) -> None:
    class Wrapper:
        def __init__(self, inner: Any) -> None:
            self.optimizer = inner

    model, optimizer = made(weights)
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
    model, optimizer = made(weights)
    recorder = Recorder(optimizer, every=10)
    loss = loss_of(model, 0)
    loss.backward()
    optimizer.step(loss=loss)
    assert isinstance(recorder._told, torch.Tensor)
    assert not recorder._told.requires_grad


def test_it_notes_the_reason_to_stop(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = made(weights)
    optimizer._meta["threshold"] = 0.0
    recorder = Recorder(optimizer, names=model)
    train(model, optimizer, range(25))
    assert recorder.recording.stopped is not None
    step, reason = recorder.recording.stopped
    assert step == 20
    assert reason.startswith("step 20: ")


def test_bad_input(weights: str, tmp_path: Path) -> None:
    model, optimizer = made(weights)
    adam = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match="must be a LearnedOptimizer, got AdamW"):
        Recorder(adam)
    with pytest.raises(ValueError, match="must be a LearnedOptimizer, got NoneType"):
        scalars(None)
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, got 0"):
        Recorder(optimizer, every=0)
    with pytest.raises(ValueError, match="most must be a whole number of at least 2, got 1"):
        Recorder(optimizer, most=1)
    with pytest.raises(ValueError, match=r"names must be a model or its named_parameters\(\)"):
        Recorder(optimizer, names=list(model.parameters()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="path must be a file that can be written"):
        Recorder(optimizer, path=tmp_path)
    with pytest.raises(ValueError, match="needs a path"):
        Recorder(optimizer).save()
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged\.json is not valid JSON"):
        Recorder(optimizer, path=tmp_path / "damaged.json", resume=True)

"""What comes out of a recorder: files to go on with, rows for writers, figures for loggers; and what it refuses."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from optimizer_toy import Written, busy_weights, optimised, train
from torch import nn

from learnopt import LearnedOptimizer, Recorder
from learnopt.recorder import scalars


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return busy_weights(tmp_path_factory.mktemp("weights"))


def test_writers_get_it_at_once_or_afterwards(weights: str) -> None:
    model, optimizer = optimised(weights)
    live, later = Written(), Written()
    with Recorder(optimizer, names=model, writer=live) as recorder:
        train(model, optimizer, range(4))
    recorder.to_tensorboard(later)
    assert live.rows == later.rows
    assert {step for _, _, step in live.rows} == {1, 2, 3, 4}
    tags = {tag for tag, _, _ in live.rows}
    assert {"learnopt/loss", "learnopt/schedule", "learnopt/stop_probability", "learnopt/learning_rate/0"} <= tags


def test_scalars(weights: str) -> None:
    model, optimizer = optimised(weights)
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


def test_the_file_is_where_it_was_asked_for(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "later").mkdir()
    monkeypatch.chdir(tmp_path)
    model, optimizer = optimised(weights)
    with Recorder(optimizer, names=model, path="run.json"):
        monkeypatch.chdir(tmp_path / "later")
        train(model, optimizer, range(2))
    assert (tmp_path / "run.json").exists()
    assert not any((tmp_path / "later").iterdir())


def test_resuming_goes_on_with_the_file(weights: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    whole_model, whole = optimised(weights)
    with Recorder(whole, names=whole_model) as all_of_it:
        train(whole_model, whole, range(10))
    model, optimizer = optimised(weights)
    with Recorder(optimizer, names=model, path=path, resume=True):  # no file yet
        train(model, optimizer, range(6))
        kept = copy.deepcopy([optimizer.state_dict(), model.state_dict()])
        train(model, optimizer, range(6, 8))
    model, optimizer = optimised(weights)
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


def test_bad_input(weights: str, tmp_path: Path) -> None:
    model, optimizer = optimised(weights)
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

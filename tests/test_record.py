"""Recorded runs are those that torch's optimizers would give; the corpus keeps them whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toy import Recurrent, ToyTask

from learnopt import cli
from learnopt.baselines import multiplier
from learnopt.batched_optimizers import RECIPES
from learnopt.corpus import Corpus
from learnopt.record import POINTS, Configuration, NoMetric, RecordPlan, TooSlow, record, train_all
from learnopt.tuner.meta_features import NAMES, first_tensor, meta_features
from learnopt.tuner.probing import OPTIMIZERS

SMALL = RecordPlan(optimizers=("adamw",), seeds=2, most_steps=12, rates=3, decays=1)


@pytest.mark.parametrize("task", [ToyTask("mlp"), Recurrent()], ids=lambda task: task.name)
@pytest.mark.parametrize("optimizer", RECIPES)
def test_every_run_equals_torch(optimizer: str, task: ToyTask) -> None:
    decays = RECIPES[optimizer].decays
    grid = [Configuration(decays[1], "cosine", 0.01), Configuration(decays[0], "constant", 0.003)]
    curves = train_all(task, RECIPES[optimizer], grid, seeds=2, steps=15)
    for i, configuration in enumerate(grid):
        for seed in (0, 1):
            model = task.build(seed)
            torch_optimizer = OPTIMIZERS[optimizer](model.parameters(), lr=1.0, weight_decay=configuration.weight_decay)
            losses = []
            for t in range(15):
                torch_optimizer.param_groups[0]["lr"] = configuration.lr * multiplier(configuration.schedule, t, 15)
                torch_optimizer.zero_grad()
                loss = task.loss(model, task.batch(seed, t))
                loss.backward()
                torch_optimizer.step()
                losses.append(loss.item())
            run = 2 * i + seed
            np.testing.assert_allclose(curves.train[:, run], losses, rtol=2e-4)
            final = task.loss(model, task.validation()).item()
            assert float(curves.valid[-1, run]) == pytest.approx(final, rel=2e-4)


def test_a_recorded_task_has_a_row_per_run() -> None:
    runs = record(ToyTask("mlp"), "adamw", SMALL)
    assert len(runs) == 3 * 2 * 2
    assert set(runs["schedule"]) == {"constant", "cosine"}
    first = runs.iloc[0]
    assert list(first["valid_steps"]) == list(range(13))
    assert len(first["valid"]) == 13
    assert len(first["train"]) == 12
    assert first["steps"] == 12
    assert {f"feature.{n}" for n in NAMES} <= set(runs.columns)


def test_training_losses_are_means_between_validations() -> None:
    every = train_all(ToyTask("bare"), RECIPES["adamw"], [Configuration(0.0, "constant", 0.01)], 1, 100)
    assert every.train.shape == (POINTS, 1)
    assert every.at[-1] == 100
    assert float(every.train[0]) > float(every.train[-1])


def test_short_runs_are_whole_runs() -> None:
    plan = RecordPlan(("adamw",), 2, 20, rates=3, schedules=("cosine",), fractions=(1.0, 0.5))
    runs = record(ToyTask("mlp"), "adamw", plan)
    assert len(runs) == 2 * 3 * 2 + 3 * 2  # the second weight decay for the full length alone
    short = runs[runs["fraction"] == 0.5]
    assert set(short["schedule"]) == {"cosine"}
    assert set(runs["steps"]) == {20}
    assert all(list(at) == [0, 1, 2, 4, 5, 6, 8, 9, 10] for at in short["valid_steps"])
    alone = record(ToyTask("mlp"), "adamw", RecordPlan(("adamw",), 2, 10, rates=3, decays=1, schedules=("cosine",)))
    ends = [[v[-1] for v in frame["valid"]] for frame in (short, alone)]
    np.testing.assert_allclose(*ends, rtol=1e-4)


def test_parts_of_a_grid_are_recorded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = record(ToyTask("mlp"), "adamw", SMALL)
    monkeypatch.setattr("learnopt.record.MOST_NUMBERS", 1)
    parts = record(ToyTask("mlp"), "adamw", SMALL)
    np.testing.assert_allclose(np.stack(whole["valid"]), np.stack(parts["valid"]), rtol=1e-4)


class _Judged(ToyTask):
    metric_name, larger_is_better = "closeness", True

    def metric(self, model, batch):  # type: ignore[no-untyped-def]
        return 1 / (1 + self.loss(model, batch))


def test_runs_are_validated_by_the_metric() -> None:
    losses = record(_Judged("mlp"), "adamw", SMALL)
    judged = record(_Judged("mlp"), "adamw", replace(SMALL, metric=True))
    np.testing.assert_allclose(
        np.stack(judged["valid"]), -1 / (1 + np.stack(losses["valid"]).astype(np.float64)), rtol=1e-5
    )
    np.testing.assert_array_equal(np.stack(judged["train"]), np.stack(losses["train"]))
    assert set(judged["metric"]) == {"closeness"}
    with pytest.raises(NoMetric, match="mlp has no metric beside its loss"):
        record(ToyTask("mlp"), "adamw", replace(SMALL, metric=True))


def test_what_takes_too_long_is_given_up() -> None:
    with pytest.raises(TooSlow, match="seconds expected"):
        record(ToyTask("mlp"), "adamw", RecordPlan(most_steps=20, most_seconds=1e-9))


def test_the_corpus_is_whole_or_absent(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    runs = pd.DataFrame({"task": ["a"], "valid": [[1.0, np.nan]]})
    corpus.put("a", "adamw", runs)
    assert corpus.has("a", "adamw")
    assert not corpus.has("a", "sgd")
    corpus.skip("b", "sgd", "too slow")
    assert not corpus.has("b", "sgd")
    assert corpus.left_out("b", "sgd") == "too slow"
    assert corpus.left_out("b", "adamw") is None
    note = next((tmp_path / "skipped").iterdir())
    for content in ("", "[1]", "{}", '{"reason": "x", "allowed": []}'):
        note.write_text(content)
        assert corpus.left_out("b", "sgd") is None
    (found,) = corpus.frames("adamw")
    assert found["valid"][0].tolist()[0] == 1.0
    corpus.agree({"seeds": 2})
    corpus.agree({"seeds": 2})
    with pytest.raises(ValueError, match="recorded with other settings: seeds 2, now 3"):
        corpus.agree({"seeds": 3})
    for content in ("", "[1]", "{"):
        (tmp_path / "corpus.json").write_text(content)
        with pytest.raises(ValueError, match=r"corpus\.json is damaged"):
            corpus.agree({"seeds": 2})


def test_record_command_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "record", str(tmp_path), "--tasks", "iris-linear", "--seeds", "1", "--rates", "2", "--decays", "1",
        "--most-steps", "8",
    ]  # fmt: skip
    assert cli.run(words) == 0
    files = Corpus(tmp_path).paths()
    assert [p.name for p in files] == ["iris-linear--adamw.parquet", "iris-linear--sgd.parquet"]
    times = [p.stat().st_mtime_ns for p in files]
    assert "there before" not in capsys.readouterr().err
    assert cli.run(words) == 0
    assert "there before: iris-linear with adamw, iris-linear with sgd\n" in capsys.readouterr().err
    assert [p.stat().st_mtime_ns for p in files] == times
    assert cli.run([*words[:-1], "9"]) == 2
    assert "other settings: most_steps 8, now 9" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizers", "lion"], "unknown optimizer 'lion'"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--share", "3/2"], "--share must be I/N"),
        (["--count", "0"], "--count must be at least 1"),
        (["--rates", "1"], "rates must be 0 or at least 2"),
        (["--schedules", "linear"], "unknown schedule 'linear'; choose from: constant, cosine"),
        (["--fractions", "1,2"], "fractions must be above 0 and at most 1, got 1.0, 2.0"),
        (["--fractions", "half"], "--fractions takes numbers with commas between, got 'half'"),
        (["--schedules", "constant", "--fractions", "1,0.5"], "fractions below 1 are of cosine schedules"),
        (["--tasks", "nothing"], "unknown task 'nothing'"),
        (["--tasks", ","], "--tasks names no task, got ','"),
        (["--optimizers", "adamw,adamw"], "optimizers has 'adamw' more than once"),
        (["--schedules", "constant,constant"], "schedules has 'constant' more than once"),
        (["--fractions", "1,0.5,1.0"], "fractions has 1.0 more than once"),
        (["--tasks", "iris-linear,iris-linear"], "task 'iris-linear' is given more than once"),
        (["--most-seconds", "-1"], "most_seconds must be a finite number of at least 0, got -1"),
    ],
)
def test_record_command_refuses(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["record", str(tmp_path / "c"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "c").exists()


def test_record_command_says_again_why_tasks_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["record", str(tmp_path), "--tasks", "digits-autoencoder", "--metric", "--optimizers", "adamw"]
    for _ in range(2):
        assert cli.run(words) == 0
        said = capsys.readouterr().err
        assert "left out digits-autoencoder with adamw: digits-autoencoder has no metric" in said
        assert "there before" not in said


def test_what_was_too_slow_is_tried_again_where_more_time_is_allowed(tmp_path: Path) -> None:
    words = ["record", str(tmp_path), "--tasks", "iris-linear", "--optimizers", "adamw", "--seeds", "1", "--rates", "2",
             "--decays", "1", "--most-steps", "8", "--most-seconds"]  # fmt: skip
    assert cli.run([*words, "1e-9"]) == 0
    corpus = Corpus(tmp_path)
    assert "0 allowed" in (corpus.left_out("iris-linear", "adamw", 1e-9) or "")
    assert corpus.left_out("iris-linear", "adamw", 1e-3) is None
    assert corpus.paths() == []
    assert cli.run([*words, "0"]) == 0
    assert len(corpus.paths()) == 1


def test_what_is_lacking_is_said_before_anything_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("learnopt.corpus.find_spec", lambda name: None)
    assert cli.run(["record", str(tmp_path / "c"), "--count", "1"]) == 2
    assert "pip install pyarrow" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_an_interrupted_recording_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("learnopt.cli_record.record", interrupted)
    assert cli.run(["record", str(tmp_path), "--tasks", "iris-linear"]) == 130
    assert "goes on where this one stopped" in capsys.readouterr().err


def test_meta_features_leave_the_model_as_found() -> None:
    task = ToyTask("cnn")
    model = task.build(0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batches = [task.batch(0, t) for t in range(4)]
    found = dict(zip(NAMES, meta_features(model, task.loss, batches, steps=20, rows=200), strict=True))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert found["log_parameters"] == pytest.approx(np.log(sum(p.numel() for p in model.parameters())))
    assert found["log_epochs"] == pytest.approx(np.log(20 * 16 / 200))
    assert 0 <= found["gradient_agreement"] <= 1
    assert found["sign_response_0.001"] < 0  # a small step along the gradient lowers the loss
    assert meta_features(model, task.loss, batches, steps=20, rows=200) == list(found.values())


def test_meta_features_survive_losses_that_explode() -> None:
    model = torch.nn.Linear(4, 1)
    x = torch.full((8, 4), 1e18)
    found = meta_features(model, lambda m, b: m(b).square().mean(), [x, x], steps=10)
    assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="no trainable parameters"):
        meta_features(torch.nn.ReLU(), lambda m, b: b.sum(), [x], steps=10)
    with pytest.raises(ValueError, match="does not depend on the model"):
        meta_features(model, lambda m, b: b.sum(), [x], steps=10)


def test_the_first_tensor_of_any_batch() -> None:
    x = torch.zeros(3)
    assert first_tensor({"a": [1, (x, 2)]}) is x
    assert first_tensor("words") is None

"""Teaching the stopper and the pruner: labels against a slow truth, splits, rules on curves, the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from learnopt.cli import run
from learnopt.corpus import Corpus
from learnopt.stopping import Patience, calibrate, curves, peer_train, policy, train, weights
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves


def make_corpus(folder: Path, tasks: int = 6, runs: int = 16, points: int = 21) -> Path:
    """Runs whose best value comes at a moment that a kink gives away."""
    corpus, t = Corpus(folder), np.linspace(0, 1, points)
    for i in range(tasks):
        rng = np.random.default_rng(i)
        rows = []
        for j in range(runs):
            turn, level = rng.uniform(0.2, 0.9), rng.uniform(0.5, 2)
            valid = level + np.where(t < turn, 2 * (turn - t), 0.5 * (t - turn)) + 0.005 * rng.standard_normal(points)
            if j == 0:
                valid[points // 2 :] = np.inf
            rows.append({"schedule": ("constant", "cosine")[j % 2], "valid_steps": list(range(0, 10 * points, 10)),
                         "valid": valid.tolist()})  # fmt: skip
        frame = pd.DataFrame(rows).assign(task=f"task{i}", datasets=f"data{i}" if i else "data0,data1")
        corpus.put(f"task{i}", "adamw", frame)
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    return curves.read(make_corpus(tmp_path_factory.mktemp("corpus")))


def test_reads_a_corpus(recorded: Curves, tmp_path: Path) -> None:
    assert len(recorded) == 96
    assert recorded.values.shape == recorded.steps.shape == (96, 21)
    assert torch.isnan(recorded.values[0, 10:]).all()
    assert recorded.constant.float().mean() == 0.5
    with pytest.raises(ValueError, match="no recorded runs in"):
        curves.read(tmp_path)


def test_short_runs_are_left_out(tmp_path: Path) -> None:
    corpus = Corpus(make_corpus(tmp_path, tasks=2))
    frame = next(iter(corpus.frames())).assign(fraction=1.0)
    corpus.put("task0", "adamw", pd.concat([frame, frame.assign(fraction=0.25)], ignore_index=True))
    assert len(curves.read(tmp_path)) == 32


@pytest.mark.parametrize("seed", range(4))
def test_splits_have_no_data_in_common(recorded: Curves, seed: int) -> None:
    parts = curves.split(recorded, 0.34, seed)
    names = [{d for i in part.numbers for d in part.datasets[i].split(",")} for part in parts]
    assert not names[0] & names[1]
    assert len(parts[0].numbers) + len(parts[1].numbers) == 6
    assert 1 <= len(parts[1].numbers) <= 2
    one = recorded.of(recorded.task == 0)
    with pytest.raises(ValueError, match="too few data sets"):
        curves.split(Curves(one.values, one.steps, one.task, ["a"], ["a"], one.constant, one.length), 0.5, 0)


def test_labels_against_a_slow_truth(recorded: Curves) -> None:
    generator = torch.Generator().manual_seed(0)
    values, steps, told = train.vary(recorded.of(torch.arange(40)), generator)
    seen = train.look(values, steps, told)
    for n in range(40):
        length = int((~torch.isnan(steps[n])).sum())
        assert (steps[n, :length].diff() > 0).all()
        own = values[n, :length].nan_to_num(math.inf)
        for t in range(length - 1):
            best, ahead = float(own[: t + 1].min()), float(own[t + 1 :].min())
            if math.isinf(best):
                assert not seen.mask[n, t]
                continue
            assert seen.mask[n, t]
            expected = max(0.0, best - ahead) if math.isfinite(ahead) else 0.0
            assert float(seen.gain[n, t]) == pytest.approx(expected)
            if expected:
                when = float(steps[n, t + 1 + int(own[t + 1 :].argmin())] - steps[n, t]) / float(
                    steps[n, length - 1] - steps[n, t]
                )
                assert float(seen.share[n, t]) == pytest.approx(when)
        assert not seen.mask[n, length - 1 :].any()


@pytest.mark.parametrize("wait", [1, 3, 6])
def test_patience_on_curves_is_the_stopper(recorded: Curves, wait: int) -> None:
    fast = policy.patience(recorded, wait)
    for row, found in zip(recorded.values, fast, strict=True):
        stopper = Patience(wait)
        slow = next((i for i, v in enumerate(row) if stopper.update(v).stop), len(row) - 1)
        assert int(found) == slow


def test_outcomes(recorded: Curves) -> None:
    never = torch.full((96,), 20)
    assert policy.outcome(recorded, never)._replace(saving=0) == policy.Outcome(1.0, 0.0, 0.0, 0.0)
    ideal = policy.outcome(recorded, policy.oracle(recorded))
    assert ideal.excess == 0
    assert ideal.saving == pytest.approx(1)
    assert 0.4 < ideal.compute < 0.8
    at_once = policy.outcomes(recorded, torch.zeros(96, dtype=torch.long))
    row = recorded.values[5]
    assert float(at_once[5, 1]) == pytest.approx(min(1.0, float(row[0] / row.min() - 1)))
    assert float(at_once[5, 0]) == 0


def test_it_learns_what_curves_do(recorded: Curves) -> None:
    said: list[float] = []
    network = train.fit(recorded, 0, 80, lambda i, loss: said.append(loss))
    assert len(said) == 80
    assert np.mean(said[-10:]) < 0.6 * np.mean(said[:10])
    again = train.fit(recorded, 0, 2)
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), train.fit(recorded, 0, 2).parameters(), strict=True)
    )
    outcomes = dict(calibrate.stopping(network, recorded))
    assert outcomes[0.5].compute < 0.95
    assert outcomes[0.5].compute <= outcomes[0.1].compute <= outcomes[0.005].compute
    assert (
        calibrate.stopping_threshold([(0.1, policy.Outcome(0.9, 0.001, 0, 0)), (0.2, policy.Outcome(0.5, 0.1, 0, 0))])
        == 0.1
    )


def test_simulated_studies(recorded: Curves) -> None:
    task = peer_train.recorded(CurveNetwork(), recorded)[2]
    order = list(range(16))
    never = peer_train.simulate(CurveNetwork(), task, order, lambda x: torch.ones(len(x)), 0.5, 0.0)
    assert never.compute == pytest.approx((15 * 20 + 20) / 16 / 20)
    assert never.best == never.completed == float(task.best[:, -1].min())
    strict = peer_train.simulate(CurveNetwork(), task, order, lambda x: torch.zeros(len(x)), 0.5, 0.0, lambda: 3)
    leading = [float(task.best[0, -1])]
    for j in order[1:]:  # only trials ahead of all before them from their first value on complete
        if (task.best[j] <= min(leading)).all():
            leading.append(float(task.best[j, -1]))
    assert strict.completed == min(leading)
    assert strict.compute < 0.3
    for x, y in zip(strict.inputs, strict.truth, strict=True):
        assert len(x) == len(y)
        assert len(y) <= 20
        assert torch.isfinite(x).all()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, out = make_corpus(tmp_path / "corpus", tasks=5, runs=10, points=12), tmp_path / "mine.safetensors"
    assert run(["stopper-train", str(corpus), "--out", str(out), "--iterations", "6"]) == 0
    text = capsys.readouterr().out
    assert "patience 10" in text
    assert "best within 1 %" in text
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["threshold"] in calibrate.THRESHOLDS
    assert card["pruning_threshold"] in calibrate.PRUNING
    assert card["curves"] + 10 * card["tasks_aside"] == 50
    assert weights.load(out).card["seed"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iterations", "1"], "--iterations must be at least 2 and --seed at least 0, got 1 and 0"),
        (["--aside", "1"], "--aside must be between 0 and 1, got 1.0"),
        (["--out", "x.pt"], "--out must end in .safetensors, got 'x.pt'"),
        ([], "no recorded runs in"),
    ],
)
def test_bad_commands(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["stopper-train", str(tmp_path), "--out", str(tmp_path / "x.safetensors"), *options]
    assert run(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

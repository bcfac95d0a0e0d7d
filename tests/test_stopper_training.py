"""Teaching the stopper: labels against a slow truth, splits, rules on curves, resuming, the command."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recorded_curves import make_corpus

from learnopt.cli import run
from learnopt.corpus import Corpus
from learnopt.stopping import Patience, calibrate, curves, peer_train, policy, train, weights
from learnopt.stopping.curve_network import CurveNetwork
from learnopt.stopping.curves import Curves
from learnopt.stopping.session import Interrupted, Session


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
        curves.split(replace(one, tasks=["a"], datasets=["a"]), 0.5, 0)


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
    session = Session(say=lambda stage, done, total, note: said.append(float(note.removeprefix("loss "))))
    network = train.fit(recorded, 0, 80, session)
    assert len(said) == 80
    assert np.mean(said[-10:]) < 0.6 * np.mean(said[:10])
    again = train.fit(recorded, 0, 2)
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), train.fit(recorded, 0, 2).parameters(), strict=True)
    )
    outcomes = dict(calibrate.stopping(network, "losses", recorded).outcomes)
    assert outcomes[0.5].compute < 0.95
    assert outcomes[0.5].compute <= outcomes[0.1].compute <= outcomes[0.005].compute
    assert (
        calibrate.stopping_threshold([(0.1, policy.Outcome(0.9, 0.001, 0, 0)), (0.2, policy.Outcome(0.5, 0.1, 0, 0))])
        == 0.1
    )


@pytest.mark.parametrize("after", [2, 9, 20])
def test_training_goes_on_exactly(
    recorded: Curves, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt anywhere, then the same call: the same networks as without."""
    few = recorded.of(recorded.task < 2)

    def teach(session: Session) -> list[torch.Tensor]:
        curve = train.fit(few, 0, 3, session)
        return [*curve.parameters(), *peer_train.fit(curve, few, 0, 4, session).parameters()]

    straight = teach(Session())
    path, pieces = tmp_path / "x.checkpoint", 0

    def interrupt(*what: object) -> None:
        nonlocal pieces
        pieces += 1
        if pieces == after:
            signal.raise_signal(signal.SIGINT)

    session = Session(path, {"seed": 0}, interrupt)
    with pytest.raises(Interrupted, match="the same command goes on from"), session.interruptible():
        teach(session)
    assert pieces == after
    again: list[object] = []
    resumed = teach(Session(path, {"seed": 0}, lambda *what: again.append(what)))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    assert len(again) + after == 3 + 4 * 2 + 4 + 3 * 2


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.checkpoint"
    Session(path, {"seed": 0}).keep("stage", [1])
    with pytest.raises(ValueError, match=r"other settings \(seed 0 -> 1\); remove it or choose another --out"):
        Session(path, {"seed": 1})
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        Session(path, {"seed": 0})
    Session(tmp_path / "none").close()


def test_metrics_are_read_apart_from_losses(tmp_path: Path) -> None:
    make_corpus(tmp_path / "losses", tasks=2, runs=4)
    judged = Corpus(tmp_path / "metrics")
    for frame in Corpus(tmp_path / "losses").frames():
        frame["valid"] = [-1 / (1 + np.asarray(v)) for v in frame["valid"]]
        judged.put(str(frame["task"].iloc[0]), "adamw", frame.assign(metric="accuracy"))
    both = curves.read(tmp_path / "losses", tmp_path / "metrics")
    assert both.tasks == ["task0", "task0 by accuracy", "task1", "task1 by accuracy"]
    parts = calibrate.kinds(both)
    assert parts["losses"].numbers == [0, 2]
    assert parts["metrics"].numbers == [1, 3]
    assert (parts["metrics"].values.nan_to_num(-0.5) <= 0).all()
    assert list(calibrate.kinds(parts["losses"])) == ["losses"]
    network = CurveNetwork()
    found = [calibrate.stopping(network, kind, part) for kind, part in parts.items()]
    assert [f.key for f in found] == ["threshold", "threshold_max"]
    plain, limited = calibrate.stoppings(network, both)[1:]
    assert limited.key == "threshold_limit"
    assert limited.curves is plain.curves
    runs = limited.curves
    slow = policy.probabilities(network, runs, calibrate.TOLERANCE)
    for row, values in zip(slow, runs.values.tolist(), strict=True):
        for t in range(len(row)):
            accuracy = max(-v for v in values[: t + 1] if not math.isnan(v))
            row[t] = row[t] * (1 - accuracy) / accuracy if accuracy * 1.01 < 1 else 0
    assert limited.outcomes == [
        (t, policy.outcome(runs, policy.first_below(slow, t, runs))) for t in calibrate.THRESHOLDS
    ]
    assert limited.outcomes != plain.outcomes


def test_rounded_curves() -> None:
    values = torch.tensor([[3.1, 2.0, 1.17, 1.0, torch.nan], [torch.nan, 5.0, 4.96, 4.0, 4.45], [2.0] * 5])
    fine, coarse = (train.rounded(values.double(), torch.full((3,), c)) for c in (0.0, 1.0))
    assert torch.equal(torch.isnan(fine), torch.isnan(values))
    steps = torch.tensor([2.1, 1.0])  # ways from the first value to the best
    for found, share in ((fine, 0.003), (coarse, 0.2)):
        step = share * steps.double()[:, None]
        torch.testing.assert_close(found[:2], (values[:2].double() / step).round() * step, equal_nan=True)
    assert torch.equal(fine[2], values[2].double())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, out = make_corpus(tmp_path / "corpus", tasks=5, runs=10, points=12), tmp_path / "mine.safetensors"
    assert run(["stopper-train", str(corpus), "--out", str(out), "--iterations", "6"]) == 0
    text = capsys.readouterr().out
    assert "patience 10" in text
    assert "best within 1 %" in text
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["threshold"] in calibrate.THRESHOLDS
    assert "threshold_max" not in card
    assert card["pruning_threshold"] in calibrate.PRUNING
    assert card["curves"] + 10 * card["tasks_aside"] == 50
    assert weights.load(out).card["seed"] == 0
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus", "mine.json", "mine.png", "mine.safetensors"]


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

"""What the tuner learns from a corpus."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from learnopt import cli
from learnopt.batched_optimizers import RECIPES
from learnopt.corpus import Corpus
from learnopt.tuner import aligned
from learnopt.tuner.knowledge import MOST_REGRET, load
from learnopt.tuner.learn import MOST_PROBES, PRACTICE, examples, learn, portfolio, random_probed
from learnopt.tuner.lessons import PARTS, gather
from learnopt.tuner.meta_features import NAMES
from learnopt.tuner.probes import POINTS, SHARES, Probe, channels, on_grid

RECIPE = RECIPES["adamw"]
RATES = RECIPE.rates
SCHEDULES = ("constant", "cosine")


def run(level: float, failing: bool, points: int, length: float = 1.0) -> dict[str, list[float]]:
    """Losses that fall towards a level over `points` readings, further in a longer run."""
    valid = [level + (2.0 - level) * 0.01 ** (length * t / points) for t in range(points + 1)]
    if failing:
        valid[points // 2 :] = [np.nan] * (points + 1 - points // 2)
    return {"valid_steps": list(range(points + 1)), "valid": valid, "train": [v * 1.1 for v in valid[1:]]}


def runs(
    best: float, seeds: int = 1, decays: int = 2, name: str = "task", schedules: tuple[str, ...] = SCHEDULES
) -> pd.DataFrame:
    """A made-up task: losses fall towards a level that grows with the distance from the best rate, in decades."""
    rows = []
    for seed, lr in itertools.product(range(seeds), RATES):
        off = abs(np.log10(lr / best))
        same = {"seed": seed, "lr": lr}
        for decay, schedule in itertools.product(RECIPE.decays[:decays], schedules):
            curve = run(0.2 + 0.3 * off + 0.03 * (schedule == "constant") + 0.01 * seed, lr > 100 * best, PARTS)
            rows.append(same | {"fraction": 1.0, "weight_decay": decay, "schedule": schedule} | curve)
        for share in SHARES:
            curve = run(0.2 + 0.3 * abs(off - 0.1) + 0.01 * seed, lr > 100 * best, POINTS, share)
            rows.append(same | {"fraction": share, "weight_decay": RECIPE.decays[0], "schedule": "cosine"} | curve)
    fixed = {"task": name, "optimizer": "adamw"} | {f"feature.{n}": np.log10(best) for n in NAMES}
    return pd.DataFrame(rows).assign(**fixed)


def corpus(count: int = 12) -> list[pd.DataFrame]:
    return [runs(10 ** (-4 + 3 * i / count), 1 + i % 2, 1 + i % 2, f"task{i}") for i in range(count)]


def test_lessons_hold_what_was_recorded() -> None:
    lessons = gather(corpus(4), RATES, RECIPE.decays)
    assert lessons.final.shape == (4, 2, 4, 13)
    assert lessons.final[0, :, 2:].isnan().all()  # its second decay was not recorded
    assert torch.equal(lessons.final[0, 0], lessons.final[0, 1]) or lessons.final[0].isnan().any()
    assert float(lessons.regret()[0].nan_to_num(1e9).min()) == 0
    assert not lessons.filled().isnan().any()
    assert lessons.targets().nan_to_num(0).max() <= MOST_REGRET
    best = lessons.final[1].nan_to_num(9e9).amin((1, 2)).numpy()
    assert float(lessons.levels()[1]) == pytest.approx(np.log(best / 2.0).mean(), abs=0.01)


def test_recorded_short_runs_are_encoded_as_probes_are() -> None:
    frame = runs(5e-3, seeds=2)
    lessons = gather([frame], RATES, RECIPE.decays)
    assert lessons.readings.shape == (1, 2, len(SHARES), 4, len(RATES))
    recorded = frame[(frame["fraction"] == 0.125) & (frame["seed"] == 1)]
    probed = torch.zeros(len(RATES), dtype=torch.bool)
    probes = []
    for r in (2, 5, 9, 12):
        probed[r] = True
        row = recorded[recorded["lr"] == RATES[r]].iloc[0]
        valid = row["valid"]
        probes.append(Probe(RATES[r], 0.125, 40, valid[0], valid[POINTS // 2], valid[-1], tuple(row["train"])))
    found = channels(lessons.readings[0, 1, SHARES.index(0.125)], torch.full((len(RATES),), -3.0), probed)
    seen, where = on_grid(probes, RATES)
    assert torch.equal(where, probed)
    torch.testing.assert_close(found, channels(seen, torch.full((len(RATES),), -3.0), probed))
    assert probes[-1].failed


def test_short_runs_may_be_recorded_later_and_other_schedules_never() -> None:
    frame = runs(1e-2, name="a")
    both = [frame[frame["fraction"] == 1].drop(columns="fraction"), frame[frame["fraction"] < 1]]
    cosine = runs(1e-3, decays=1, name="b", schedules=("cosine",))
    lessons = gather([*both, cosine], RATES, RECIPE.decays)
    whole = gather([frame], RATES, RECIPE.decays)
    assert lessons.names == ["a", "b"]
    assert torch.equal(lessons.readings[0], whole.readings[0])
    assert torch.equal(lessons.final[0], whole.final[0])
    assert lessons.final[1, :, 0].isnan().all()
    assert lessons.train[1].isnan().all()
    assert float(lessons.filled()[1, 0].min()) == MOST_REGRET
    known = learn(lessons, "adamw", steps=3)
    assert torch.isfinite(known.expect(None, [])).all()
    assert known.portfolio[0].schedule == "cosine"


def test_the_portfolio_is_greedy() -> None:
    lessons = gather([runs(1e-2, name="a"), runs(1e-2, name="b"), runs(1e-4, name="c")], RATES, RECIPE.decays)
    first, second = portfolio(lessons)[:2]
    assert first.schedule == second.schedule == "cosine"
    assert first.lr == pytest.approx(1e-2, rel=0.6)
    assert second.lr == pytest.approx(1e-4, rel=0.6)


def test_examples_are_recorded_probes_beside_the_regrets_around_the_best() -> None:
    frame = runs(1e-2, name="b")
    lessons = gather([runs(5e-3, seeds=2, name="a"), frame[frame["fraction"].isin([1.0, 0.25])]], RATES, RECIPE.decays)
    rows, wanted = examples(lessons, torch.Generator().manual_seed(0))
    at = {name: i for i, name in enumerate(aligned.PLACED, len(aligned.KEPT) * aligned.WIDTH)}
    quarters = rows[:, at["log_share"]] == -2
    assert len(rows) == sum(2 * (n // 2) for n in PRACTICE) + 2 * (PRACTICE[SHARES.index(0.25)] // 2)
    assert rows.shape[1] == aligned.COLUMNS
    assert int(quarters.sum()) == 4 * (PRACTICE[SHARES.index(0.25)] // 2)
    second = rows[:, -1] == lessons.features[1, -1]
    assert bool((quarters | ~second).all())  # nothing but quarters of "b"
    for row, target, task in zip(rows, wanted, second.long(), strict=True):
        best = int(row[at["best"]])
        for offset in range(-aligned.REACH, aligned.REACH + 1):
            inside = 0 <= best + offset < len(RATES)
            regret = float(lessons.usual()[task, 0, best + offset]) if inside else MOST_REGRET
            if task == 1 or not inside:  # its two seeds are the same
                assert float(target[aligned.REACH + offset]) == pytest.approx(regret)


def test_lengths_that_nobody_recorded_are_left_out() -> None:
    frames = [frame[frame["fraction"] != 0.5] for frame in corpus(3)]
    lessons = gather(frames, RATES, RECIPE.decays)
    known = learn(lessons, "adamw", steps=1)
    probes = [Probe(RATES[6], share, 40, 2.0, 1.5, 1.0, (1.5, 1.2)) for share in (0.25, 0.5)]
    assert all(torch.isfinite(known.expect(None, [probe])).all() for probe in probes)


def test_random_probes_are_of_all_kinds() -> None:
    best = torch.full((300,), 6)
    probed = random_probed(best, 13, torch.Generator().manual_seed(0))
    assert set(probed.sum(1).tolist()) == set(range(1, MOST_PROBES + 1))
    assert probed[:, 2:].any(0).all()
    assert int(probed.sum(0)[6]) > 2 * int(probed.sum(0)[0])


def test_what_is_learned_predicts_other_tasks() -> None:
    lessons = gather(corpus(12), RATES, RECIPE.decays)
    known = learn(lessons, "adamw", steps=1)
    new = runs(2e-3)
    short = new[(new["fraction"] == 0.25) & new["lr"].isin(RATES[4:8])].to_dict("records")
    probes = [
        Probe(r["lr"], 0.25, 100, r["valid"][0], r["valid"][POINTS // 2], r["valid"][-1], tuple(r["train"]))
        for r in short
    ]
    expected = known.expect(gather([new], RATES, RECIPE.decays).features[0].tolist(), probes)
    best = known.rates[int(expected.argmin())]
    assert 0.3 < best / 2e-3 < 3
    assert 0.3 < known.rates[int(known.expect([np.log10(2e-3)] * len(NAMES), []).argmin())] / 2e-3 < 3
    again = learn(lessons, "adamw", steps=1)
    for seen in ([], probes):
        assert torch.equal(again.expect(None, seen), known.expect(None, seen))


def test_tasks_of_another_kind_are_refused_or_left_out() -> None:
    negative = runs(1e-2)
    negative["valid"] = [[v - 5 for v in losses] for losses in negative["valid"]]
    with pytest.raises(ValueError, match="no usable task"):
        gather([negative], RATES, RECIPE.decays)
    assert len(gather([negative, runs(1e-2)], RATES, RECIPE.decays).names) == 1
    with pytest.raises(ValueError, match="recorded on another grid"):
        gather([runs(1e-2)], [1e-3, 1e-2], RECIPE.decays)


def test_tune_train_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, frame in enumerate(corpus(3)):
        Corpus(tmp_path / "corpus").put(f"task{i}", "adamw", frame)
    out = tmp_path / "new.safetensors"
    assert cli.run(["tune-train", str(tmp_path / "corpus"), "--out", str(out), "--steps", "3"]) == 0
    assert load(out).card["tasks"] == 3
    for words, message in (
        (["--optimizer", "lion"], "unknown optimizer 'lion'"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--optimizer", "sgd"], "no usable task"),
    ):
        assert cli.run(["tune-train", str(tmp_path / "corpus"), "--out", str(out), *words]) == 2
        assert message in " ".join(capsys.readouterr().err.split())

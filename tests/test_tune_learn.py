"""What the tuner learns from a corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from learnopt import cli
from learnopt.batched_optimizers import RECIPES
from learnopt.corpus import Corpus
from learnopt.tuner.knowledge import load
from learnopt.tuner.learn import _moved, learn, portfolio, random_parts
from learnopt.tuner.lessons import encode_prefixes, gather
from learnopt.tuner.meta_features import NAMES
from learnopt.tuner.probes import PARTS, Probe, encode, half_of

RECIPE = RECIPES["adamw"]
RATES = RECIPE.rates


def runs(best: float, seeds: int = 1, decays: int = 2, name: str = "task") -> pd.DataFrame:
    """A made-up task: losses fall towards a level that grows with the distance from the best rate, in decades."""
    rows = []
    at = list(range(PARTS + 1))
    for seed in range(seeds):
        for decay in RECIPE.decays[:decays]:
            for schedule in ("constant", "cosine"):
                for lr in RATES:
                    off = abs(np.log10(lr / best)) + 0.1 * (schedule == "constant")
                    level = 0.2 + 0.3 * off + 0.01 * seed
                    valid = [level + (2.0 - level) * 0.9**t for t in at]
                    if lr > 100 * best:
                        valid[5:] = [np.nan] * (PARTS - 4)
                    rows.append({
                        "seed": seed, "weight_decay": decay, "schedule": schedule, "lr": lr, "valid_steps": at,
                        "valid": valid, "train": [v * 1.1 for v in valid[1:]],
                    })  # fmt: skip
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
    assert lessons.targets().nan_to_num(0).max() <= 1
    best = lessons.final[1].nan_to_num(9e9).amin((1, 2)).numpy()
    assert float(lessons.levels()[1]) == pytest.approx(np.log(best / 2.0).mean(), abs=0.01)


def test_prefixes_are_encoded_as_probes_are() -> None:
    frame = runs(1e-2)
    lessons = gather([frame], RATES, RECIPE.decays)
    constant = frame[(frame["schedule"] == "constant") & (frame["weight_decay"] == RECIPE.decays[0])]
    lengths = {2: 3, 5: 10, 9: 1, 12: 8}
    parts = torch.zeros(1, len(RATES), dtype=torch.long)
    probes = []
    for r, length in lengths.items():
        parts[0, r] = length
        row = constant[constant["lr"] == RATES[r]].iloc[0]
        valid, train = row["valid"], row["train"]
        probes.append(Probe(RATES[r], length, valid[0], valid[half_of(length)], valid[length], tuple(train[:length])))
    zero = torch.zeros(1, dtype=torch.long)
    torch.testing.assert_close(encode_prefixes(lessons, zero, zero, parts)[0], encode(probes, RATES))


def test_the_portfolio_is_greedy() -> None:
    lessons = gather([runs(1e-2, name="a"), runs(1e-2, name="b"), runs(1e-4, name="c")], RATES, RECIPE.decays)
    first, second = portfolio(lessons)[:2]
    assert first.schedule == second.schedule == "cosine"
    assert first.lr == pytest.approx(1e-2, rel=0.6)
    assert second.lr == pytest.approx(1e-4, rel=0.6)


def test_moved_pictures() -> None:
    g = torch.Generator().manual_seed(0)
    seen, target = torch.rand(200, 7, 13, generator=g), torch.rand(200, 4, 13, generator=g)
    seen[:, 0] = 1
    new, wanted, moved = _moved(seen, target, g)
    assert 0.2 < float(moved.float().mean()) < 0.5
    assert torch.equal(wanted[~moved], target[~moved])
    i = int(moved.nonzero()[0])
    by = int(13 - new[i, 0].sum())
    assert by in (1, 2)
    right, left = torch.equal(wanted[i, :, by:], target[i, :, :-by]), torch.equal(wanted[i, :, :-by], target[i, :, by:])
    assert right or left


def test_random_probes_are_of_all_kinds() -> None:
    parts = random_parts(300, 13, torch.full((300,), 6.0), torch.Generator().manual_seed(0))
    counts = (parts > 0).sum(1)
    assert set(counts.tolist()) == set(range(10))
    assert int(parts.max()) == 20


def test_what_is_learned_predicts_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learnopt.tuner.network.MEMBERS", 1)
    lessons = gather(corpus(12), RATES, RECIPE.decays)
    known = learn(lessons, "adamw", steps=100)
    new = gather([runs(2e-3)], RATES, RECIPE.decays)
    expected = known.expect(new.features[0].tolist(), []).quantile(0.5, 0)
    best = known.rates[int(expected.amin(0).argmin())]
    assert 0.3 < best / 2e-3 < 3
    one, two = (learn(lessons, "adamw", steps=3).expect(None, []) for _ in range(2))
    assert torch.equal(one, two)


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

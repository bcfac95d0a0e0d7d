"""Hyperparameter searches: tasks on the same rows that differ in what a search varies, recorded and read as one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from learnopt import cli
from learnopt.corpus import Corpus
from learnopt.stopping import curves
from learnopt.tasks import searches

SEARCHES = range(24)


@pytest.mark.parametrize("number", SEARCHES)
def test_tasks_of_a_search_share_their_rows(number: int) -> None:
    tasks = [searches.member(number, i) for i in range(3)]
    first = tasks[0]
    for task in tasks:
        assert task.study == f"search-{number}"
        assert task.datasets == first.datasets
        assert set(task.settings) == set(first.settings)
        for own, other in zip((*task.train, *task.valid), (*first.train, *first.valid), strict=True):
            assert torch.equal(own, other)
        assert len(task.batch(0, 0)[0]) == task.batch_size
        low, high = searches.STEPS
        assert low <= task.steps <= high
        assert torch.isfinite(task.loss(task.build(0), task.batch(0, 0)))
    assert len({task.name for task in tasks}) == 3


def test_searches_vary_networks_and_batch_sizes() -> None:
    varied = []
    for number in SEARCHES:
        tasks = [searches.member(number, i) for i in range(searches.MEMBERS)]
        varied.append({name for name in tasks[0].settings if len({t.settings[name] for t in tasks}) > 1})
        for task in tasks:  # settings tell what was built
            assert torch.tensor(float(task.batch_size)).log().item() == pytest.approx(task.settings["batch_size"])
    everything = set.union(*varied)
    assert everything >= {"width", "depth", "batch_size", "activation", "norm", "dropout", "first", "second", "hidden"}
    assert sum(map(bool, varied)) >= 20
    assert any("width" not in names for names in varied)  # a search may leave it fixed
    assert len({frozenset(searches.member(i, 0).datasets) for i in SEARCHES}) >= 5


def test_a_search_is_the_same_every_time() -> None:
    one, two = searches.member(3, 1), searches.member(3, 1)
    assert one.settings == two.settings
    assert torch.equal(one.batch(1, 5)[0], two.batch(1, 5)[0])
    for p, q in zip(one.build(0).parameters(), two.build(0).parameters(), strict=True):
        assert torch.equal(p, q)
    names = [make().name for make in searches.makers(2, 2)]
    assert names == [f"search-{i}-{j}" for i in (2, 3) for j in range(searches.MEMBERS)]


def test_recorded_searches_are_read_as_one_task_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "MEMBERS", 3)
    words = ["record", str(tmp_path), "--tasks", "searches", "--count", "2", "--seeds", "1", "--rates", "2"]
    assert cli.run([*words, "--decays", "1", "--optimizers", "adamw", "--most-steps", "60"]) == 0
    frames = list(Corpus(tmp_path).frames())
    assert len(frames) == 6
    for frame in frames:
        task = searches.member(*map(int, frame["task"].iloc[0].split("-")[1:]))
        assert set(frame["study"]) == {task.study}
        for name, value in task.settings.items():
            assert set(frame[f"setting.{name}"]) == {value}
    found = curves.read(tmp_path)
    assert found.tasks == ["search-0", "search-1"]
    runs = sum(len(f) for f in frames if f["study"].iloc[0] == "search-1")
    assert (found.task == 1).sum() == runs == 3 * 2 * 2
    assert found.steps[0].tolist() == list(range(found.steps.shape[1]))  # validations, whatever a step was
    own = sorted({c for f in frames for c in f.columns if c.startswith("setting.")})
    assert found.settings.shape == (24, len(curves.SETTINGS) + len(own))
    table = pd.concat([f[["study", *[c for c in own if c in f]]] for f in frames], ignore_index=True)
    expected = torch.tensor(table[own].fillna(0).to_numpy(float))
    torch.testing.assert_close(found.settings[:, len(curves.SETTINGS) :], expected)

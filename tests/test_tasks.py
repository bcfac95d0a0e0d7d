"""Suites: what is in them, what they share (nothing), how tasks are found by name."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from learnopt.tasks import QUICK, families, get_task, held_out, meta_valid, stress, suite
from learnopt.tasks.data_folder import OMNIGLOT, REVIEWS, TABLES, VARIABLE, folder
from learnopt.tasks.fixed import TaskMaker
from learnopt.tasks.source import SuiteSource

NEEDS_DATA = f"set {VARIABLE} to the folder of optional data sets to run this test"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def with_data() -> None:
    if folder() is None:
        pytest.skip(NEEDS_DATA)


def data_sets(name: str) -> set[str]:
    if name == "meta_train":
        return {d for family, _ in families(name) for d in family.datasets}
    return {d for task in suite(name) for d in task.datasets}


def assert_disjoint() -> None:
    used = {name: data_sets(name) for name in ("meta_train", "meta_valid", "held_out")}
    assert all(used.values())
    for a, b in combinations(used, 2):
        assert not used[a] & used[b], f"{a} and {b} share data"
    assert data_sets("stress") <= used["held_out"]


@pytest.mark.usefixtures("offline")
def test_suites_share_no_data_set_offline() -> None:
    assert_disjoint()


@pytest.mark.usefixtures("with_data")
def test_suites_share_no_data_set_with_the_data_folder() -> None:
    assert_disjoint()


@pytest.mark.usefixtures("offline")
def test_held_out_is_broad_without_any_download() -> None:
    tasks = suite("held_out")
    assert len(tasks) >= 20
    assert len({task.kind for task in tasks}) >= 8
    assert all(300 <= task.steps <= 1200 for task in tasks)
    assert all(len(task.validation()[0]) <= 1000 for task in tasks)


@pytest.mark.usefixtures("with_data")
def test_the_data_folder_adds_tasks_to_held_out() -> None:
    assert {task.name for task in suite("held_out")} > set(held_out.OFFLINE)


@pytest.mark.usefixtures("offline")
def test_quick_is_a_cheap_cross_section_of_held_out() -> None:
    tasks = [get_task(name) for name in QUICK]
    assert len(tasks) == len(set(QUICK)) == 8
    assert set(QUICK) <= set(held_out.OFFLINE)
    assert len({task.kind for task in tasks}) >= 5
    assert max(task.steps for task in tasks) <= 400


def test_meta_valid_has_many_kinds() -> None:
    tasks = suite("meta_valid")
    assert len(tasks) >= 16
    assert len({task.kind for task in tasks}) >= 10
    assert all(200 <= task.steps <= 1000 for task in tasks)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["held_out", "meta_valid", "stress"])
def test_the_name_in_the_list_is_the_name_of_the_task(name: str) -> None:
    makers = {"held_out": held_out.held_out_makers(), "meta_valid": meta_valid.META_VALID, "stress": stress.STRESS}[
        name
    ]
    assert [task.name for task in suite(name)] == list(makers)


def test_no_name_is_used_twice() -> None:
    lists = (held_out.OFFLINE, held_out.FROM_FOLDER, meta_valid.META_VALID, stress.STRESS)
    assert len(set().union(*lists)) == sum(map(len, lists))


def test_getting_a_task_makes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def boom() -> None:
        raise AssertionError("made a task nobody asked for")

    def all_but(makers: dict[str, TaskMaker], kept: str) -> None:
        for name in set(makers) - {kept}:
            monkeypatch.setitem(makers, name, boom)

    all_but(held_out.OFFLINE, "digits-mlp")
    all_but(meta_valid.META_VALID, "iris-mlp")
    assert get_task("digits-mlp").name == "digits-mlp"
    assert get_task("iris-mlp").name == "iris-mlp"


@pytest.mark.usefixtures("offline")
def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'digits-mpl'; choose from: .*digits-mlp.*csv:FILE"):
        get_task("digits-mpl")
    with pytest.raises(ValueError, match=r"unknown suite 'heldout'; choose from: .*held_out"):
        suite("heldout")
    with pytest.raises(ValueError, match=r"no task families under 'held_out'; choose from: meta_train"):
        families("held_out")
    with pytest.raises(ValueError, match=r"unknown task 'abalone-mlp'"):
        get_task("abalone-mlp")


def test_a_data_folder_that_does_not_exist_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/nonexistent/folder")
    assert set(held_out.held_out_makers()) == set(held_out.OFFLINE)


def test_files_in_the_data_folder_switch_families_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("data")
    monkeypatch.setenv(VARIABLE, str(root))
    before = data_sets("meta_train")
    for file in (*OMNIGLOT.values(), REVIEWS, *(file for file, *_ in TABLES.values())):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).touch()
    added = data_sets("meta_train") - before
    assert {"omniglot:small1", "text:movie-reviews"} < added
    reserved = {"omniglot:small2", "csv:abalone", "csv:banknote", "csv:pima", "csv:wine-quality"}
    assert not added & reserved
    assert set(held_out.held_out_makers()) == set(held_out.OFFLINE) | set(held_out.FROM_FOLDER)


@pytest.mark.usefixtures("offline")
def test_meta_train_is_a_fixed_sample_of_its_families() -> None:
    first, second = suite("meta_train"), suite("meta_train")
    assert [task.name for task in first] == [task.name for task in second]
    known = data_sets("meta_train")
    for a, b in zip(first, second, strict=True):
        assert a.datasets <= known
        assert all(torch.equal(x, y) for x, y in zip(a.batch(1, 2), b.batch(1, 2), strict=True))


@pytest.mark.usefixtures("offline")
def test_a_source_samples_the_training_suite_reproducibly() -> None:
    source = SuiteSource()
    source.check()
    names = [[source.sample(np.random.default_rng(s)).name for s in range(4)] for _ in range(2)]
    assert names[0] == names[1]
    assert len(set(names[0])) == 4
    with pytest.raises(ValueError, match="no task families under 'nothing'"):
        SuiteSource(train="nothing").check()
    with pytest.raises(ValueError, match="unknown suite 'nothing'"):
        SuiteSource(valid="nothing").check()

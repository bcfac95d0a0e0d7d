"""Tables that are tuned on: their cells, their rows, what encodes them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from learnopt.table_data import FeatureEncoder, TargetEncoder
from learnopt.table_file import read_frame
from learnopt.tuner.table_tuning import prepare


def test_three_quarters_train_and_at_most_2000_rows_validate(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for rows, valid in ((400, 100), (9000, 2000)):
        path.write_text("x,y\n" + "".join(f"{i},{i / 7}\n" for i in range(rows)))
        table = prepare(str(path))
        assert (len(table.train[0]), len(table.valid[0])) == (rows - valid, valid)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_words_that_look_like_numbers_stay_words_in_other_files(tmp_path: Path, kind: str) -> None:
    codes = np.random.default_rng(0).choice(["1", "2", "x"], 300)
    data = pd.DataFrame({"code": codes, "y": np.where(codes == "1", 50.0, np.where(codes == "2", -50.0, 0.5))})
    data["y"] += np.arange(300) * 0.01
    data.to_csv(tmp_path / "t.csv", index=False)
    new = tmp_path / f"new.{kind}"
    if kind == "csv":
        new.write_text("code\n1\n2\n")  # no other column
    else:
        pd.DataFrame({"code": [1, 2]}).to_parquet(new)
    table = prepare(str(tmp_path / "t.csv"))
    assert table.rows_of(str(new), "auto")[0].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_parquet_columns_of_every_type(tmp_path: Path) -> None:
    rows = 40
    data = pd.DataFrame({
        "whole": np.arange(rows), "flag": np.arange(rows) % 2 == 0, "day": pd.date_range("2026-01-01", periods=rows),
        "sort": pd.Categorical(["a", "b"] * (rows // 2)), "gap": [None, 1.5] * (rows // 2), "y": np.arange(rows) * 0.5,
    })  # fmt: skip
    data.to_parquet(tmp_path / "t.parquet")
    found = read_frame(str(tmp_path / "t.parquet"))
    assert [str(d) for d in found.dtypes[["whole", "flag", "day", "gap"]]] == ["float64"] * 4
    assert found["day"].diff().dropna().eq(86400).all()
    assert prepare(str(tmp_path / "t.parquet")).features.words == ["sort"]


def test_encoders_give_back_what_they_took() -> None:
    words = TargetEncoder(pd.Series(["b", "a", "b", "a"] * 6, name="y"), 20, "f")
    assert words.decode(torch.eye(2)[words.encode(pd.Series(["a", "b"], name="y"))]).tolist() == ["a", "b"]
    values = TargetEncoder(pd.Series(np.arange(40) / 3, name="y"), 30, "f")
    np.testing.assert_allclose(values.decode(values.encode(pd.Series([0.5, 7.0]))), [0.5, 7.0], rtol=1e-6)
    features = FeatureEncoder(pd.DataFrame({"x": [1.0, np.nan, 3.0] * 8, "w": ["a", None, "b"] * 8}), "f")
    assert features.encode(pd.DataFrame({"x": [np.nan], "w": ["new"]})).tolist() == [[0, 0, 0, 0]]


def test_encoders_are_fitted_on_the_training_rows_alone() -> None:
    column = pd.Series([*np.linspace(-1, 1, 20), *[100.0] * 10], name="y")
    target = TargetEncoder(column, 20, "f")
    assert (target.mean, target.deviation) == pytest.approx((0.0, np.linspace(-1, 1, 20).std()))
    rows = pd.DataFrame({"x": column})
    features = FeatureEncoder(rows.iloc[:20], "f").encode(rows)
    assert features[:20].mean().item() == pytest.approx(0, abs=1e-6)
    assert features[:20].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert (features[20:] == 20).all()  # outliers are cut


COMMAS: dict[str, tuple[str, list[float]]] = {
    "thousands": ('q,y\n"1,005",1\n998,2\n"-12,345.5",3\n', [1005, 998, -12345.5]),
    "thousands alone": ("q;y\n1,005,000;1\n998;2\n", [1005000, 998]),
    "decimals in quotes": ('q,y\n"0,5",1\n998,2\n"1,250",3\n', [0.5, 998, 1.25]),
    "decimals": ("q;y\n1,005;1\n998;2\n", [1.005, 998]),
    "decimals and points of thousands": ("q;y\n1.005,5;1\n1.998;2\n-3,25;3\n", [1005.5, 1998, -3.25]),
    "decimals without header": ("1,5;2,5;3,5\n2,5;3,5;1,5\n0,125;1,5;9,5\n", [1.5, 2.5, 0.125]),
    "decimals and points below one": ("q;y\n0,5;1\n0.125;2\n", [0.5, 0.125]),
    "decimals between tabs": ("1,5\t1,5\n2,5\t3,5\n", [1.5, 2.5]),
    "separators in quotes": ('q,y\n1,"a;b"\n2,"c;d"\n3,"e;f"\n', [1, 2, 3]),
    "commas in quotes": ('q;y\n1;"a,b,c"\n2;"d,e,f"\n', [1, 2]),
    "another separator in words": ("q,y\n1,a;b\n2,c\n", [1, 2]),
}


@pytest.mark.parametrize("kind", COMMAS)
def test_commas_in_numbers(tmp_path: Path, kind: str) -> None:
    text, expected = COMMAS[kind]
    (tmp_path / "t.csv").write_text(text)
    assert read_frame(str(tmp_path / "t.csv")).iloc[:, 0].tolist() == expected


def german(value: float) -> str:
    return f"{value:,.2f}".translate(str.maketrans(",.", ".,"))


NEW = [(1234.5, 0.25), (2000.0, -1.5), (998.0, 0.125)]
"""Rows to predict."""
WRITTEN = {
    "as in training": "a;b\n" + "".join(f"{german(a)};{german(b)}\n" for a, b in NEW[:2]) + "998,00;0,125\n",
    "whole numbers in points of thousands": "a;b\n1.234,5;0,25\n2.000;-1,5\n998;0,125\n",
    "points and commas between cells": "".join(f"{b},{a}\n" for b, a in [("b", "a"), *((b, a) for a, b in NEW)]),
    "three decimal places and commas between cells": "a,b\n1234.500,0.250\n2000.000,-1.500\n998.000,0.125\n",
    "a byte order mark": "\ufeffa;b\n1234,5;0,25\n2000;-1,5\n998;0,125\n",
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_rows_to_predict_are_read_as_the_training_file_was(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1000, 9000, 200), rng.standard_normal(200)
    lines = [f"{german(x)};{german(y)};{german(x + y)}\n" for x, y in zip(a, b, strict=True)]
    (tmp_path / "t.csv").write_text("a;b;y\n" + "".join(lines))
    (tmp_path / "new.csv").write_text(WRITTEN[kind])
    table = prepare(str(tmp_path / "t.csv"))
    rows, notes = table.rows_of(str(tmp_path / "new.csv"), "auto")
    assert torch.equal(rows, table.features.encode(pd.DataFrame(NEW, columns=["a", "b"])))
    assert notes == []


@pytest.mark.parametrize("last", ["1,5;x\n", ";\n"])
def test_cells_that_are_no_numbers_are_told(tmp_path: Path, last: str) -> None:
    lines = "".join(f"{i},5;{i % 7},25;{i}\n" for i in range(40))
    (tmp_path / "t.csv").write_text("a;b;y\n" + lines + ">100;inf;3\n")
    table = prepare(str(tmp_path / "t.csv"))
    assert "column 'a': 1 cells are no finite numbers, such as '>100'; they count as missing" in table.notes
    assert "column 'b': 1 cells are no finite numbers, such as 'inf'; they count as missing" in table.notes
    (tmp_path / "new.csv").write_text("a;b\n1,5;unknown\n2,5;1,5\n" + last)
    _, notes = table.rows_of(str(tmp_path / "new.csv"), "auto")
    cells = 1 + ("x" in last)
    assert notes == [f"column 'b': {cells} cells are no finite numbers, such as 'unknown'; they count as missing"]


def test_a_column_without_a_cell_is_missing_everywhere(tmp_path: Path) -> None:
    for form in ("{}", "{},5", "2026-01-{:02}"):
        lines = "".join(f"{form.format(i % 28 + 1)};{i}\n" for i in range(40))
        (tmp_path / "t.csv").write_text("a;y\n" + lines)
        (tmp_path / "new.csv").write_text("a;z\n;1\n;2\n")
        table = prepare(str(tmp_path / "t.csv"))
        rows, notes = table.rows_of(str(tmp_path / "new.csv"), "auto")
        assert torch.equal(rows, table.features.encode(pd.DataFrame({"a": [np.nan, np.nan]})))
        assert notes == []


def test_lines_may_end_in_a_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,y,\n" + "".join(f"{i},{i % 3},{i / 7},\n" for i in range(40)))
    table = prepare(str(tmp_path / "t.csv"))
    assert (table.column, table.features.numeric, table.notes) == ("y", ["a", "b"], [])


def test_no_rows_to_predict(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i},{i / 7}\n" for i in range(40)))
    (tmp_path / "new.csv").write_text("a\n")
    with pytest.raises(ValueError, match=r"new.csv: no rows to predict"):
        prepare(str(tmp_path / "t.csv")).rows_of(str(tmp_path / "new.csv"), "auto")


def test_spaces_around_words_and_names_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a , b,price \nx , y,1\nx,y ,2\nNA ,z,3\n")
    found = read_frame(str(tmp_path / "t.csv"))
    assert list(found.columns) == ["a", "b", "price"]
    assert found["a"].dropna().tolist() == ["x", "x"]
    assert found["b"].tolist() == ["y", "y", "z"]


@pytest.mark.parametrize("header", ["a,a,y.1,y", "y.3,b,y,y", "a,a.1,a,a.0"])
def test_columns_of_one_name_are_told_apart(tmp_path: Path, header: str) -> None:
    (tmp_path / "t.csv").write_text(header + "\n1,2,3,4\n5,6,7,8\n")
    found = read_frame(str(tmp_path / "t.csv"))
    assert len(set(found.columns)) == 4
    assert found.iloc[0].tolist() == [1, 2, 3, 4]
    assert {name for name in header.split(",") if header.split(",").count(name) == 1} <= set(found.columns)


def test_parquet_columns_that_pandas_keeps_as_objects(tmp_path: Path) -> None:
    days = pd.date_range("2026-01-01", periods=4)
    data = pd.DataFrame({
        "paid": [Decimal("1.25"), Decimal("2.5"), None, Decimal("4")], "day": days.date, "took": days - days[0],
    })  # fmt: skip
    data.to_parquet(tmp_path / "t.parquet")
    found = read_frame(str(tmp_path / "t.parquet"))
    assert found["paid"].dropna().tolist() == [1.25, 2.5, 4]
    assert found["day"].diff().dropna().eq(86400).all()
    assert found["took"].tolist() == [0, 86400, 172800, 259200]


def test_classes_that_are_numbers_keep_their_names() -> None:
    classes = pd.Series([2.0, 1.0, 10.0] * 8, name="y")
    target = TargetEncoder(classes, 20, "f")
    assert target.labels == ["1", "10", "2"]
    assert target.decode(torch.eye(3)[target.encode(classes)]).tolist()[:3] == ["2", "1", "10"]
    assert TargetEncoder(pd.Series([0.5, 1.0] * 12, name="y"), 20, "f", "classification").labels == ["0.5", "1.0"]

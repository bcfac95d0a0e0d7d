"""`learnopt tune` on files as users have them, the good ones and the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from learnopt import cli, table_file
from learnopt.locking import locked
from learnopt.table_file import read_frame
from learnopt.tuner import table_tuning
from learnopt.tuner.table_tuning import prepare


def frame(rows: int = 200) -> pd.DataFrame:
    """Numbers with gaps, a colour, and a price that depends on them."""
    rng = np.random.default_rng(0)
    width, height = rng.standard_normal(rows), 1000 * rng.standard_normal(rows)
    colour = rng.choice(["red", "green", "blue"], rows)
    price = 20 + 3 * width + height / 500 + 2.0 * (colour == "red")
    width[::7] = np.nan
    return pd.DataFrame({"width": width, "height": height, "colour": colour, "price": price})


def run(*words: object) -> int:
    return cli.run(["tune", *map(str, words), "--steps", "60", "--budget", "30", "--hidden", "16"])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize("kind", ["csv", "semicolon", "parquet"])
def test_a_table_in_a_recommendation_a_picture_and_a_model_out(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("t.parquet" if kind == "parquet" else "t.csv")
    if kind == "parquet":
        frame().to_parquet(path)
    elif kind == "csv":
        frame().to_csv(path, index=False)
    else:
        frame().to_csv(path, index=False, sep=";", decimal=",")
    out = tmp_path / "out"
    assert run(path, "--target", "price", "--out", out, "--predict", path) == 0
    entry = json.loads((out / "tuning.json").read_text())
    wanted = {"lr", "interval", "schedule", "batch_size", "weight_decay", "expected_loss", "trained_loss", "r2"}
    assert wanted <= entry.keys()
    assert entry["task"] == "regression"
    assert [row["column"] for row in entry["preprocessing"]["numeric"]] == ["width", "height"]
    assert entry["preprocessing"]["categories"] == [{"column": "colour", "values": ["blue", "green", "red"]}]
    assert (out / "tuning.png").read_bytes()[:4] == b"\x89PNG"
    assert load_file(out / "model.safetensors")["0.weight"].shape == (16, 5)
    predicted = pd.read_csv(out / "predictions.csv")["price"]
    assert len(predicted) == 200
    text = said(capsys)
    assert (
        "target 'price': regression; 2 columns of numbers and 1 of words; 150 rows to train on, 50 to validate" in text
    )
    assert "learning rate" in text


def test_classes_without_header(tmp_path: Path) -> None:
    data = frame()
    data["sort"] = np.where(data.pop("price") > 20, "dear", "cheap")
    path, out = tmp_path / "t.csv", tmp_path / "out"
    data.to_csv(path, index=False, header=False)
    assert run(path, "--out", out, "--predict", path, "--header", "no") == 0
    entry = json.loads((out / "tuning.json").read_text())
    assert entry["labels"] == ["cheap", "dear"]
    assert 0 <= entry["accuracy"] <= 1
    assert set(pd.read_csv(out / "predictions.csv")["3"]) <= {"cheap", "dear"}


def test_the_saved_network_is_the_one_that_was_trained(tmp_path: Path) -> None:
    path, out = tmp_path / "t.csv", tmp_path / "out"
    frame().to_csv(path, index=False)
    assert run(path, "--out", out, "--predict", path) == 0
    entry, weights = json.loads((out / "tuning.json").read_text()), load_file(out / "model.safetensors")
    columns = []
    for row in entry["preprocessing"]["numeric"]:
        values = frame()[row["column"]].fillna(row["missing"])
        columns.append((values - row["mean"]) / row["scale"])
    for row in entry["preprocessing"]["categories"]:
        columns += [(frame()[row["column"]] == value).astype(float) for value in row["values"]]
    x = torch.tensor(np.stack(columns, 1), dtype=torch.float32)
    hidden = torch.relu(x @ weights["0.weight"].T + weights["0.bias"])
    value = (hidden @ weights["2.weight"].T + weights["2.bias"])[:, 0] * entry["target_deviation"] + entry[
        "target_mean"
    ]
    np.testing.assert_allclose(value, pd.read_csv(out / "predictions.csv")["price"], rtol=1e-4)


def with_column(**columns: object) -> str:
    return frame().assign(**columns).to_csv(index=False)


NOTED: dict[str, tuple[str, str]] = {
    "all-missing column": (with_column(empty=np.nan, price=frame()["price"]), "'empty' is left out: all its cells"),
    "text column": (with_column(note=[f"note {i}" for i in range(200)]), "'note' is left out: 150 different words"),
    "constant words": (with_column(kind="same"), "'kind' is left out: it never changes"),
    "missing targets": (
        frame().assign(price=frame()["price"].where(frame().index % 5 > 0)).to_csv(index=False),
        "40 rows are left out: their 'price' is missing",
    ),
    "infinite targets": (
        frame().assign(price=frame()["price"].where(frame().index % 50 > 0, np.inf)).to_csv(index=False),
        "4 rows are left out: their 'price' is missing or infinite",
    ),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_is_left_out_is_said(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, note = NOTED[case]
    (tmp_path / "t.csv").write_text(text)
    assert run(tmp_path / "t.csv", "--target", "price", "--out", tmp_path / "out", "--no-train") == 0
    assert note in said(capsys)
    assert note in " ".join(json.loads((tmp_path / "out" / "tuning.json").read_text())["notes"])
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_what_an_earlier_result_left_does_not_stay_beside_another(tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "out"
    frame().to_csv(table, index=False)
    assert run(table, "--out", out, "--predict", table) == 0
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {"tuning.json", "tuning.png", "model.safetensors", "model.json", "predictions.csv"}
    assert run(table, "--target", "colour", "--out", out, "--no-train") == 0
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {"tuning.json", "tuning.png"}


def test_an_interrupted_training_leaves_the_recommendation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    frame().to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr("learnopt.cli_tune.fit", interrupted)
    assert run(tmp_path / "t.csv", "--out", tmp_path / "out") == 130
    assert "interrupted while training; the recommendation is in" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "tuning.json").read_text())["lr"] > 0


def test_infinite_features_count_as_missing(tmp_path: Path) -> None:
    data = frame()
    data.loc[::9, "height"] = np.inf
    data.loc[1::9, "height"] = -np.inf
    (tmp_path / "t.csv").write_text(data.to_csv(index=False))
    table = prepare(str(tmp_path / "t.csv"), "price")
    assert torch.isfinite(table.train[0]).all()
    assert "height" in table.features.numeric


REFUSED: dict[str, tuple[str | bytes, list[str], str]] = {
    "no such target": (with_column(), ["--target", "weight"], "no target column 'weight'; choose from: width, height"),
    "constant target": (with_column(price=7.5), [], "the target 'price' never changes"),
    "one class": (with_column(price="same"), [], "the target 'price' never changes: it is always 'same'"),
    "all targets missing": (with_column(price=np.nan), [], "0 rows with a target 'price', at least 20"),
    "three rows": ("a,b\n1,2\n3,4\n5,6\n", [], "3 rows with a target 'b', at least 20"),
    "only text": ("".join(f"text {i},{i % 2}\n" for i in range(60)), [], "no usable feature"),
    "only missing": ("a,b\n" + "".join(f",{i % 2}\n" for i in range(60)), [], "no usable feature"),
    "words to regress": (with_column(price=["a", "b"] * 100), ["--task", "regression"], "holds words, such as 'b'"),
    "quantity to classify": (with_column(), ["--task", "classification"], "200 classes in 200 rows"),
    "wrong separator": ("a b c\n" + "1 2 3\n" * 50, [], "one column only"),
    "separators mixed": ("a,b\n" + "1,2\n" * 30 + "1;2,3,4,5\n", [], "no CSV table"),
    "empty": ("", [], "the file is empty"),
    "binary": (bytes(range(128, 256)) * 40, [], "is no UTF-8 text"),
    "bad task": (with_column(), ["--task", "ranking"], "task must be one of auto, classification, regression"),
    "bad header": (with_column(), ["--header", "maybe"], "header must be one of auto, yes, no"),
    "bad optimizer": (with_column(), ["--optimizer", "lion"], "unknown optimizer 'lion'"),
    "nothing shipped": (with_column(), ["--optimizer", "sgd"], "no knowledge about 'sgd' ships; choose from: adamw"),
    "no knowledge": (with_column(), ["--knowledge", "mine"], "no knowledge about 'mine' ships; choose from: adamw"),
    "bad layers": (with_column(), ["--hidden", "64,wide"], "--hidden takes layer sizes"),
    "nothing to predict with": (with_column(), ["--predict", "x.csv", "--no-train"], "--predict needs the trained"),
    "rows to predict lack": (with_column(), ["--predict", "OTHER"], "no column 'width', which"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, words, message = REFUSED[case]
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "other.csv").write_text("size,height\n" + "1,2\n" * 30)
    words = [str(tmp_path / "other.csv") if w == "OTHER" else w for w in words]
    assert cli.run(["tune", str(path), "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["t.csv", "t.csv/below"])
def test_an_out_that_is_no_folder(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text(with_column())
    assert run(tmp_path / "t.csv", "--out", tmp_path / place) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "t.csv' is no folder that can be written to" in error
    assert (tmp_path / "t.csv").read_text() == with_column()


def test_a_folder_that_another_process_writes_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text(with_column())
    with locked(tmp_path / "out"):
        assert run(tmp_path / "t.csv", "--out", tmp_path / "out") == 2
    assert "is in use by another learnopt process; choose another --out" in said(capsys)
    assert not list((tmp_path / "out").glob("*.json"))


def test_dates_are_numbers(tmp_path: Path) -> None:
    data = frame()
    data["day"] = pd.date_range("2024-02-27", periods=len(data)).strftime("%Y-%m-%d")
    data.loc[3, "day"] = np.nan
    data["at"] = pd.date_range("2024-02-27 12:30", periods=len(data), freq="h").strftime("%Y-%m-%dT%H:%M:%SZ")
    data["code"] = [f"2024-{i}" for i in range(len(data))]
    for path in (tmp_path / "t.csv", tmp_path / "t.parquet"):
        if path.suffix == ".csv":
            data.to_csv(path, index=False)
        else:
            data.assign(day=pd.to_datetime(data["day"]), at=pd.to_datetime(data["at"])).to_parquet(path)
        read = read_frame(str(path))
        assert read["day"].diff().value_counts().index[0] == 86400
        assert read["day"].isna().sum() == 1
        assert read["at"][0] == 1709037000
        assert read["code"][0] == "2024-0"


def test_missing_files_and_parquet_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("none.csv", "none.parquet"):
        assert cli.run(["tune", str(tmp_path / name)]) == 2
        assert "no such file" in capsys.readouterr().err
    (tmp_path / "bad.parquet").write_text("a,b\n1,2\n")
    assert cli.run(["tune", str(tmp_path / "bad.parquet")]) == 2
    assert "no Parquet file" in capsys.readouterr().err


def test_large_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.csv"
    path.write_text("x,y\n" + "".join(f"{i},{i % 3}\n" for i in range(20_000)))
    whole = read_frame(str(path))
    monkeypatch.setattr(table_file, "MOST_BYTES", path.stat().st_size // 10)
    monkeypatch.setattr(table_file, "CHUNK", 3000)
    part = read_frame(str(path))
    assert len(whole) == 20_000
    assert 1700 < len(part) < 2300
    assert list(part.columns) == ["x", "y"]
    assert part["x"].max() > 19_000
    pd.testing.assert_frame_equal(part, read_frame(str(path)))


def test_the_best_weights_on_the_way_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text(with_column())
    table = prepare(str(tmp_path / "t.csv"))
    result = table_tuning.tune_table(table, (4,), "adamw", 40, 0, None, None, 0, None)
    said, seen = iter([3.0, 2.0, 1.0, *[1.5] * 30]), list[torch.Tensor]()

    def judge(model: torch.nn.Module, *_: object) -> float:
        seen.append(model.state_dict()["0.weight"].clone())
        return next(said)

    monkeypatch.setattr(table_tuning, "judge", judge)
    fitted = table_tuning.fit(table, (4,), result)
    assert (fitted.loss, fitted.steps, len(seen)) == (1.0, 4, 21)
    assert torch.equal(fitted.model.state_dict()["0.weight"], seen[2])


def test_a_probe_that_ended_lower_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text(with_column())
    table = prepare(str(tmp_path / "t.csv"))
    result = table_tuning.tune_table(table, (4,), "adamw", 40, None, None, None, 0, None)
    best = result.best_probe
    assert best is not None
    monkeypatch.setattr(table_tuning, "judge", lambda *_: best.valid + 1)
    fitted = table_tuning.fit(table, (4,), result)
    assert (fitted.loss, fitted.steps) == (best.valid, best.steps)
    assert torch.equal(fitted.model.state_dict()["0.weight"], result.weights["0.weight"])


def test_every_row_of_a_large_file_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "large.csv"
    path.write_text("x,y\n" + "".join(f"{i / 2000},{i % 2000}\n" for i in range(2000)))
    monkeypatch.setattr(table_file, "MOST_BYTES", path.stat().st_size // 4)
    assert run(path, "--out", tmp_path / "out", "--predict", path) == 0
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 2000
    text = said(capsys)
    assert "of the file's rows" in text
    assert "were read, drawn at random" in text
    assert 0 < int(text.split("of the file's rows ")[1].split()[0]) < 800


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = frame().rename(columns={"width": "width [/kg]", "colour": "[bold]colour", "price": "price [EUR]"})
    path, out = tmp_path / "t.csv", tmp_path / "out"
    renamed.assign(**{"gap [m]": np.nan}).to_csv(path, index=False)
    (tmp_path / "new.csv").write_text("width [/kg],height,[bold]colour\n1,2,red\nwide [/],2,blue\n")
    words = (path, "--target", "price [EUR]", "--out", out, "--predict", tmp_path / "new.csv")
    assert run(*words) == 0
    text = said(capsys)
    assert "target 'price [EUR]'" in text
    assert "column 'gap [m]' is left out" in text
    assert "new.csv: note" not in text
    assert "new.csv: column 'width [/kg]': 1 cells are no finite numbers, such as 'wide [/]'" in text
    assert run(path, "--target", "price [/kg]", "--out", out) == 2
    assert "no target column 'price [/kg]'; choose from: width [/kg], height, [bold]colour" in said(capsys)


def test_numbers_that_became_words_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(with_column())
    (tmp_path / "new.csv").write_text("width,height,colour\nwide,3,red\nnarrow,2,blue\n")
    with pytest.raises(ValueError, match=r"new.csv: column 'width' holds words, such as 'wide'; .*t.csv has numbers"):
        prepare(str(tmp_path / "t.csv")).rows_of(str(tmp_path / "new.csv"), "auto")

"""Tasks from users' CSV files, the good ones and the others."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from learnopt.jobs import probe
from learnopt.tasks import get_task
from learnopt.tasks.csv_file import csv_task, read_frame
from learnopt.tasks.rows import RowTask


def lines_of(rows: int, *, header: bool = True, delimiter: str = ",", missing: bool = True) -> str:
    """Two numeric columns, a colour, and a class that depends on them."""
    rng = np.random.default_rng(0)
    lines = [delimiter.join(["width", "height", "colour", "sort"])] if header else []
    for i in range(rows):
        a, b = rng.standard_normal(2)
        colour = ("red", "green", "blue")[int(rng.integers(3))]
        width = "" if missing and i % 7 == 0 else f"{a:.4f}"
        lines.append(delimiter.join([width, f"{1000 * b:.2f}", colour, "big" if a + b > 0 else "small"]))
    return "\n".join(lines) + "\n"


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def made(path: Path, query: str = "") -> RowTask:
    task = get_task(f"csv:{path}{query}")
    assert isinstance(task, RowTask)
    return task


HEADERS = {
    "a,b,c": ["a", "b", "c"], "0,1,2,3": ["0", "1", "2", "3"], "0,1,2,day,y": ["0", "1", "2", "day", "y"],
    ",0,1,2,y": ["0.0", "0.1", "1", "2", "y"], "0,1": None, "0,1,3,4": None, "0,1,7,y": None, "5.5,1,2,3,4": None,
}  # fmt: skip


@pytest.mark.parametrize("first", HEADERS)
def test_headers_are_told_from_rows(tmp_path: Path, first: str) -> None:
    width = first.count(",") + 1
    rows = "".join(",".join(str(0.5 * i + j) for j in range(width)) + "\n" for i in range(1, 40))
    frame = read_frame(str(write(tmp_path, f"{first}\n{rows}")))
    names = HEADERS[first]
    assert list(frame.columns) == (names or [str(i) for i in range(width)])
    assert len(frame) == (39 if names else 40)


def test_targets_of_one_file_are_tasks_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, lines_of(200, header=True, delimiter=","))
    first, last = read_frame(str(path)).columns[[0, -1]]
    assert made(path).name == "csv-table"
    assert [made(path, f"?target={c}").name for c in (first, last, "0")] == [
        f"csv-table-{c}" for c in (first, last, first)
    ]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_classification_of_mixed_columns(tmp_path: Path, header: bool, delimiter: str) -> None:
    task = made(write(tmp_path, lines_of(200, header=header, delimiter=delimiter)))
    assert task.name == "csv-table"
    assert task.metric_name == "accuracy"
    assert task.train[0].shape == (150, 5)  # two numbers, three colours
    assert task.valid[0].shape == (50, 5)
    assert torch.isfinite(task.train[0]).all()
    assert set(task.train[1].tolist()) == {0, 1}
    model = task.build(0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(60):
        optimizer.zero_grad()
        task.loss(model, task.batch(0, step)).backward()
        optimizer.step()
    model.eval()
    assert task.metric(model, task.validation()) > 0.7


@pytest.mark.parametrize(
    ("query", "regression"), [("?target=height", True), ("?target=1", True), ("?target=colour", False)]
)
def test_the_target_can_be_named_or_numbered(tmp_path: Path, query: str, regression: bool) -> None:
    task = made(write(tmp_path, lines_of(120)), query)
    assert task.train[1].is_floating_point() == regression
    if regression:
        assert task.train[1].shape == (90, 1)
        assert float(task.train[1].std()) == pytest.approx(1, abs=0.02)
        assert task.metric_name == "loss"


def test_the_split_is_disjoint_and_the_same_every_time(tmp_path: Path) -> None:
    path = write(tmp_path, "".join(f"{i},{i % 3},{i * 0.37}\n" for i in range(400)))
    first, second = made(path), made(path)
    for a, b in zip((*first.train, *first.valid), (*second.train, *second.valid), strict=True):
        assert torch.equal(a, b)
    train, valid = ({row.numpy().tobytes() for row in part[0]} for part in (first.train, first.valid))
    assert len(train) + len(valid) == 400
    assert not train & valid


def test_whole_numbers_of_few_values_are_classes(tmp_path: Path) -> None:
    path = write(tmp_path, "".join(f"{i * 0.1},{i % 4}\n" for i in range(100)))
    assert made(path).train[1].dtype == torch.int64
    assert made(path, "?target=0").train[1].is_floating_point()


def test_rows_without_target_are_left_out_and_quotes_byte_order_marks_crlf_are_read(tmp_path: Path) -> None:
    rows = "".join(f'"{i},5",{i / 7:.3f},{"" if i % 10 == 0 else i % 2}\r\n' for i in range(100))
    frame = read_frame(str(write(tmp_path, b"\xef\xbb\xbf" + f"id,x,y\r\n{rows}".encode())))
    assert list(frame.columns) == ["id", "x", "y"]
    task = csv_task(f"csv:{tmp_path / 'table.csv'}")
    assert isinstance(task, RowTask)
    assert len(task.train[0]) + len(task.valid[0]) == 90


def test_validation_words_never_seen_in_training_are_no_error(tmp_path: Path) -> None:
    words = ["rare"] + ["a", "b", "c"] * 40
    task = made(write(tmp_path, "w,x,y\n" + "".join(f"{w},{i * 0.3},{i % 2}\n" for i, w in enumerate(words))))
    assert torch.isfinite(task.valid[0]).all()


def test_huge_and_infinite_numbers_stay_finite(tmp_path: Path) -> None:
    cells = ["1e300", "inf", "-inf", "nan", *(str(i) for i in range(96))]
    task = made(write(tmp_path, "x,z,y\n" + "".join(f"{c},{i * 0.3},{i % 2}\n" for i, c in enumerate(cells))))
    assert all(torch.isfinite(part[0]).all() for part in (task.train, task.valid))


PROSE = "It was the best of times, it was the worst of times\nit was the age of wisdom\n" * 20
BAD: dict[str, tuple[str | bytes, str, str]] = {
    "empty": ("", "", "the file is empty"),
    "blank": (" \n\n  \n", "", "the file is empty"),
    "header-only": ("a,b,c\n", "", "rows with a target 'c', at least 20"),
    "few-rows": (lines_of(5), "", "at least 20 are needed"),
    "binary": (bytes(range(128, 256)) * 40, "", "is no UTF-8 text"),
    "zeros": (b"\x00\x01\x02" * 300, "", "one column only"),
    "prose": (PROSE, "", ""),
    "one-column": ("x\n" + "1.5\n" * 50, "", "one column only"),
    "unknown-target": (lines_of(60), "?target=weight", "no target column 'weight'; choose from: width, height"),
    "target-number": (lines_of(60), "?target=4", "no target column '4'"),
    "constant-target": ("".join(f"{i},7\n" for i in range(60)), "", "never changes: it is always '7'"),
    "constant-quantity": ("".join(f"{i},7.5\n" for i in range(60)), "", "never changes"),
    "all-different": ("".join(f"{i},name{i}\n" for i in range(60)), "", "has 60 classes in 60 rows"),
    "no-feature": ("".join(f"id{i},{i % 2}\n" for i in range(60)), "", "no usable feature"),
    "ragged": ("a,b\n" + "1,2\n" * 30 + "1,2,3,4,5\n", "", "no CSV table"),
    "unclosed-quote": ('a,b\n"1,2\n' + "3,4\n" * 30, "", ""),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line_that_names_them(tmp_path: Path, case: str) -> None:
    text, query, expected = BAD[case]
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=r"table\.csv") as caught:
        get_task(f"csv:{path}{query}")
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.csv: no such file"):
        get_task(f"csv:{tmp_path / 'nowhere.csv'}")
    with pytest.raises(ValueError, match="cannot be read"):
        get_task(f"csv:{tmp_path}")
    for name in ("csv:", "csv:?target=x"):
        with pytest.raises(ValueError, match="names no file; write csv:FILE"):
            get_task(name)


def test_names_in_any_script_are_tasks_of_their_own(tmp_path: Path) -> None:
    names = [made(write(tmp_path, lines_of(60), f"{stem}.csv")).name for stem in ("表", "数", "größe", "grse", "a b")]
    assert len(set(names)) == 5
    assert names[3:] == ["csv-grse", "csv-a-b"]
    assert all(re.fullmatch(r"csv-[A-Za-z0-9_-]*[a-z0-9]", name) for name in names), names
    long = ["x" * 200, "x" * 199 + "y"]
    first, second = (made(write(tmp_path, lines_of(60), f"{stem}.csv")).name for stem in long)
    assert first != second
    assert max(len(first), len(second)) < 100


def test_any_cell_of_the_training_rows_is_in_the_fingerprint(tmp_path: Path) -> None:
    """Runs of the table as it was were taken for those of the table as it is."""
    text = lines_of(5000, missing=False)
    path = write(tmp_path, text)
    before = made(path)
    assert made(path).fingerprint == before.fingerprint
    seen = {tuple(row.tolist()) for seed, step in ((0, 0), (1, 7)) for row in before.batch(seed, step)[0]}
    lines = text.splitlines()
    changed = 0
    for i in range(1, len(lines)):
        one = [*lines]
        one[i] = lines[i].replace("small", "big") if "small" in lines[i] else lines[i].replace("big", "small")
        after = made(write(tmp_path, "\n".join(one) + "\n"))
        rows = [tuple(row.tolist()) for row in after.train[0][after.train[1] != before.train[1]]]
        if not rows or rows[0] in seen:
            continue  # a row to validate on, or one of those that are looked at anyway
        assert after.fingerprint != before.fingerprint
        assert probe(after).digest != probe(before).digest
        changed += 1
        if changed == 3:
            break
    assert changed == 3

"""A table from a CSV or Parquet file: any usual separator, a header or none, numbers, words and missing cells."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from learnopt.corpus import needs_pyarrow
from learnopt.table_numbers import as_numbers, format_of, read_as, seconds

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "?", "-"]
PARQUET = (".parquet", ".pq")
SEPARATORS = ",;\t|"
MOST_BYTES = 50_000_000
"""Of a larger file a random part of the rows is read, as many as about this size holds."""
CHUNK = 100_000
SAMPLED_BYTES = 1_000_000
HEADERS = ("auto", "yes", "no")
_QUOTED = re.compile(r'(^|[,;\t|])[ ]*"(?:[^"]|"")*"', re.MULTILINE)
_LOOKED_AT = 200
"""Lines that tell a separator."""


def read_frame(location: str, header: str = "auto") -> pd.DataFrame:
    """A table to learn from; of a file above `MOST_BYTES`, a random sample of rows, the same at every call.

    As `read_rows`, but for files that have a single column: they are refused.
    """
    return _read(location, header, whole=False, words=(), formats={}, least=2)


def is_sampled(location: str) -> bool:
    """Whether `read_frame` reads a part of the file."""
    path = Path(location)
    return path.suffix.lower() not in PARQUET and path.is_file() and path.stat().st_size > MOST_BYTES


def read_rows(
    location: str, header: str = "auto", words: Collection[str] = (), formats: Mapping[str, str] = MappingProxyType({})
) -> pd.DataFrame:
    """The file's cells: floats where a column mostly holds numbers, else strings; names are the header or 0, 1, ...

    Dates as 2026-11-22, with or without a time, are numbers too: seconds since 1970. Numbers may have decimal commas
    where the separator is another character. Of a text file's columns of numbers the frame's `attrs` say how they were
    written, "formats", and how many cells were none and count as missing, with the first of them, "unread".

    Args:
        header: "auto", "yes" or "no": whether the first line names the columns.
        words: columns whose cells stay the strings that they are.
        formats: how columns of numbers are written, out of another file's; what is not so counts as missing.

    Raises:
        ValueError: for a file that is missing, empty, no text, or no table.
    """
    return _read(location, header, whole=True, words=words, formats=formats, least=1)


def _read(
    location: str, header: str, *, whole: bool, words: Collection[str], formats: Mapping[str, str], least: int
) -> pd.DataFrame:
    if header not in HEADERS:
        raise ValueError(f"header must be one of {', '.join(HEADERS)}, got {header!r}")
    path = Path(location)
    if path.suffix.lower() in PARQUET:
        return _parquet(path, location, words, least)
    separator = _separator(path, location, least)
    try:
        cells = _cells(path, separator, whole)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise ValueError(f"{location}: is no UTF-8 text, so no CSV file") from None
        raise ValueError(f"{location}: no CSV table: {str(error).strip().splitlines()[0]}") from None
    return _typed(cells, header, words, formats, separator)


def _separator(path: Path, location: str, least: int) -> str:
    """The character that separates the first line's cells."""
    try:
        with path.open("rb") as f:
            start = f.read(SAMPLED_BYTES)
    except FileNotFoundError:
        raise ValueError(f"{location}: no such file") from None
    except OSError as error:
        raise ValueError(f"{location}: cannot be read: {error.strerror}") from None
    try:
        text = start.decode("utf-8-sig", errors="strict" if len(start) < SAMPLED_BYTES else "ignore")
    except UnicodeDecodeError:
        raise ValueError(f"{location}: is no UTF-8 text, so no CSV file") from None
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise ValueError(f"{location}: the file is empty")
    lines = [line for line in _QUOTED.sub(r"\1q", text).splitlines() if line.strip()]
    whole = lines[:-1] if len(start) == SAMPLED_BYTES and len(lines) > 1 else lines
    separator = _separating(whole[:_LOOKED_AT])
    if not lines[0].count(separator) and least > 1:
        raise ValueError(
            f"{location}: one column only ({first[:40]!r}...), a target and a feature are needed; "
            f"cells must be separated by a comma, semicolon, tab or |"
        )
    return separator


def _separating(lines: list[str]) -> str:
    """The one of `SEPARATORS` that comes most often in the first line; a comma, which numbers may have, only where no
    other comes equally often in all."""
    others = [c for c in SEPARATORS if c != "," and {line.count(c) for line in lines} == {lines[0].count(c)}]
    steady = max(others, key=lines[0].count, default=",")
    return steady if lines[0].count(steady) else max(SEPARATORS, key=lines[0].count)


def _cells(path: Path, separator: str, whole: bool) -> pd.DataFrame:
    share = 1.0 if whole else min(1.0, MOST_BYTES / path.stat().st_size)
    reader = pd.read_csv(
        path, sep=separator, header=None, dtype=str, na_values=MISSING, skipinitialspace=True, encoding="utf-8-sig",
        chunksize=CHUNK,
    )  # fmt: skip
    with reader:
        cells = pd.concat(list(_sampled(reader, share)), ignore_index=True)
    while cells.shape[1] > 1 and cells.iloc[:, -1].isna().all():  # lines that end in a separator
        cells = cells.iloc[:, :-1]
    return cells


def _sampled(chunks: Iterator[pd.DataFrame], share: float) -> Iterator[pd.DataFrame]:
    """A random share of the rows; the first row, which may be a header, is always kept."""
    rng = np.random.default_rng(0)
    for i, chunk in enumerate(chunks):
        keep = rng.random(len(chunk)) < share
        keep[0] |= i == 0
        yield chunk if share >= 1 else chunk[keep]


def _parquet(path: Path, location: str, words: Collection[str], least: int) -> pd.DataFrame:
    needs_pyarrow()
    if not path.exists():
        raise ValueError(f"{location}: no such file")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{location}: no Parquet file: {str(error).strip().splitlines()[0]}") from None
    if frame.shape[1] < least:
        raise ValueError(f"{location}: {frame.shape[1]} columns, a target and a feature are needed")
    frame.columns = pd.Index([str(c) for c in frame.columns])
    return pd.DataFrame({c: _strings(frame[c]) if c in words else _of_any_type(frame[c]) for c in frame.columns})


def _of_any_type(column: pd.Series) -> pd.Series:
    """A Parquet column as floats or strings."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return as_numbers(seconds(column))
    if pd.api.types.is_timedelta64_dtype(column):
        return as_numbers(column.dt.total_seconds())
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return as_numbers(column)
    if pd.api.types.infer_dtype(column) in ("decimal", "date"):  # which pandas keeps as objects
        cells = _strings(column)
        return cells if (found := format_of(cells)) is None else read_as(found, cells)
    return _strings(column)


def _strings(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), None).map(str, na_action="ignore")


def _typed(
    frame: pd.DataFrame, header: str, words: Collection[str], formats: Mapping[str, str], separator: str
) -> pd.DataFrame:
    """Give columns the names in the first row, if it is a header; turn numbers to floats."""
    if header == "yes" or (header == "auto" and _is_header(frame.iloc[0], frame.iloc[1:], separator)):
        body = frame.iloc[1:]
        names = [cell.strip() if isinstance(cell, str) else str(i) for i, cell in enumerate(frame.iloc[0])]
        frame = body.reset_index(drop=True)
        frame.columns = pd.Index(_distinct(names))
    else:
        frame.columns = pd.Index([str(c) for c in frame.columns])
    found = {c: _format(frame[c], formats.get(c), separator) for c in frame.columns if c not in words}
    read = {c: read_as(name, frame[c]) for c, name in found.items() if name is not None}
    own = {c: found[c] for c, column in read.items() if c not in formats or column.notna().any()}
    typed = pd.DataFrame({c: read[c] if c in own else _stripped(frame[c]) for c in frame.columns})
    typed.attrs["formats"] = own
    lost = {c: cells for c in own if len(cells := _stripped(frame[c])[read[c].isna()].dropna())}
    typed.attrs["unread"] = {c: (len(cells), str(cells.iloc[0])[:40]) for c, cells in lost.items()}
    return typed


def _format(column: pd.Series, known: str | None, separator: str) -> str | None:
    """`known`, if the file may be written so: decimal commas cannot be there where a bare comma separates cells."""
    bare = known == "comma" and separator == "," and not column.str.contains(",", regex=False, na=False).any()
    return known if known is not None and not bare else format_of(column, separator)


def _distinct(names: list[str]) -> list[str]:
    """Names that come more than once get the number of their column."""
    found: list[str] = []
    for i, name in enumerate(names):
        own = name if names.count(name) == 1 else f"{name}.{i}"
        while own != name and own in names:
            own += "_"
        found.append(own)
    return found


def _stripped(column: pd.Series) -> pd.Series:
    """Words without the spaces around them; what is missing may have had some, too."""
    if column.isna().all():
        return column
    column = column.str.strip()
    return column.where(~column.isin(MISSING))


def _is_header(first: pd.Series, body: pd.DataFrame, separator: str) -> bool:
    """Whether none of the first row's cells is a number and a column below is, or all are pandas' names of columns."""
    unlike = [first[c] not in set(body[c]) for c in body.columns]
    formats = {c: format_of(body[c], separator) for c in body.columns}
    is_number = [bool(read_as(formats[c] or "point", first[[c]]).notna().iloc[0]) for c in body.columns]
    is_text = ~pd.Series(is_number, first.index) & first.notna()
    if not any(is_number) and is_text.any():
        return all(unlike) or any(formats.values())
    after_index = int(pd.isna(first.iloc[0]))  # to_csv leaves the name of the index out
    counted = [str(cell) == str(i - after_index) for i, cell in enumerate(first)]
    named = [a and b for a, b in zip(is_text, unlike, strict=True)]
    return sum(counted) >= 3 and all(a or b for a, b in zip(counted[after_index:], named[after_index:], strict=True))

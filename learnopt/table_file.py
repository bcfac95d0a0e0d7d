"""A table from a CSV or Parquet file: any usual separator, a header or none, numbers, words and missing cells."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from learnopt.corpus import needs_pyarrow

# Larger numbers count as missing: their squares would not fit, and no real measurement is that large.
LARGEST = 1e30
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "?", "-"]
PARQUET = (".parquet", ".pq")
SEPARATORS = ",;\t|"
MOST_BYTES = 50_000_000
"""Of a larger file a random part of the rows is read, as many as about this size holds."""
CHUNK = 100_000
SAMPLED_BYTES = 1_000_000
HEADERS = ("auto", "yes", "no")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d{1,12},\d+\s*|\s*[-+]?\d{1,3}(\.\d{3})+,\d+\s*")
_THOUSANDS = re.compile(r"\s*[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?\s*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ].*)?")


def read_frame(location: str, header: str = "auto") -> pd.DataFrame:
    """A table to learn from; of a file above `MOST_BYTES`, a random sample of rows, the same at every call.

    As `read_rows`, but for files that have a single column: they are refused.
    """
    return _read(location, header, whole=False, words=(), least=2)


def is_sampled(location: str) -> bool:
    """Whether `read_frame` reads a part of the file."""
    path = Path(location)
    return path.suffix.lower() not in PARQUET and path.is_file() and path.stat().st_size > MOST_BYTES


def read_rows(location: str, header: str = "auto", words: Collection[str] = ()) -> pd.DataFrame:
    """The file's cells: floats where a column mostly holds numbers, else strings; names are the header or 0, 1, ...

    Dates as 2026-11-22, with or without a time, are numbers too: seconds since 1970. Numbers may have decimal commas
    where the separator is another character.

    Args:
        header: "auto", "yes" or "no": whether the first line names the columns.
        words: columns whose cells stay the strings that they are.

    Raises:
        ValueError: for a file that is missing, empty, no text, or no table.
    """
    return _read(location, header, whole=True, words=words, least=1)


def _read(location: str, header: str, *, whole: bool, words: Collection[str], least: int) -> pd.DataFrame:
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
    return _typed(cells, header, words, separator)


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
    separator = max(SEPARATORS, key=first.count)
    if not first.count(separator) and least > 1:
        raise ValueError(
            f"{location}: one column only ({first[:40]!r}...), a target and a feature are needed; "
            f"cells must be separated by a comma, semicolon, tab or |"
        )
    return separator


def _cells(path: Path, separator: str, whole: bool) -> pd.DataFrame:
    share = 1.0 if whole else min(1.0, MOST_BYTES / path.stat().st_size)
    reader = pd.read_csv(
        path, sep=separator, header=None, dtype=str, na_values=MISSING, skipinitialspace=True, encoding="utf-8-sig",
        chunksize=CHUNK,
    )  # fmt: skip
    with reader:
        return pd.concat(list(_sampled(reader, share)), ignore_index=True)


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
        return numbers(_seconds(column))
    if pd.api.types.is_timedelta64_dtype(column):
        return numbers(column.dt.total_seconds())
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return numbers(column)
    if pd.api.types.infer_dtype(column) in ("decimal", "date"):  # which pandas keeps as objects
        found = _numeric(_strings(column))
        return _strings(column) if found is None else found
    return _strings(column)


def _strings(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), None).map(str, na_action="ignore")


def numbers(column: pd.Series) -> pd.Series:
    """The column as floats, NaN where a cell is no number below `LARGEST`."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    return values.where(values.abs() < LARGEST)


def _typed(frame: pd.DataFrame, header: str, words: Collection[str], separator: str) -> pd.DataFrame:
    """Give columns the names in the first row, if it is a header; turn numbers to floats."""
    if header == "yes" or (header == "auto" and _is_header(frame.iloc[0], frame.iloc[1:])):
        body = frame.iloc[1:]
        names = [cell.strip() if isinstance(cell, str) else str(i) for i, cell in enumerate(frame.iloc[0])]
        frame = body.reset_index(drop=True)
        frame.columns = pd.Index(_distinct(names))
    else:
        frame.columns = pd.Index([str(c) for c in frame.columns])
    typed = {c: None if c in words else _numeric(frame[c], separator) for c in frame.columns}
    return pd.DataFrame({c: _stripped(frame[c]) if found is None else found for c, found in typed.items()})


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


def _is_header(first: pd.Series, body: pd.DataFrame) -> bool:
    """Whether none of the first row's cells is a number and a column below is, or all are pandas' names of columns."""
    unlike = [first[c] not in set(body[c]) for c in body.columns]
    is_text = numbers(first).isna() & first.notna()
    if numbers(first).isna().all() and is_text.any():
        return all(unlike) or any(_numeric(body[c]) is not None for c in body.columns)
    after_index = int(pd.isna(first.iloc[0]))  # to_csv leaves the name of the index out
    counted = [str(cell) == str(i - after_index) for i, cell in enumerate(first)]
    named = [a and b for a, b in zip(is_text, unlike, strict=True)]
    return sum(counted) >= 3 and all(a or b for a, b in zip(counted[after_index:], named[after_index:], strict=True))


def _numeric(column: pd.Series, separator: str = ",") -> pd.Series | None:
    """The column as floats, or None where fewer than nine tenths of its cells are numbers or dates; infinite ones are
    numbers, but missing ones."""
    present = int(column.notna().sum())
    if not present:
        return None
    for cells in (_plain_commas(column, separator), _dates(column)):
        if cells is not None and int(pd.to_numeric(cells, errors="coerce").notna().sum()) >= 0.9 * present:
            return numbers(cells)
    return None


def _plain_commas(column: pd.Series, separator: str) -> pd.Series:
    """The cells with points for decimal commas, and without separators of thousands as in 1,234.5 or 1.234,5.

    Where every comma might be either, as in 1,234, it is one of thousands if commas separate cells too: who writes
    decimal commas separates by something else.
    """
    has = column.str.contains(",", regex=False, na=False)
    cells = column[has]
    if not cells.head(50).map(_is_comma_number).any():
        return column
    cells = cells[cells.map(_is_comma_number)]
    points = cells.str.contains(".", regex=False)
    either = all(_THOUSANDS.fullmatch(cell) for cell in cells)
    if either and (separator == "," or points.any() or cells.str.count(",").max() > 1):
        return column.str.replace(",", "", regex=False)
    plain = column.str.replace(".", "", regex=False) if points.any() else column
    return plain.str.replace(",", ".", n=1, regex=False)


def _is_comma_number(cell: str) -> bool:
    return bool(_DECIMAL_COMMA.fullmatch(cell) or _THOUSANDS.fullmatch(cell))


def _dates(column: pd.Series) -> pd.Series | None:
    """Seconds since 1970, if nearly all cells look like ISO dates."""
    present = column.dropna()
    if not present.head(50).map(lambda cell: bool(_DATE.fullmatch(cell.strip()))).any():
        return None
    return _seconds(pd.to_datetime(column, format="ISO8601", errors="coerce", utc=True))


def _seconds(times: pd.Series) -> pd.Series:
    """Seconds since 1970."""
    return (times - pd.Timestamp(0, tz=getattr(times.dtype, "tz", None))).dt.total_seconds()

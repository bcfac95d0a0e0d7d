"""Columns of numbers as text files write them: decimal points or commas, separators of thousands, dates."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

# Larger numbers count as missing: their squares would not fit, and no real measurement is that large.
LARGEST = 1e30
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d{1,12},\d+\s*|\s*[-+]?[1-9]\d{0,2}(?:\.\d{3})+,\d+\s*")
_THOUSANDS = re.compile(r"\s*[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?\s*")
_POINTS_OF_THOUSANDS = re.compile(r"\s*[-+]?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d*)?\s*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ].*)?")


def as_numbers(column: pd.Series) -> pd.Series:
    """The column as floats, NaN where a cell is no number below `LARGEST`."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    return values.where(values.abs() < LARGEST)


def format_of(column: pd.Series, separator: str = ",") -> str | None:
    """How nine tenths of the strings or more are written, a key of `FORMATS`; None where they are no numbers.

    Infinite ones are numbers, but missing ones.

    Args:
        separator: what separates the file's cells.
    """
    present = int(column.notna().sum())
    for name in (_commas(column, separator), "date") if present else ():
        cells = FORMATS[name](column)
        if cells is not None and int(pd.to_numeric(cells, errors="coerce").notna().sum()) >= 0.9 * present:
            return name
    return None


def read_as(name: str, column: pd.Series) -> pd.Series:
    """Strings that are written as `FORMATS` says under `name`, as floats; NaN where they are not."""
    cells = FORMATS[name](column)
    return pd.Series(np.nan, column.index) if cells is None else as_numbers(cells)


def seconds(times: pd.Series) -> pd.Series:
    """Seconds since 1970."""
    return (times - pd.Timestamp(0, tz=getattr(times.dtype, "tz", None))).dt.total_seconds()


def _commas(column: pd.Series, separator: str) -> str:
    """What commas in the cells are, a key of `FORMATS`.

    Where every comma might be either, as in 1,234, it is one of thousands if commas separate cells too: who writes
    decimal commas separates by something else.
    """
    cells = column[column.str.contains(",", regex=False, na=False)]
    if not cells.head(50).map(_is_comma_number).any():
        return "point"
    cells = cells[cells.map(_is_comma_number)]
    either = all(_THOUSANDS.fullmatch(cell) for cell in cells)
    points = cells.str.contains(".", regex=False)
    return "thousands" if either and (separator == "," or points.any() or cells.str.count(",").max() > 1) else "comma"


def _points(column: pd.Series) -> pd.Series:
    """Decimal commas as points, without points of thousands as in 1.234,5."""
    grouped = column.str.fullmatch(_POINTS_OF_THOUSANDS.pattern, na=False)
    plain = column.where(~grouped, column.str.replace(".", "", regex=False))
    return plain.str.replace(",", ".", n=1, regex=False)


def _is_comma_number(cell: str) -> bool:
    return bool(_DECIMAL_COMMA.fullmatch(cell) or _THOUSANDS.fullmatch(cell))


def _dates(column: pd.Series) -> pd.Series | None:
    """Seconds since 1970, if nearly all cells look like ISO dates."""
    present = column.dropna()
    if not present.head(50).map(lambda cell: bool(_DATE.fullmatch(cell.strip()))).any():
        return None
    return seconds(pd.to_datetime(column, format="ISO8601", errors="coerce", utc=True))


FORMATS: dict[str, Callable[[pd.Series], pd.Series | None]] = {
    "point": lambda column: column,
    "comma": _points,
    "thousands": lambda column: column.str.replace(",", "", regex=False),
    "date": _dates,
}
"""How a column of numbers is written, to what `pandas.to_numeric` reads; None where no cell is written so."""

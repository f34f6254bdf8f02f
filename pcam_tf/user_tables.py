"""CSV tables that users bring: read as text, whatever program has written them."""

import csv
import gzip
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pcam_tf.errors import InputError, first_line
from pcam_tf.files import check_no_pointer, is_gzip, printable

SEPARATORS = (",", ";", "\t")


def read_csv_as_text(path: str | Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read a CSV table; every cell is a text, so that `NA`, `007` and dates stay as they are.

    The separator is a comma, a semicolon or a tab, whichever is most frequent in the header. Blanks
    around the names in the header are dropped, as are a byte order mark and empty columns without a
    name, which trailing separators make.

    Args:
        path: a CSV file in UTF-8, plain or packed by gzip.
        columns: names that are known. A header that differs from one of them in capitals only
            is given that name.

    Returns:
        A row for each line; an empty cell is an empty text.

    Raises:
        InputError: there is no such file, or it is not such a table; the message says where.
    """
    try:
        check_no_pointer(path)
        opened = gzip.open if is_gzip(path) else open
        with opened(path, "rt", encoding="utf-8-sig") as file:
            return _read(file, printable(path), list(columns))
    except FileNotFoundError as error:
        raise InputError(f"there is no table {printable(path)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)} is not UTF-8 text: save it as CSV (UTF-8).") from error
    except pd.errors.ParserWarning as error:
        reason = "a row has more cells than there are columns"
        raise InputError(f"{printable(path)} is not a CSV table ({reason}).") from error
    # pandas' parser errors are ValueErrors.
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{printable(path)} is not a CSV table ({reason}).") from error


def _read(file, name, columns):
    first = file.readline()
    while first and not first.strip():
        first = file.readline()
    separator = max(SEPARATORS, key=first.count)
    # "id, label": then the cells have blanks after their separators, too.
    blanks = f"{separator} " in first and separator != "\t"
    cells = next(csv.reader([first], delimiter=separator, skipinitialspace=blanks), [])
    headers = _headers(cells, columns, name)
    table = _body(file, len(headers), separator, blanks)
    for number, header in enumerate([*headers, ""]):
        # The first column of a table that pandas has written is its index, without a name.
        if header or number == 0:
            continue
        filled = (table.iloc[:, number].str.strip() != "").to_numpy()
        if filled.any():
            row = int(filled.argmax())
            raise InputError(
                f"{name}, row {row + 1}: {table.iloc[row, number]!r} stands in a column without a "
                f"name; the header is {', '.join(filter(None, headers))}."
            )
    kept = [number for number, header in enumerate(headers) if header]
    return table.iloc[:, kept].set_axis([headers[number] for number in kept], axis=1)


def _body(file, columns, separator, blanks):
    """Return the rows below the header, and after their columns what stands behind the last one."""
    with warnings.catch_warnings():
        # pandas would drop further cells of the first row and only warn.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                file,
                sep=separator,
                header=None,
                names=[*range(columns), "surplus"],
                index_col=False,
                dtype="str",
                na_filter=False,
                skipinitialspace=blanks,
            )
        except pd.errors.EmptyDataError:
            return pd.DataFrame("", index=[], columns=range(columns + 1), dtype="str")


def _headers(cells, columns, name):
    known = {each.lower(): each for each in columns}
    headers = [known.get(cell.strip().lower(), cell.strip()) for cell in cells]
    named = [header for header in headers if header]
    if not named:
        raise InputError(f"{name} is empty: a table begins with the names of its columns.")
    twice = next((header for header in named if named.count(header) > 1), None)
    if twice:
        raise InputError(f"{name} has two columns {twice!r}: rename or remove one.")
    return headers


def numbers(texts: pd.Series) -> pd.Series:
    """Return texts as float64, NaN for what is no number; a decimal comma is read as a point."""
    plain = texts.str.strip().str.replace(",", ".", regex=False)
    return pd.to_numeric(plain, errors="coerce").astype("float64")

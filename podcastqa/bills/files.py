"""A bill's file is cut into cells as it was written: each cell as text, each row with its line, and nothing is guessed.

DuckDB reads CSV, gzip and Parquet alike. Of a CSV it counts rows and not lines, and one open quote may swallow what
follows; so every row is handed to it with its line in front, and a row whose quotes do not close ends with its line.
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from podcastqa.bills.bill import BadRow, BillLine
from podcastqa.errors import BillError
from podcastqa.money import Usd

_KINDS = (".csv", ".csv.gz", ".parquet")
#: A cell of more lines than this is an open quote.
_MOST_LINES = 1000
_CHUNK = 10_000
_FAULTS = {"MISSING COLUMNS": "it has too few cells", "TOO MANY COLUMNS": "it has too many cells"}
_OPEN_QUOTE = "a quote in it is not closed"
_READ_CSV = (
    "read_csv($path, columns = $types, header = false, auto_detect = false, delim = ',', quote = '\"', escape = '\"',"
    " new_line = '\\n', store_rejects = true, rejects_limit = 0)"
)
#: The folders of a path are no columns: BILLING_PERIOD=2026-10 names where a file was put.
_READ_PARQUET = "read_parquet(?, file_row_number = true, hive_partitioning = false)"


class NoBill(BillError):
    """That file can be read, and is no bill."""


@dataclass(frozen=True, slots=True)
class FileLine:
    """A charge as a file states it: where it stands, whose bill it is on, the provider's own text of the amount."""

    number: int
    source: str
    account: str
    period: date
    """The first day of its billing month."""
    line: BillLine
    amount_text: str
    effective: Usd


@dataclass(frozen=True, slots=True)
class BillFile:
    """One file, read."""

    name: str
    format: str
    sha256: str
    lines: tuple[FileLine, ...]
    bad_rows: tuple[BadRow, ...]
    notes: tuple[str, ...] = ()
    ends: datetime | None = None
    """When the last period that it charges for ended."""


def find(path: str) -> dict[Path, str]:
    """The bills' files that `path` means and what to call each: a file, all below a folder, or a glob.

    Of a month that AWS delivered again into a folder of its own, the newest delivery; raises BillError for none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return {place: place.name}
    below = place.rglob("*") if place.is_dir() else map(Path, glob.glob(str(place), recursive=True))
    files = sorted(file for file in below if file.is_file() and file.name.lower().endswith(_KINDS))
    if not files:
        raise BillError(
            f"There is no bill at {path}.", next_step=f"Name a file, a folder or a glob: {', '.join(_KINDS)}."
        )
    newest = _newest_deliveries(files)
    base = place if place.is_dir() else Path(os.path.commonpath([file.parent for file in newest]))
    return {file: str(file.relative_to(base)) for file in newest}


def _newest_deliveries(files: Sequence[Path]) -> list[Path]:
    """AWS Data Exports that keep every delivery: …/BILLING_PERIOD=2026-10/20261012T040000Z-…/part-1.csv.gz."""
    deliveries: dict[Path, set[Path]] = {}
    for file in files:
        if file.parent.parent.name.upper().startswith("BILLING_PERIOD="):
            deliveries.setdefault(file.parent.parent, set()).add(file.parent)
    kept = {max(folders, key=_delivered) for folders in deliveries.values()}
    return [file for file in files if file.parent.parent not in deliveries or file.parent in kept]


def _delivered(folder: Path) -> tuple[str, float]:
    begins = re.match(r"20\d\d-?\d\d-?\d\d.*", folder.name)
    return begins[0] if begins else "", max(file.stat().st_mtime for file in folder.iterdir())


def sha256(path: Path) -> str:
    """The digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_parquet(path: Path) -> bool:
    """By its name, as every tool goes by it."""
    return path.suffix.lower() == ".parquet"


def place(name: str, path: Path, number: int) -> str:
    """Where a row stands, for people; Parquet has rows and no lines."""
    return f"{name} {'row' if is_parquet(path) else 'line'} {number}"


def header(path: Path) -> tuple[str, ...]:
    """The names of the columns; raises BillError."""
    with _readable(path):
        if is_parquet(path):
            with _duckdb() as connection:
                return tuple(_parquet_types(connection, path))
        with opened(path) as file:
            return tuple(_names(file)[0])
    raise AssertionError


def rows(path: Path, names: Iterable[str]) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Each row's line and its cells under those names (missing and NULL: empty), or what is wrong with the row.

    Wrong rows may come out of turn. Raises BillError where the file cannot be read to its end.
    """
    with _readable(path):
        yield from (_parquet_rows if is_parquet(path) else _csv_rows)(path, tuple(names))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The text of a CSV file, unpacked, its line ends as they are.

    utf-8-sig: some exports begin with a byte order mark; a letter cut in half must not hide the rows before it.
    """
    unpack: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    with unpack(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a file that is torn, packed otherwise or none at all makes a library say, in one sentence."""
    import duckdb

    try:
        yield
    except (csv.Error, EOFError, OSError, zlib.error, duckdb.Error) as problem:
        said = (str(problem).splitlines() or [type(problem).__name__])[0].rstrip(".")
        raise BillError(f"{path.name} cannot be read: {said}.", next_step="Download it anew.") from problem


@contextmanager
def _duckdb() -> Iterator[Any]:
    import duckdb

    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def _fetched(found: Any, total: int, path: Path, names: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    from tqdm import tqdm

    with tqdm(total=total, desc=path.name, unit=" rows", delay=1, disable=None, leave=False) as progress:
        for chunk in iter(lambda: found.fetchmany(_CHUNK), []):
            for number, *cells in chunk:
                yield number, dict(zip(names, cells, strict=True))
            progress.update(len(chunk))


def _cell(text: str) -> str:
    return f"coalesce(nullif({text}, 'NULL'), '')"


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _names(file: Iterator[str]) -> tuple[list[str], int]:
    """The header's cells, and the lines that it takes."""
    reader = csv.reader(file)
    return next(reader, []), reader.line_num


def _csv_rows(path: Path, names: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str] | str]]:
    with tempfile.TemporaryDirectory() as folder, opened(path) as file, _duckdb() as connection:
        numbered, total = Path(folder) / "numbered.csv", 0
        columns, lines = _names(file)
        with numbered.open("w", encoding="utf-8", newline="") as out:
            for number, text, is_whole in _records(file, lines + 1, len(columns)):
                if is_whole:
                    out.write(f"{number},{text}\n")
                    total += 1
                else:
                    yield number, _OPEN_QUOTE
        cells = ", ".join(_cell(f"c{columns.index(name)}") if name in columns else "''" for name in names)
        types = {"line": "BIGINT"} | {f"c{i}": "VARCHAR" for i in range(len(columns))}
        found = connection.execute(
            f"SELECT line, {cells} FROM {_READ_CSV}",  # noqa: S608 – names that this function made
            {"path": str(numbered), "types": types},
        )
        yield from _fetched(found, total, path, names)
        faults = connection.execute("SELECT csv_line, error_type, error_message FROM reject_errors ORDER BY ALL DESC")
        said = {int(line.split(",", 1)[0]): _FAULTS.get(kind, message) for line, kind, message in faults.fetchall()}
        yield from said.items()


def _records(file: Iterator[str], line: int, width: int) -> Iterator[tuple[int, str, bool]]:
    """Each row: the line that it begins on, its text, and whether all of its quotes close."""
    back: list[str] = []  # read too far, the next line last

    def following() -> str | None:
        return back.pop() if back else next(file, None)

    while (text := following()) is not None:
        parts, quotes = [text], text.count('"')
        while quotes % 2 and len(parts) < _MOST_LINES and (more := following()) is not None:
            parts.append(more)
            quotes += more.count('"')
        is_whole = quotes % 2 == 0 and (len(parts) == 1 or _is_one_row(parts, width))
        if not is_whole:  # a torn row ends with its line: those behind it may be whole
            back.extend(reversed(parts[1:]))
            del parts[1:]
        if whole := "".join(parts).rstrip("\r\n"):
            yield line, whole, is_whole
        line += len(parts)


def _is_one_row(parts: list[str], width: int) -> bool:
    try:
        found = list(csv.reader(parts, strict=True))
    except csv.Error:
        return False
    return len(found) == 1 and len(found[0]) == width


# ── Parquet ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _parquet_types(connection: Any, path: Path) -> dict[str, str]:
    at = [glob.escape(str(path))]
    described = connection.execute(f"DESCRIBE SELECT * FROM {_READ_PARQUET}", at).fetchall()  # noqa: S608 – a constant
    return {name: kind for name, kind, *_ in described}


def _parquet_rows(path: Path, names: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Numbers become text in DuckDB, the shortest that means the same: no float is ever held."""
    with _duckdb() as connection:
        types = _parquet_types(connection, path)
        cells = ", ".join(_cell(_as_text(name, types[name])) if name in types else "''" for name in names)
        at = [glob.escape(str(path))]
        [(total,)] = connection.execute(f"SELECT count(*) FROM {_READ_PARQUET}", at).fetchall()  # noqa: S608 – a constant
        found = connection.execute(f"SELECT file_row_number + 1, {cells} FROM {_READ_PARQUET}", at)  # noqa: S608 – quoted names
        yield from _fetched(found, total, path, names)


def _as_text(name: str, kind: str) -> str:
    quoted = '"' + name.replace('"', '""') + '"'
    is_nested = kind.startswith(("MAP", "STRUCT")) or kind.endswith("[]")
    return f"to_json({quoted})::VARCHAR" if is_nested else f"{quoted}::VARCHAR"

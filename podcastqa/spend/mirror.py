"""The mirror is a DuckDB copy of the ledger and of imported bills: it affects speed, never meaning; delete it at will.

Each question first copies what is new (`mirror_copy`), then asks, then lets go of the file (`mirror_file`); a file lock
is the queue. Where another program keeps the file open, the answer comes from a copy made in memory, and says so.
Amounts are 64-bit integers here too, and their sums 128-bit: `avg` and `/` would turn them into floating point and
are not used.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podcastqa.clock import Clock, microseconds
from podcastqa.database import Database
from podcastqa.file_lock import FileLock
from podcastqa.spend.mirror_copy import TABLES, Mark, Marks, ReadingFailed, catch_up
from podcastqa.spend.mirror_file import MirrorFile

#: Which import tells each month of each account, of the relation `newest` (its newest one). An account that has no
#: name (a console's download does not say whose it is) is any account of that source: the newer of the two stands.
STANDING = """SELECT n.source, n.account, n.period, n.import_id FROM newest n WHERE NOT EXISTS (
 SELECT 1 FROM newest o WHERE o.source = n.source AND o.period = n.period AND (
 (n.account <> '' AND o.account = '' AND o.import_id > n.import_id) OR
 (n.account = '' AND o.account <> '' AND o.import_id >= n.import_id)))"""
_SCHEMA = (
    *(
        f"CREATE TABLE {name} ({', '.join(f'{column} {kind}' for column, kind in columns.items())})"
        for name, columns in TABLES.items()
    ),
    (
        "CREATE VIEW entries_usd AS SELECT *,"
        " amount_pico::DECIMAL(19,0) * 0.000000000001::DECIMAL(12,12) AS amount_usd FROM entries"
    ),
    (
        "CREATE VIEW bill_lines_usd AS WITH newest AS (SELECT source, account, period, max(import_id) AS import_id"
        f" FROM bill_lines GROUP BY source, account, period), standing AS ({STANDING}) SELECT bill_lines.*,"
        " amount_pico::DECIMAL(19,0) * 0.000000000001::DECIMAL(12,12) AS amount_usd,"
        " effective_pico::DECIMAL(19,0) * 0.000000000001::DECIMAL(12,12) AS effective_usd"
        " FROM bill_lines SEMI JOIN standing USING (source, account, period, import_id)"
    ),
)
#: A file of another shape is of another version of this program, or none of ours: it is made anew.
_SHAPE = Mark(0, hashlib.sha256("\n".join(_SCHEMA).encode()).hexdigest())
_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far the mirror has read: the ledger's last entry in it, when, and whether the copy is on disk."""

    last_id: int
    synced_us: int
    new_rows: int
    on_disk: bool
    new_bill_lines: int = 0
    """Lines of imported bills that were copied now; `new_rows` are the ledger's entries."""


class Mirror:
    """Fast questions about the whole ledger."""

    def __init__(self, path: Path, database: Database, clock: Clock) -> None:
        self.path = path
        self._database, self._clock = database, clock
        self._lock, self._file = FileLock(path.with_name(path.name + ".lock")), MirrorFile()

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, after the ledger's new rows have been copied."""
        with self.opened() as (connection, _):
            return list(connection.execute(sql, list(parameters)).fetchall())

    def sync(self) -> Watermark:
        """Copy what is new; says how far the mirror has read."""
        with self.opened() as (_, watermark):
            return watermark

    def rebuild(self) -> Watermark:
        """Throw the copy away and make it anew."""
        with self._lock:
            self._remove()
        return self.sync()

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, Watermark]]:
        """A DuckDB connection that has read the whole ledger, and how far that is."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock:
            connection, watermark = self._caught_up()
            try:
                yield connection, watermark
            finally:
                self._file.release(connection)

    def _caught_up(self) -> tuple[Any, Watermark]:
        """The file, if it can be had; made anew where it is torn or none of ours: it held nothing of its own."""
        import duckdb

        patience, made_anew = time.monotonic() + _PATIENCE_SECONDS, False
        while time.monotonic() < patience:
            try:
                return self._read_up(self.path)
            except (duckdb.Error, _NotOurs) as problem:
                if _is_held(problem):
                    time.sleep(0.02)
                elif made_anew:
                    break
                else:
                    self._remove()
                    made_anew = True
        return self._read_up(None)

    def _read_up(self, path: Path | None) -> tuple[Any, Watermark]:
        is_new = path is None or not path.exists()
        connection = self._file.attach(path)
        try:
            if is_new and path:
                path.chmod(0o600)  # like the ledger: before a row of anybody's is in it
            marks = _made(connection) if is_new else _marks(connection)
            synced_us = microseconds(self._clock.now())
            try:
                marks, copied = catch_up(connection, self._database, marks, beside=True)
            except ReadingFailed:
                connection.execute("ROLLBACK")
                marks, copied = catch_up(connection, self._database, marks, beside=False)
        except BaseException:
            self._file.release(connection)  # while it is attached, nobody else is given the file
            raise
        last_id = marks.get("entries", Mark()).last_id
        rows, lines = copied.get("entries", 0), copied.get("bill_lines", 0)
        return connection, Watermark(last_id, synced_us, rows, path is not None, lines)

    def _remove(self) -> None:
        for file in (self.path, self.path.with_name(self.path.name + ".wal")):
            with suppress(OSError):  # what cannot be removed is not used: the answer then comes from memory
                file.unlink(missing_ok=True)


class _NotOurs(Exception):
    """The file is a DuckDB, but of another shape."""


def _made(connection: Any) -> Marks:
    for sql in ("BEGIN", *_SCHEMA, "COMMIT"):
        connection.execute(sql)
    return {"shape": _SHAPE}


def _marks(connection: Any) -> Marks:
    found = connection.execute("SELECT what, last_id, last_row FROM read_to").fetchall()
    marks = {what: Mark(last_id, last_row) for what, last_id, last_row in found}
    if marks.get("shape") != _SHAPE:
        raise _NotOurs
    return marks


def _is_held(problem: Exception) -> bool:
    """Whether another program has the file open; the path, which may hold any word, is not looked at."""
    import duckdb

    said = str(problem)
    return "Could not set lock" in said or isinstance(problem, getattr(duckdb, "ResourceInUseException", ()))

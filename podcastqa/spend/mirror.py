"""The mirror is a DuckDB copy of the ledger and of imported bills: it affects speed, never meaning; delete it at will.

A DuckDB file that is open for writing locks every other process out. So the mirror is opened in short bursts, one
at a time (a file lock is the queue): read the ledger's new rows, answer, close. Where another program keeps the file
open, the answer comes from a copy made in memory, and says so. Amounts are 64-bit integers here too, and
their sums 128-bit: `avg` and `/` would turn them into floating point and are not used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podcastqa.clock import Clock, microseconds
from podcastqa.database import Database, Driver
from podcastqa.file_lock import FileLock

_COLUMNS = "id, hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us, expires_us, price, reason"
_LINE_COLUMNS = (
    "id, import_id, sha256, line, source, account, period, day, user_tag, resource_id, service, category, amount_text,"
    " amount_pico, effective_pico"
)
#: Which import tells each month of each account, of the relation `newest` (its newest one). An account that has no
#: name (a console's download does not say whose it is) is any account of that source: the newer of the two stands.
STANDING = """SELECT n.source, n.account, n.period, n.import_id FROM newest n WHERE NOT EXISTS (
 SELECT 1 FROM newest o WHERE o.source = n.source AND o.period = n.period AND (
 (n.account <> '' AND o.account = '' AND o.import_id > n.import_id) OR
 (n.account = '' AND o.account <> '' AND o.import_id >= n.import_id)))"""
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS entries (id BIGINT, hold_id VARCHAR, kind VARCHAR, user_id BIGINT, source VARCHAR,
 service VARCHAR, operation VARCHAR, amount_pico BIGINT, day INTEGER, at_us BIGINT, expires_us BIGINT,
 price VARCHAR, reason VARCHAR);
CREATE TABLE IF NOT EXISTS bill_days (source VARCHAR, day INTEGER, user_id BIGINT, gross_pico BIGINT,
 net_pico BIGINT, read_us BIGINT);
CREATE TABLE IF NOT EXISTS bill_lines (id BIGINT, import_id BIGINT, sha256 VARCHAR, line BIGINT, source VARCHAR,
 account VARCHAR, period INTEGER, day INTEGER, user_tag VARCHAR, resource_id VARCHAR, service VARCHAR,
 category VARCHAR, amount_text VARCHAR, amount_pico BIGINT, effective_pico BIGINT);
CREATE TABLE IF NOT EXISTS read_to (last_id BIGINT, last_row VARCHAR, synced_us BIGINT);
CREATE TABLE IF NOT EXISTS bill_lines_read_to (last_id BIGINT, last_row VARCHAR);
CREATE OR REPLACE VIEW entries_usd AS SELECT *,
 amount_pico::DECIMAL(19,0) * 0.000000000001::DECIMAL(12,12) AS amount_usd FROM entries;
CREATE OR REPLACE VIEW bill_lines_usd AS WITH newest AS (SELECT source, account, period, max(import_id) AS import_id
 FROM bill_lines GROUP BY source, account, period), standing AS ({STANDING}) SELECT bill_lines.*,
 amount_pico::DECIMAL(19,0) * 0.000000000001::DECIMAL(12,12) AS amount_usd,
 effective_pico::DECIMAL(19,0) * 0.000000000001::DECIMAL(12,12) AS effective_usd
 FROM bill_lines SEMI JOIN standing USING (source, account, period, import_id);
"""
_CHUNK_ROWS = 50_000
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
        self._lock = FileLock(path.with_name(path.name + ".lock"))

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
                connection.close()

    def _caught_up(self) -> tuple[Any, Watermark]:
        """The file, if it can be had; made anew where it is torn or none of ours: it held nothing of its own."""
        import duckdb

        patience, made_anew = time.monotonic() + _PATIENCE_SECONDS, False
        while time.monotonic() < patience:
            try:
                return self._read_up(duckdb.connect(str(self.path)), on_disk=True)
            except duckdb.Error as problem:
                if _is_held(problem):
                    time.sleep(0.02)
                elif made_anew:
                    break
                else:
                    self._remove()
                    made_anew = True
        return self._read_up(duckdb.connect(":memory:"), on_disk=False)

    def _read_up(self, connection: Any, *, on_disk: bool) -> tuple[Any, Watermark]:
        try:
            connection.execute(_SCHEMA)
            last_id, new_rows, new_lines, synced_us = self._catch_up(connection)
        except BaseException:
            connection.close()  # while it is open, this process would be given the same file again
            raise
        return connection, Watermark(last_id, synced_us, new_rows, on_disk, new_lines)

    def _remove(self) -> None:
        for file in (self.path, self.path.with_name(self.path.name + ".wal")):
            with suppress(OSError):  # what cannot be removed is not used: the answer then comes from memory
                file.unlink(missing_ok=True)

    def _catch_up(self, connection: Any) -> tuple[int, int, int, int]:
        last_id, last_row = connection.execute("SELECT last_id, last_row FROM read_to").fetchone() or (0, "")
        last_line = connection.execute("SELECT last_id, last_row FROM bill_lines_read_to").fetchone() or (0, "")
        now = microseconds(self._clock.now())
        with self._database.snapshot() as driver:
            connection.execute("BEGIN")
            last_id, last_row, new_rows = _copy_new(driver, connection, "entries", _COLUMNS, (last_id, last_row))
            *last_line, new_lines = _copy_new(driver, connection, "bill_lines", _LINE_COLUMNS, last_line)
            connection.execute("DELETE FROM bill_days")
            _insert(connection, "bill_days", driver.execute("SELECT * FROM bill_days").fetchall())
        connection.execute("DELETE FROM read_to")
        connection.execute("INSERT INTO read_to VALUES (?, ?, ?)", [last_id, last_row, now])
        connection.execute("DELETE FROM bill_lines_read_to")
        connection.execute("INSERT INTO bill_lines_read_to VALUES (?, ?)", last_line)
        connection.execute("COMMIT")
        return last_id, new_rows, new_lines, now


def _copy_new(driver: Driver, connection: Any, table: str, columns: str, last: tuple[int, str]) -> tuple[int, str, int]:
    """Copy the rows behind the last one that was read, which has to be there still: else the books are others."""
    (last_id, last_row), new_rows = last, 0
    known = driver.execute(f"SELECT {columns} FROM {table} WHERE id = ?", (last_id,)).fetchone()
    if known is None or repr(known) != last_row:
        connection.execute(f"DELETE FROM {table}")
        last_id, last_row = 0, ""
    cursor = driver.execute(f"SELECT {columns} FROM {table} WHERE id > ? ORDER BY id", (last_id,))
    while rows := cursor.fetchmany(_CHUNK_ROWS):
        _insert(connection, table, rows)
        new_rows, last_id, last_row = new_rows + len(rows), rows[-1][0], repr(rows[-1])
    return last_id, last_row, new_rows


def _is_held(problem: Exception) -> bool:
    """Whether another program has the file open; the path, which may hold any word, is not looked at."""
    return "Could not set lock" in str(problem)


def _insert(connection: Any, table: str, rows: list[tuple[Any, ...]]) -> None:
    if not rows:
        return
    import pyarrow as pa

    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    batch = pa.table(columns, names=[f"c{i}" for i in range(len(columns))])
    connection.register("batch", batch)
    connection.execute(f"INSERT INTO {table} SELECT * FROM batch")
    connection.unregister("batch")

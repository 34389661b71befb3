"""How new rows come from the ledger into the mirror: all that one consistent state of the ledger holds, once.

`entries` and `bill_lines` only grow and their ids are committed in order, so what is new lies between the last row
that was read, which has to be there still, and the newest. Few rows come through the ledger's own driver; many are
read as Arrow (`mirror_reader`) beside what writes them, which is several times as fast and means the same.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from podcastqa.database import Database, Driver
from podcastqa.spend import mirror_reader


def _columns(words: str) -> dict[str, str]:
    return dict(part.split() for part in words.split(","))


#: Each table of the mirror: its columns with their types.
TABLES: dict[str, dict[str, str]] = {
    "entries": _columns(
        "id BIGINT, hold_id VARCHAR, kind VARCHAR, user_id BIGINT, source VARCHAR, service VARCHAR, operation VARCHAR,"
        " amount_pico BIGINT, day INTEGER, at_us BIGINT, expires_us BIGINT, price VARCHAR, reason VARCHAR"
    ),
    "bill_lines": _columns(
        "id BIGINT, import_id BIGINT, sha256 VARCHAR, line BIGINT, source VARCHAR, account VARCHAR, period INTEGER,"
        " day INTEGER, user_tag VARCHAR, resource_id VARCHAR, service VARCHAR, category VARCHAR, amount_text VARCHAR,"
        " amount_pico BIGINT, effective_pico BIGINT"
    ),
    "bill_days": _columns(
        "source VARCHAR, day INTEGER, user_id BIGINT, gross_pico BIGINT, net_pico BIGINT, read_us BIGINT"
    ),
    "day_sums": _columns(
        "day INTEGER, source VARCHAR, user_id BIGINT, service VARCHAR, booked_pico HUGEINT, calls BIGINT"
    ),
    "read_to": _columns("what VARCHAR, last_id BIGINT, last_row VARCHAR"),
}
GROWING = ("entries", "bill_lines")
#: Whether the bills are others than those that were copied. Each reading of a bill has a time of its own; the amounts
#: are there for the reading that is put right within the same microsecond. No sum can leave 64 bits.
_BILLS = """SELECT count(*), coalesce(max(source), ''), coalesce(sum(length(source)), 0), coalesce(max(read_us), 0),
 coalesce(sum(read_us % 1000000007), 0),
 coalesce(sum(gross_pico % 1000000007 * ((day * 31 + user_id) % 1009 + 1)), 0),
 coalesce(sum(net_pico % 1000000007 * ((day * 31 + user_id) % 1009 + 1)), 0) FROM bill_days"""
#: What entries add to a day: booked, and calls that were reserved.
SUMS = """SELECT day, source, user_id, service,
 sum(CASE WHEN kind IN ('settle', 'correct') THEN amount_pico ELSE 0 END) AS booked_pico,
 count(*) FILTER (WHERE kind = 'reserve') AS calls FROM entries WHERE id > ? GROUP BY day, source, user_id, service"""
_CHUNK_ROWS = 20_000
_PAGE_IDS = 250_000
#: From here on another reader is worth its start.
MANY_ROWS = 50_000
#: Up to here values are handed over as they are: pyarrow need not be loaded.
_FEW_ROWS = 100


class ReadingFailed(Exception):
    """What reads many rows did not read what it should."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The last row of a table that the mirror holds: its id, and the row in words. Of the bills: their fingerprint."""

    last_id: int = 0
    last_row: str = ""


Marks = dict[str, Mark]


@dataclass(frozen=True, slots=True)
class _News:
    """Rows of a table behind `first`, up to the newest; `anew` where those in the mirror are of other books."""

    table: str
    first: int
    newest: Mark
    anew: bool


def catch_up(connection: Any, database: Database, marks: Marks, *, beside: bool) -> tuple[Marks, dict[str, int]]:
    """Copy what is new behind these marks; returns the new marks, and how many rows were copied.

    Raises ReadingFailed, with the mirror's transaction open, where many rows should be read `beside`.
    """
    with database.snapshot() as driver:
        news = [found for table in GROWING if (found := _news(driver, table, marks.get(table, Mark())))]
        bills = Mark(0, repr(tuple(driver.execute(_BILLS).fetchone())))
        if not news and bills == marks.get("bill_days"):
            return marks, {}
        connection.execute("BEGIN")
        copied = {one.table: _copy(connection, database, driver, one, beside=beside) for one in news}
        for one in news:
            _sum_up(connection, one)
        if bills != marks.get("bill_days"):
            connection.execute("DELETE FROM bill_days")
            _insert(connection, "bill_days", driver.execute(_asked("bill_days")).fetchall())
    marks = marks | {one.table: one.newest for one in news} | {"bill_days": bills}
    connection.execute("DELETE FROM read_to")
    _insert(connection, "read_to", [(what, mark.last_id, mark.last_row) for what, mark in marks.items()])
    connection.execute("COMMIT")
    return marks, copied


def _news(driver: Driver, table: str, mark: Mark) -> _News | None:
    asked = _asked(table)
    row = driver.execute(f"{asked} ORDER BY {table}.id DESC LIMIT 1").fetchone()
    newest = Mark(row[0], repr(tuple(row))) if row else Mark()
    if newest == mark:
        return None
    known = driver.execute(f"{asked} WHERE id = ?", (mark.last_id,)).fetchone()
    anew = mark.last_id > 0 and (known is None or repr(tuple(known)) != mark.last_row)
    return _News(table, 0 if anew else mark.last_id, newest, anew)


def _asked(table: str, place: str = "") -> str:
    """The table's columns; without a place (a server's schema) each as its type says: SQLite keeps what it is given."""
    kinds = {"VARCHAR": "TEXT"}
    if place:
        return f"SELECT {', '.join(TABLES[table])} FROM {place}{table}"
    columns = [f"CAST({name} AS {kinds.get(kind, 'BIGINT')}) AS {name}" for name, kind in TABLES[table].items()]
    return f"SELECT {', '.join(columns)} FROM {place}{table}"


def _copy(connection: Any, database: Database, driver: Driver, news: _News, *, beside: bool) -> int:
    if news.anew:
        connection.execute(f"DELETE FROM {news.table}")
    name = "adbc_driver_sqlite" if database.path else "adbc_driver_postgresql"
    if beside and news.newest.last_id - news.first >= MANY_ROWS and find_spec(name):
        return _copy_many(connection, database, {"driver": name, **_place(database, driver)}, news)
    copied, last = 0, news.first
    page = f"{_asked(news.table)} WHERE id > ? AND id <= ? ORDER BY {news.table}.id LIMIT {_CHUNK_ROWS}"
    while rows := driver.execute(page, (last, news.newest.last_id)).fetchall():
        _insert(connection, news.table, rows)
        copied, last = copied + len(rows), rows[-1][0]
    return copied


def _sum_up(connection: Any, news: _News) -> None:
    """Keep what the new entries add to their days, beside what earlier ones added: nobody reads them all for a sum."""
    if news.table == "entries":
        if news.anew:
            connection.execute("DELETE FROM day_sums")
        connection.execute(f"INSERT INTO day_sums {SUMS}", [news.first])


# ── many rows ────────────────────────────────────────────────────────────────────────────────────────────────────


def _place(database: Database, driver: Any) -> dict[str, Any]:
    """Where the ledger is, as another connection gets there: in the role and the schema of this one."""
    if database.path:
        return {"uri": f"{database.path.absolute().as_uri()}?mode=ro", "before": [], "schema": ""}
    from psycopg.conninfo import make_conninfo

    info = driver.connection.info
    role, schema = driver.execute("SELECT quote_ident(current_user), quote_ident(current_schema())").fetchone()
    uri = make_conninfo(info.dsn, **({"password": info.password} if info.password else {}))
    return {"uri": uri, "before": [f"SET ROLE {role}"], "schema": f"{schema}."}


def _copy_many(connection: Any, database: Database, place: dict[str, Any], news: _News) -> int:
    """Rows go into the mirror as they come; the newest must be the one that this process sees."""
    import duckdb
    import pyarrow as pa

    page = f"{_asked(news.table, place['schema'])} WHERE id > {{}} AND id <= {{}} ORDER BY {news.table}.id"
    ends = [*range(news.first, news.newest.last_id, _PAGE_IDS), news.newest.last_id]
    asked = {**place, "pages": [page.format(*ids) for ids in itertools.pairwise(ends)]}
    try:
        with (_beside if database.path else _ahead)(asked) as batches:
            copied = _stream(connection, news, batches)
    except (OSError, pa.ArrowException, duckdb.Error, RuntimeError) as problem:
        raise ReadingFailed(str(problem)) from problem
    columns = ", ".join(TABLES[news.table])
    found = connection.execute(f"SELECT {columns} FROM {news.table} WHERE id = ?", [news.newest.last_id]).fetchall()
    if [repr(row) for row in found] != [news.newest.last_row]:
        raise ReadingFailed(f"the newest row of {news.table} is another there")
    return copied


@contextmanager
def _beside(asked: dict[str, Any]) -> Iterator[Iterator[Any]]:
    """Batches that a process beside this one reads."""
    import pyarrow as pa

    # -P: nothing is imported from the folder of this program.
    words = [sys.executable, "-P", str(Path(mirror_reader.__file__))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, pipesize=1 << 20, **pipes) as child:  # type: ignore[call-overload]
        try:
            child.stdin.write(json.dumps(asked).encode())
            child.stdin.close()
            with pa.ipc.open_stream(child.stdout) as stream:
                yield iter(stream)
            if child.wait() != 0:
                raise ReadingFailed(f"the process that read the ledger ended with {child.returncode}")
        finally:
            child.kill()


@contextmanager
def _ahead(asked: dict[str, Any]) -> Iterator[Iterator[Any]]:
    """Batches that a thread reads while those before it are written."""
    read: queue.Queue[Any] = queue.Queue(maxsize=4)
    wanted = threading.Event()
    wanted.set()

    def run() -> None:
        try:
            for batch in mirror_reader.read(asked):
                while wanted.is_set():
                    with suppress(queue.Full):
                        read.put(batch, timeout=0.1)
                        break
                if not wanted.is_set():
                    return
            read.put(None)
        except Exception as problem:  # noqa: BLE001 – whatever it is, it is raised where the batches are asked for
            read.put(ReadingFailed(str(problem)))

    def batches() -> Iterator[Any]:
        while (batch := read.get()) is not None:
            if isinstance(batch, ReadingFailed):
                raise batch
            yield batch

    thread = threading.Thread(target=run, name="podcastqa-mirror")
    thread.start()
    try:
        yield batches()
    finally:
        wanted.clear()
        with suppress(queue.Empty):
            while True:
                read.get_nowait()
        thread.join()


def _stream(connection: Any, news: _News, batches: Iterator[Any]) -> int:
    import pyarrow as pa

    first = next(batches, None)
    if first is None:
        return 0
    rows = pa.RecordBatchReader.from_batches(first.schema, _shown(itertools.chain([first], batches), news))
    connection.register("rows_beside", rows)
    [(copied,)] = connection.execute(f"INSERT INTO {news.table} SELECT * FROM rows_beside").fetchall()
    connection.unregister("rows_beside")
    return int(copied)


def _shown(batches: Iterable[Any], news: _News) -> Iterator[Any]:
    """The same batches; whoever waits longer than a second sees how far they are."""
    from tqdm import tqdm

    total = news.newest.last_id - news.first
    with tqdm(total=total, desc="copying the ledger", unit=" rows", delay=1, disable=None, leave=False) as progress:
        for batch in batches:
            yield batch
            progress.update(batch.num_rows)


def _insert(connection: Any, table: str, rows: list[Any]) -> None:
    """Into the mirror: a few as lists of values, more as Arrow."""
    if not rows:
        return
    kinds, columns = TABLES[table].values(), zip(*rows, strict=True)
    if len(rows) <= _FEW_ROWS:
        lists = ", ".join(f"unnest(${number}::{kind}[])" for number, kind in enumerate(kinds, 1))
        connection.execute(f"INSERT INTO {table} SELECT {lists}", [list(column) for column in columns])
        return
    import pyarrow as pa

    types = [pa.string() if kind == "VARCHAR" else pa.int64() for kind in kinds]
    arrays = [pa.array(column, type=kind) for column, kind in zip(columns, types, strict=True)]
    connection.register("rows_here", pa.table(arrays, names=list(TABLES[table])))
    connection.execute(f"INSERT INTO {table} SELECT * FROM rows_here")
    connection.unregister("rows_here")

"""The guard against the disk: a reserve over six windows beside one bare commit of the same shape and settings."""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from podcastqa.clock import SystemClock
from podcastqa.database import open_database
from podcastqa.money import Usd
from podcastqa.settings import Settings
from podcastqa.spend.entries import Operation, new_hold_id
from podcastqa.wiring import Parts, build
from tests.bench.rows import Row, timing, watched

_ROUNDS, _CALLS = 9, 200
_SIZES = (1_000, 100_000, 1_000_000, *((10_000_000,) if os.environ.get("BENCH_FULL") else ()))
_COUNT = "UPDATE counters SET held_pico = held_pico + 1 WHERE user_id = ? AND day = 1 AND source = 's'"


def run() -> list[Row]:
    """reserve/s ÷ bare commits/s, interleaved, the median of the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        made = parts_in(Path(folder))
        user = made.users.add("bench")
        what = Operation(user.id, "bench", "reserve", "bench")
        bare = _bare(Path(folder) / "bare.sqlite")
        made.budget.reserve(what, Usd("0.000001"))

        def measure() -> list[tuple[float, float]]:
            return [(_commits(bare), _reserves(made, what)) for _ in range(_ROUNDS)]

        rounds, machine = watched(measure)
        bare.close()
        made.database.close()
    floor = statistics.median(floor for floor, _ in rounds)
    ratio = statistics.median(ours / floor for floor, ours in rounds)
    one = timing("guard-reserve-one-caller", ratio * floor, "1/s", floor, ">= 0.85 x (0.7)", ratio >= 0.7, machine)
    return [one, *_growth()]


def _growth() -> list[Row]:
    """Seconds a decision with a thousand entries in the ledger, beside those with more, interleaved."""
    with ExitStack() as folders:
        books = {size: parts_in(Path(folders.enter_context(tempfile.TemporaryDirectory()))) for size in _SIZES}
        for size, made in books.items():
            fill(made, made.users.add("bench").id, size)
        what = Operation(1, "bench", "reserve", "bench")
        for made in books.values():
            _reserves(made, what)
        rounds, machine = watched(
            lambda: [{size: 1 / _reserves(made, what) for size, made in books.items()} for _ in range(_ROUNDS)]
        )
        for made in books.values():
            made.database.close()
    rows = []
    for size in _SIZES[1:]:
        ratio = statistics.median(one[size] / one[_SIZES[0]] for one in rounds)
        first = statistics.median(one[_SIZES[0]] for one in rounds)
        name = f"guard-with-{size}-entries"
        rows.append(timing(name, ratio * first * 1e6, "us", first * 1e6, "<= 1.2 x", ratio <= 1.2, machine))
    return rows


def fill(made: Parts, user_id: int, entries: int) -> None:
    """So many entries, half of them settles of the other half, over 700 days."""
    if made.database.path is None:
        _fill_server(made.settings.database, user_id, entries)
        return
    rows = (
        (f"h{i}", kind, user_id, i * 7919 % 1_000_003, 738_000 + i % 700)
        for i in range(entries // 2)
        for kind in ("reserve", "settle")
    )
    with made.database.hot() as driver:
        driver.execute("DROP TRIGGER entries_need_reserve")  # a million look-ups are not what is measured
        driver.executemany(
            "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us)"
            " VALUES (?, ?, ?, 's', 's', 'o', ?, ?, 1)",
            rows,
        )


def _fill_server(url: str, user_id: int, entries: int) -> None:
    import psycopg

    with psycopg.connect(url) as owner:
        owner.execute("ALTER TABLE entries DISABLE TRIGGER entries_need_reserve")
        owner.execute(
            "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us)"
            " SELECT 'h' || i, kind, %s, 's', 's', 'o', i::bigint * 7919 %% 1000003, 738000 + i %% 700, 1"
            " FROM generate_series(0, %s - 1) AS i, (VALUES ('reserve'), ('settle')) AS kinds (kind) ORDER BY i, kind",
            (user_id, entries // 2),
        )
        owner.execute("ALTER TABLE entries ENABLE TRIGGER entries_need_reserve")


def parts_in(home: Path, **environ: str) -> Parts:
    """Parts with a home of their own and room to spend."""
    roomy = {
        f"{whose}{window}_BUDGET_LIMIT": "900000"
        for whose in ("", "USER_")
        for window in ("DAILY", "WEEKLY", "MONTHLY")
    }
    environment = {"PODCASTQA_HOME": str(home), "PODCASTQA_REPORTS": str(home / "reports"), **roomy, **environ}
    return build(Settings.load(environ=environment), clock=SystemClock())


def _bare(path: Path) -> sqlite3.Connection:
    """A connection of its own to the same schema, with the same settings."""
    open_database(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("INSERT INTO users (id, name, created_us) VALUES (1, 'bench', 1)")
    connection.execute("INSERT INTO counters (user_id, day, source) VALUES (0, 1, 's'), (1, 1, 's')")
    return connection


def _commits(connection: sqlite3.Connection) -> float:
    """What a reserve writes, and nothing else: an entry, an open hold, two counters, one durable commit."""
    began = time.perf_counter()
    for _ in range(_CALLS):
        key = new_hold_id()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us)"
            " VALUES (?, 'reserve', 1, 's', 'bench', 'reserve', 1, 1, 1)",
            (key,),
        )
        connection.execute("INSERT INTO open_holds VALUES (?, 1, 's', 1, 1, 0, 1)", (key,))
        connection.execute(_COUNT, (0,))
        connection.execute(_COUNT, (1,))
        connection.execute("COMMIT")
    return _CALLS / (time.perf_counter() - began)


def _reserves(made: Parts, what: Operation) -> float:
    estimate = Usd("0.000001")
    began = time.perf_counter()
    for _ in range(_CALLS):
        made.budget.reserve(what, estimate)
    return _CALLS / (time.perf_counter() - began)

"""The guard on PostgreSQL beside one conditional statement a call, which is what people write first.

The floor: 32 connections, each call one statement that raises a counter where the limit allows it and inserts a row,
committed and flushed. Ours: 32 tasks of one process, whose writer has one connection.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg

from podcastqa.clock import SystemClock
from podcastqa.spend.entries import Operation, new_hold_id
from podcastqa.wiring import build
from tests.bench.batches import tasks_rate
from tests.bench.guard import fill
from tests.bench.rows import Row, timing, watched
from tests.conftest import ROOMY, settings_in
from tests.postgres_server import a_server

_ROUNDS, _CALLERS, _STATEMENTS, _OPERATIONS = 5, 32, 1_600, 6_400
_SIZES = (1_000, 1_000_000)
_ONE = """WITH admitted AS (
 UPDATE bench_counter SET held = held + 1 WHERE id = 1 AND held + 1 <= most RETURNING 1
) INSERT INTO bench_holds SELECT %s, 1 FROM admitted"""


def run() -> list[Row]:
    """Rates, interleaved in this process, the median of the rounds."""
    with a_server() as server, tempfile.TemporaryDirectory() as folder:
        url = server.new()
        made = build(settings_in(Path(folder), DATABASE_URL=url, **ROOMY), clock=SystemClock())
        # One global limit: everybody is the same user, and whoever comes asks of the same counters.
        what = [Operation(made.users.add("user").id, "bench", "reserve", "bench")]
        floor = _Floor(url)
        rounds, machine = watched(
            lambda: [(floor.rate(), tasks_rate(made, what, _CALLERS, _OPERATIONS)) for _ in range(_ROUNDS)]
        )
        floor.close()
        made.database.close()
        server.drop(url)
    bare = statistics.median(one for one, _ in rounds)
    ratio = statistics.median(ours / one for one, ours in rounds)
    machine.foreign = 0.0  # the server works for us
    row = timing("postgres-reserve-32-tasks", ratio * bare, "1/s", bare, ">= 10 x (7)", ratio >= 7, machine)
    return [row, _growth()]


def _growth() -> Row:
    """Seconds a decision with a thousand entries in the ledger, beside those with a million, interleaved."""
    with a_server() as server, ExitStack() as folders:
        books = {}
        for size in _SIZES:
            home = Path(folders.enter_context(tempfile.TemporaryDirectory()))
            made = build(settings_in(home, DATABASE_URL=server.new(), **ROOMY), clock=SystemClock())
            user = made.users.add("user").id
            fill(made, user, size)
            made.ledger.rebuild()
            books[size] = made, [Operation(user, "bench", "reserve", "bench")]
            tasks_rate(*books[size], _CALLERS, _OPERATIONS)
        rounds, machine = watched(
            lambda: [
                [1 / tasks_rate(*books[size], _CALLERS, _OPERATIONS) for size in _SIZES] for _ in range(2 * _ROUNDS)
            ]
        )
        for made, _ in books.values():
            made.database.close()
            server.drop(made.settings.database)
    machine.foreign = 0.0  # the server works for us
    first = statistics.median(one for one, _ in rounds)
    ratio = statistics.median(grown / one for one, grown in rounds)
    name = f"postgres-guard-with-{_SIZES[-1]}-entries"
    return timing(name, ratio * first * 1e6, "us", first * 1e6, "<= 1.2 x", ratio <= 1.2, machine)


class _Floor:
    def __init__(self, url: str) -> None:
        self._open = [psycopg.connect(url, autocommit=True) for _ in range(_CALLERS)]
        first = self._open[0]
        first.execute(
            "CREATE TABLE bench_counter (id int PRIMARY KEY, held bigint, most bigint) WITH (fillfactor = 10)"
        )
        first.execute("INSERT INTO bench_counter VALUES (1, 0, 1000000000)")
        first.execute("CREATE TABLE bench_holds (id text PRIMARY KEY, amount bigint)")

    def rate(self) -> float:
        """Calls a second, all connections together."""
        each = _STATEMENTS // _CALLERS

        def calls(connection: psycopg.Connection[tuple[object, ...]]) -> None:
            for _ in range(each):
                connection.execute(_ONE, (new_hold_id(),))

        threads = [threading.Thread(target=calls, args=(connection,)) for connection in self._open]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return each * _CALLERS / (time.perf_counter() - began)

    def close(self) -> None:
        for connection in self._open:
            connection.close()

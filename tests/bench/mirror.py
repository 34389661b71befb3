"""The mirror against the ledger: equal to the last unit at a million entries, then only new rows; and how fast.

The floor of a backfill is DuckDB's own insert of the same rows from Arrow in memory into a file, checkpoint included;
of a question the same SQL asked of a bare DuckDB that is open already, and adds up the entries themselves.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from podcastqa.money import Usd
from podcastqa.spend import views
from podcastqa.spend.entries import Operation
from podcastqa.spend.mirror_copy import TABLES
from podcastqa.wiring import Parts
from tests.bench.guard import fill, parts_in
from tests.bench.rows import Row, timing, watched
from tests.postgres_server import a_server

_ENTRIES = 10_000_000 if os.environ.get("BENCH_FULL") else 1_000_000
_NEW, _ROUNDS, _QUESTIONS = 10, 3, 15
_MOST_MB = 400
_DAY_SUMS = """CREATE TEMP VIEW day_sums AS SELECT day, source, user_id, service,
 CASE WHEN kind IN ('settle', 'correct') THEN amount_pico ELSE 0 END AS booked_pico,
 CASE WHEN kind = 'reserve' THEN 1 ELSE 0 END AS calls FROM entries"""


def run() -> list[Row]:
    """Totals and counts of both sides, the rows that a second sync touched; backfills; questions."""
    with tempfile.TemporaryDirectory() as folder:
        made = parts_in(Path(folder))
        rows = _equal(made)
        rows += _backfill(made, "sqlite", 0.35, 0.25)
        rows += _questions(made)
        made.database.close()
    with tempfile.TemporaryDirectory() as folder, a_server() as server:
        url = server.new()
        made = parts_in(Path(folder), DATABASE_URL=url)
        fill(made, made.users.add("bench").id, _ENTRIES)
        rows += _backfill(made, "postgresql", 0.30, 0.20, DATABASE_URL=url)
        made.database.close()
        server.drop(url)
    return rows


def _equal(made: Parts) -> list[Row]:
    user = made.users.add("bench")
    fill(made, user.id, _ENTRIES)
    began = time.perf_counter()
    first = made.mirror.sync()
    seconds = time.perf_counter() - began
    apart = _difference(made)
    for i in range(_NEW):
        made.budget.reserve(Operation(user.id, "s", "o", "s"), Usd("0.01"), f"new-{i}")
    second = made.mirror.sync()
    apart += _difference(made)
    why = f"{first.new_rows} rows in {seconds:.1f} s, then {second.new_rows} for {_NEW} new ones"
    return [
        Row("mirror-difference-pico-usd", apart, "1e-12 USD", 0, None, "0", apart == 0, why),
        Row("mirror-second-sync-rows", second.new_rows, "rows", _NEW, None, f"{_NEW}", second.new_rows == _NEW, why),
    ]


def _difference(made: Parts) -> int:
    asked = "SELECT count(*), sum(amount_pico), sum(id), sum(day) FROM entries"
    ledger = made.database.driver().execute(asked).fetchone()
    mirror = made.mirror.query(asked)[0]
    return sum(abs(int(a) - int(b)) for a, b in zip(ledger, mirror, strict=True))


# ── a backfill ───────────────────────────────────────────────────────────────────────────────────────────────────


def _backfill(made: Parts, kind: str, asked: float, gate: float, **environ: str) -> list[Row]:
    def fresh() -> float:
        made.mirror.path.unlink(missing_ok=True)
        began = time.perf_counter()
        made.mirror.sync()
        return time.perf_counter() - began

    fresh()
    with duckdb.connect(str(made.mirror.path), read_only=True) as connection:
        rows = connection.sql("SELECT * FROM entries").to_arrow_table()
    rounds, machine = watched(lambda: [(_insert(rows), fresh()) for _ in range(_ROUNDS)])
    machine.foreign = 0.0  # the reader and the server work for us
    floor = len(rows) / statistics.median(bare for bare, _ in rounds)
    ratio = statistics.median(bare / ours for bare, ours in rounds)
    name, words = f"mirror-backfill-{kind}", f">= {asked:g} x ({gate:g})"
    mb = _peak_mb(made.settings.home, environ)
    return [
        timing(name, ratio * floor, "rows/s", floor, words, ratio >= gate, machine),
        Row(f"{name}-memory", mb, "MB", None, None, f"<= {_MOST_MB}", mb <= _MOST_MB, f"{len(rows)} rows, over base"),
    ]


def _insert(rows: Any) -> float:
    """Seconds that DuckDB takes for the rows that it has in memory already."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(str(Path(folder) / "bare.duckdb")) as connection:
        columns = ", ".join(f"{name} {kind}" for name, kind in TABLES["entries"].items())
        connection.execute(f"CREATE TABLE entries ({columns})")
        began = time.perf_counter()
        connection.register("rows_here", rows)
        connection.execute("INSERT INTO entries SELECT * FROM rows_here")
        connection.execute("CHECKPOINT")
        return time.perf_counter() - began


_PEAK = """
import resource, sys
from pathlib import Path
from tests.bench.guard import parts_in
def mb(what):
    return int(next(l for l in open("/proc/self/status") if l.startswith(what)).split()[1]) / 1024
made = parts_in(Path(sys.argv[1]), **dict(word.split("=", 1) for word in sys.argv[2:]))
made.database.driver().execute("SELECT 1").fetchone()
made.mirror.path.unlink(missing_ok=True)
import duckdb, pyarrow
base = mb("VmRSS")
made.mirror.sync()
peak = mb("VmHWM") - base  # ru_maxrss would begin with what the parent had: exec hands it on
print(peak + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def _peak_mb(home: Path, environ: dict[str, str]) -> float:
    """What a backfill takes over what the process had, with all of the process that reads beside it."""
    words = [sys.executable, "-c", _PEAK, str(home), *(f"{name}={value}" for name, value in environ.items())]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


# ── a question ───────────────────────────────────────────────────────────────────────────────────────────────────


def _questions(made: Parts) -> list[Row]:
    """The summary of all days and of seven, beside the same SQL over every entry in a DuckDB that does nothing else."""
    made.mirror.sync()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "bare.duckdb"
        copy.write_bytes(made.mirror.path.read_bytes())
        with duckdb.connect(str(copy), read_only=True) as bare:
            bare.execute(_DAY_SUMS)
            assert bare.execute("SELECT count(*) FROM day_sums").fetchall() >= [(_ENTRIES,)]
            big = _question(made, bare, 738_000, 738_700)
            small = _question(made, bare, 738_000, 738_006)
    (ours, floor, machine) = big
    rows = [timing("summary-all-days", ours, "ms", floor, "<= 1.10 x", ours <= 1.10 * floor, machine)]
    (ours, floor, machine) = small
    allowed = ours <= 1.25 * floor + 5
    return [*rows, timing("summary-seven-days", ours, "ms", floor, "<= 1.25 x + 5 ms", allowed, machine)]


def _question(made: Parts, bare: Any, first: int, last: int) -> tuple[float, float, Any]:
    def ours() -> None:
        views.by_day(made.mirror, first, last, None)

    def floor() -> None:
        views._days(bare, first, last, None)
        views._groups(bare, "day", first, last, None)

    rounds, machine = watched(lambda: [(_ms(floor), _ms(ours)) for _ in range(_QUESTIONS)])
    return statistics.median(b for _, b in rounds), statistics.median(a for a, _ in rounds), machine


def _ms(do: Callable[[], None]) -> float:
    began = time.perf_counter()
    do()
    return (time.perf_counter() - began) * 1000

"""Many callers on one budget beside a bare durable commit (F1): tasks, the public API, several processes.

F1: one connection, BEGIN IMMEDIATE, a conditional update, an insert, COMMIT; WAL, synchronous=FULL.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from podcastqa.cost_tracker import CostTracker
from podcastqa.money import Usd
from podcastqa.spend.entries import Operation, new_hold_id
from podcastqa.wiring import Parts
from tests.bench.guard import parts_in
from tests.bench.rows import Row, timing, watched

_ROUNDS, _OPERATIONS, _USERS = 11, 6_400, 300
_ESTIMATE = Usd("0.000001")


def run() -> list[Row]:
    """Rates ÷ F1, interleaved in this process, the median of the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        made, bare = parts_in(Path(folder)), bare_commits(Path(folder) / "bare.sqlite")
        users = [made.users.add(f"user-{n}").id for n in range(_USERS)]
        what = [Operation(user, "bench", "reserve", "bench") for user in users]
        rows = [
            _tasks(made, bare, what, 32, asked=7.0, gate=5.0),
            _tasks(made, bare, what, 128, asked=13.0, gate=9.0),
            *_pairs(made, bare),
        ]
        made.database.close()
    return [*rows, *_processes()]


def bare_commits(path: Path) -> Callable[[], float]:
    """F1, per second."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE counter (id INTEGER PRIMARY KEY, held INTEGER, most INTEGER)")
    connection.execute("INSERT INTO counter VALUES (1, 0, 1000000000)")
    connection.execute("CREATE TABLE holds (id TEXT PRIMARY KEY, amount INTEGER) WITHOUT ROWID")

    def rate(commits: int = 800) -> float:
        began = time.perf_counter()
        for _ in range(commits):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE counter SET held = held + 1 WHERE id = 1 AND held + 1 <= most")
            connection.execute("INSERT INTO holds VALUES (?, 1)", (new_hold_id(),))
            connection.execute("COMMIT")
        return commits / (time.perf_counter() - began)

    return rate


def _tasks(
    made: Parts, bare: Callable[[], float], what: list[Operation], callers: int, *, asked: float, gate: float
) -> Row:
    rounds, machine = watched(lambda: [(bare(), tasks_rate(made, what, callers, _OPERATIONS)) for _ in range(_ROUNDS)])
    floor, ratio = _medians(rounds)
    name = f"guard-reserve-{callers}-tasks"
    return timing(name, ratio * floor, "1/s", floor, f">= {asked:g} x ({gate:g})", ratio >= gate, machine)


def tasks_rate(made: Parts, what: list[Operation], callers: int, operations: int) -> float:
    """Reserves a second of so many tasks at once."""

    async def caller(number: int) -> None:
        budget = made.budget
        for i in range(operations // callers):
            await budget.writer.ask(budget.reserving(what[(7 * number + i) % len(what)], _ESTIMATE))

    async def all_of_them() -> float:
        began = time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(callers)))
        return operations / (time.perf_counter() - began)

    return asyncio.run(all_of_them())


def _pairs(made: Parts, bare: Callable[[], float]) -> list[Row]:
    """`async with tracker.spending(…)`: reserve and start, then settle: two durable commits an operation."""
    tracker, callers, cpu = CostTracker(made.treasury), 32, list[float]()

    async def caller(number: int) -> None:
        for i in range(_OPERATIONS // 4 // callers):
            user = f"user-{(7 * number + i) % _USERS}"
            async with tracker.spending(user, "bench", "pair", _ESTIMATE) as hold:
                hold.settle(_ESTIMATE)

    async def all_of_them() -> float:
        began, worked = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller(number) for number in range(callers)))
        cpu.append((time.process_time() - worked) / (_OPERATIONS // 4) * 1e6)
        return _OPERATIONS / 4 / (time.perf_counter() - began)

    asyncio.run(all_of_them())  # everybody is known, and every plan made
    cpu.clear()
    rounds, machine = watched(lambda: [(bare(), asyncio.run(all_of_them())) for _ in range(_ROUNDS)])
    floor, ratio = _medians(rounds)
    work = statistics.median(cpu)
    return [
        timing("guard-pairs-32-tasks", ratio * floor, "1/s", floor, ">= 4 x (3)", ratio >= 3, machine),
        timing("guard-pair-cpu", work, "us", None, "<= 60 (90)", work <= 90, machine),
    ]


_PROCESS = """
import asyncio, json, sys, time
from pathlib import Path
from podcastqa.money import Usd
from podcastqa.spend.entries import Operation, new_hold_id
from tests.bench.guard import parts_in
made, seconds = parts_in(Path(sys.argv[1])), float(sys.argv[2])
what = [Operation(user + 1, "bench", "reserve", "bench") for user in range(300)]
done, longest = 0, 0.0
async def caller(number):
    global done, longest
    while time.monotonic() < end:
        began = time.monotonic()
        await made.budget.writer.ask(made.budget.reserving(what[(7 * number + done) % 300], Usd("0.000001")))
        done, longest = done + 1, max(longest, time.monotonic() - began)
async def all_of_them():
    await asyncio.gather(*(caller(number) for number in range(32)))
made.budget.reserve(what[0], Usd("0.000001"))
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + seconds
asyncio.run(all_of_them())
print(json.dumps([done, longest]))
"""


def _processes(count: int = 4, seconds: float = 3.0) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        made, bare = parts_in(home), bare_commits(home / "bare.sqlite")
        for n in range(_USERS):
            made.users.add(f"user-{n}")
        before = bare()
        started = [
            subprocess.Popen(
                [sys.executable, "-c", _PROCESS, folder, str(seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]

        def race() -> list[tuple[int, float]]:
            for one in started:
                assert one.stdout
                one.stdout.readline()
            for one in started:  # all of them at once
                assert one.stdin
                one.stdin.write("go\n")
                one.stdin.flush()
            return [tuple(json.loads(one.communicate()[0])) for one in started]

        found, machine = watched(race)
        floor = statistics.median((before, bare()))
        made.database.close()
    rate, fair = sum(done for done, _ in found) / seconds, min(found)[0] / max(found)[0]
    longest_ms = max(longest for _, longest in found) * 1000
    machine.foreign = 0.0  # the processes are ours
    return [
        timing("guard-4-processes-32-tasks", rate, "1/s", floor, ">= 6 x", rate >= 6 * floor, machine),
        timing("guard-4-processes-slowest-to-fastest", fair, "", None, ">= 0.9", fair >= 0.9, machine),
        timing("guard-4-processes-longest-wait", longest_ms, "ms", None, "<= 100", longest_ms <= 100, machine),
    ]


def _medians(rounds: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(floor for floor, _ in rounds), statistics.median(ours / floor for floor, ours in rounds)

"""What must be nothing: money past a limit that 64 processes race for, answers that a kill or a power cut undoes.

And what must be short: from the stop's row to the last admission anywhere, and a reserve just after a kill.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from podcastqa.clock import SystemClock
from podcastqa.database import open_database
from podcastqa.money import Usd
from podcastqa.wiring import Parts, build
from tests.bench.rows import Row, timing, watched
from tests.conftest import ON_A_SERVER, ROOMY, Process, operation, settings_in
from tests.postgres_server import Server, a_server
from tests.test_races import LIMIT, MOST, a_race

_PROCESSES, _AMOUNTS, _KILLS, _CUTS = 64, 1_000, 200, 20
_STOPS, _SUDDEN = 5, 20


def run() -> list[Row]:
    """Races, stops and kills on both databases; then the tests of crashes, with as many as are asked for."""
    crashes = {"PODCASTQA_KILLS": str(_KILLS), "PODCASTQA_CUTS": str(_CUTS)}
    with a_server() as server:
        rows = [
            row
            for kind in ("sqlite", "postgresql")
            for one in (_after_kills, _stop, _race)  # a server has much to clear away after a race
            for row in one(kind, server)
        ]
    return [
        *rows,
        _tests("crash-200-kills", "test_crash.py", crashes),
        _tests("power-loss", "test_power_loss.py", crashes),
    ]


@contextmanager
def _home(kind: str, server: Server) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            open_database(f"sqlite:///{folder}/podcastqa.sqlite").close()
            yield Path(folder)
            return
        url = server.new()
        ON_A_SERVER[folder] = {"DATABASE_URL": url}
        yield Path(folder)
        del ON_A_SERVER[folder]
        server.drop(url)


def _race(kind: str, server: Server) -> list[Row]:
    with _home(kind, server) as home:
        began = time.perf_counter()
        admitted, pico, parts = a_race(
            home, lambda lines, *words, **environ: Process(home, lines, *words, **environ), _PROCESSES, _AMOUNTS
        )
        seconds = time.perf_counter() - began
        parts.database.close()
    over, short = max(pico - LIMIT.pico, 0), LIMIT.pico - pico
    why = f"{_PROCESSES} processes x {_AMOUNTS} amounts, {admitted} admitted, {seconds:.0f} s with their start"
    return [
        Row(f"race-overspend-{kind}", over, "1e-12 USD", 0, None, "0", over == 0, why),
        Row(f"race-left-over-{kind}", short, "1e-12 USD", MOST, None, "< one estimate", short < MOST, why),
    ]


_BUSY = """
import asyncio, time
made, last, count = opened(), 0.0, 0
async def caller():
    global last, count
    while True:
        try:
            await made.budget.writer.ask(made.budget.reserving(Operation(1, "service", "o", "s"), Usd("0.000001")))
        except EmergencyStopped:
            return
        last, count = time.monotonic(), count + 1
        if count == 50:
            print("busy", flush=True)
async def all_of_them():
    await asyncio.gather(*(caller() for _ in range(8)))
asyncio.run(all_of_them())
print(last, flush=True)
"""


@contextmanager
def _busy(home: Path, processes: int) -> Iterator[tuple[Parts, Callable[[], list[Process]]]]:
    """Parts, and what starts processes of eight tasks each that reserve until they are stopped."""
    parts = build(settings_in(home, **ROOMY), clock=SystemClock())
    parts.users.add("ada")

    def start() -> list[Process]:
        started = [Process(home, _BUSY, **ROOMY) for _ in range(processes)]
        for one in started:
            assert one.said() == "busy"
        return started

    yield parts, start
    parts.database.close()


def _stop(kind: str, server: Server) -> list[Row]:
    """Milliseconds from when the stop is durable to the last answer that admits anything, in four processes."""
    found = []
    with _home(kind, server) as home, _busy(home, 4) as (parts, start):
        for _ in range(_STOPS):
            busy = start()
            parts.budget.stop(by="bench", reason="bench")
            stopped = time.monotonic()
            last = max(float(one.said()) for one in busy)
            for one in busy:
                one.ended()
            found.append(max(last - stopped, 0.0) * 1000)
            parts.budget.release(by="bench", reason="bench")
    why = f"the longest of {_STOPS}, 4 processes x 8 tasks"
    return [Row(f"stop-to-last-admission-{kind}", max(found), "ms", None, None, "<= 100", max(found) <= 100, why)]


def _after_kills(kind: str, server: Server) -> list[Row]:
    """Milliseconds of the first reserve after a busy process was killed with -9.

    Beside what the operating system takes to end that process: it closes files and sockets last, and before that
    nobody can know that whoever had the turn is gone.
    """

    def measure() -> tuple[list[float], list[float]]:
        found, dead = [], []
        with ThreadPoolExecutor(1) as beside:
            for _ in range(_SUDDEN):
                [one] = start()
                ended = beside.submit(_ended, one.popen.pid)
                began = time.perf_counter()
                one.popen.kill()
                parts.budget.reserve(operation(1), Usd("0.000001"))
                found.append((time.perf_counter() - began) * 1000)
                dead.append((ended.result() - began) * 1000)
                one.kill()
        return found, dead

    with _home(kind, server) as home, _busy(home, 1) as (parts, start):
        parts.budget.reserve(operation(1), Usd("0.000001"))
        (found, dead), machine = watched(measure)
    machine.foreign = 0.0  # the processes are ours
    longest = max(found)
    return [timing(f"reserve-after-kill-{kind}", longest, "ms", max(dead), "<= 10", longest <= 10, machine)]


def _ended(pid: int) -> float:
    """When the process has ended; somebody else asks for its status."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return time.perf_counter()


def _tests(row_id: str, name: str, environ: dict[str, str]) -> Row:
    """A module of tests by itself: 0 where all of them pass."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{name}"]
    done = subprocess.run(words, env=os.environ | environ, capture_output=True, text=True, check=False)
    told = done.stdout.strip().splitlines()[-1]
    failed = sum(map(int, re.findall(r"(\d+) (?:failed|error)", told)))
    skipped = " skipped" in told
    return Row(row_id, failed, "failed", 0, None, "0", None if skipped else not done.returncode, f"{environ}: {told}")

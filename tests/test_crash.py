"""kill -9 at any moment, many callers in one process: what was answered is in the books once, and nothing is stuck.

The worker writes down, and flushes, every answer it was given before it asks again: that log is what the books are
compared with, and it is nobody's of the program.
"""

from __future__ import annotations

import os
import random
import select
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from podcastqa.clock import SystemClock
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind
from podcastqa.wiring import build
from tests.conftest import ROOMY, Process, SetClock, operation, settings_in

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

KILLS = int(os.environ.get("PODCASTQA_KILLS", "8"))

WORKS = """
import asyncio, threading
made, budget = opened(), None
budget, cent = made.budget, Usd("0.01")
log, writing = open(home / f"answers-{os.getpid()}.log", "a"), threading.Lock()
def answered(*words):
    with writing:
        log.write(" ".join(words) + chr(10))
        log.flush()
        os.fsync(log.fileno())
def what(number):
    return Operation(1 + number % 3, "service", "o", "s")
def thread(number):
    while True:
        hold = budget.reserve(what(number), cent)
        answered("reserved", hold.hold_id)
        budget.start(hold.hold_id)
        answered("started", hold.hold_id)
        budget.settle(hold.hold_id, cent)
        answered("settled", hold.hold_id)
async def task(number):
    while True:
        hold = await budget.writer.ask(budget.beginning(what(number), cent))
        answered("started", hold.hold_id)
        await budget.writer.ask(budget.settling(hold.hold_id, cent))
        answered("settled", hold.hold_id)
async def tasks():
    await asyncio.gather(*(task(number) for number in range(8)))
for number in range(4):
    threading.Thread(target=thread, args=(number,), daemon=True).start()
print("working", flush=True)
asyncio.run(tasks())
"""


def answers(home: Path) -> dict[str, set[str]]:
    """What was answered, by kind; a last line that was cut short was never flushed whole."""
    found: dict[str, set[str]] = {"reserved": set(), "started": set(), "settled": set()}
    for log in home.glob("answers-*.log"):
        for line in log.read_text().split("\n")[:-1]:
            kind, hold_id = line.split()
            found[kind].add(hold_id)
    return found


def test_whatever_moment_a_process_is_killed_what_it_was_answered_is_in_the_books_once(
    home: Path, process: Callable[..., Process]
) -> None:
    parts = build(settings_in(home, **ROOMY), clock=SystemClock())
    for name in ("ada", "bob", "cleo"):
        parts.users.add(name)
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    for _ in range(KILLS):
        one = process(WORKS, **ROOMY)
        assert one.said() == "working"
        # At a random moment of its work: after so many bytes of its log, or within the first of them.
        log = home / f"answers-{one.popen.pid}.log"
        enough = chance.randrange(0, 20_000)
        while log.stat().st_size < enough and one.popen.poll() is None:
            select.select([], [], [], 0.001)
        one.kill()
        parts.budget.reserve(operation(1), ZERO)  # nobody waits for the dead

    told = answers(home)
    kinds = Counter((entry.hold_id, entry.kind) for entry in parts.ledger.entries())
    assert max(kinds.values()) == 1, f"seed {seed}"
    assert {(hold_id, EntryKind.RESERVE) for hold_id in told["reserved"] | told["started"]} <= kinds.keys()
    assert {(hold_id, EntryKind.START) for hold_id in told["started"]} <= kinds.keys()
    assert {(hold_id, EntryKind.SETTLE) for hold_id in told["settled"]} <= kinds.keys()
    assert told["settled"], f"seed {seed}: nothing ran"

    # Nothing is counted that did not happen: after its time every unstarted hold is gone by itself.
    settled = sum(kind is EntryKind.SETTLE for _, kind in kinds)
    started = sum(kind is EntryKind.START for _, kind in kinds)
    clock = SetClock(SystemClock().now() + timedelta(minutes=16))
    after = build(settings_in(home, **ROOMY), clock=clock)
    (month,) = (spent for (scope, kind), spent in after.budget.standing(1).items() if not scope and kind == "month")
    if clock.now().month == SystemClock().now().month:
        assert month.real == Usd("0.01") * settled, f"seed {seed}"
        assert month.held == Usd("0.01") * (started - settled), f"seed {seed}"  # in doubt, at the estimate
    after.budget.reserve(operation(1), ZERO)

    after.ledger.carry()
    kept = after.database.driver().execute("SELECT * FROM counters ORDER BY user_id, day, source").fetchall()
    after.ledger.rebuild()
    assert after.database.driver().execute("SELECT * FROM counters ORDER BY user_id, day, source").fetchall() == kept


STOPPED = """
made = opened()
made.budget.reserve(Operation(1, "service", "o", "s"), Usd("0.01"))
ready()
try:
    while True:
        made.budget.reserve(Operation(1, "service", "o", "s"), Usd("0.01"))
except EmergencyStopped:
    print(made.ledger.last_id())
"""


def test_after_the_stop_not_one_more_is_admitted_in_any_process(home: Path, process: Callable[..., Process]) -> None:
    parts = build(settings_in(home, **ROOMY), clock=SystemClock())
    parts.users.add("ada")
    others = [process(STOPPED, **ROOMY) for _ in range(3)]
    for one in others:
        assert one.said() == "ready"
    for one in others:
        one.go()
    while parts.ledger.last_id() < 50:  # they are at it
        select.select([], [], [], 0.001)
    with parts.database.hot() as driver:  # the row, and the newest entry at that instant, in one turn
        driver.execute("INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (1, 1, 'ada', 'enough')")
        (last,) = driver.execute("SELECT max(id) FROM entries").fetchone()
    for one in others:
        assert one.ended()[0] == 0
    assert parts.ledger.last_id() == last
    anew = build(settings_in(home, **ROOMY), clock=SystemClock())  # it survives a restart
    assert anew.budget.stopped() is not None

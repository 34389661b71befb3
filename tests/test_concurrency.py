"""Real processes that race, and real kills: the sum is never over, and what was promised is never forgotten."""

from __future__ import annotations

import csv
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from podcastqa.clock import SystemClock, WindowKind
from podcastqa.database import SYSTEM, open_database
from podcastqa.errors import HoldExpired, HoldResolved, Misuse, OverLimit
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind
from podcastqa.spend.ledger import NOTHING, Spent
from podcastqa.spend.meter import COLUMNS
from podcastqa.wiring import Parts, build
from podcastqa.workbook.constraints import declared_differences
from tests.conftest import ROOMY, Process, SetClock, operation, race, settings_in

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

DAY = WindowKind.DAY


@pytest.fixture
def parts(home: Path) -> Parts:
    """By the machine's own clock, as the processes see it; one user, Ada, number 1."""
    made = build(settings_in(home), clock=SystemClock())
    made.users.add("ada")
    return made


def spent(parts: Parts) -> Spent:
    """What is booked and held in all. The three windows of a test that runs over midnight hold it all but the day."""
    return max((parts.budget.standing(1).get((1, kind), NOTHING) for kind in WindowKind), key=lambda s: s.total)


# ── the last cent ────────────────────────────────────────────────────────────────────────────────────────────────


TAKES = """
made = opened()
what, taken = Operation(1, "service", "o", "s"), 0
ready()
while True:
    try:
        hold = made.budget.reserve(what, Usd("0.01"))
    except OverLimit:
        break
    taken += 1
    with open(home / "really-run.log", "a") as log:
        log.write(f"{os.getpid()} {hold.hold_id}\\n")
    if sys.argv[2] == "settle":
        made.budget.start(hold.hold_id)
        made.budget.settle(hold.hold_id, Usd("0.01"))
print(taken)
"""


@pytest.mark.parametrize("how", ["hold", "settle"])
def test_processes_that_race_take_exactly_what_there_is_and_never_the_last_cent_twice(
    parts: Parts, home: Path, process: Callable[..., Process], how: str
) -> None:
    cents = 40
    for kind in WindowKind:
        parts.budget.set_limit(1, kind, Usd("0.40"), by="ada", reason="40 cents")
    taken = [int(out) for out in race([process(TAKES, how, **ROOMY) for _ in range(3)])]
    assert sum(taken) == cents
    assert spent(parts).total == Usd("0.40")
    # What was really run, by what the processes wrote down themselves, is what is in the books.
    run = [line.split()[1] for line in (home / "really-run.log").read_text().splitlines()]
    booked = [entry.hold_id for entry in parts.ledger.entries() if entry.kind is EntryKind.RESERVE]
    assert sorted(run) == sorted(booked)
    assert len(set(run)) == cents
    parts.ledger.carry()
    counters = "SELECT * FROM counters ORDER BY user_id, day, source"
    before = parts.database.driver().execute(counters).fetchall()
    parts.ledger.rebuild()
    assert parts.database.driver().execute(counters).fetchall() == before


def test_threads_that_race_take_exactly_what_there_is(parts: Parts) -> None:
    for kind in WindowKind:
        parts.budget.set_limit(1, kind, Usd("0.30"), by="ada", reason="30 cents")
    together, taken = threading.Barrier(6), Counter[int]()

    def take(number: int) -> None:
        together.wait()
        try:
            while True:
                parts.budget.book(operation(1), Usd("0.01"))
                taken[number] += 1
        except OverLimit:
            return

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.total() == 30
    assert spent(parts) == Spent(Usd("0.30"), ZERO)


SAME_ID = """
made = opened()
ready()
for number in range(10):
    hold = made.budget.book(Operation(1, "service", "o", "s"), Usd("0.01"), f"the same {number}")
    print(hold.hold_id, hold.reserved_at.isoformat())
"""


def test_one_id_sent_by_several_processes_is_one_hold(parts: Parts, process: Callable[..., Process]) -> None:
    answers = race([process(SAME_ID) for _ in range(2)])
    assert answers[0] == answers[1]  # the same answer, to the microsecond
    assert spent(parts) == Spent(Usd("0.10"), ZERO)  # 10 × 0.01, whoever was first


STOPPED = """
made = opened()
made.budget.reserve(Operation(1, "service", "o", "s"), Usd("0.01"))
ready()
try:
    made.budget.reserve(Operation(1, "service", "o", "s"), Usd("0.01"))
except EmergencyStopped as stop:
    print(stop.message)
"""


def test_the_stop_closes_a_process_that_was_already_running(parts: Parts, process: Callable[..., Process]) -> None:
    other = process(STOPPED)
    assert other.said() == "ready"
    parts.budget.stop(by="ada", reason="drill")
    other.go()
    assert other.ended()[:2] == (0, "The emergency stop is on (ada: drill).\n")


# ── kill -9 ──────────────────────────────────────────────────────────────────────────────────────────────────────


DIES = """
from podcastqa.spend.entries import EntryKind
made = opened()
what = Operation(1, "service", "o", "s")
made.budget.reserve(what, Usd("2.00"), "mine")
if "start" in sys.argv[2]:
    made.budget.start("mine")
if "settle" in sys.argv[2]:
    made.budget.settle("mine", Usd("1.50"))
if "inside" in sys.argv[2]:
    with made.ledger.writing() as books:
        books.close(EntryKind.SETTLE, books.get("mine"), Usd("1.50"), made.clock.now())
        print("dying", flush=True)
        sys.stdin.readline()
print("dying", flush=True)
sys.stdin.readline()
"""


def killed(process: Callable[..., Process], after: str) -> None:
    one = process(DIES, after)
    assert one.said() == "dying"
    one.kill()


def later(parts: Parts, **much: float) -> Parts:
    """The same books, so much later."""
    clock = SetClock(SystemClock().now() + timedelta(**much))
    return build(settings_in(parts.settings.home), clock=clock)


def test_killed_after_reserve_the_hold_counts_until_its_time_and_then_no_more(
    parts: Parts, process: Callable[..., Process]
) -> None:
    killed(process, "reserve")
    assert spent(parts) == Spent(ZERO, Usd("2.00"))
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(1), Usd("3.01"))  # 2.00 + 3.01 is more than 5.00
    after = later(parts, minutes=16)
    assert spent(after) == Spent(ZERO, ZERO)
    with pytest.raises(HoldExpired):
        after.budget.start("mine")
    after.budget.reserve(operation(1), Usd("5.00"))


def test_killed_after_start_the_hold_counts_at_its_estimate_until_somebody_resolves_it(
    parts: Parts, process: Callable[..., Process]
) -> None:
    killed(process, "start")
    after = later(parts, hours=1)
    assert after.ledger.standing(1, parts.clock.now())[1, DAY] == Spent(ZERO, Usd("2.00"))  # in doubt
    with pytest.raises(Misuse):
        after.budget.void("mine")
    parts.budget.settle("mine", Usd("1.75"), "the bill says so")
    assert spent(parts) == Spent(Usd("1.75"), ZERO)


def test_killed_after_settle_nothing_is_lost(parts: Parts, process: Callable[..., Process]) -> None:
    killed(process, "start settle")
    assert spent(parts) == Spent(Usd("1.50"), ZERO)
    with pytest.raises(HoldResolved):
        parts.budget.settle("mine", Usd("2.00"))


def test_killed_inside_a_transaction_it_never_was_and_nobody_waits(
    parts: Parts, process: Callable[..., Process]
) -> None:
    killed(process, "start inside")
    parts.budget.reserve(operation(1), Usd("1.00"))  # the lock died with its holder
    assert spent(parts) == Spent(ZERO, Usd("3.00"))  # 2.00 in doubt + 1.00: the half settle is gone
    parts.budget.settle("mine", Usd("1.50"))
    assert spent(parts) == Spent(Usd("1.50"), Usd("1.00"))


WORKS = """
made = opened()
what = Operation(1, "service", "o", "s")
with open(home / f"settled-{os.getpid()}.log", "a", buffering=1) as log:
    ready()
    while True:
        hold = made.budget.reserve(what, Usd("0.01"))
        made.budget.start(hold.hold_id)
        made.budget.settle(hold.hold_id, Usd("0.01"))
        log.write(hold.hold_id + "\\n")  # told only once it is in the books
        print("one", flush=True)
"""


@pytest.mark.only_sqlite
def test_killed_at_work_every_settle_that_was_answered_is_in_the_books(
    parts: Parts, home: Path, process: Callable[..., Process]
) -> None:
    workers = [process(WORKS, **ROOMY) for _ in range(2)]
    for one in workers:
        assert one.said() == "ready"
    for one in workers:
        one.go()
    for one in workers:
        for _ in range(15):
            assert one.said() == "one"
    for one in workers:
        one.kill()  # wherever they are
    answered = {line for log in home.glob("settled-*.log") for line in log.read_text().split()}
    entries = list(parts.ledger.entries())
    settled = {entry.hold_id for entry in entries if entry.kind is EntryKind.SETTLE}
    assert len(answered) >= 30
    assert answered <= settled
    assert len(settled - answered) <= 2  # at most one each, between the commit and the word of it
    reserved = {entry.hold_id for entry in entries if entry.kind is EntryKind.RESERVE}
    left = len(reserved - settled)
    assert left <= 2
    assert spent(parts) == Spent(Usd("0.01") * len(settled), Usd("0.01") * left)
    assert parts.database.driver().execute("PRAGMA integrity_check").fetchone() == ("ok",)


# ── the first of all ─────────────────────────────────────────────────────────────────────────────────────────────


FIRST = """
ready()
made = opened()
with made.database.hot() as driver:
    driver.execute("INSERT INTO users (name, created_us) VALUES (?, 1)", (f"user-{os.getpid()}",))
print(made.users.count() > 0)
"""


@pytest.mark.only_sqlite
def test_processes_that_open_a_fresh_home_at_once_migrate_it_once(process: Callable[..., Process], home: Path) -> None:
    shutil.rmtree(home)
    assert race([process(FIRST) for _ in range(3)]) == ["True\n"] * 3
    database = open_database(f"sqlite:///{home / 'podcastqa.sqlite'}")
    assert declared_differences(database) == []
    with database.read(SYSTEM) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar() == 1
        assert connection.exec_driver_sql("SELECT count(*) FROM users WHERE id > 0").scalar() == 3
    database.close()


MIGRATES = """
from sqlalchemy import Engine, event
def before_cursor_execute(connection, cursor, statement, *_):
    if "CREATE TRIGGER" in statement:  # the tables are there, to this connection
        print("dying", flush=True)
        sys.stdin.readline()
event.listen(Engine, "before_cursor_execute", before_cursor_execute)
opened()
"""


@pytest.mark.only_sqlite
def test_killed_in_the_middle_of_its_migrations_a_home_is_as_fresh_as_before(
    process: Callable[..., Process], home: Path
) -> None:
    path = home / "podcastqa.sqlite"
    path.unlink()
    one = process(MIGRATES)
    assert one.said() == "dying"
    one.kill()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)  # not half a schema
    connection.close()
    made = build(settings_in(home), clock=SystemClock())
    assert made.budget.book(operation(made.users.add("ada").id), Usd("1.00"))
    made.database.close()


METERS = """
made = opened()
ready()
for number in range(15):
    made.meter.begin(f"{os.getpid()}-{number}", 1)
    made.meter.end(f"{os.getpid()}-{number}")
"""


def test_processes_that_race_write_the_header_of_the_bill_once_and_tear_no_row(
    process: Callable[..., Process], home: Path
) -> None:
    race([process(METERS) for _ in range(3)])
    lines = (home / "local-meter.focus.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines.count(lines[0]) == 1
    with (home / "local-meter.focus.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    booked = Counter(row["ResourceId"] for row in rows if "user" in row["Tags"])
    assert len(booked) == 3 * 15
    assert set(booked.values()) == {1}
    assert len({row["x_ProcessId"] for row in rows}) == 3

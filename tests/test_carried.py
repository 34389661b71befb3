"""Counters and open holds are carried forward from time to time: what the tail adds is never missed, nor counted twice.

Two writers, each on a connection of its own, write the same books in turn; each follows the other's entries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from podcastqa.clock import WindowKind
from podcastqa.errors import EmergencyStopped, HoldResolved, LedgerUnavailable, OverLimit
from podcastqa.file_lock import FileLock, OpenFile
from podcastqa.money import ZERO, Usd
from podcastqa.spend.changes import LONGEST_TAIL
from podcastqa.spend.ledger import Spent
from podcastqa.sqlite_line import SqliteLine
from podcastqa.users import User
from podcastqa.wiring import Parts, build
from tests.conftest import Process, SetClock, operation

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

CENT, PICO = Usd("0.01"), Usd.from_pico(1)

BOOKS = """
made = opened()
ready()
while True:
    try:
        made.budget.settle(made.budget.begin(Operation(1, "service", "o", "s"), Usd("0.000001")).hold_id, Usd("0"))
    except OverLimit:
        pass
"""
INTERRUPTED = """
import random
made, rng, came = opened(), random.Random(int(os.environ.get("SEED", "7"))), 0
what, open_ids = Operation(1, "service", "o", "s"), []
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
made.budget.reserve(what, Usd("0"))
ready()
for i in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 0.004))
        for j in range(20):
            if open_ids:
                made.budget.settle(open_ids.pop(), Usd("0.001"))
            else:
                open_ids.append(made.budget.reserve(what, Usd("0.01")).hold_id)
    except KeyboardInterrupt:
        came += 1
    except (OverLimit, HoldResolved):
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
made.budget.reserve(what, Usd("0"))
with made.ledger.writing() as books:
    books.stop()
print(came, flush=True)
"""


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada")


@pytest.fixture
def other(parts: Parts, clock: SetClock, ada: User) -> Iterator[Parts]:
    """A second program on the same books, which has read them already."""
    made = build(parts.settings, clock=clock)
    made.budget.reserve(operation(ada.id), ZERO, "the other's first")
    yield made
    made.database.close()


def limit(parts: Parts, amount: str, *kinds: WindowKind) -> None:
    for kind in kinds or WindowKind:
        parts.budget.set_limit(0, kind, Usd(amount), by="ada", reason="a test")


def carried(parts: Parts) -> tuple[int, int]:
    """Through which entry, and how often."""
    through_id, times = parts.database.driver().execute("SELECT through_id, times FROM carried").fetchone()
    return through_id, times


def derived(parts: Parts) -> list[Any]:
    return [
        parts.database.driver().execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()
        for table in ("open_holds", "counters", "service_counters")
    ]


def test_what_stands_in_the_tail_alone_counts_for_whoever_looks(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("0.30"), "open")
    parts.budget.book(operation(ada.id), Usd("0.20"), "booked")
    assert carried(parts) == (0, 0)
    assert derived(parts) == [[], [], []]
    assert parts.budget.standing(ada.id)[ada.id, WindowKind.DAY] == Spent(Usd("0.20"), Usd("0.30"))
    assert parts.budget.service_standing("service")[WindowKind.DAY] == Spent(Usd("0.20"), Usd("0.30"))


def test_a_tail_that_has_grown_long_is_carried_forward(parts: Parts, ada: User) -> None:
    for _ in range(LONGEST_TAIL // 2):  # two entries each
        parts.budget.book(operation(ada.id), PICO)
    assert carried(parts) == (0, 0)
    parts.budget.reserve(operation(ada.id), PICO, "one more")
    assert carried(parts) == (LONGEST_TAIL + 1, 1)
    (hold,) = parts.database.driver().execute("SELECT hold_id, amount_pico, started FROM open_holds").fetchall()
    assert tuple(hold) == ("one more", PICO.pico, 0)
    booked = "SELECT booked_pico, held_pico FROM counters ORDER BY user_id"
    assert parts.database.driver().execute(booked).fetchall() == 2 * [(LONGEST_TAIL // 2 * PICO.pico, PICO.pico)]


def test_writers_that_carry_forward_in_turn_miss_nothing_and_count_nothing_twice(
    parts: Parts, other: Parts, ada: User
) -> None:
    for number, (one, two) in enumerate([(parts, other), (other, parts), (parts, other)]):
        for who in (one, two, one):
            who.budget.book(operation(ada.id), CENT)
            who.budget.reserve(operation(ada.id), CENT, f"{number}: {len(list(who.ledger.entries()))}")
        one.ledger.carry()
        one.budget.book(operation(ada.id), CENT)
        two.budget.book(operation(ada.id), CENT)
        two.ledger.carry()
        one.budget.book(operation(ada.id), CENT)
    two.ledger.carry()
    kept = derived(parts)
    parts.ledger.rebuild()
    assert derived(parts) == kept
    # Each round three and three, booked and held; and three more booked.
    assert parts.budget.standing(ada.id)[0, WindowKind.DAY] == Spent(Usd("0.18"), Usd("0.09"))


def test_a_hold_that_others_start_settle_or_void_is_theirs_to_end(parts: Parts, other: Parts, ada: User) -> None:
    for hold_id in ("settled", "void", "started"):
        parts.budget.reserve(operation(ada.id), CENT, hold_id)
    other.budget.settle("settled", Usd("0.03"))
    other.budget.void("void")
    other.budget.start("started")
    with pytest.raises(HoldResolved, match="already settled at"):
        parts.budget.settle("settled", CENT)
    assert parts.budget.settle("settled", Usd("0.03")) == Usd("0.02")  # said twice is said once
    with pytest.raises(HoldResolved, match="already ended: void"):
        parts.budget.start("void")
    parts.budget.settle("started", CENT)
    assert parts.budget.standing(ada.id)[ada.id, WindowKind.DAY] == Spent(Usd("0.04"), ZERO)


def test_room_that_another_one_takes_or_gives_back_is_known_at_once(parts: Parts, other: Parts, ada: User) -> None:
    limit(parts, "0.10")
    parts.budget.reserve(operation(ada.id), Usd("0.04"))
    other.budget.reserve(operation(ada.id), Usd("0.06"), "the rest")
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), CENT)
    other.budget.settle("the rest", Usd("0.01"))  # 0.05 of it comes back
    parts.budget.reserve(operation(ada.id), Usd("0.05"))
    with pytest.raises(OverLimit):
        other.budget.reserve(operation(ada.id), PICO)


def test_holds_of_another_writer_that_ran_out_of_time_make_room(
    parts: Parts, other: Parts, clock: SetClock, ada: User
) -> None:
    limit(parts, "0.10")
    with pytest.raises(OverLimit):  # it has looked for what might expire
        parts.budget.reserve(operation(ada.id), Usd("0.11"))
    other.budget.reserve(operation(ada.id), Usd("0.10"), "forgotten")
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), CENT)
    clock.forward(minutes=15)
    parts.budget.reserve(operation(ada.id), Usd("0.10"), "in its place")
    kinds = [(entry.hold_id, entry.kind.value) for entry in parts.ledger.entries()]
    assert kinds[-2:] == [("forgotten", "expire"), ("in its place", "reserve")]


@pytest.mark.parametrize("carry", [False, True], ids=["in the tail", "carried forward"])
def test_what_started_or_ended_since_it_was_carried_forward_does_not_expire(
    parts: Parts, other: Parts, clock: SetClock, ada: User, carry: bool
) -> None:
    limit(parts, "0.10")
    for hold_id in ("started", "void", "late"):
        parts.budget.reserve(operation(ada.id), Usd("0.03"), hold_id)
    if carry:
        parts.ledger.carry()
    other.budget.start("started")
    other.budget.void("void")
    clock.forward(minutes=15)
    parts.budget.reserve(operation(ada.id), Usd("0.07"))  # beside what has started
    with pytest.raises(OverLimit):
        other.budget.reserve(operation(ada.id), PICO)
    expired = [entry.hold_id for entry in parts.ledger.entries() if entry.kind == "expire"]
    assert expired == ["the other's first", "late"]


def test_what_yesterday_still_costs_leaves_today_less_of_the_week(
    parts: Parts, other: Parts, clock: SetClock, ada: User
) -> None:
    parts.budget.begin(operation(ada.id), CENT, "yesterday's")
    clock.forward(days=1)
    limit(parts, "0.20", WindowKind.WEEK)
    parts.budget.reserve(operation(ada.id), CENT)  # 0.01 and 0.01 of 0.20
    other.budget.reserve(operation(ada.id), CENT)
    parts.budget.settle("yesterday's", Usd("0.17"))  # by one writer, which the other has to follow
    for who in (parts, other):
        with pytest.raises(OverLimit, match="weekly limit"):
            who.budget.reserve(operation(ada.id), Usd("0.02"))
    other.budget.reserve(operation(ada.id), CENT)
    assert other.budget.standing(ada.id)[0, WindowKind.WEEK] == Spent(Usd("0.17"), Usd("0.03"))


def test_bills_and_decisions_are_read_anew_among_followed_entries(parts: Parts, other: Parts, ada: User) -> None:
    limit(parts, "1.00")
    other.budget.reserve(operation(ada.id), CENT)
    parts.ledger.put_bill("s", [(738_944, 0, Usd("0.98"), ZERO)], parts.clock.now())
    with pytest.raises(OverLimit):
        other.budget.reserve(operation(ada.id), Usd("0.02"))
    parts.budget.stop(by="ada", reason="a test")
    with pytest.raises(EmergencyStopped):
        other.budget.reserve(operation(ada.id), CENT)


def test_what_old_holds_give_back_is_none_of_what_a_service_has_now(parts: Parts, clock: SetClock, ada: User) -> None:
    for hold_id in ("one", "two"):
        parts.budget.begin(operation(ada.id), Usd("1.00"), hold_id)
    clock.forward(days=40)
    parts.budget.book(operation(ada.id), CENT)
    with parts.ledger.writing() as books:
        assert books.spent_on("service") == CENT.pico
    parts.budget.void("one", "it never ran")
    parts.budget.settle("two", Usd("0.50"))
    with parts.ledger.writing() as books:
        assert books.spent_on("service") == CENT.pico


@pytest.mark.only_sqlite
def test_a_write_inside_another_is_refused_though_somebody_waits_for_the_turn(
    parts: Parts, other: Parts, ada: User
) -> None:
    queue = FileLock(parts.settings.home / "podcastqa.sqlite.next")
    with ThreadPoolExecutor(1) as threads:
        with parts.database.hot():
            waiting = threads.submit(other.budget.reserve, operation(ada.id), CENT)
            while queue.take_if_free():  # until the other one is next
                queue.__exit__()
            with pytest.raises(RuntimeError, match="already holds"):
                parts.budget.reserve(operation(ada.id), CENT)
        waiting.result()
    parts.budget.reserve(operation(ada.id), CENT)


@pytest.mark.only_sqlite
def test_after_a_flush_that_failed_nobody_is_answered_before_the_log_is_written_anew(parts: Parts, ada: User) -> None:
    line, log = parts.budget.writer.line, parts.settings.home / "podcastqa.sqlite-wal"
    assert isinstance(line, SqliteLine)
    parts.budget.reserve(operation(ada.id), CENT)
    line._log = OpenFile(Path("/dev/null"))  # the system refuses to flush it
    with pytest.raises(LedgerUnavailable, match="Invalid argument"):
        parts.budget.reserve(operation(ada.id), CENT)
    before = log.stat().st_size
    with parts.database.snapshot() as reader:
        reader.execute("SELECT count(*) FROM entries").fetchone()
        line.driver.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(LedgerUnavailable, match="a flush had failed"):
            parts.budget.reserve(operation(ada.id), CENT)
    parts.budget.reserve(operation(ada.id), CENT)
    assert 0 < log.stat().st_size < before
    # What could not be flushed was written all the same: it is held, and its time runs out.
    assert parts.budget.standing(ada.id)[ada.id, WindowKind.DAY] == Spent(ZERO, Usd("0.03"))
    assert parts.auditor.run().holds


@pytest.mark.only_sqlite
def test_interrupts_at_any_moment_leave_no_lock_no_transaction_and_no_wrong_sum(
    parts: Parts, process: Callable[..., Process], ada: User
) -> None:
    limit(parts, "4.00")
    neighbour = process(BOOKS)  # so that there is somebody to wait for, and to follow
    interrupted = process(INTERRUPTED)
    for one in (neighbour, interrupted):
        assert one.said() == "ready"
        one.go()
    told = interrupted.said().split()
    assert int(told[0]) > 50, told  # so many interrupts came
    neighbour.kill()
    assert interrupted.ended()[0] == 0
    parts.ledger.carry()
    assert parts.auditor.run().holds
    kept = derived(parts)
    parts.ledger.rebuild()
    assert derived(parts) == kept


@pytest.mark.only_sqlite
def test_a_stop_that_somebody_types_into_the_file_is_obeyed(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), CENT)
    with sqlite3.connect(parts.settings.home / "podcastqa.sqlite") as shell:
        shell.execute("INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (1, 1, 'bob', 'by hand')")
    with pytest.raises(EmergencyStopped, match="bob: by hand"):
        parts.budget.reserve(operation(ada.id), CENT)


def test_books_that_do_not_say_how_far_they_were_carried_spend_nothing(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), CENT)
    _without_the_row(parts)
    parts.users.add("bob")  # what others write makes a writer look
    with pytest.raises(LedgerUnavailable, match="does not say up to which entry"):
        parts.budget.reserve(operation(ada.id), CENT)
    assert [proof.said for proof in parts.auditor.run().proofs if proof.holds is False][:1] == [
        "carried: there are 0 such rows"
    ]


def _without_the_row(parts: Parts) -> None:
    if parts.database.path is not None:
        with sqlite3.connect(parts.settings.home / "podcastqa.sqlite") as shell:
            shell.execute("DELETE FROM carried")
        return
    import psycopg

    with psycopg.connect(parts.settings.database) as owner:
        owner.execute("DELETE FROM carried")


def test_a_day_that_begins_is_counted_from_the_books_anew(
    parts: Parts, other: Parts, clock: SetClock, ada: User
) -> None:
    parts.budget.book(operation(ada.id), CENT)
    other.budget.book(operation(ada.id), CENT)
    clock.instant += timedelta(hours=12)  # midnight
    parts.budget.book(operation(ada.id), CENT)
    assert other.budget.standing(ada.id)[0, WindowKind.DAY] == Spent(CENT, ZERO)
    assert other.budget.standing(ada.id)[0, WindowKind.WEEK] == Spent(Usd("0.03"), ZERO)
    other.budget.book(operation(ada.id), CENT)
    parts.ledger.carry()
    kept = derived(parts)
    parts.ledger.rebuild()
    assert derived(parts) == kept

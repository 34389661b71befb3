"""The ledger only grows; whatever stands beside it can be thrown away and is the same again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from podcastqa.clock import WindowKind, day_number
from podcastqa.database import SYSTEM
from podcastqa.errors import BadEstimate, HoldUnknown, Misuse, OverLimit, PodcastQAError
from podcastqa.money import MOST_PICO, ZERO, Usd
from podcastqa.spend.entries import Entry, EntryKind, Operation, checked_amount, checked_estimate, checked_hold_id
from podcastqa.spend.ledger import Spent
from podcastqa.users import User
from podcastqa.wiring import Parts, build
from tests.conftest import A_WEDNESDAY, SetClock, operation

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

TODAY = day_number(A_WEDNESDAY.date())


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada")


def counters(parts: Parts) -> list[Any]:
    """Every counter that counts something: (user or 0, day, source, booked, held, bill), in whole units."""
    parts.ledger.carry()
    return (
        parts.database.driver()
        .execute("SELECT * FROM counters WHERE booked_pico <> 0 OR held_pico <> 0 OR bill_pico <> 0 ORDER BY 1, 2, 3")
        .fetchall()
    )


def open_holds(parts: Parts) -> list[Any]:
    parts.ledger.carry()
    return parts.database.driver().execute("SELECT * FROM open_holds ORDER BY hold_id").fetchall()


def a_full_ledger(parts: Parts, clock: SetClock, ada: User) -> None:
    """One hold of each fate, on two days, of two sources."""
    budget, bob = parts.budget, parts.users.add("bob")
    for day, source in ((0, "s"), (1, "t")):
        clock.instant = A_WEDNESDAY + timedelta(days=day)
        for user in (ada, bob):
            for number, fate in enumerate(("open", "started", "settled", "void", "expired", "late", "mended")):
                budget.reserve(operation(user.id, source), Usd.from_pico(number + 1), f"{fate} {user.id} {source}")
            for fate in ("started", "settled"):
                budget.start(f"{fate} {user.id} {source}")
            budget.settle(f"settled {user.id} {source}", Usd.from_pico(30))
            budget.settle(f"mended {user.id} {source}", Usd.from_pico(70))
            budget.correct(f"mended {user.id} {source}", Usd.from_pico(-5), "it was 65")
            budget.void(f"void {user.id} {source}")
        clock.forward(minutes=20)
        for user in (ada, bob):
            for fate in ("expired", "late"):
                with pytest.raises(PodcastQAError):
                    budget.start(f"{fate} {user.id} {source}")
            budget.settle(f"late {user.id} {source}", Usd.from_pico(6))
    parts.ledger.put_bill("t", [(TODAY, 0, Usd("1"), ZERO), (TODAY + 9, ada.id, Usd("2"), ZERO)], clock.instant)


def test_what_a_hold_leaves_behind_can_be_added_up_by_hand(parts: Parts, clock: SetClock, ada: User) -> None:
    a_full_ledger(parts, clock, ada)
    # A user's day: settled 30, mended 70 - 5, late 6 → 101 booked. Still held: started 2, and open 1, which ran out of
    # time: it does not count, and is written off where its room is needed.
    assert counters(parts) == [
        (0, TODAY, "s", 2 * 101, 2 * 3, 0),
        (0, TODAY, "t", 0, 0, Usd("1").pico),
        (0, TODAY + 1, "t", 2 * 101, 2 * 3, 0),
        (1, TODAY, "s", 101, 2 + 1, 0),
        (1, TODAY + 1, "t", 101, 2 + 1, 0),
        (1, TODAY + 9, "t", 0, 0, Usd("2").pico),
        (2, TODAY, "s", 101, 2 + 1, 0),
        (2, TODAY + 1, "t", 101, 2 + 1, 0),
    ]


def test_counters_and_open_holds_rebuilt_equal_those_that_were_kept(parts: Parts, clock: SetClock, ada: User) -> None:
    a_full_ledger(parts, clock, ada)
    kept, held, entries = counters(parts), open_holds(parts), list(parts.ledger.entries())
    parts.ledger.rebuild()
    assert (counters(parts), open_holds(parts), list(parts.ledger.entries())) == (kept, held, entries)
    with parts.database.hot() as driver:
        driver.execute("UPDATE counters SET booked_pico = 0, held_pico = 0, bill_pico = 0")  # and after damage
        driver.execute("DELETE FROM open_holds")
    parts.ledger.rebuild()
    assert (counters(parts), open_holds(parts)) == (kept, held)


def test_the_guard_goes_on_after_a_rebuild_as_if_nothing_had_been(parts: Parts, clock: SetClock, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("4.00"), "open")
    parts.ledger.rebuild()
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), Usd("1.01"))
    parts.budget.settle("open", Usd("3.00"))
    assert parts.budget.standing(ada.id)[ada.id, WindowKind.DAY] == Spent(Usd("3.00"), ZERO)


def test_an_empty_ledger_rebuilds_to_nothing(parts: Parts) -> None:
    parts.ledger.rebuild()
    assert (counters(parts), open_holds(parts), list(parts.ledger.entries())) == ([], [], [])


def test_each_entry_says_who_what_when_and_how_much(parts: Parts, clock: SetClock, ada: User) -> None:
    what = Operation(ada.id, "service", "operation", "a bill", "a price")
    parts.budget.reserve(what, Usd("1.00"), "h")
    clock.forward(minutes=1)
    parts.budget.start("h")
    clock.forward(days=1)
    parts.budget.settle("h", Usd("1.25"), "as the provider said")
    parts.budget.correct("h", Usd("-0.25"), "a credit")
    first, started, settled, corrected = parts.ledger.entries()
    assert first == Entry(1, "h", EntryKind.RESERVE, what, Usd("1.00"), TODAY, A_WEDNESDAY, "")
    later = A_WEDNESDAY + timedelta(days=1, minutes=1)
    assert (started.kind, started.amount, started.at) == (EntryKind.START, ZERO, A_WEDNESDAY + timedelta(minutes=1))
    assert (settled.kind, settled.amount, settled.at) == (EntryKind.SETTLE, Usd("1.25"), later)
    assert (corrected.kind, corrected.amount, corrected.reason) == (EntryKind.CORRECT, Usd("-0.25"), "a credit")
    assert {entry.day for entry in parts.ledger.entries()} == {TODAY}  # the day of the reserve, for good
    assert {entry.operation for entry in parts.ledger.entries()} == {what}
    assert list(parts.ledger.entries(after_id=2)) == [settled, corrected]


@pytest.mark.parametrize("carry", [False, True], ids=["in the tail", "carried forward"])
def test_an_operation_that_runs_at_once_is_one_row_that_is_told_as_two(
    parts: Parts, clock: SetClock, ada: User, carry: bool
) -> None:
    begun = parts.budget.begin(operation(ada.id), Usd("1.00"), "h")
    if carry:
        parts.ledger.carry()
    assert parts.ledger.last_id() == 1
    reserved, started = parts.ledger.entries()
    assert (reserved.kind, reserved.amount, started.kind, started.amount, started.at) == (
        *(EntryKind.RESERVE, Usd("1.00"), EntryKind.START, ZERO),
        A_WEDNESDAY,
    )
    other = build(parts.settings, clock=clock)  # who knows it only from the books
    clock.forward(minutes=16)  # it has started: it does not run out of time
    parts.budget.start("h")  # said again, it changes nothing
    assert other.budget.begin(operation(ada.id), Usd("1.00"), "h") == begun
    with pytest.raises(Misuse, match="may have been charged"):
        other.budget.void("h")
    assert other.budget.standing(ada.id)[ada.id, WindowKind.DAY] == Spent(ZERO, Usd("1.00"))
    other.budget.settle("h", Usd("0.75"))
    assert parts.ledger.last_id() == 2
    assert parts.auditor.run().holds
    other.database.close()


def test_one_transaction_is_all_or_nothing(parts: Parts, ada: User) -> None:
    hold = parts.budget.reserve(operation(ada.id), Usd("1.00"))
    before = counters(parts), list(parts.ledger.entries())

    def half_a_settle() -> None:
        with parts.ledger.writing() as books:
            books.close(EntryKind.SETTLE, hold, Usd("1.00"), A_WEDNESDAY)
            assert books.end(hold.hold_id) == (EntryKind.SETTLE, Usd("1.00"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_a_settle()
    assert (counters(parts), list(parts.ledger.entries())) == before


@pytest.mark.parametrize(
    ("sql", "refusal"),
    [
        ("UPDATE entries SET amount_pico = 0", "entries only grows"),
        ("DELETE FROM entries", "entries only grows"),
    ],
)
def test_not_even_sql_changes_an_entry(parts: Parts, ada: User, sql: str, refusal: str) -> None:
    parts.budget.book(operation(ada.id), Usd("1.00"))
    before = list(parts.ledger.entries())
    with parts.database.raw(SYSTEM) as driver, pytest.raises(parts.database.refusals, match=f"{refusal}|denied"):
        driver.execute(sql)
    assert list(parts.ledger.entries()) == before


@pytest.mark.only_sqlite
@pytest.mark.parametrize(
    ("sql", "refusal"),
    [
        ("INSERT OR REPLACE INTO entries SELECT * FROM entries", "entries only grows|UNIQUE"),
        ("UPDATE OR IGNORE entries SET reason = 'x'", "entries only grows"),
    ],
)
def test_no_conflict_clause_changes_an_entry(parts: Parts, ada: User, sql: str, refusal: str) -> None:
    parts.budget.book(operation(ada.id), Usd("1.00"))
    before = list(parts.ledger.entries())
    with pytest.raises(parts.database.integrity_errors, match=refusal), parts.database.hot() as driver:
        driver.execute(sql)
    assert list(parts.ledger.entries()) == before


@pytest.mark.only_sqlite
def test_an_entry_is_not_replaced_by_another_of_the_same_number(parts: Parts, ada: User) -> None:
    parts.budget.book(operation(ada.id), Usd("1.00"))
    before = list(parts.ledger.entries())
    with pytest.raises(parts.database.integrity_errors):
        parts.database.driver().execute(
            "INSERT OR REPLACE INTO entries (id, hold_id, kind, user_id, source, service, operation, amount_pico, day,"
            " at_us) SELECT id, hold_id, kind, user_id, source, service, operation, 0, day, at_us FROM entries"
        )
    assert list(parts.ledger.entries()) == before


def test_an_entry_needs_the_reserve_of_its_hold_and_a_hold_ends_once(parts: Parts, ada: User) -> None:
    hold = parts.budget.reserve(operation(ada.id), Usd("1.00"))

    def twice(kind: EntryKind) -> None:
        with parts.ledger.writing() as books:
            books.close(kind, hold, ZERO, A_WEDNESDAY)
            books.close(EntryKind.SETTLE, hold, ZERO, A_WEDNESDAY)

    for kind in (EntryKind.SETTLE, EntryKind.VOID, EntryKind.EXPIRE):
        with pytest.raises(parts.database.integrity_errors):
            twice(kind)
    with pytest.raises(HoldUnknown), parts.ledger.writing() as books:
        books.get("nobody's")
    sql = "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us)"
    with pytest.raises(parts.database.integrity_errors, match="needs the reserve"), parts.database.hot() as driver:
        driver.execute(f"{sql} VALUES ('x', 'settle', {ada.id}, 's', 's', 'o', 1, 1, 1)")


def test_what_is_in_the_books_while_a_hold_walks(parts: Parts, ada: User) -> None:
    hold = parts.budget.reserve(operation(ada.id), Usd("1.00"), "h")
    with parts.ledger.writing() as books:
        assert (books.get("h"), books.found("other")) == (hold, None)
        assert (books.end("h"), books.is_started("h"), books.settled_late("h")) == (None, False, None)
        books.start(hold, A_WEDNESDAY)
        assert books.is_started("h")
        assert not books.is_started("other")
        books.at(hold.expires_at)
        assert books.expired() == []  # what started does not expire
    assert hold.expires_at == A_WEDNESDAY + timedelta(seconds=parts.settings.hold_seconds)


def test_a_bill_is_always_read_whole(parts: Parts, ada: User) -> None:
    assert parts.ledger.bill_read_at("a") is None
    put = parts.ledger.put_bill
    put("a", [(TODAY, 0, Usd("2"), Usd("1")), (TODAY, ada.id, Usd("1"), Usd("1"))], A_WEDNESDAY)
    put("b", [(TODAY, 0, Usd("5"), Usd("5"))], A_WEDNESDAY)
    assert parts.ledger.bill_read_at("a") == A_WEDNESDAY
    later = A_WEDNESDAY + timedelta(hours=1)
    put("a", [(TODAY + 1, 0, Usd("3"), Usd("3"))], later)  # today is gone from it, and counts as nothing
    assert counters(parts) == [
        (0, TODAY, "b", 0, 0, Usd("5").pico),
        (0, TODAY + 1, "a", 0, 0, Usd("3").pico),
    ]
    assert parts.ledger.bill_read_at("a") == later
    kept = counters(parts)
    parts.ledger.rebuild()
    assert counters(parts) == kept
    put("a", [], later)
    assert parts.ledger.bill_read_at("a") is None


def test_a_bill_that_breaks_a_rule_changes_nothing(parts: Parts) -> None:
    parts.ledger.put_bill("a", [(TODAY, 0, Usd("2"), Usd("2"))], A_WEDNESDAY)
    before = counters(parts)
    twice = [(TODAY, 0, Usd("1"), Usd("1"))] * 2
    for rows in (twice, [(TODAY, 99, Usd("1"), Usd("1"))]):
        with pytest.raises(parts.database.integrity_errors):
            parts.ledger.put_bill("a", rows, A_WEDNESDAY)
    assert counters(parts) == before


def test_a_window_past_what_64_bits_hold_refuses_everything_and_loses_nothing(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    holds = [parts.budget.reserve(operation(ada.id), Usd("0.01")) for _ in range(3)]
    for hold in holds:
        parts.budget.settle(hold.hold_id, Usd("4000000"))  # 3 × 4 × 10**18 is more than 2**63
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), ZERO)
    assert sum(entry.amount.pico for entry in parts.ledger.entries() if entry.kind is EntryKind.SETTLE) == 12 * 10**18
    for hold in holds[1:]:  # -2 × 4 × 10**18: back below 2**63, but how far past it all was is not kept
        parts.budget.correct(hold.hold_id, Usd("-4000000"), "a wrong unit")
        with pytest.raises(OverLimit):
            parts.budget.reserve(operation(ada.id), ZERO)
    proofs = parts.auditor.run().proofs
    assert [proof.said for proof in proofs if proof.holds is False] == []
    clock.forward(days=40)  # and a new month begins in order
    parts.budget.reserve(operation(ada.id), Usd("0.01"))


def test_settles_of_one_commit_that_pass_64_bits_only_together_are_all_booked(parts: Parts, ada: User) -> None:
    budget, most = parts.budget, Usd.from_pico(MOST_PICO)
    holds = [budget.reserve(operation(ada.id), Usd("0.01")) for _ in range(3)]

    async def all_at_once() -> None:
        await asyncio.gather(*(budget.writer.ask(budget.settling(hold.hold_id, most)) for hold in holds))

    asyncio.run(all_at_once())
    booked = [entry.amount for entry in parts.ledger.entries() if entry.kind is EntryKind.SETTLE]
    assert booked == [most] * 3  # 12 × 10**18 is more than 2**63
    assert [proof.said for proof in parts.auditor.run().proofs if proof.holds is False] == []


@pytest.mark.parametrize("check", [checked_estimate, checked_amount])
def test_the_bounds_of_an_amount_are_in(check: Callable[[Usd], Usd]) -> None:
    for amount in (ZERO, Usd.from_pico(1), Usd.from_pico(MOST_PICO)):
        assert check(amount) == amount
    with pytest.raises(BadEstimate):
        check(Usd.from_pico(MOST_PICO + 1))


def test_only_an_estimate_must_not_be_negative() -> None:
    assert checked_amount(Usd("-1")) == Usd("-1")
    with pytest.raises(BadEstimate):
        checked_amount(Usd.from_pico(-MOST_PICO - 1))
    with pytest.raises(BadEstimate, match="cannot be negative"):
        checked_estimate(Usd("-0.000000000001"))
    assert checked_hold_id("") == checked_hold_id(None) == ""


def test_instants_are_kept_to_the_microsecond(parts: Parts, clock: SetClock, ada: User) -> None:
    clock.instant = datetime.fromisoformat("2024-02-29T23:59:59.999999+00:00")
    hold = parts.budget.reserve(operation(ada.id), ZERO, "h")
    assert parts.budget.reserve(operation(ada.id), ZERO, "h") == hold
    assert next(parts.ledger.entries()).at == clock.instant

"""Ledger beside bill: every error has a name, errors that cancel out are still seen, and unbooked time is no error."""

from __future__ import annotations

import hashlib
from datetime import date
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.bills.bill import Bill, BillLine, Provenance
from podcastqa.bills.reconcile import FAULTS, Kind, Reconciliation, reconcile
from podcastqa.clock import day_number
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import Entry, EntryKind
from podcastqa.spend.meter import SOURCE
from podcastqa.treasury import LOCAL
from podcastqa.wiring import Parts
from tests.conftest import A_WEDNESDAY, operation

pytestmark = pytest.mark.step1
DAY = A_WEDNESDAY.date()
_ids = count(1)


def entry(hold: str, kind: EntryKind, amount: str = "0", *, user: int = 1, source: str = "s", day: date = DAY) -> Entry:
    what = operation(user, source)
    return Entry(next(_ids), hold, kind, what, Usd(amount), day_number(day), A_WEDNESDAY, "why")


def settled(hold: str, amount: str, **more: object) -> list[Entry]:
    kinds = (EntryKind.RESERVE, "9"), (EntryKind.START, "0"), (EntryKind.SETTLE, amount)
    return [entry(hold, kind, cost, **more) for kind, cost in kinds]  # type: ignore[arg-type]


def charge(hold: str, amount: str, user: str = "1", day: date = DAY) -> BillLine:
    return BillLine(day, user, hold, "service", "Usage", Usd(amount))


def bill(*lines: BillLine) -> Bill:
    return Bill("s", lines, (), Provenance("c", "a", "", A_WEDNESDAY, A_WEDNESDAY))


def kinds(found: Reconciliation) -> dict[str, Kind]:
    return {line.operation_id: line.kind for line in found.lines}


# ── the rule ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_equal_books_match_and_nothing_is_left_over() -> None:
    found = reconcile("s", [*settled("a", "1"), *settled("b", "2")], bill(charge("a", "1"), charge("b", "2")))
    assert (found.matches, found.difference, found.faults) == (True, ZERO, ())
    assert kinds(found) == {"a": Kind.MATCHED, "b": Kind.MATCHED}


def test_empty_books_and_an_empty_bill_match() -> None:
    assert reconcile("s", [], bill()).matches


@pytest.mark.parametrize(
    ("entries", "lines", "kind", "difference"),
    [
        ([], [charge("a", "2")], Kind.MISSING_IN_LEDGER, "-2"),
        (settled("a", "2"), [], Kind.MISSING_IN_BILL, "2"),
        (settled("a", "2"), [charge("a", "3")], Kind.UNEXPLAINED, "-1"),  # 2 - 3
        (settled("a", "2"), [charge("a", "2"), charge("a", "2")], Kind.UNEXPLAINED, "-2"),  # 2 - (2 + 2)
        ([*settled("a", "2"), entry("a", EntryKind.CORRECT, "2")], [charge("a", "2")], Kind.UNEXPLAINED, "2"),
        (settled("a", "2"), [charge("a", "2", user="2")], Kind.UNEXPLAINED, "0"),  # another user paid
        (settled("a", "2"), [charge("a", "2", day=date(2024, 2, 27))], Kind.UNEXPLAINED, "0"),  # on another day
        (settled("a", "0"), [charge("a", "2")], Kind.UNEXPLAINED, "-2"),
        ([entry("a", EntryKind.RESERVE, "9"), entry("a", EntryKind.VOID)], [charge("a", "2")], None, "-2"),
    ],
)
def test_each_way_to_be_wrong_has_its_name(
    entries: list[Entry], lines: list[BillLine], kind: Kind | None, difference: str
) -> None:
    found = reconcile("s", entries, bill(*lines))
    assert not found.matches
    [fault] = found.faults
    assert kind is None or fault.kind is kind
    assert found.difference == fault.difference == Usd(difference)
    assert "a" in str(found)


def test_two_errors_that_cancel_each_other_in_the_total_are_both_seen() -> None:
    found = reconcile("s", [*settled("a", "3"), *settled("b", "1")], bill(charge("a", "1"), charge("b", "3")))
    assert found.difference == ZERO  # 3 + 1 - (1 + 3)
    assert not found.matches
    assert [(fault.operation_id, fault.difference) for fault in found.faults] == [("a", Usd("2")), ("b", Usd("-2"))]


def test_a_dropped_entry_and_an_invented_one_of_the_same_amount_are_both_seen() -> None:
    found = reconcile("s", settled("invented", "2"), bill(charge("dropped", "2")))
    assert found.difference == ZERO
    assert kinds(found) == {"dropped": Kind.MISSING_IN_LEDGER, "invented": Kind.MISSING_IN_BILL}
    assert not found.matches


def test_time_that_nobody_booked_is_unattributed_and_no_fault() -> None:
    found = reconcile("s", settled("a", "2"), bill(charge("a", "2"), charge("process/1", "5", user="")))
    assert found.matches
    assert found.unattributed == Usd("5")
    assert found.bill_total == found.ledger_total + found.unattributed == Usd("7")  # 2 + 5


def test_an_operation_in_doubt_is_told_and_is_no_fault_until_the_bill_charges_it() -> None:
    in_doubt = [entry("a", EntryKind.RESERVE, "9"), entry("a", EntryKind.START)]
    found = reconcile("s", in_doubt, bill())
    assert kinds(found) == {"a": Kind.IN_DOUBT}
    assert found.matches
    assert found.table().records()[1]["operations"] == 1
    charged = reconcile("s", in_doubt, bill(charge("a", "2")))
    assert not charged.matches  # money left, and the ledger has not booked it
    assert charged.difference == Usd("-2")


def test_a_correction_that_mends_an_entry_makes_the_books_match_again() -> None:
    wrong = settled("a", "5")
    right = [*wrong, entry("a", EntryKind.CORRECT, "-3")]
    assert not reconcile("s", wrong, bill(charge("a", "2"))).matches
    assert reconcile("s", right, bill(charge("a", "2"))).matches  # 5 - 3


def test_what_was_booked_against_another_source_is_no_business_of_this_bill() -> None:
    found = reconcile("s", [*settled("a", "1"), *settled("b", "2", source="aws")], bill(charge("a", "1")))
    assert found.matches
    assert found.ledger_total == Usd("1")


def test_the_table_shows_every_kind_then_unattributed_then_the_total() -> None:
    found = reconcile("s", [*settled("a", "3"), *settled("b", "1")], bill(charge("a", "3"), charge("n", "5", user="")))
    rows = {row["kind"]: row for row in found.table().records()}
    assert list(rows) == [*map(str, Kind), "unattributed", "total"]
    assert rows["matched"]["operations"] == rows["missing in the bill"]["operations"] == 1
    assert rows["total"]["difference in USD"] == "1.000000000000"  # 3 + 1 + 5 - (3 + 5)
    assert "missing in the bill: b (2024-02-28)" in found.table().notes


AMOUNTS = st.integers(1, 5).map(lambda dollars: f"{dollars}")


@given(
    booked=st.dictionaries(st.sampled_from("abcde"), AMOUNTS),
    billed=st.dictionaries(st.sampled_from("abcde"), AMOUNTS),
    nobody=st.integers(0, 5),
)
def test_the_books_match_exactly_when_every_operation_does(
    booked: dict[str, str], billed: dict[str, str], nobody: int
) -> None:
    entries = [one for hold, amount in booked.items() for one in settled(hold, amount)]
    lines = [charge(hold, amount) for hold, amount in billed.items()]
    found = reconcile("s", entries, bill(*lines, charge("process/1", str(nobody), user="")))
    assert found.matches == (booked == billed)
    wrong = {hold for hold in booked.keys() | billed.keys() if booked.get(hold) != billed.get(hold)}
    assert {fault.operation_id for fault in found.faults} == wrong
    assert all(fault.kind in FAULTS for fault in found.faults)
    assert found.difference.pico == sum(Usd(v).pico for v in booked.values()) - sum(
        Usd(v).pico for v in billed.values()
    )


# ── a real metered run ────────────────────────────────────────────────────────────────────────────────────────────────


def work(parts: Parts, user: str | None = None) -> str:
    """One operation that takes real CPU time, metered and booked; its id."""
    with parts.treasury.spending(user, LOCAL, "hash", Usd("0.001")) as spending:
        hashlib.sha256(bytes(2_000_000)).digest()
    return spending.hold.hold_id


@pytest.fixture
def worked(parts: Parts) -> tuple[Parts, list[str]]:
    """Three operations of two users, on the meter's bill and in the ledger."""
    parts.users.add("ada")
    ids = [work(parts), work(parts, "ada"), work(parts, "ada")]
    return parts, ids


def tamper(parts: Parts, *statements: str) -> None:
    """What no code path can do: raw SQL, with the triggers that keep the ledger out of the way."""
    with parts.database.hot() as driver:
        for trigger in ("entries_no_delete", "entries_no_update"):
            driver.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            driver.execute(statement)


def test_after_real_metered_work_ledger_and_unattributed_are_the_bill_to_the_last_unit(
    worked: tuple[Parts, list[str]],
) -> None:
    parts, ids = worked
    found = parts.treasury.reconcile()
    assert found.matches
    assert f"{found.difference:.12f}" == "0.000000000000"
    assert {line.operation_id for line in found.lines} == set(ids)
    assert all(line.bill > ZERO for line in found.lines)
    assert found.unattributed > ZERO  # this process ran before and between the operations


def test_one_dropped_entry_is_missing_in_the_ledger(worked: tuple[Parts, list[str]]) -> None:
    parts, ids = worked
    tamper(parts, f"DELETE FROM entries WHERE hold_id = '{ids[1]}'")
    found = parts.treasury.reconcile()
    assert not found.matches
    assert [(f.kind, f.operation_id) for f in found.faults] == [(Kind.MISSING_IN_LEDGER, ids[1])]
    assert found.difference == -found.faults[0].bill != ZERO


def test_a_dropped_settle_alone_is_a_fault_too(worked: tuple[Parts, list[str]]) -> None:
    parts, ids = worked
    tamper(parts, f"DELETE FROM entries WHERE hold_id = '{ids[1]}' AND kind = 'settle'")
    found = parts.treasury.reconcile()
    assert not found.matches
    assert found.difference != ZERO


def test_an_entry_doubled_by_a_correction_of_the_same_amount_is_unexplained(worked: tuple[Parts, list[str]]) -> None:
    parts, ids = worked
    cost = next(line.bill for line in parts.treasury.reconcile().lines if line.operation_id == ids[0])
    parts.budget.correct(ids[0], cost, "booked a second time by mistake")
    found = parts.treasury.reconcile()
    assert not found.matches
    assert [(f.kind, f.operation_id, f.difference) for f in found.faults] == [(Kind.UNEXPLAINED, ids[0], cost)]
    parts.budget.correct(ids[0], -cost, "taken back")
    assert parts.treasury.reconcile().matches


def test_an_entry_doubled_by_raw_sql_is_unexplained(worked: tuple[Parts, list[str]]) -> None:
    parts, ids = worked
    columns = "hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us"
    tamper(
        parts,
        "DROP INDEX uq_entries_step",
        f"INSERT INTO entries ({columns}) SELECT {columns} FROM entries WHERE hold_id = '{ids[2]}' AND kind = 'settle'",
    )
    found = parts.treasury.reconcile()
    assert not found.matches
    assert [(f.kind, f.operation_id, f.difference) for f in found.faults] == [
        (Kind.UNEXPLAINED, ids[2], found.faults[0].bill)
    ]


def test_money_moved_from_one_operation_to_another_is_seen_though_the_total_is_right(
    worked: tuple[Parts, list[str]],
) -> None:
    parts, ids = worked
    tamper(
        parts,
        f"UPDATE entries SET amount_pico = amount_pico - 7 WHERE hold_id = '{ids[0]}' AND kind = 'settle'",
        f"UPDATE entries SET amount_pico = amount_pico + 7 WHERE hold_id = '{ids[1]}' AND kind = 'settle'",
    )
    found = parts.treasury.reconcile()
    assert found.difference == ZERO
    assert not found.matches
    assert {f.operation_id: f.difference.pico for f in found.faults} == {ids[0]: -7, ids[1]: 7}


def test_cost_moved_from_one_user_to_another_is_seen_though_every_amount_is_right(
    worked: tuple[Parts, list[str]],
) -> None:
    parts, ids = worked
    me = parts.users.get("me")
    tamper(parts, f"UPDATE entries SET user_id = {me.id} WHERE hold_id = '{ids[1]}'")
    found = parts.treasury.reconcile()
    assert found.difference == ZERO
    assert [(f.kind, f.operation_id) for f in found.faults] == [(Kind.UNEXPLAINED, ids[1])]
    assert not found.matches


def test_time_that_this_process_used_and_nobody_booked_shows_as_unattributed(worked: tuple[Parts, list[str]]) -> None:
    parts, _ = worked
    before = parts.treasury.reconcile().unattributed
    for _ in range(20):
        hashlib.sha256(bytes(2_000_000)).digest()  # no hold, no begin: nobody asked
    parts.meter.flush()
    found = parts.treasury.reconcile()
    assert found.unattributed > before
    assert found.matches  # shown, so no difference
    assert found.bill_total == found.ledger_total + found.unattributed
    assert sum((line.bill for line in found.lines), ZERO) == found.ledger_total
    assert parts.treasury.bills.in_use.name == SOURCE

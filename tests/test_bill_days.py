"""Bill beside ledger by day, and API beside console: each rule of the tables in days.py and console_match.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.bills.bill import BadRow, Bill, BillLine, Provenance
from podcastqa.bills.console_match import Asked, ConsoleMatch, compare_with_console
from podcastqa.bills.days import DayKind, DayReconciliation, last_complete_day, reconcile_days
from podcastqa.clock import day_number
from podcastqa.errors import BillError
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import Entry, EntryKind, Operation
from tests.conftest import A_WEDNESDAY

pytestmark = pytest.mark.step1
FEBRUARY, MARCH = date(2024, 2, 1), date(2024, 3, 1)
MONDAY, TUESDAY, WEDNESDAY = (date(2024, 2, day) for day in (26, 27, 28))
CE, SES = "aws-cost-explorer", "aws-ses"
CE_ON_BILL, SES_ON_BILL = "AWS Cost Explorer", "Amazon Simple Email Service"
_ids = count(1)


def entry(
    hold: str, kind: EntryKind, amount: str = "0", *, day: date = MONDAY, service: str = CE, source: str = "aws"
) -> Entry:
    what = Operation(1, service, "o", source)
    return Entry(next(_ids), hold, kind, what, Usd(amount), day_number(day), A_WEDNESDAY, "why")


def booked(amount: str, day: date = MONDAY, service: str = CE, source: str = "aws") -> list[Entry]:
    hold = f"hold {next(_ids)}"
    steps = (EntryKind.RESERVE, "9"), (EntryKind.START, "0"), (EntryKind.SETTLE, amount)
    return [entry(hold, kind, cost, day=day, service=service, source=source) for kind, cost in steps]


def doubted(estimate: str, day: date = MONDAY) -> list[Entry]:
    hold = f"hold {next(_ids)}"
    return [entry(hold, EntryKind.RESERVE, estimate, day=day), entry(hold, EntryKind.START, day=day)]


def charge(amount: str, day: date = MONDAY, service: str = CE_ON_BILL, category: str = "Usage") -> BillLine:
    return BillLine(day, "", "", service, category, Usd(amount))


def bill(*lines: BillLine, covers: Iterable[date] | None = None, estimated: Iterable[date] = ()) -> Bill:
    told = None if covers is None else frozenset(covers)
    return Bill("aws", lines, (), Provenance("c", "a", "", A_WEDNESDAY, A_WEDNESDAY), told, frozenset(estimated))


def compared(
    entries: list[Entry],
    told: Bill,
    *,
    complete_through: date | None = TUESDAY,
    closed_before: date | None = None,
    by_service: bool = False,
    decimals: int = 12,
) -> DayReconciliation:
    return reconcile_days(
        "aws",
        entries,
        told,
        first=FEBRUARY,
        end=MARCH,
        complete_through=complete_through,
        closed_before=closed_before,
        by_service=by_service,
        decimals=decimals,
    )


# ── the rules, one by one ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("entries", "lines", "kind", "difference", "is_fault"),
    [
        (booked("0.01"), [charge("0.01")], DayKind.MATCHED, "0", False),
        ([*booked("0.01"), *booked("0.02")], [charge("0.03")], DayKind.MATCHED, "0", False),  # 0.01 + 0.02
        (booked("0.01"), [charge("0.01"), charge("50", category="Tax")], DayKind.MISSING_IN_LEDGER, "-50", False),
        ([], [charge("7")], DayKind.MISSING_IN_LEDGER, "-7", False),
        ([], [charge("-7", category="Adjustment")], DayKind.MISSING_IN_LEDGER, "7", False),  # nothing of ours
        (booked("0.02"), [charge("0.01")], DayKind.UNEXPLAINED, "0.01", True),
        (booked("0.02"), [charge("-1", category="Adjustment")], DayKind.UNEXPLAINED, "1.02", True),
        (booked("0.02"), [charge("0.019999999999")], DayKind.UNEXPLAINED, "0.000000000001", True),
        (booked("0.02"), [], DayKind.MISSING_IN_BILL, "0.02", False),  # the day is not closed
        (booked("0.02"), [charge("0")], DayKind.MISSING_IN_BILL, "0.02", False),  # told, and free of charge
    ],
)
def test_a_complete_day_has_the_kind_that_the_table_says(
    entries: list[Entry], lines: list[BillLine], kind: DayKind, difference: str, *, is_fault: bool
) -> None:
    found = compared(entries, bill(*lines))
    [row] = found.rows
    assert (row.kind, row.difference, row.is_fault) == (kind, Usd(difference), is_fault)
    assert found.matches is not is_fault


def test_a_credit_makes_no_difference_for_the_ledger_books_use() -> None:
    told = bill(charge("0.02"), charge("-0.02", category="Credit"), charge("-5", category="Refund"))
    [row] = compared(booked("0.02"), told).rows
    assert (row.kind, row.difference) == (DayKind.MATCHED, ZERO)  # 0.02 - 0.02: against net it would be 0.02 + 5
    assert (row.gross, row.credits, row.net) == (Usd("0.02"), Usd("-5.02"), Usd("-5"))


@pytest.mark.parametrize(
    ("on_bill", "kind"),
    [
        ("0.01", DayKind.MATCHED),  # what is in doubt was not charged
        ("0.02", DayKind.IN_DOUBT),  # 0.01 booked + 0.01 in doubt
        ("0.015", DayKind.IN_DOUBT),
        ("0.020000000001", DayKind.MISSING_IN_LEDGER),  # more than doubt explains
        ("0.005", DayKind.UNEXPLAINED),  # doubt adds to a bill, and takes nothing from it
    ],
)
def test_what_is_in_doubt_explains_that_much_more_on_the_bill(on_bill: str, kind: DayKind) -> None:
    [row] = compared([*booked("0.01"), *doubted("0.01")], bill(charge(on_bill))).rows
    assert (row.kind, row.ledger, row.in_doubt) == (kind, Usd("0.01"), Usd("0.01"))


@pytest.mark.parametrize("end", [EntryKind.SETTLE, EntryKind.VOID, EntryKind.EXPIRE])
def test_a_hold_that_has_ended_or_never_started_is_not_in_doubt(end: EntryKind) -> None:
    ended = [*doubted("5"), entry("x", EntryKind.RESERVE, "5"), entry("x", EntryKind.START), entry("x", end, "0")]
    [row] = compared([*ended, entry("y", EntryKind.RESERVE, "3")], bill()).rows
    assert row.in_doubt == Usd("5")


def test_a_correction_counts_on_the_day_of_its_hold() -> None:
    [row] = compared([*booked("0.03"), entry("x", EntryKind.CORRECT, "-0.01")], bill(charge("0.02"))).rows
    assert row.kind is DayKind.MATCHED  # 0.03 - 0.01


def test_a_day_after_the_last_complete_one_is_late_whatever_it_says() -> None:
    entries = [*booked("0.02"), *booked("0.02", TUESDAY), *booked("0.02", WEDNESDAY)]
    found = compared(entries, bill(charge("0.02"), charge("0.01", WEDNESDAY)), complete_through=MONDAY)
    assert [row.kind for row in found.rows] == [DayKind.MATCHED, DayKind.LATE, DayKind.LATE]
    assert found.matches
    assert {row.kind for row in compared(entries, bill(), complete_through=None).rows} == {DayKind.LATE}


def test_what_the_bill_does_not_have_is_a_fault_once_the_day_is_closed() -> None:
    assert compared(booked("0.02"), bill()).matches
    assert compared(booked("0.02"), bill(), closed_before=MONDAY).matches  # Monday itself is not before Monday
    closed = compared(booked("0.02"), bill(), closed_before=TUESDAY)
    assert [(row.kind, row.is_closed) for row in closed.faults] == [(DayKind.MISSING_IN_BILL, True)]
    assert "FAULT: missing in the bill: 2024-02-26, $0.02 booked, $0.00 billed." in closed.table().notes


def test_a_day_that_the_provider_still_calls_estimated_is_not_closed() -> None:
    assert compared(booked("0.02"), bill(estimated=[MONDAY]), closed_before=MARCH).matches


def test_a_day_that_the_bill_does_not_speak_of_is_judged_by_nothing() -> None:
    found = compared([*booked("0.02"), *booked("0.02", TUESDAY)], bill(covers=[TUESDAY]), closed_before=MARCH)
    assert [(row.day, row.kind) for row in found.rows] == [
        (MONDAY, DayKind.NOT_COVERED),
        (TUESDAY, DayKind.MISSING_IN_BILL),
    ]
    assert [row.day for row in found.faults] == [TUESDAY]


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["0.0000000002"], DayKind.UNEXPLAINED),
        (["0.0000000001", "0.0000000001"], DayKind.MATCHED),
    ],
)
def test_each_line_of_ten_decimals_may_be_off_by_half_of_the_last(lines: list[str], kind: DayKind) -> None:
    entries = booked("0.000000000251")  # 251 pico against 200: 51 is more than 50 for one line, less than 100 for two
    [row] = compared(entries, bill(*map(charge, lines)), decimals=10).rows
    assert row.kind is kind
    assert compared(entries, bill(*map(charge, lines))).rows[0].kind is DayKind.UNEXPLAINED  # at twelve, never


def test_other_sources_and_other_days_are_no_part_of_it() -> None:
    entries = [*booked("1", source="local-meter"), *booked("1", MARCH), *booked("1", date(2024, 1, 31))]
    assert compared(entries, bill(charge("1", MARCH), charge("1", date(2024, 1, 31)))).rows == ()


def test_errors_of_two_days_that_cancel_out_are_both_seen() -> None:
    found = compared([*booked("3"), *booked("1", TUESDAY)], bill(charge("1"), charge("3", TUESDAY)))
    assert [(row.kind, row.difference) for row in found.rows] == [
        (DayKind.UNEXPLAINED, Usd("2")),  # 3 - 1
        (DayKind.MISSING_IN_LEDGER, Usd("-2")),  # 1 - 3
    ]
    assert found.table().records()[-1]["difference in USD"] == "0.000000000000"
    assert {r["kind"]: r["difference in USD"] for r in found.by_kind().records() if r["days"] == 1} == {
        "unexplained": "2.000000000000",
        "missing in the ledger": "-2.000000000000",
    }


# ── by service ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ce", "ses"), [(CE_ON_BILL, SES_ON_BILL), ("Cost Explorer", "SES"), ("AWSCostExplorer", "AmazonSES")]
)
def test_our_services_are_found_by_each_of_their_names_on_a_bill(ce: str, ses: str) -> None:
    entries = [*booked("0.01"), *booked("0.0002", service=SES)]
    found = compared(entries, bill(charge("0.01", service=ce), charge("0.0002", service=ses)), by_service=True)
    assert [(row.service, row.kind) for row in found.rows] == [
        (CE_ON_BILL, DayKind.MATCHED),
        (SES_ON_BILL, DayKind.MATCHED),
    ]


def test_a_services_row_shows_what_the_days_total_hides() -> None:
    entries, told = booked("0.02"), bill(charge("0.01"), charge("9", service="Amazon EC2"))
    assert compared(entries, told).matches  # 0.02 booked, 9.01 billed: others used the account
    found = compared(entries, told, by_service=True)
    assert [(row.service, row.kind) for row in found.rows] == [
        (CE_ON_BILL, DayKind.UNEXPLAINED),
        ("Amazon EC2", DayKind.MISSING_IN_LEDGER),
    ]
    assert found.table().records()[0]["service"] == CE_ON_BILL
    assert [row.service for row in found.faults] == [CE_ON_BILL]


def test_a_bill_that_names_no_services_cannot_be_compared_by_them() -> None:
    with pytest.raises(BillError, match="does not say for which services"):
        compared(booked("1"), bill(charge("1", service="")), by_service=True)
    assert compared(booked("1"), bill(), by_service=True).rows[0].kind is DayKind.MISSING_IN_BILL


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_record_is_json_with_every_row_and_the_total_of_each_kind() -> None:
    told = bill(charge("0.02"), charge("-0.01", category="Credit"))
    record = json.loads(json.dumps(compared(booked("0.03"), told, closed_before=FEBRUARY).record()))
    assert (record["source"], record["first"], record["end"]) == ("aws", "2024-02-01", "2024-03-01")
    assert (record["complete_through"], record["closed_before"], record["matches"]) == (
        "2024-02-27",
        "2024-02-01",
        False,
    )
    [row] = record["rows"]
    assert (row["day"], row["kind"], row["fault"]) == ("2024-02-26", "unexplained", True)
    assert row["bill net in USD"] == "0.010000000000"  # 0.02 - 0.01
    assert [kind["kind"] for kind in record["kinds"]] == [*map(str, DayKind), "total"]


def test_a_stale_bill_and_its_bad_rows_stand_beside_the_result() -> None:
    told = replace(bill(charge("1")), bad_rows=(BadRow("f.csv line 2", "no"),), problem="Throttled.")
    assert compared(booked("1"), told).table().notes == (
        "The bill is stale: Throttled.",
        "Rows of the bill that could not be read, and are missing here: 1.",
    )


def test_of_many_faults_the_first_twenty_are_told_and_the_rest_counted() -> None:
    entries = [one for n in range(23) for one in booked("2", FEBRUARY + timedelta(days=n))]
    found = compared(entries, bill(*(charge("1", FEBRUARY + timedelta(days=n)) for n in range(23))))
    assert len(found.faults) == 23
    assert found.table().notes[-1] == "… and 3 more faults."


def test_nothing_at_all_is_a_table_of_a_total_of_nothing() -> None:
    found = compared([], bill())
    assert (found.rows, found.matches) == ((), True)
    assert found.table().records()[-1]["ledger in USD"] == "0.000000000000"


def test_a_day_is_complete_when_its_last_instant_is() -> None:
    def until(*when: int) -> Bill:
        provenance = Provenance("c", "a", "", A_WEDNESDAY, datetime(*when, tzinfo=UTC) if when else None)  # type: ignore[arg-type, misc]
        return replace(bill(), provenance=provenance)

    assert last_complete_day(until(2024, 2, 27)) == MONDAY  # midnight before Tuesday
    assert last_complete_day(until(2024, 2, 27, 23, 59)) == MONDAY
    assert last_complete_day(until()) is None


CENTS = st.integers(0, 9)


@given(
    days=st.dictionaries(st.integers(1, 29), st.tuples(CENTS, CENTS, CENTS, CENTS), min_size=1),
    complete=st.integers(0, 29),
    closed=st.integers(1, 29),
)
def test_sums_stand_and_only_less_on_a_complete_bill_is_a_fault(
    days: dict[int, tuple[int, int, int, int]], complete: int, closed: int
) -> None:
    entries, lines = [], []
    for number, (use, credit, ledger, doubt) in days.items():
        day = date(2024, 2, number)
        entries += [*booked(f"0.0{ledger}", day), *doubted(f"0.0{doubt}", day)]
        lines += [charge(f"0.0{use}", day), charge(f"-0.0{credit}", day, category="Credit")]
    told, through = bill(*lines), date(2024, 1, 31) + timedelta(days=complete)
    found = compared(entries, told, complete_through=through, closed_before=date(2024, 2, closed))
    assert len(found.rows) == len(days)
    assert sum((row.net for row in found.rows), ZERO) == told.net
    assert sum((row.gross for row in found.rows), ZERO) == told.gross
    assert sum(len(found.of_kind(kind)) for kind in DayKind) == len(found.rows)
    for row in found.rows:
        use, _, ledger, _ = days[row.day.day]
        is_less = row.day <= through and use < ledger
        assert row.is_fault == (is_less and (use > 0 or row.day.day < closed))
        assert (row.kind is DayKind.LATE) == (row.day > through)


# ── the API beside the console ────────────────────────────────────────────────────────────────────────────────────────


def console(told: Bill, closed_before: date | None = None, **days: str) -> ConsoleMatch:
    """Days by name: d26="1.5"."""
    shown = {date(2024, 2, int(name[1:])): Usd(amount) for name, amount in days.items()}
    return compare_with_console(told, shown, complete_through=TUESDAY, closed_before=closed_before)


@pytest.mark.parametrize(
    ("amount", "holds"), [("1.01", True), ("0.99", True), ("1.0100000001", False), ("0.98", False)]
)
def test_a_complete_day_may_differ_by_a_cent(amount: str, *, holds: bool) -> None:
    found = console(bill(charge("1")), d26=amount)
    assert (found.holds, found.days[0].asked) == (holds, Asked.CENT)


@pytest.mark.parametrize(
    ("amount", "holds"),
    [("1", True), ("1.00000000005", True), ("1.000000000051", False), ("1.0000000001", False), ("1.01", False)],
)
def test_a_day_of_a_closed_month_is_zero_at_ten_decimals(amount: str, *, holds: bool) -> None:
    found = console(bill(charge("1")), closed_before=MARCH, d26=amount)
    assert (found.holds, found.days[0].asked) == (holds, Asked.EXACT)


def test_credits_count_for_the_console_shows_net() -> None:
    assert console(bill(charge("3"), charge("-2", category="Credit")), d26="1").holds  # 3 - 2


def test_a_day_that_is_still_estimated_is_asked_to_a_cent() -> None:
    told = bill(charge("1"), estimated=[MONDAY])
    assert console(told, closed_before=MARCH, d26="1.01").holds


def test_late_days_are_shown_and_not_judged() -> None:
    found = console(bill(charge("1", WEDNESDAY)), d28="77")
    assert (found.holds, found.judged, found.faults) == (None, (), ())
    assert found.table().records()[0]["holds"] == "not judged"
    assert found.days[0].difference == Usd("-76")  # 1 - 77
    assert console(bill(charge("1"), charge("1", WEDNESDAY)), d26="1", d28="77").holds  # Monday alone


def test_days_that_one_side_does_not_cover_do_not_hold() -> None:
    found = console(bill(charge("1"), covers=[MONDAY]), d26="1", d27="0")
    assert [day.holds for day in found.days] == [True, False]
    assert found.table().records()[1]["API net in USD"] == "not covered"
    assert found.table().notes == ("2024-02-27 is not covered by the bill.",)
    hole = console(bill(charge("1"), charge("1", TUESDAY)), d26="1", d28="1")
    assert [(day.day, day.console) for day in hole.faults] == [(TUESDAY, None)]


def test_days_outside_the_consoles_file_are_no_part_of_it_and_an_empty_file_judges_nothing() -> None:
    told = bill(charge("1"), charge("1", TUESDAY))
    assert [day.day for day in console(told, d27="1").days] == [TUESDAY]
    assert console(told).holds is None
    assert console(told).table().rows[-1][0] == "total"


def test_a_day_without_charges_matches_the_consoles_zero() -> None:
    assert console(bill(), d26="0").holds


def test_the_record_of_a_match_is_json_and_says_by_how_much_a_day_is_off() -> None:
    found = console(bill(charge("1")), d26="3")
    assert json.loads(json.dumps(found.record()))["days"][0]["difference in USD"] == "-2.000000000000"  # 1 - 3
    assert "2024-02-26 differs by -$2.00, asked: within $0.01." in str(found)

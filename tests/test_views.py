"""Views: users (or services, or days) and unattributed are the whole to the last unit, whatever the bill says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podcastqa.clock import day_number
from podcastqa.money import ZERO, Usd
from podcastqa.spend import views
from podcastqa.spend.entries import EntryKind, Operation
from podcastqa.wiring import Parts
from tests.conftest import A_WEDNESDAY, SetClock

pytestmark = pytest.mark.step1
SOURCES, SERVICES = ("meter", "aws", "own"), ("compute", "transcribe", "mail")
SPAN_DAYS = 5
_ids = count(1)


@dataclass(frozen=True)
class Booked:
    """A settled hold: which day of the span, whose, on which bill, for what; and what was corrected later."""

    day: int
    user: int
    source: str
    service: str
    estimate: int
    actual: int
    correction: int


@dataclass(frozen=True)
class Billed:
    """What a source's bill says of a day: for user 0, the whole of it."""

    day: int
    source: str
    user: int
    gross: int


PICOS = st.integers(0, 3 * 10**18)  # past what a float can count one by one
BOOKED = st.builds(
    Booked,
    day=st.integers(0, SPAN_DAYS - 1),
    user=st.integers(1, 3),
    source=st.sampled_from(SOURCES),
    service=st.sampled_from(SERVICES),
    estimate=PICOS,
    actual=PICOS,
    correction=st.integers(-(10**18), 10**18),
)
BILLED = st.builds(
    Billed,
    day=st.integers(0, SPAN_DAYS - 1),
    source=st.sampled_from(SOURCES),
    user=st.integers(0, 3),
    gross=PICOS,
)


def write(parts: Parts, first: date, booked: list[Booked], billed: list[Billed]) -> None:
    """Through the ledger's own door, as the guard does it, on the day of each."""
    clock, noon = parts.clock, datetime(first.year, first.month, first.day, 12, tzinfo=UTC)
    assert isinstance(clock, SetClock)
    now = clock.instant
    for one in booked:
        clock.instant = noon + timedelta(days=one.day)
        what = Operation(one.user, one.service, "op", one.source)
        with parts.ledger.writing() as books:
            hold = books.open(f"h{next(_ids)}", what, Usd.from_pico(one.estimate), timedelta(hours=1), None)
            books.close(EntryKind.SETTLE, hold, Usd.from_pico(one.actual), books.now)
            if one.correction:
                books.correct(hold, Usd.from_pico(one.correction), books.now, "a correction")
    clock.instant = now
    for source in SOURCES:
        days = {(day_number(first) + b.day, b.user): Usd.from_pico(b.gross) for b in billed if b.source == source}
        parts.ledger.put_bill(source, [(*key, gross, gross) for key, gross in days.items()], A_WEDNESDAY)


def plain_days(booked: list[Booked], billed: list[Billed], user: int | None) -> tuple[int, int]:
    """(whole cost, booked) in pico-dollars, by the rule as the design words it, in plain Python."""
    sums: dict[tuple[str, int], int] = defaultdict(int)
    for one in booked:
        if user in (None, one.user):
            sums[one.source, one.day] += one.actual + one.correction
    bills = {(b.source, b.day): b.gross for b in billed if b.user == (user or 0)}
    whole = sum(max(sums.get(key, 0), bills.get(key, 0)) for key in sums.keys() | bills.keys())
    return whole, sum(sums.values())


def plain_users(booked: list[Booked], billed: list[Billed], user: int | None) -> dict[int, int]:
    """What each user cost in pico-dollars: the larger of both, as long as the users do not exceed the day's whole."""
    costs: dict[int, int] = {b.user: 0 for b in booked if user in (None, b.user)}
    for source, day in {(b.source, b.day) for b in (*booked, *billed)}:
        mine: dict[int, int] = defaultdict(int)
        for one in booked:
            if (one.source, one.day) == (source, day) and user in (None, one.user):
                mine[one.user] += one.actual + one.correction
        told = {b.user: b.gross for b in billed if (b.source, b.day) == (source, day)}
        tags = {who: gross for who, gross in told.items() if who and user in (None, who)}
        whole, sure = told.get(user or 0, 0), sum(mine.values())
        shares = {who: max(mine.get(who, 0), tags.get(who, 0)) for who in {*mine, *tags}}
        if sum(shares.values()) > max(whole, sure):
            shares = tags if whole > sure else mine
        for who, share in shares.items():
            costs[who] = costs.get(who, 0) + share
    return {who: cost for who, cost in costs.items() if cost or any(b.user == who for b in booked)}


@pytest.fixture
def people(parts: Parts) -> dict[int, str]:
    for name in ("ada", "bob", "cy"):
        parts.users.add(name)
    return parts.users.names()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(booked=st.lists(BOOKED, max_size=20), billed=st.lists(BILLED, max_size=12))
def test_the_parts_and_unattributed_are_the_whole_and_the_whole_is_what_plain_python_counts(
    parts: Parts, people: dict[int, str], booked: list[Booked], billed: list[Billed]
) -> None:
    first = date(2001, 1, 1) + timedelta(days=20 * next(_ids))  # each example has days of its own in the same books
    write(parts, first, booked, billed)
    span = (day_number(first), day_number(first) + SPAN_DAYS - 1)
    for user in (None, 1):
        whole, sure = plain_days(booked, billed, user)
        by_user = views.by_group(parts.mirror, "user", *span, user, people)
        for answer in (
            by_user,
            views.by_group(parts.mirror, "service", *span, user, {}),
            views.by_day(parts.mirror, *span, user),
        ):
            assert answer.total_cost.pico == whole
            assert sum(part.cost.pico for part in answer.parts) + answer.unattributed_cost.pico == whole
            if answer is not by_user:
                assert answer.unattributed_cost.pico == whole - sure >= 0
        users = plain_users(booked, billed, user)
        assert {part.name: part.cost.pico for part in by_user.parts} == {people[who]: c for who, c in users.items()}
    promised = views.variance(parts.mirror, *span, None)
    assert {row.service: (row.calls, row.estimate.pico, row.actual.pico, row.overruns) for row in promised.rows} == {
        service: (
            len(mine),
            sum(one.estimate for one in mine),
            sum(one.actual for one in mine),
            sum(one.actual > one.estimate for one in mine),
        )
        for service in {one.service for one in booked}
        if (mine := [one for one in booked if one.service == service])
    }


@pytest.fixture
def book(parts: Parts, people: dict[int, str]) -> Callable[..., None]:
    """Book so many dollars: `book("ada", "3", service="mail", days_ago=1, estimate="4")`."""

    def books(
        user: str, actual: str, *, service: str = "mail", op: str = "op", estimate: str | None = None, ago: int = 0
    ) -> None:
        assert isinstance(parts.clock, SetClock)
        parts.clock.forward(days=-ago)
        with parts.treasury.spending(user, service, op, Usd(estimate or actual)) as spending:
            spending.settle(Usd(actual))
        parts.clock.forward(days=ago)

    return books


def rows(answer: views.CostSummary) -> dict[str, tuple[str, int]]:
    return {part.name: (f"{part.cost:.2f}", part.operations) for part in answer.parts}


def test_spend_by_user_by_service_and_by_day_is_the_same_money_cut_three_ways(
    parts: Parts, book: Callable[..., None]
) -> None:
    book("ada", "1.00", service="mail", ago=2)
    book("ada", "0.50", service="transcribe")
    book("bob", "0.25", service="mail")
    treasury = parts.treasury
    assert rows(treasury.by_user()) == {"ada": ("1.50", 2), "bob": ("0.25", 1)}  # 1.00 + 0.50
    assert rows(treasury.by_service()) == {"mail": ("1.25", 2), "transcribe": ("0.50", 1)}  # 1.00 + 0.25
    assert rows(treasury.by_day()) == {"2024-02-26": ("1.00", 1), "2024-02-28": ("0.75", 2)}  # 0.50 + 0.25
    totals = {answer.total_cost for answer in (treasury.by_user(), treasury.by_service(), treasury.by_day())}
    assert totals == {Usd("1.75")}
    assert treasury.summary().total_cost == Usd("1.75")


def test_the_last_seven_days_begin_six_days_ago_and_hold_today(parts: Parts, book: Callable[..., None]) -> None:
    for ago, amount in ((0, "1"), (6, "2"), (7, "4")):
        book("ada", amount, ago=ago)
    assert parts.treasury.summary(7).total_cost == Usd("3")  # 1 + 2
    assert parts.treasury.summary(8).total_cost == Usd("7")  # 1 + 2 + 4
    assert parts.treasury.summary(1).total_cost == Usd("1")
    assert str(parts.treasury.summary(7).span) == "2024-02-22 to 2024-02-28 UTC"


def test_one_users_view_holds_that_users_money_only(parts: Parts, book: Callable[..., None]) -> None:
    book("ada", "1")
    book("bob", "2")
    for answer in (
        parts.treasury.by_user(7, "ada"),
        parts.treasury.by_service(7, "ada"),
        parts.treasury.by_day(7, "ada"),
    ):
        assert answer.total_cost == Usd("1")
    assert rows(parts.treasury.by_user(7, "ada")) == {"ada": ("1.00", 1)}


def test_what_the_bill_has_beyond_the_ledger_is_unattributed_by_the_day(
    parts: Parts, book: Callable[..., None]
) -> None:
    book("ada", "3")
    book("ada", "1", ago=1)
    today = day_number(A_WEDNESDAY.date())
    bill = [(today, 0, Usd("2"), Usd("2")), (today - 1, 0, Usd("5"), Usd("5"))]
    parts.ledger.put_bill("own-estimate", bill, A_WEDNESDAY)
    answer = parts.treasury.by_user()
    assert answer.unattributed_cost == Usd("4")  # today max(3, 2) - 3 = 0; yesterday max(1, 5) - 1 = 4
    assert answer.total_cost == Usd("8")  # 3 + 5
    assert [row["cost in USD"] for row in answer.table().records()][-2:] == ["4.000000000000", "8.000000000000"]


def test_a_user_whom_the_bill_names_is_shown_with_what_it_says(parts: Parts, book: Callable[..., None]) -> None:
    book("ada", "3")
    ada, bob = (parts.users.get(name).id for name in ("ada", "bob"))
    today = day_number(A_WEDNESDAY.date())
    bill = [(today, 0, Usd("9"), Usd("9")), (today, ada, Usd("4"), Usd("4")), (today, bob, Usd("2"), Usd("2"))]
    parts.ledger.put_bill("own-estimate", bill, A_WEDNESDAY)
    answer = parts.treasury.by_user()
    assert rows(answer) == {"ada": ("4.00", 1), "bob": ("2.00", 0)}  # ada max(3, 4); bob max(0, 2)
    assert (answer.unattributed_cost, answer.total_cost) == (Usd("3"), Usd("9"))  # max(3, 9) - 4 - 2


def test_a_deleted_users_spend_stays_without_the_name(parts: Parts, book: Callable[..., None]) -> None:
    book("ada", "1")
    number = parts.users.delete("ada").id
    assert rows(parts.treasury.by_user()) == {f"deleted user {number}": ("1.00", 1)}


def test_a_hold_that_is_open_or_void_costs_nothing_in_any_view(parts: Parts, people: dict[int, str]) -> None:
    with parts.treasury.spending("ada", "mail", "op", Usd("1")) as spending:
        assert parts.treasury.summary().total_cost == ZERO
        spending.void("never sent")
    answer = parts.treasury.by_user()
    assert (answer.total_cost, rows(answer)) == (ZERO, {"ada": ("0.00", 1)})
    assert parts.treasury.variance().rows == ()


def test_variance_is_estimate_beside_actual_for_each_operation(parts: Parts, book: Callable[..., None]) -> None:
    book("ada", "0.8", op="send", estimate="1")
    book("ada", "1.5", op="send", estimate="1")
    book("bob", "0.1", op="check")
    found = {row.operation: row for row in parts.treasury.variance().rows}
    send = found["send"]
    assert (send.calls, send.estimate, send.actual, send.overruns) == (2, Usd("2"), Usd("2.3"), 1)
    assert send.difference == Usd("0.3")  # 0.8 + 1.5 - (1 + 1)
    assert (found["check"].difference, found["check"].overruns) == (ZERO, 0)
    assert [row.operation for row in parts.treasury.variance(7, "bob").rows] == ["check"]


def test_nothing_spent_is_a_table_of_zeros(parts: Parts) -> None:
    answer = parts.treasury.by_user()
    assert (answer.parts, answer.total_cost) == ((), ZERO)
    assert [row["user"] for row in answer.table().records()] == ["unattributed", "total"]
    assert parts.treasury.variance().table().rows == ()


def test_an_answer_says_how_fresh_it_is(parts: Parts, book: Callable[..., None]) -> None:
    book("ada", "1")
    assert parts.treasury.summary().table().notes == ("As of 2024-02-28 12:00:00 UTC.",)


def test_a_view_goes_to_pandas_as_exact_decimals(parts: Parts, book: Callable[..., None]) -> None:
    book("ada", "0.000000000001")
    book("bob", "1000", estimate="0.1")
    frame = parts.treasury.by_user().to_frame()
    assert list(frame["cost in USD"]) == [Decimal(n) for n in ("1E-12", "1000", "0", "1000.000000000001")]
    assert list(frame.columns) == ["user", "cost in USD", "operations"]


def test_a_view_never_forgets_a_row_that_was_booked_a_moment_ago(parts: Parts, book: Callable[..., None]) -> None:
    seen = []
    for _ in range(3):
        book("ada", "0.1")
        seen.append(parts.treasury.summary().total_cost)
    assert seen == [Usd("0.1"), Usd("0.2"), Usd("0.3")]

"""The guard against a model of it in plain Python: whatever is done in whichever order, both say the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podcastqa.clock import WindowKind, day_number, windows
from podcastqa.database import open_database
from podcastqa.errors import (
    BadEstimate,
    EmergencyStopped,
    HoldError,
    HoldExpired,
    HoldIdReused,
    HoldResolved,
    HoldUnknown,
    LimitMissing,
    Misuse,
    OverLimit,
    PodcastQAError,
    Refused,
    UnknownUser,
)
from podcastqa.money import ZERO, Usd
from podcastqa.spend.budget import Budget
from podcastqa.spend.entries import EntryKind, Operation, hold_id_stem, new_hold_id
from podcastqa.spend.ledger import NOTHING, Ledger
from podcastqa.spend.status import budget_status
from podcastqa.users import User, Users
from podcastqa.wiring import Parts
from tests.conftest import A_WEDNESDAY, SetClock, operation
from tests.model import HOLD_FOR, Model, in_window

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

DAY, WEEK, MONTH = WindowKind
SYSTEM_LIMITS = {DAY: Usd("0.000000000100"), WEEK: Usd("0.000000000150"), MONTH: Usd("0.000000000200")}
USER_LIMITS = {DAY: Usd("0.000000000060"), WEEK: Usd("0.000000000080"), MONTH: Usd("0.000000000120")}
QUICK = settings(max_examples=40, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck))


# ── the same steps for both ──────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Guard:
    """The real one, in a folder of its own."""

    budget: Budget
    ledger: Ledger
    clock: SetClock
    users: tuple[User, User]

    def outcome(self, call: Callable[[], object]) -> str:
        try:
            call()
        except OverLimit as refusal:
            return f"OverLimit {refusal.scope} {refusal.window}"
        except PodcastQAError as refusal:
            return type(refusal).__name__
        return ""


@contextmanager
def a_guard(migrated: Path, now: datetime = A_WEDNESDAY) -> Iterator[Guard]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(migrated, Path(folder) / "podcastqa.sqlite")
        database, clock = open_database(f"sqlite:///{folder}/podcastqa.sqlite"), SetClock(now)
        ledger, users = Ledger(database, clock), Users(database, clock)
        budget = Budget(
            *(database, ledger, clock),
            system_limits=SYSTEM_LIMITS,
            user_limits=USER_LIMITS,
            hold_for=HOLD_FOR,
        )
        yield Guard(budget, ledger, clock, (users.add("ada"), users.add("bob")))
        database.close()


JUMPS = (
    *(HOLD_FOR - timedelta(microseconds=1), timedelta(microseconds=1), HOLD_FOR, HOLD_FOR, timedelta(hours=13)),
    *(timedelta(days=1), timedelta(days=7), timedelta(days=31), -timedelta(minutes=14), -timedelta(days=1)),
)
#: Just before a midnight that ends a day; a week; a February of a leap year; a year, with its last week in the next.
EDGES = (
    datetime(2024, 2, 27, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 3, 3, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2023, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 12, 29, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2020, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),  # 2021-01-01 is in week 53 of 2020
)
IDS, WHO = st.sampled_from([f"hold {n}" for n in range(8)]), st.integers(0, 1)
AMOUNTS, SOURCES = st.integers(0, 60), st.sampled_from(["s", "t"])
SPEND = st.one_of(
    *(st.tuples(st.just("reserve"), IDS, WHO, SOURCES, AMOUNTS) for _ in range(3)),
    st.tuples(st.just("start"), IDS),
    st.tuples(st.just("settle"), IDS, AMOUNTS),
    st.tuples(st.just("void"), IDS),
)
FORWARD = st.one_of(SPEND, SPEND, st.tuples(st.just("jump"), st.sampled_from(JUMPS[:8])))
STEPS = st.one_of(
    *(SPEND for _ in range(3)),
    st.tuples(st.just("book"), IDS, WHO, SOURCES, AMOUNTS),
    st.tuples(st.just("correct"), IDS, st.integers(-60, 60)),
    st.tuples(st.just("limit"), st.integers(0, 2), st.sampled_from(WindowKind), st.integers(0, 200)),
    st.tuples(st.just("stop"), st.booleans()),
    st.tuples(st.just("bill"), SOURCES, st.lists(st.tuples(st.integers(0, 3), WHO, AMOUNTS), max_size=3)),
    *(st.tuples(st.just("jump"), st.sampled_from(JUMPS)) for _ in range(3)),
    st.tuples(st.just("edge"), st.sampled_from(EDGES)),
)


def step(guard: Guard, model: Model, name: str, *words: Any) -> tuple[str, str]:
    """Do the step with both; (what the guard answered, what the model says it must)."""
    budget, clock = guard.budget, guard.clock
    if name in ("reserve", "book"):
        hold_id, who, source, pico = words
        what = operation(guard.users[who].id, source)
        call = budget.reserve if name == "reserve" else budget.book
        said = getattr(model, name)(hold_id, what, pico, clock.instant)
        return guard.outcome(lambda: call(what, Usd.from_pico(pico), hold_id)), said
    if name == "start":
        return guard.outcome(lambda: budget.start(words[0])), model.start(words[0], clock.instant)
    if name == "settle":
        hold_id, pico = words
        return guard.outcome(lambda: budget.settle(hold_id, Usd.from_pico(pico))), model.settle(hold_id, pico)
    if name == "void":
        return guard.outcome(lambda: budget.void(words[0], "nothing was charged")), model.void(words[0])
    if name == "correct":
        hold_id, pico = words
        said = model.correct(hold_id, pico)
        return guard.outcome(lambda: budget.correct(hold_id, Usd.from_pico(pico), "was wrong")), said
    return decide(guard, model, name, *words), ""


def decide(guard: Guard, model: Model, name: str, *words: Any) -> str:
    """The steps that are never refused."""
    if name == "limit":
        who, kind, pico = words
        scope = (0, *(user.id for user in guard.users))[who]
        model.say_limit(scope, kind, pico, guard.clock.instant)
        guard.budget.set_limit(scope, kind, Usd.from_pico(pico), by="ada", reason="test")
    elif name == "stop":
        model.stopped = words[0]
        (guard.budget.stop if words[0] else guard.budget.release)(by="ada", reason="test")
    elif name == "bill":
        source, lines = words
        for key in [key for key in model.bills if key[2] == source]:
            del model.bills[key]
        for ago, who, pico in lines:
            for scope in (0, guard.users[who].id):
                key = scope, guard.clock.instant.date() - timedelta(days=ago), source
                model.bills[key] = model.bills.get(key, 0) + pico
        rows = [
            (day_number(day), scope, Usd.from_pico(pico), ZERO)
            for (scope, day, billed), pico in model.bills.items()
            if billed == source
        ]
        guard.ledger.put_bill(source, rows, guard.clock.instant)
    elif name == "jump":
        guard.clock.instant += words[0]
    else:
        guard.clock.instant = words[0]
    return ""


def fresh_model() -> Model:
    usual: dict[tuple[int | str, WindowKind], int] = {(0, kind): limit.pico for kind, limit in SYSTEM_LIMITS.items()}
    return Model(usual | {(-1, kind): limit.pico for kind, limit in USER_LIMITS.items()})


def derived(guard: Guard) -> list[Any]:
    driver = guard.budget._database.driver()
    guard.ledger.carry()
    return [
        driver.execute("SELECT * FROM open_holds ORDER BY hold_id").fetchall(),
        driver.execute(
            "SELECT * FROM counters WHERE booked_pico OR held_pico OR bill_pico ORDER BY user_id, day, source"
        ).fetchall(),
    ]


@QUICK
@given(start=st.sampled_from((A_WEDNESDAY, *EDGES)), steps=st.lists(STEPS, min_size=8, max_size=30))
def test_after_every_step_the_guard_says_and_holds_what_the_model_does(
    migrated: Path, start: datetime, steps: list[tuple[Any, ...]]
) -> None:
    with a_guard(migrated, start) as guard:
        model = fresh_model()
        for one in steps:
            answered, must = step(guard, model, *one)
            assert answered == must, one
            now = guard.clock.instant
            for user in guard.users:
                standing = guard.budget.standing(user.id)
                for scope, kind in ((s, k) for s in (0, user.id) for k in WindowKind):
                    spent = standing.get((scope, kind), NOTHING)
                    assert (spent.real.pico, spent.held.pico) == model.spent(scope, kind, now), (one, scope, kind)
                assert {key: limit.pico for key, limit in guard.budget.limits(user.id).items()} == {
                    (scope, kind): model.limit(scope, kind, now) for scope in (0, user.id) for kind in WindowKind
                }
            assert (guard.budget.stopped() is not None) == model.stopped
        kept = derived(guard)
        guard.ledger.rebuild()
        assert derived(guard) == kept  # counters are sums of the entries, and can be thrown away


@QUICK
@given(
    steps=st.lists(
        st.one_of(SPEND, SPEND, st.tuples(st.just("jump"), st.sampled_from(JUMPS[:8]))), min_size=8, max_size=40
    )
)
def test_a_window_is_never_over_its_limit_but_by_what_was_recorded_as_an_overrun(
    migrated: Path, steps: list[tuple[Any, ...]]
) -> None:
    with a_guard(migrated) as guard:
        model = fresh_model()
        for one in steps:
            answered, must = step(guard, model, *one)
            assert answered == must
            today = guard.clock.instant.date()
            kinds = {(entry.hold_id, entry.kind): entry for entry in guard.ledger.entries()}
            for user in guard.users:
                for (scope, kind), spent in guard.budget.standing(user.id).items():
                    # Past the estimate at settle, or the whole of it where the hold had ended before.
                    overrun = sum(
                        max(entry.amount.pico - kinds[entry.hold_id, EntryKind.RESERVE].amount.pico, 0)
                        if entry.kind is EntryKind.SETTLE
                        else entry.amount.pico
                        for entry in kinds.values()
                        if entry.kind in (EntryKind.SETTLE, EntryKind.CORRECT)
                        and scope in (0, entry.operation.user_id)
                        and in_window(kind, date.fromordinal(entry.day), today)
                    )
                    limit = model.limit(scope, kind, guard.clock.instant)
                    assert limit is not None
                    assert spent.total.pico <= limit + overrun
                    if not answered and one[0] == "reserve" and not overrun:
                        assert spent.total.pico <= limit


@QUICK
@given(limit=st.integers(0, 1000), estimates=st.lists(st.integers(0, 400), min_size=1, max_size=12))
def test_what_is_admitted_is_exactly_what_still_fits(migrated: Path, limit: int, estimates: list[int]) -> None:
    with a_guard(migrated) as guard:
        ada = guard.users[0]
        for scope in (0, ada.id):
            for kind in WindowKind:
                guard.budget.set_limit(scope, kind, Usd.from_pico(1_000_000), by="ada", reason="room")
        guard.budget.set_limit(0, DAY, Usd.from_pico(limit), by="ada", reason="test")
        admitted = 0
        for pico in estimates:
            fits = admitted + pico <= limit
            said = guard.outcome(lambda pico=pico: guard.budget.reserve(operation(ada.id), Usd.from_pico(pico)))
            assert said == ("" if fits else "OverLimit system day")
            admitted += pico if fits else 0


# ── each rule by itself ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada")


def of_day(parts: Parts, user: User, kind: WindowKind = DAY) -> tuple[str, str]:
    """(real, held) of a user's window, in dollars."""
    spent = parts.budget.standing(user.id).get((user.id, kind), NOTHING)
    return f"{spent.real:.2f}", f"{spent.held:.2f}"


@pytest.mark.parametrize("start", EDGES)
def test_a_window_begins_at_midnight_utc_and_forgets_nothing_before(
    parts: Parts, clock: SetClock, ada: User, start: datetime
) -> None:
    clock.instant = start
    parts.budget.book(operation(ada.id), Usd("1.00"))
    before = {kind: of_day(parts, ada, kind) for kind in WindowKind}
    assert before == dict.fromkeys(WindowKind, ("1.00", "0.00"))
    clock.forward(microseconds=1)
    for span, old in zip(windows(clock.instant), windows(start), strict=True):
        assert of_day(parts, ada, span.kind) == (("1.00", "0.00") if span == old else ("0.00", "0.00"))
    assert of_day(parts, ada, DAY) == ("0.00", "0.00")


def test_a_hold_reserved_before_midnight_counts_in_its_own_day_wherever_it_is_settled(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    clock.instant = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "over midnight")
    parts.budget.start("over midnight")
    clock.forward(seconds=2)  # now it is March
    parts.budget.settle("over midnight", Usd("1.50"))
    assert of_day(parts, ada, DAY) == of_day(parts, ada, MONTH) == ("0.00", "0.00")
    assert of_day(parts, ada, WEEK) == ("1.50", "0.00")  # the week from Monday 26 February to Sunday 3 March


def test_the_limits_are_asked_in_order_the_system_first_and_the_refusal_says_which(parts: Parts, ada: User) -> None:
    room = {0: dict.fromkeys(WindowKind, "10"), ada.id: dict.fromkeys(WindowKind, "10")}
    order = [(scope, kind) for scope in (0, ada.id) for kind in WindowKind]
    for scope, kind in reversed(order):  # tighten the last first: each refusal then names the first that is tight
        room[scope][kind] = "1"
        for one, other in order:
            parts.budget.set_limit(one, other, Usd(room[one][other]), by="ada", reason="test")
        with pytest.raises(OverLimit) as refused:
            parts.budget.reserve(operation(ada.id), Usd("2"))
        assert (refused.value.scope, refused.value.window) == ("user" if scope else "system", kind.value)
        whose = "ada" if scope else "the whole system"
        assert f"would exceed the {kind.adjective} limit of {whose}: $0.00 of $1.00" in refused.value.message
    assert list(parts.ledger.entries()) == []  # a refused reserve writes nothing


def test_the_last_cent_can_be_had_and_not_one_unit_more(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("4.99"))
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), Usd("0.010000000001"))
    parts.budget.reserve(operation(ada.id), Usd("0.01"))  # 4.99 + 0.01 = 5.00, the limit
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), Usd("0.000000000001"))
    parts.budget.reserve(operation(ada.id), ZERO)  # what costs nothing fits where nothing is left


def test_the_same_id_gives_the_same_hold_and_counts_once(parts: Parts, clock: SetClock, ada: User) -> None:
    first = parts.budget.reserve(operation(ada.id), Usd("1.00"), "mine")
    clock.forward(minutes=1)
    assert parts.budget.reserve(operation(ada.id), Usd("1.00"), "mine") == first
    assert parts.budget.book(operation(ada.id), Usd("1.00"), "mine") == first
    assert parts.budget.book(operation(ada.id), Usd("1.00"), "mine") == first
    for _ in range(2):
        assert parts.budget.settle("mine", Usd("1.00")) == ZERO
    assert of_day(parts, ada) == ("1.00", "0.00")
    assert [entry.kind for entry in parts.ledger.entries()] == [EntryKind.RESERVE, EntryKind.SETTLE]


def test_the_same_id_gives_the_same_answer_even_when_the_door_is_closed(parts: Parts, ada: User) -> None:
    first = parts.budget.reserve(operation(ada.id), Usd("5.00"), "mine")
    parts.budget.stop(by="ada", reason="drill")
    assert parts.budget.reserve(operation(ada.id), Usd("5.00"), "mine") == first


def test_an_id_names_one_operation_for_good(parts: Parts, ada: User) -> None:
    bob = parts.users.add("bob")
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "mine")
    for other, estimate in (
        (operation(bob.id), "1.00"),
        (operation(ada.id, "another source"), "1.00"),
        (operation(ada.id, name="another operation"), "1.00"),
        (Operation(ada.id, "another service", "o", "s"), "1.00"),
        (Operation(ada.id, "service", "o", "s", "another price"), "1.00"),
        (operation(ada.id), "1.01"),
    ):
        with pytest.raises(HoldIdReused):
            parts.budget.reserve(other, Usd(estimate), "mine")
        with pytest.raises(HoldIdReused):
            parts.budget.book(other, Usd(estimate), "mine")
    parts.budget.settle("mine", Usd("0.50"))
    with pytest.raises(HoldIdReused):  # nor is it free when the hold has ended
        parts.budget.reserve(operation(bob.id), Usd("1.00"), "mine")


def test_new_ids_are_all_different_and_in_the_order_of_time() -> None:
    before_us = time.time_ns() // 1000
    ids = [new_hold_id() for _ in range(500)]
    assert len(set(ids)) == 500
    assert before_us <= int(ids[0][:11], 32) <= int(ids[-1][:11], 32) <= time.time_ns() // 1000
    assert [one[:11] for one in ids] == sorted(one[:11] for one in ids)


def test_ids_that_several_processes_make_at_one_instant_differ() -> None:
    words = [sys.executable, "-c", "from podcastqa.spend.entries import hold_id_stem; print(hold_id_stem(1))"]
    stems = [subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() for _ in range(3)]
    assert len({*stems, hold_id_stem(1)}) == 4
    assert {one[:11] for one in stems} == {"00000000001"}
    assert {len(one) for one in stems} == {16}  # 5 digits of 32 are a process's own: one in 33 million


@pytest.mark.parametrize("bad", ["x" * 201, 5, b"bytes", 1.5])
def test_what_cannot_be_an_id_is_misuse(parts: Parts, ada: User, bad: Any) -> None:
    for call in (parts.budget.reserve, parts.budget.book):
        with pytest.raises(Misuse) as told:
            call(operation(ada.id), Usd("1.00"), bad)
        assert str(told.value) == "The id of a hold is a text of 1 to 200 characters."
    assert parts.budget.reserve(operation(ada.id), Usd("1.00"), "x" * 200).hold_id == "x" * 200
    assert parts.budget.reserve(operation(ada.id), Usd("1.00"), "").hold_id  # no id: it makes one


def test_an_overrun_is_booked_in_full_and_closes_the_door_for_the_next_caller(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "dear")
    parts.budget.start("dear")
    assert parts.budget.settle("dear", Usd("7.00")) == Usd("6.00")  # 7.00 - 1.00
    assert of_day(parts, ada) == ("7.00", "0.00")  # past the limit of 5.00, and not hidden
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), Usd("0.000000000001"))
    line = budget_status(parts.budget, {ada.id: "ada"}, A_WEDNESDAY).line(DAY, ada.id)
    assert (line.left, line.percent) == (Usd("-2.00"), 140)  # 5.00 - 7.00; 100 × 7 / 5


def test_a_cheaper_end_gives_the_rest_back(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("5.00"), "cheap")
    assert parts.budget.settle("cheap", Usd("1.00")) == ZERO
    parts.budget.reserve(operation(ada.id), Usd("4.00"))  # 1.00 + 4.00 = 5.00


def test_an_unstarted_hold_stops_counting_at_its_time_without_a_sweeper(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    parts.budget.reserve(operation(ada.id), Usd("5.00"), "slow")
    clock.forward(minutes=15, microseconds=-1)
    assert of_day(parts, ada) == ("0.00", "5.00")
    clock.forward(microseconds=1)
    assert of_day(parts, ada) == ("0.00", "0.00")
    assert len(list(parts.ledger.entries())) == 1  # nobody wrote anything: the query says so by itself
    with pytest.raises(HoldExpired, match="ran out of time at 12:15:00 UTC"):
        parts.budget.start("slow")
    with pytest.raises(HoldExpired):
        parts.budget.start("slow")
    assert [entry.kind for entry in parts.ledger.entries()] == [EntryKind.RESERVE, EntryKind.EXPIRE]
    parts.budget.reserve(operation(ada.id), Usd("5.00"))


def test_a_hold_that_needs_the_room_of_others_that_expired_writes_them_off(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    bob = parts.users.add("bob")
    parts.budget.reserve(operation(ada.id), Usd("2.00"), "one")
    parts.budget.reserve(operation(bob.id), Usd("3.00"), "two")
    clock.forward(minutes=15)
    parts.budget.reserve(operation(bob.id), Usd("5.00"), "three")  # 2.00 and 3.00 no longer stand in the way
    kinds = [(entry.hold_id, entry.kind.value) for entry in parts.ledger.entries()]
    assert kinds[2:] == [("one", "expire"), ("two", "expire"), ("three", "reserve")]
    assert of_day(parts, ada) == ("0.00", "0.00")


def test_a_hold_that_fits_beside_those_that_expired_leaves_them_alone(parts: Parts, clock: SetClock, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("2.00"), "one")
    clock.forward(minutes=15)
    parts.budget.reserve(operation(ada.id), Usd("3.00"), "two")  # 2.00 + 3.00 = 5.00: room, even beside "one"
    assert [entry.kind for entry in parts.ledger.entries()] == [EntryKind.RESERVE] * 2
    assert of_day(parts, ada) == ("0.00", "3.00")  # "one" does not count all the same
    parts.budget.reserve(operation(ada.id), Usd("0.01"), "three")
    assert [entry.kind for entry in parts.ledger.entries()][2:] == [EntryKind.EXPIRE, EntryKind.RESERVE]
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), Usd("2.00"), "four")  # 3.00 + 0.01 + 2.00


def test_a_hold_that_expired_in_another_month_takes_nothing_from_this_one(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    clock.instant = datetime(2024, 3, 31, 23, 50, tzinfo=UTC)  # a Sunday: day, week and month all end
    parts.budget.reserve(operation(ada.id), Usd("5.00"))
    clock.instant = datetime(2024, 4, 1, 0, 10, tzinfo=UTC)
    assert [of_day(parts, ada, kind) for kind in WindowKind] == [("0.00", "0.00")] * 3
    parts.budget.reserve(operation(ada.id), Usd("5.00"))
    assert [of_day(parts, ada, kind) for kind in WindowKind] == [("0.00", "5.00")] * 3


def test_a_scope_without_any_spend_has_nothing_even_while_others_holds_expire(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    bob = parts.users.add("bob")
    parts.budget.reserve(operation(ada.id), Usd("1.00"))
    clock.forward(minutes=20)
    standing = parts.budget.standing(bob.id)
    assert standing[bob.id, DAY] == NOTHING
    assert standing[0, DAY] == NOTHING
    assert set(parts.budget.standing(0)) == {(0, kind) for kind in WindowKind}


def test_what_started_counts_at_its_estimate_until_somebody_says_how_it_ended(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    parts.budget.reserve(operation(ada.id), Usd("5.00"), "in doubt")
    parts.budget.start("in doubt")
    parts.budget.start("in doubt")  # twice is once
    clock.forward(hours=11)
    assert of_day(parts, ada) == ("0.00", "5.00")
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), Usd("0.01"))
    for no_reason in ("", " "):
        with pytest.raises(Misuse, match="may have been charged"):
            parts.budget.void("in doubt", no_reason)
    parts.budget.void("in doubt", "the provider's bill shows no such call")
    assert of_day(parts, ada) == ("0.00", "0.00")
    with pytest.raises(HoldResolved):
        parts.budget.start("in doubt")


def test_a_settle_after_expiry_is_a_correction_and_is_booked_once(parts: Parts, clock: SetClock, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "late")
    clock.forward(minutes=15)
    parts.budget.reserve(operation(ada.id), Usd("5.00"), "next")  # "late" is written off, and 5.00 is all there is
    assert parts.budget.settle("late", Usd("1.25"), "it ran after all") == Usd("0.25")
    assert of_day(parts, ada) == ("1.25", "5.00")  # over the limit, for the money has left
    assert parts.budget.settle("late", Usd("1.25"), "it ran after all") == Usd("0.25")  # sent twice, counted once
    assert of_day(parts, ada) == ("1.25", "5.00")
    with pytest.raises(HoldResolved, match=r"settled at \$1.25, not \$1.50"):
        parts.budget.settle("late", Usd("1.50"))
    last = list(parts.ledger.entries())[-1]
    assert (last.kind, last.amount) == (EntryKind.CORRECT, Usd("1.25"))
    assert last.reason == "settled after the hold had ended: it ran after all"


def test_a_settle_after_a_void_is_a_correction_too(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "given back")
    parts.budget.void("given back")
    parts.budget.void("given back")  # twice is once
    parts.budget.correct("given back", Usd("0.10"), "a fee")  # which is no settle
    parts.budget.settle("given back", Usd("0.80"))
    assert of_day(parts, ada) == ("0.90", "0.00")  # 0.10 + 0.80


def test_a_settle_before_anybody_noticed_the_expiry_is_an_ordinary_one(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "late")
    clock.forward(hours=1)
    parts.budget.settle("late", Usd("0.75"))
    assert of_day(parts, ada) == ("0.75", "0.00")
    assert [entry.kind for entry in parts.ledger.entries()] == [EntryKind.RESERVE, EntryKind.SETTLE]


def test_a_second_resolve_is_a_named_error(parts: Parts, ada: User) -> None:
    parts.budget.book(operation(ada.id), Usd("1.00"), "done")
    with pytest.raises(HoldResolved, match=r"already settled at \$1.00, not \$2.00"):
        parts.budget.settle("done", Usd("2.00"))
    with pytest.raises(HoldResolved):
        parts.budget.void("done", "changed my mind")
    with pytest.raises(HoldResolved):
        parts.budget.start("done")
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "void")
    parts.budget.void("void")
    with pytest.raises(HoldResolved):  # it was given back: the call must not run as if it were paid for
        parts.budget.book(operation(ada.id), Usd("1.00"), "void")
    assert of_day(parts, ada) == ("1.00", "0.00")


@pytest.mark.parametrize(
    "call",
    [
        lambda budget: budget.start("nobody's"),
        lambda budget: budget.settle("nobody's", ZERO),
        lambda budget: budget.void("nobody's"),
        lambda budget: budget.correct("nobody's", ZERO, "why"),
    ],
)
def test_a_hold_that_never_was_cannot_be_walked(parts: Parts, call: Callable[[Budget], None]) -> None:
    with pytest.raises(HoldUnknown):
        call(parts.budget)
    assert issubclass(HoldUnknown, HoldError)


def test_a_correction_mends_in_the_holds_own_window_and_needs_a_reason(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    parts.budget.book(operation(ada.id), Usd("2.00"), "wrong")
    clock.forward(days=1)
    parts.budget.correct("wrong", Usd("-0.50"), "the bill says 1.50")
    assert (of_day(parts, ada, DAY), of_day(parts, ada, WEEK)) == (("0.00", "0.00"), ("1.50", "0.00"))
    for reason in ("", "  "):
        with pytest.raises(Misuse):
            parts.budget.correct("wrong", Usd("1"), reason)


def test_the_bill_knows_costs_that_nobody_booked_and_never_hides_what_was(parts: Parts, ada: User) -> None:
    parts.budget.book(operation(ada.id, "a"), Usd("1.00"))
    parts.budget.book(operation(ada.id, "b"), Usd("1.00"))
    day = day_number(A_WEDNESDAY.date())
    parts.ledger.put_bill("a", [(day, 0, Usd("3.00"), ZERO), (day, ada.id, Usd("2.50"), ZERO)], A_WEDNESDAY)
    parts.ledger.put_bill("b", [(day, 0, Usd("0.20"), ZERO), (day, ada.id, Usd("0.20"), ZERO)], A_WEDNESDAY)
    assert of_day(parts, ada) == ("3.50", "0.00")  # max(1.00, 2.50) + max(1.00, 0.20)
    assert parts.budget.standing(ada.id)[0, DAY].real == Usd("4.00")  # max(1.00, 3.00) + max(1.00, 0.20)
    with pytest.raises(OverLimit) as refused:
        parts.budget.reserve(operation(ada.id), Usd("1.01"))
    assert (refused.value.scope, refused.value.window) == ("system", "day")
    parts.ledger.put_bill("a", [], A_WEDNESDAY)  # the day is no longer on it
    assert of_day(parts, ada) == ("2.00", "0.00")


# ── what cannot be checked is refused ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("amount", ["NaN", "-NaN", "sNaN", "Infinity", "-Infinity", "5,00", "", "five", "1e9999"])
def test_what_is_no_amount_never_becomes_an_estimate(amount: str) -> None:
    with pytest.raises(BadEstimate):
        Usd(amount)
    with pytest.raises(BadEstimate):
        Usd.rounded_up(amount)


@pytest.mark.parametrize("bad", [0.1, float("nan"), float("inf"), 1, Decimal("1"), "1.00", None, True])
def test_a_float_or_anything_else_that_is_not_usd_is_refused_at_every_door(parts: Parts, ada: User, bad: Any) -> None:
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "open")
    doors: tuple[Callable[[], object], ...] = (
        lambda: parts.budget.reserve(operation(ada.id), bad),
        lambda: parts.budget.book(operation(ada.id), bad),
        lambda: parts.budget.settle("open", bad),
        lambda: parts.budget.correct("open", bad, "why"),
        lambda: parts.budget.set_limit(0, DAY, bad, by="ada", reason="why"),
    )
    for door in doors:
        with pytest.raises(BadEstimate) as told:
            door()
        assert str(told.value) == f"An estimate is an amount of Usd, not {type(bad).__name__}."
    assert issubclass(BadEstimate, Refused)
    assert len(list(parts.ledger.entries())) == 1


@pytest.mark.parametrize("bad", [Usd("-0.000000000001"), Usd.from_pico(4 * 10**18 + 1), Usd.from_pico(10**30)])
def test_a_negative_or_boundless_amount_is_refused(parts: Parts, ada: User, bad: Usd) -> None:
    for call in (
        lambda: parts.budget.reserve(operation(ada.id), bad),
        lambda: parts.budget.book(operation(ada.id), bad),
        lambda: parts.budget.set_limit(0, DAY, bad, by="ada", reason="why"),
    ):
        with pytest.raises(BadEstimate):
            call()
    assert list(parts.ledger.entries()) == []


def test_a_settle_takes_the_largest_amount_an_entry_can_hold(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "dear")
    with pytest.raises(BadEstimate) as told:
        parts.budget.settle("dear", Usd.from_pico(4 * 10**18 + 1))
    assert str(told.value).endswith("is more than one entry can hold ($4,000,000).")
    parts.budget.settle("dear", Usd("4000000"))
    assert parts.budget.standing(ada.id)[0, DAY].real == Usd("4000000")


@pytest.mark.parametrize("missing", WindowKind)
@pytest.mark.parametrize("whose", ["system", "user"])
def test_a_window_without_a_limit_lets_nothing_through(
    parts: Parts, ada: User, missing: WindowKind, whose: str
) -> None:
    def without(limits: Mapping[WindowKind, Usd], mine: bool) -> dict[WindowKind, Usd]:
        return {kind: limit for kind, limit in limits.items() if not mine or kind is not missing}

    full = dict.fromkeys(WindowKind, Usd("1000"))
    budget = Budget(
        *(parts.database, parts.ledger, parts.clock),
        system_limits=without(full, whose == "system"),
        user_limits=without(full, whose == "user"),
        hold_for=HOLD_FOR,
    )
    with pytest.raises(LimitMissing, match=f"There is no {missing.adjective} limit for"):
        budget.reserve(operation(ada.id), ZERO)
    scope = 0 if whose == "system" else ada.id
    assert (scope, missing) not in budget.limits(ada.id)
    budget.set_limit(scope, missing, Usd("1"), by="ada", reason="now there is one")
    budget.reserve(operation(ada.id), Usd("1"))


def test_nobody_pays_for_an_operation_without_a_user(parts: Parts) -> None:
    for nobody in (0, -1):
        with pytest.raises(Misuse) as told:
            operation(nobody)
        assert str(told.value) == "An operation needs a user who pays."
    for stranger in (99, 10**12):
        with pytest.raises(UnknownUser):
            parts.budget.reserve(operation(stranger), Usd("1.00"))
    assert list(parts.ledger.entries()) == []


@pytest.mark.parametrize("word", ["", "x" * 201, "\ud800", None])
def test_an_operation_needs_a_service_a_name_and_a_source(word: Any) -> None:
    for name, words in (("service", (word, "o", "s")), ("operation", ("s", word, "s")), ("source", ("s", "o", word))):
        with pytest.raises(Misuse) as told:
            Operation(1, *words)
        assert str(told.value) == f"An operation needs a {name} of 1 to 200 characters."


# ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_stop_closes_everything_and_needs_a_named_recorded_release(parts: Parts, ada: User) -> None:
    assert parts.budget.stopped() is None
    parts.budget.stop(by=" ada ", reason="the bill looks wrong")
    for call in (parts.budget.reserve, parts.budget.book):
        with pytest.raises(EmergencyStopped, match="ada: the bill looks wrong"):
            call(operation(ada.id), ZERO)
    stop = parts.budget.stopped()
    assert stop
    assert (stop.said_by, stop.reason, stop.stopped) == ("ada", "the bill looks wrong", True)
    assert "THE EMERGENCY STOP IS ON" in str(budget_status(parts.budget, {}, A_WEDNESDAY))
    for call in (parts.budget.stop, parts.budget.release):
        for by, reason in (("", "why"), ("ada", ""), (" ", "why"), ("ada", "\t")):
            with pytest.raises(Misuse):
                call(by=by, reason=reason)
    parts.budget.release(by="bob", reason="it was a typing error")
    parts.budget.reserve(operation(ada.id), Usd("1.00"))
    said = parts.database.driver().execute("SELECT stopped, said_by, reason FROM stops ORDER BY id").fetchall()
    assert said == [(1, "ada", "the bill looks wrong"), (0, "bob", "it was a typing error")]


def test_windows_of_a_far_year_are_told(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("0.5"))
    assert parts.budget.standing(ada.id, datetime(4000, 1, 1, tzinfo=UTC)).get((ada.id, DAY), NOTHING) == NOTHING


def test_what_was_admitted_and_has_not_started_does_not_start_while_the_stop_is_on(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "waiting")
    parts.budget.stop(by="ada", reason="drill")
    with pytest.raises(EmergencyStopped):
        parts.budget.start("waiting")
    parts.budget.release(by="ada", reason="drill over")
    parts.budget.start("waiting")


def test_what_runs_already_is_still_booked_while_the_stop_is_on(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "running")
    parts.budget.start("running")
    parts.budget.stop(by="ada", reason="drill")
    parts.budget.settle("running", Usd("1.00"))
    assert of_day(parts, ada) == ("1.00", "0.00")


def test_each_scope_has_its_own_limits_and_the_latest_one_said_counts(parts: Parts, ada: User) -> None:
    assert parts.budget.limits(ada.id)[0, DAY] == parts.budget.limits(ada.id)[ada.id, DAY] == Usd("5.00")
    parts.budget.set_limit(0, DAY, Usd("7"), by="ada", reason="more for all")
    parts.budget.set_limit(ada.id, DAY, Usd("2"), by="ada", reason="less for me")
    parts.budget.set_limit(ada.id, DAY, Usd("3"), by="ada", reason="a little more")
    bob = parts.users.add("bob")
    found = {who: [str(limit)[:4] for limit in parts.budget.limits(who).values()] for who in (0, ada.id, bob.id)}
    assert sorted(found[0]) == sorted(["7.00", "25.0", "100."])  # the system's own: no user's default among them
    assert sorted(found[ada.id]) == sorted([*found[0], "3.00", "25.0", "100."])
    assert sorted(found[bob.id]) == sorted([*found[0], "5.00", "25.0", "100."])
    for by, reason in (("", "why"), ("ada", " ")):
        with pytest.raises(Misuse):
            parts.budget.set_limit(0, DAY, Usd("1"), by=by, reason=reason)
    with pytest.raises(parts.database.integrity_errors):
        parts.budget.set_limit(99, DAY, Usd("1"), by="ada", reason="a stranger")


def test_the_systems_limits_are_not_mistaken_for_a_users(clock: SetClock, parts: Parts) -> None:
    budget = Budget(
        *(parts.database, parts.ledger, clock),
        system_limits=dict.fromkeys(WindowKind, Usd("10")),
        user_limits=dict.fromkeys(WindowKind, Usd("1")),
        hold_for=HOLD_FOR,
    )
    assert budget.limits(0) == {(0, kind): Usd("10") for kind in WindowKind}
    status = budget_status(budget, {parts.users.add("ada").id: "ada"}, clock.instant)
    assert [str(line.limit)[:4] for line in status.lines] == ["10.0"] * 3 + ["1.00"] * 3


def test_a_limit_of_nothing_lets_only_nothing_through(parts: Parts, ada: User) -> None:
    parts.budget.set_limit(ada.id, DAY, ZERO, by="ada", reason="holiday")
    parts.budget.reserve(operation(ada.id), ZERO)
    with pytest.raises(OverLimit):
        parts.budget.reserve(operation(ada.id), Usd("0.000000000001"))
    line = budget_status(parts.budget, {ada.id: "ada"}, A_WEDNESDAY).line(DAY, ada.id)
    assert (line.percent, line.left) == (None, ZERO)


def test_a_lowered_limit_closes_the_door_and_takes_nothing_back(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), Usd("4.00"), "before")
    parts.budget.set_limit(0, DAY, Usd("1.00"), by="ada", reason="save")
    with pytest.raises(OverLimit, match=r"\$4.00 of \$1.00"):
        parts.budget.reserve(operation(ada.id), ZERO)
    parts.budget.start("before")
    parts.budget.settle("before", Usd("4.00"))
    assert of_day(parts, ada) == ("4.00", "0.00")

"""Every refusal of the guard is one sentence with the next step; it is told here word for word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from podcastqa.clock import WindowKind, day_number
from podcastqa.errors import (
    HoldExpired,
    HoldIdReused,
    HoldResolved,
    HoldUnknown,
    LimitMissing,
    Misuse,
    OverLimit,
    PodcastQAError,
    UnknownUser,
)
from podcastqa.money import ZERO, Usd
from podcastqa.spend.admission import Kept
from podcastqa.spend.books import Books
from podcastqa.spend.budget import Budget
from podcastqa.spend.entries import EntryKind, Operation
from podcastqa.spend.ledger import Ledger, Spent
from podcastqa.users import User
from podcastqa.wiring import Parts
from tests.conftest import SetClock, operation

pytestmark = pytest.mark.step1

DOLLAR, DIME, CENT = Usd("1.00"), Usd("0.10"), Usd("0.01")
ENDED = "The hold h has already ended: {}."


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada")


def reserved(parts: Parts, user: User) -> None:
    parts.budget.reserve(operation(user.id), DOLLAR, "h")


def started(parts: Parts, user: User) -> None:
    reserved(parts, user)
    parts.budget.start("h")


def settled(parts: Parts, user: User) -> None:
    started(parts, user)
    parts.budget.settle("h", DIME)


def voided(parts: Parts, user: User) -> None:
    reserved(parts, user)
    parts.budget.void("h")


def expired(parts: Parts, user: User) -> None:
    reserved(parts, user)
    assert isinstance(parts.clock, SetClock)
    parts.clock.forward(seconds=parts.settings.hold_seconds)


@pytest.mark.parametrize(
    ("life", "verb", "kind", "said"),
    [
        (settled, lambda b, _: b.correct("h", DIME, " "), Misuse, "A correction needs a reason."),
        (settled, lambda b, _: b.start("h"), HoldResolved, ENDED.format("settle") + " Reserve a new one."),
        (voided, lambda b, _: b.start("h"), HoldResolved, ENDED.format("void") + " Reserve a new one."),
        (expired, lambda b, _: b.start("h"), HoldExpired,
         "The hold h ran out of time at 12:15:00 UTC before its operation started. Reserve again."),
        (settled, lambda b, _: b.settle("h", DOLLAR), HoldResolved,
         "The hold h is already settled at $0.10, not $1.00. Mend it with a correction and a reason."),
        (settled, lambda b, _: b.void("h"), HoldResolved, ENDED.format("settle")),
        (started, lambda b, _: b.void("h"), Misuse,
         "A started operation may have been charged. Say why it was not, or settle it."),
        (voided, lambda b, u: b.book(operation(u.id), DOLLAR, "h"), HoldResolved,
         ENDED.format("void") + " Book under a new id."),
        (reserved, lambda b, u: b.reserve(operation(u.id), DIME, "h"), HoldIdReused,
         "The id h already names a hold for another operation."),
        (reserved, lambda b, _: b.settle("none", DIME), HoldUnknown, "There is no hold none. Reserve it first."),
        (reserved, lambda b, _: b.reserve(operation(99), DIME), UnknownUser, "There is no user with the number 99."),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence_and_leaves_the_books_alone(
    parts: Parts,
    ada: User,
    life: Callable[[Parts, User], None],
    verb: Callable[[Budget, User], object],
    kind: type[PodcastQAError],
    said: str,
) -> None:
    life(parts, ada)
    before = list(parts.ledger.entries())
    with pytest.raises(kind) as refused:
        verb(parts.budget, ada)
    assert (type(refused.value), str(refused.value)) == (kind, said)
    expiry = [EntryKind.EXPIRE] if kind is HoldExpired else []  # that it ran out is written down
    assert [entry.kind for entry in list(parts.ledger.entries())[len(before) :]] == expiry


def test_reserve_and_start_at_once_are_two_entries_of_one_instant_and_asking_twice_is_once(
    parts: Parts, ada: User
) -> None:
    first = parts.budget.begin(operation(ada.id), DOLLAR, "h")
    assert parts.budget.begin(operation(ada.id), DOLLAR, "h") == first
    assert first == parts.budget.reserve(operation(ada.id), DOLLAR, "h")
    told = [(entry.kind, entry.amount, entry.at) for entry in parts.ledger.entries()]
    assert told == [(EntryKind.RESERVE, DOLLAR, first.reserved_at), (EntryKind.START, ZERO, first.reserved_at)]
    with pytest.raises(Misuse, match="may have been charged"):  # for it has started
        parts.budget.void("h")
    made = parts.budget.begin(operation(ada.id), DIME)
    assert made.hold_id not in ("", "h")
    assert parts.budget.standing(ada.id)[ada.id, WindowKind.DAY] == Spent(ZERO, Usd("1.10"))


def test_a_hold_that_was_only_reserved_is_started_by_beginning_it(parts: Parts, ada: User) -> None:
    reserved(parts, ada)
    parts.budget.begin(operation(ada.id), DOLLAR, "h")
    assert [entry.kind for entry in parts.ledger.entries()] == [EntryKind.RESERVE, EntryKind.START]


@pytest.mark.parametrize(("life", "kind"), [(settled, HoldResolved), (voided, HoldResolved), (expired, HoldExpired)])
def test_what_has_ended_is_not_begun_again(
    parts: Parts, ada: User, life: Callable[[Parts, User], None], kind: type[PodcastQAError]
) -> None:
    life(parts, ada)
    with pytest.raises(kind):
        parts.budget.begin(operation(ada.id), DOLLAR, "h")


def test_reasons_stand_in_the_entries_and_where_none_was_given_none_stands(parts: Parts, ada: User) -> None:
    for hold_id, reason in (("a", ""), ("b", "as the bill says")):
        parts.budget.begin(operation(ada.id), DOLLAR, hold_id)
        parts.budget.settle(hold_id, DIME, reason)
    reserved(parts, ada)
    parts.budget.void("h")
    told = [(entry.kind, entry.reason) for entry in parts.ledger.entries() if entry.kind not in ("reserve", "start")]
    assert told == [("settle", ""), ("settle", "as the bill says"), ("void", "")]


def test_a_settle_that_comes_late_says_so_and_keeps_its_reason(parts: Parts, ada: User) -> None:
    voided(parts, ada)
    assert parts.budget.settle("h", Usd("1.25"), "it ran all the same") == Usd("0.25")
    assert [entry.reason for entry in parts.ledger.entries()][-1] == (
        "settled after the hold had ended: it ran all the same"
    )
    with pytest.raises(HoldResolved, match=r"already settled at \$1.25, not \$1.00"):
        parts.budget.settle("h", DOLLAR)


def test_voiding_twice_is_voiding_once_and_a_reason_voids_what_has_started(parts: Parts, ada: User) -> None:
    started(parts, ada)
    for _ in range(2):
        parts.budget.void("h", "nothing was sent")
    told = [(entry.kind, entry.reason) for entry in parts.ledger.entries()]
    assert told[2:] == [(EntryKind.VOID, "nothing was sent")]


def test_without_anything_kept_the_refusal_is_this_and_names_whose_limit_it_was(parts: Parts, ada: User) -> None:
    for words, limited, scope, whose, option in (
        ({"user_id": 0}, {}, "system", "the whole system", ""),
        ({"user_id": ada.id}, {}, "user", "ada", " --user ada"),
        ({"user_id": 0}, {"service": "service"}, "service", "the service service", " --service service"),
    ):
        parts.budget.set_limit(kind=WindowKind.DAY, amount=DIME, by="ada", reason="a test", **words, **limited)
        with pytest.raises(OverLimit) as refused:
            parts.budget.reserve(operation(ada.id), Usd("0.20"))
        assert (refused.value.scope, refused.value.window) == (scope, "day")
        assert str(refused.value) == (
            f"service o ($0.20) would exceed the daily limit of {whose}: $0.00 of $0.10 is spent or held "
            "(day 2024-02-28). Wait for the next window, or raise it: "
            f"podcastqa budget set day AMOUNT{option} --reason WHY"
        )
        parts.budget.remove_limit(kind=WindowKind.DAY, by="ada", reason="a test", **words, **limited)


def test_a_settle_says_where_system_and_user_stand_on_the_day_that_it_comes(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    parts.budget.book(operation(ada.id), Usd("0.30"))
    bob = parts.users.add("bob")
    parts.budget.book(operation(bob.id), Usd("0.40"))
    started(parts, ada)
    clock.forward(days=1)  # a Thursday of the same week and month
    told = parts.budget.writer.run(parts.budget.settling("h", Usd("1.50")))
    assert told.overrun == Usd("0.50")  # 1.50 less the 1.00 that was held
    assert {scope: [Usd.from_pico(pico) for pico in real] for scope, real in told.real.items()} == {
        0: [ZERO, Usd("2.20"), Usd("2.20")],  # 0.30 + 0.40 + 1.50, all of it yesterday's
        ada.id: [ZERO, Usd("1.80"), Usd("1.80")],
    }


def test_a_day_that_a_bill_covers_and_does_not_name_cost_nothing(parts: Parts, clock: SetClock) -> None:
    today = day_number(clock.instant.date())
    for told in ([(today, 0, DOLLAR, DIME)], [(today + 1, 0, DIME, DIME)]):
        parts.ledger.put_bill("cloud", told, clock.instant, covers=[today, today + 1])
    rows = parts.database.driver().execute("SELECT day, user_id, gross_pico, net_pico FROM bill_days ORDER BY day")
    assert rows.fetchall() == [(today, 0, 0, 0), (today + 1, 0, DIME.pico, DIME.pico)]
    assert parts.ledger.bill_read_at("cloud") == clock.instant


def test_a_correction_is_not_done_again_after_a_lost_connection_and_all_else_may_be(parts: Parts) -> None:
    assert not parts.budget.correcting("h", DIME, "why").again
    assert parts.budget.settling("h", DIME).again


def test_entries_come_page_by_page_each_once(parts: Parts, ada: User) -> None:
    budget = parts.budget

    async def book_all() -> None:
        pico = Usd.from_pico(1)
        await asyncio.gather(*(budget.writer.ask(budget.booking(operation(ada.id), pico)) for _ in range(10_001)))

    asyncio.run(book_all())  # a reserve and a settle each: two pages of 10,000, and two rows
    assert [entry.id for entry in parts.ledger.entries()] == list(range(1, 20_003))
    assert [entry.id for entry in parts.ledger.entries(after_id=20_000)] == [20_001, 20_002]


def test_what_is_kept_for_a_service_is_named_and_left_to_it_alone(parts: Parts, clock: SetClock, ada: User) -> None:
    """Of a dollar a hundredth is kept: others may have 0.99, the service itself a hundredth, then no more."""
    limits = dict.fromkeys(WindowKind, DOLLAR)
    ledger = Ledger(parts.database, clock)
    budget = Budget(
        *(parts.database, ledger, clock),
        system_limits=limits,
        user_limits=limits,
        hold_for=timedelta(minutes=15),
        kept=Kept("mail", Usd("5.00")),
    )
    budget.book(operation(ada.id), Usd("0.98"))
    with pytest.raises(PodcastQAError) as refused:
        budget.book(operation(ada.id), Usd("0.02"))
    assert str(refused.value) == (
        "service o ($0.02) would exceed the daily limit of the whole system: $0.98 of $1.00 is spent or held "
        "(day 2024-02-28); $0.01 of it is kept for alerts. Wait for the next window, or raise it: "
        "podcastqa budget set day AMOUNT --reason WHY"
    )
    budget.book(operation(ada.id), Usd("0.01"))
    budget.book(operation(ada.id), ZERO)  # what costs nothing need not leave anything
    mail = Operation(ada.id, "mail", "send", "s")
    ledger.put_bill("s", [(day_number(clock.instant.date()), 0, DOLLAR, DOLLAR)], clock.instant)  # the limit is passed
    with pytest.raises(OverLimit):
        budget.book(operation(ada.id), ZERO + Usd.from_pico(1))
    budget.book(mail, Usd("0.004"))
    budget.book(mail, Usd("0.006"))
    with pytest.raises(PodcastQAError):
        budget.book(mail, Usd.from_pico(1))
    assert budget.service_standing("mail")[WindowKind.DAY] == Spent(Usd("0.01"), ZERO)
    assert budget.service_standing("mail", clock.instant + timedelta(days=1))[WindowKind.DAY] == Spent(ZERO, ZERO)


def guarded(parts: Parts, clock: SetClock, kept: Kept) -> Budget:
    limits = dict.fromkeys(WindowKind, DOLLAR)
    shared = parts.database, Ledger(parts.database, clock), clock
    minutes = timedelta(minutes=15)
    return Budget(*shared, system_limits=limits, user_limits=limits, hold_for=minutes, kept=kept)


def test_what_is_kept_is_kept_of_each_users_own_limit_and_of_no_services(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    """A hundredth of ada's dollar is kept, a hundredth of bob's dime, and nothing of the dime of the service."""
    budget, bob = guarded(parts, clock, Kept("mail", DOLLAR)), parts.users.add("bob")
    for kind in WindowKind:
        budget.set_limit(bob.id, kind, DIME, by="ada", reason="a test")
        budget.set_limit(0, kind, Usd("9"), by="ada", reason="a test")
    budget.set_limit(0, WindowKind.DAY, DIME, service="talk", by="ada", reason="a test")
    for user, most in ((ada, "0.99"), (bob, "0.099")):
        budget.book(operation(user.id), Usd(most))
        with pytest.raises(OverLimit):
            budget.book(operation(user.id), Usd.from_pico(1))
    cleo = parts.users.add("cleo")
    talk = Operation(cleo.id, "talk", "o", "s")
    budget.book(talk, DIME)
    with pytest.raises(OverLimit, match=r"of the service talk: \$0.10 of \$0.10 is spent or held \(day 2024-02-28\)\."):
        budget.book(talk, Usd.from_pico(1))
    budget.book(Operation(cleo.id, "mail", "send", "s"), Usd("0.90"))  # it may have all there is: 0.10 + 0.90 = 1


def test_a_missing_limit_is_said_where_something_is_kept_too(parts: Parts, clock: SetClock, ada: User) -> None:
    budget = Budget(
        *(parts.database, Ledger(parts.database, clock), clock),
        system_limits=dict.fromkeys(WindowKind, DOLLAR),
        user_limits={WindowKind.DAY: DOLLAR, WindowKind.WEEK: DOLLAR},
        hold_for=timedelta(minutes=15),
        kept=Kept("mail", DIME),
    )
    with pytest.raises(LimitMissing, match="There is no monthly limit for this user"):
        budget.book(operation(ada.id), CENT)


class Looking(Budget):
    """The real guard, and how often it had to look at each window."""

    looks = 0

    def make_room(self, books: Books, operation: Operation, estimate: Usd) -> None:
        self.looks += 1
        super().make_room(books, operation, estimate)


def test_after_one_look_at_each_window_the_next_of_its_kind_is_decided_without(
    parts: Parts, clock: SetClock, ada: User
) -> None:
    limits, bob = dict.fromkeys(WindowKind, DOLLAR), parts.users.add("bob")
    budget = Looking(
        *(parts.database, Ledger(parts.database, clock), clock),
        system_limits=limits,
        user_limits=limits,
        hold_for=timedelta(minutes=15),
    )
    for _ in range(10):
        budget.settle(budget.reserve(operation(ada.id), CENT).hold_id, CENT)
    assert budget.looks == 1
    budget.reserve(operation(bob.id), CENT)
    assert budget.looks == 2
    with pytest.raises(OverLimit):
        budget.reserve(operation(ada.id), Usd("0.90"))  # 10 x 0.01 + 0.01 + 0.90 is more than a dollar
    assert budget.looks == 3
    parts.budget.set_limit(ada.id, WindowKind.DAY, Usd("0.10"), by="bob", reason="enough")
    with pytest.raises(OverLimit):
        budget.reserve(operation(ada.id), Usd.from_pico(1))


def test_a_settle_without_a_reason_has_none(parts: Parts, ada: User) -> None:
    parts.budget.settle(parts.budget.reserve(operation(ada.id), CENT).hold_id, CENT)
    parts.budget.writer.run(parts.budget.settling(parts.budget.reserve(operation(ada.id), CENT).hold_id, CENT))
    assert [entry.reason for entry in parts.ledger.entries()] == [""] * 4

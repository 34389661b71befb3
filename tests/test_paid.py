"""A call that is paid for: each attempt a hold of its own, whatever becomes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podcastqa.clock import WindowKind
from podcastqa.errors import EmergencyStopped, OverLimit, ProviderError
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind, Operation
from podcastqa.spend.paid import DEADLINE_SECONDS, Payer
from podcastqa.wiring import Parts, build
from podcastqa.workbook.recount import paid_since
from tests.conftest import SetClock, settings_in

pytestmark = pytest.mark.step1
CENT = Usd("0.01")


@pytest.fixture
def what(parts: Parts) -> Operation:
    return Operation(parts.users.ensure("me").id, "aws-cost-explorer", "GetCostAndUsage", "aws")


def payer(parts: Parts) -> Payer:
    return Payer(parts.budget, lambda text: text.replace("hunter2", "[redacted]"), waits=(0.0, 0.0))


def answers(*outcomes: str | ProviderError) -> Callable[[float], str]:
    """A call that ends so the first time, so the second …"""
    left = iter(outcomes)

    def send(seconds: float) -> str:
        assert 0 < seconds < DEADLINE_SECONDS
        outcome = next(left)
        if isinstance(outcome, ProviderError):
            raise outcome
        return outcome

    return send


def kinds(parts: Parts) -> list[str]:
    return [entry.kind.value for entry in parts.ledger.entries()]


FAILED = ProviderError("It said no to hunter2.", again=True)
LOST = ProviderError("It said nothing.", in_doubt=True, again=True)
FINAL = ProviderError("It will always say no.")


def test_an_answer_is_reserved_started_and_settled_at_its_price(parts: Parts, what: Operation) -> None:
    assert payer(parts).pay(what, CENT, answers("page")) == "page"
    assert kinds(parts) == ["reserve", "start", "settle"]
    assert paid_since(parts, "aws", 0) == CENT


def test_a_refused_attempt_is_void_and_the_next_one_a_hold_of_its_own(parts: Parts, what: Operation) -> None:
    assert payer(parts).pay(what, CENT, answers(FAILED, FAILED, "page")) == "page"
    assert kinds(parts) == ["reserve", "start", "void"] * 2 + ["reserve", "start", "settle"]
    assert paid_since(parts, "aws", 0) == CENT
    reasons = {entry.reason for entry in parts.ledger.entries() if entry.kind is EntryKind.VOID}
    assert reasons == {"nothing was charged: It said no to [redacted]."}


def test_an_attempt_without_an_answer_stands_in_doubt_at_its_estimate(parts: Parts, what: Operation) -> None:
    assert payer(parts).pay(what, CENT, answers(LOST, "page")) == "page"
    assert kinds(parts) == ["reserve", "start", "reserve", "start", "settle"]
    assert paid_since(parts, "aws", 0) == Usd("0.02")  # one settled, one in doubt
    day = parts.budget.standing(0)[0, WindowKind.DAY]
    assert (day.real, day.held) == (CENT, CENT)


def test_what_may_have_been_done_is_not_sent_again_where_twice_would_be_wrong(parts: Parts, what: Operation) -> None:
    with pytest.raises(ProviderError, match="It said nothing"):
        payer(parts).pay(what, CENT, answers(LOST, "never asked"), after_doubt=False)
    assert kinds(parts) == ["reserve", "start"]


def test_what_will_always_fail_is_asked_once(parts: Parts, what: Operation) -> None:
    with pytest.raises(ProviderError, match="always"):
        payer(parts).pay(what, CENT, answers(FINAL, "never asked"))
    assert kinds(parts) == ["reserve", "start", "void"]


def test_three_attempts_are_the_most(parts: Parts, what: Operation) -> None:
    with pytest.raises(ProviderError):
        payer(parts).pay(what, CENT, answers(FAILED, FAILED, FAILED, "never asked"))
    assert kinds(parts).count("reserve") == 3
    assert paid_since(parts, "aws", 0) == ZERO


def test_nothing_is_sent_that_a_limit_or_the_stop_refuses(parts: Parts, what: Operation) -> None:
    parts.treasury.set_limit(WindowKind.DAY, Usd("0.009"), by="ada", reason="test")
    with pytest.raises(OverLimit):
        payer(parts).pay(what, CENT, answers())
    parts.treasury.set_limit(WindowKind.DAY, Usd("5"), by="ada", reason="test")
    parts.budget.stop(by="ada", reason="test")
    with pytest.raises(EmergencyStopped):
        payer(parts).pay(what, CENT, answers())
    assert kinds(parts) == []


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_no_attempt_begins_that_could_not_end_within_the_deadline(parts: Parts, what: Operation) -> None:
    impatient = Payer(parts.budget, str, waits=(DEADLINE_SECONDS, 0.0))
    with at_most(DEADLINE_SECONDS), pytest.raises(ProviderError):
        impatient.pay(what, CENT, answers(FAILED, "never asked"))
    [(name, seconds)] = impatient.calls
    assert name == "aws-cost-explorer GetCostAndUsage"
    assert seconds < DEADLINE_SECONDS


def test_a_killed_process_leaves_its_request_in_doubt(parts: Parts, process: Callable[..., object]) -> None:
    one = process("""
made = opened()
me = made.users.ensure("me").id
def send(seconds):
    print("sent", flush=True)
    sys.stdin.readline()
made.payer.pay(Operation(me, "aws-cost-explorer", "GetCostAndUsage", "aws"), Usd("0.01"), send)
""")
    assert one.said() == "sent"  # type: ignore[attr-defined]
    one.kill()  # type: ignore[attr-defined]
    assert kinds(parts) == ["reserve", "start"]
    assert paid_since(parts, "aws", 0) == CENT


MAIL = Usd("0.0001")


@pytest.fixture
def mailing(home: Path, clock: SetClock) -> Iterator[Parts]:
    """Parts whose mails are paid for, with a limit of one dollar a day: a hundredth of it is kept for them."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    said = {"BILLING_SOURCE": "local", "MAILER": "ses", "COST_ALERT_EMAIL": "ada@example.org"}
    made = build(settings_in(home, **keys, **said, DAILY_BUDGET_LIMIT="1.00"), clock=clock)
    yield made
    made.database.close()


def mail(parts: Parts) -> Operation:
    return Operation(parts.users.ensure("me").id, "aws-ses", "SendRawEmail", "aws")


def test_the_last_hundredth_of_a_limit_is_kept_for_the_mail_about_it(mailing: Parts) -> None:
    me = mailing.users.ensure("me").id
    other = Operation(me, "s", "o", "x")
    mailing.budget.book(other, Usd("0.99"))  # 1.00 - 1.00 / 100
    with pytest.raises(OverLimit, match=r"\$0.01 of it is kept for alerts"):
        mailing.budget.book(other, Usd("0.000000000001"))
    mailing.budget.book(other, ZERO)
    mailing.budget.book(mail(mailing), MAIL)


def test_mails_go_out_of_what_is_kept_though_a_bill_has_passed_the_limit_and_no_further(mailing: Parts) -> None:
    today = mailing.clock.now().date().toordinal()
    mailing.ledger.put_bill("aws", [(today, 0, Usd("7"), Usd("7"))], mailing.clock.now())
    with pytest.raises(OverLimit):
        mailing.budget.book(Operation(mailing.users.ensure("me").id, "s", "o", "x"), Usd("0.000001"))
    for _ in range(100):  # 0.01 / 0.0001
        mailing.budget.book(mail(mailing), MAIL)
    with pytest.raises(OverLimit):
        mailing.budget.book(mail(mailing), MAIL)


def test_a_limit_of_nothing_keeps_nothing(mailing: Parts) -> None:
    mailing.treasury.set_limit(WindowKind.MONTH, ZERO, by="ada", reason="test")
    with pytest.raises(OverLimit):
        mailing.budget.book(mail(mailing), MAIL)

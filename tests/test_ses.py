"""Mail by Amazon SES: paid for before it leaves, and sent only while the guard and SES's own quota leave room.

What SES answers is not tested here, for nothing here may stand in for it; `pytest -m aws` asks the real one.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.alerts.alert import compose
from podcastqa.alerts.ses import Quota, SesMailer, turn
from podcastqa.aws import Aws
from podcastqa.clock import WindowKind
from podcastqa.errors import EmergencyStopped, OverLimit, ProviderError
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind
from podcastqa.spend.paid import Payer
from podcastqa.wiring import Parts
from tests.test_alerts import AT, an_alert

step1 = pytest.mark.step1
A_RECIPIENT = Usd("0.0001")


class Listener:
    """Takes connections on loopback, counts them and hangs up: no service, and not a word of an answer."""

    def __init__(self) -> None:
        self.connections = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with connected:
                connected.recv(65_536)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Where boto3 looks for SES in these tests."""
    made = Listener()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SES", made.url)
    yield made
    made.close()


@pytest.fixture
def mailer(parts: Parts) -> SesMailer:
    aws = Aws("nobody", "nothing", "", "eu-west-1", overridden=True)
    price = parts.prices.named("aws-ses-recipient", parts.clock.now().date())
    return SesMailer(
        aws, Payer(parts.budget, parts.redactor.text), price, lambda: parts.users.ensure("me").id, "alerts@example.com"
    )


def a_message():
    return compose(an_alert(), recipient="ada@example.org", sender="alerts@example.com", at=AT)


def kinds(parts: Parts) -> list[EntryKind]:
    return [entry.kind for entry in parts.ledger.entries()]


# ── quota and pace ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_sandbox_is_known_by_its_quota_and_by_nothing_else():
    assert Quota(200, 1, 0).in_sandbox
    for other in (Quota(50_000, 14, 0), Quota(200, 14, 0), Quota(50_000, 1, 0), Quota(-1, 1, 0)):
        assert not other.in_sandbox


def test_a_quota_has_room_up_to_its_last_recipient():
    sandbox = Quota(200, 1, 190)
    assert sandbox.has_room(1, since=9)  # 190 + 9 + 1 = 200
    assert not sandbox.has_room(1, since=10)  # 201
    assert not sandbox.has_room(11, since=0)


def test_a_quota_of_minus_one_has_no_end_and_a_rate_of_zero_no_room():
    assert Quota(-1, 14, 10_000_000).has_room(50, since=10_000_000)
    assert not Quota(-1, 0, 0).has_room(1, since=0)


@given(
    a_second=st.sampled_from([1, 2, 14, 90]),
    arrivals=st.lists(st.integers(0, 10_000), min_size=2, max_size=30).map(sorted),
)
def test_however_mails_arrive_none_goes_before_its_turn_and_none_waits_longer_than_it_must(a_second, arrivals):
    free_at, starts = 0.0, []
    for milliseconds in arrivals:
        now = milliseconds / 1000
        wait, free_at = turn(now, free_at, a_second)
        assert wait >= 0
        starts.append(now + wait)
    gap = 1 / a_second
    assert all(later - earlier >= gap - 1e-9 for earlier, later in pairwise(starts))
    for number, (milliseconds, start) in enumerate(zip(arrivals, starts, strict=True)):
        soonest = milliseconds / 1000 if number == 0 else max(milliseconds / 1000, starts[number - 1] + gap)
        assert start == pytest.approx(soonest)


def test_what_a_mail_costs_is_the_price_of_its_recipients(parts):
    price = parts.prices.named("aws-ses-recipient", parts.clock.now().date())
    assert (price.source, price.value) == ("aws", Decimal("0.0001"))
    assert price.cost(1) == A_RECIPIENT
    assert price.cost(50) == Usd("0.005")


# ── under the guard ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_says_which_region_it_sends_from_and_no_more_than_it_knows(mailer):
    assert (mailer.name, mailer.account, mailer.in_sandbox) == ("Amazon SES", "Amazon SES eu-west-1", None)


@step1
def test_a_mail_that_the_budget_refuses_never_reaches_the_network(parts, mailer, listener):
    parts.treasury.set_limit(WindowKind.DAY, ZERO, by="a test", reason="nothing may be spent")
    with pytest.raises(OverLimit, match="aws-ses SendRawEmail"):
        mailer.send(a_message())
    parts.treasury.set_limit(WindowKind.DAY, Usd("5"), by="a test", reason="there is money, and a stop")
    parts.treasury.stop(by="a test", reason="drill")
    with pytest.raises(EmergencyStopped):
        mailer.send(a_message())
    assert (listener.connections, kinds(parts)) == (0, [])


@step1
def test_an_alert_whose_mail_the_budget_refuses_waits_and_the_delivery_says_why(parts, mailer, listener):
    parts.treasury.set_limit(WindowKind.DAY, ZERO, by="a test", reason="nothing may be spent")
    parts.outbox.raise_alert(an_alert())
    done = parts.outbox.deliver(mailer, lambda _: "ada@example.org")
    ((_, problem),) = done.failed
    assert problem.startswith(
        "the alert waits, for the budget did not allow the mail: aws-ses SendRawEmail ($0.000100)"
    )
    assert "not sent: the alert waits" in str(done)
    assert (listener.connections, len(parts.outbox.pending())) == (0, 1)
    assert len(parts.outbox.deliver(parts.mailer).sent) == 1  # at once: no claim is left behind


@step1
def test_where_ses_does_not_say_its_quota_no_mail_is_sent_nothing_is_booked_and_nothing_is_in_doubt(
    parts, mailer, listener
):
    parts.outbox.raise_alert(an_alert())
    done = parts.outbox.deliver(mailer, lambda _: "ada@example.org")
    assert (done.sent, done.in_doubt, len(done.failed)) == ((), (), 1)
    assert "did not answer when it was asked for the sending quota, so no mail was sent" in done.failed[0][1]
    attempts = listener.connections
    assert 1 <= attempts <= 3
    assert kinds(parts) == [EntryKind.RESERVE, EntryKind.START, EntryKind.VOID] * attempts
    assert parts.treasury.spent(WindowKind.DAY) == ZERO
    assert len(parts.outbox.deliver(parts.mailer).sent) == 1


def test_a_service_that_cannot_be_reached_is_a_sentence_and_costs_nothing(parts, mailer, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SES", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(ProviderError, match=r"AWS could not be reached for ses:GetSendQuota\.") as caught:
        mailer.send(a_message())
    assert (caught.value.kind, caught.value.in_doubt) == ("unreachable", False)
    assert parts.treasury.spent(WindowKind.DAY) == ZERO


def test_a_mail_to_an_address_that_is_none_costs_nothing_and_keeps_no_other_from_going(parts, mailer, listener):
    parts.outbox.raise_alert(an_alert())
    assert len(parts.outbox.deliver(mailer, lambda _: "not an address").failed) == 1
    assert (listener.connections, kinds(parts)) == (0, [])

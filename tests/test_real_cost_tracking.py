"""The live suite: AWS itself, with the credentials, ledger and cached bill of this checkout's settings.

`pytest -m aws tests/test_real_cost_tracking.py -v`. It spends real cents under the guard, prints them, and refuses to
go past $0.10. Without credentials it skips and says what is missing. With an endpoint override in the environment it
checks the contract only, in books of their own, and proves nothing about AWS.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from podcastqa.alerts.alert import Alert, compose
from podcastqa.bills.bill import Bill
from podcastqa.bills.cost_explorer import OPERATION, SERVICE, SOURCE, budget_days
from podcastqa.bills.days import DayKind
from podcastqa.clock import SystemClock, WindowKind, window
from podcastqa.cost_tracker import CostTracker
from podcastqa.errors import OverLimit
from podcastqa.money import ZERO, Usd
from podcastqa.settings import Settings
from podcastqa.spend.entries import EntryKind, Operation
from podcastqa.wiring import Parts, build
from podcastqa.workbook.recount import paid_since, sums_to_whole, window_cost
from tests.conftest import THEIRS

MOST = Usd("0.10")
ONE_ANSWER = Usd("0.09")
SIMULATOR = "success@simulator.amazonses.com"  # AWS's own mailbox that accepts everything

pytestmark = pytest.mark.aws


@dataclass(frozen=True)
class Live:
    """The parts in use, and what these tests have paid so far."""

    parts: Parts
    first_entry: int

    @property
    def paid(self) -> Usd:
        """Booked against AWS, or in doubt, since the tests began."""
        return paid_since(self.parts, SOURCE, self.first_entry)

    def may_pay(self, most: Usd) -> None:
        """Refuse what could go past ten cents, before it is sent."""
        if self.paid + most >= MOST:
            pytest.fail(f"{self.paid.shown()} are spent, and {most.shown()} more could pass {MOST.shown()}: not sent.")

    @property
    def bill(self) -> Bill:
        """The cached bill; asked for once if it is too old."""
        self.may_pay(ZERO if self.parts.cost_explorer is None else Usd("0.01"))
        found = self.parts.bill_source.read()
        assert not found.problem, found.problem
        assert found.provenance.complete_through, found.provenance.remarks
        return found


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    # The settings of whoever runs this, and their ledger: not the temporary home that other tests get.
    settings = Settings.load({"PATH": os.environ.get("PATH", ""), **THEIRS})
    overrides = {name: value for name, value in THEIRS.items() if name.startswith("AWS_")}
    os.environ.update(overrides)  # boto3 itself reads an endpoint override
    if not (settings.aws_access_key_id and settings.aws_secret_access_key):
        pytest.skip("AWS credentials are not set: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in config.env")
    most = min(settings.bill_refresh_most, ONE_ANSWER)
    parts = build(replace(settings, bill_refresh_most=most), clock=SystemClock())
    if parts.cost_explorer is None:
        pytest.skip("BILLING_SOURCE=local: Cost Explorer is not in use, so nothing is asked of AWS")
    found = Live(parts, parts.ledger.last_id())
    yield found
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\nThese tests paid AWS {found.paid.shown()} (booked in {parts.database.path}).")  # noqa: T201 - what it cost is said
    parts.database.close()
    for name in overrides:
        del os.environ[name]


@pytest.fixture
def tracker(live: Live) -> CostTracker:
    return CostTracker(live.parts.treasury)


class TestRealAWSCostTracking:
    """Everything that step 1 promises of AWS."""

    def test_real_aws_credentials_work(self, live: Live) -> None:
        assert live.parts.aws
        account = live.parts.aws.account()
        assert account.isdecimal()
        assert len(account) == 12
        assert account == live.parts.settings.aws_account_id, "AWS_ACCOUNT_ID names another account"

    def test_cost_explorer_answers_and_says_how_old_and_how_complete_it_is(self, live: Live) -> None:
        bill = live.bill
        assert bill.source == SOURCE
        assert bill.bad_rows == ()
        assert len(bill.provenance.sha256) == 64
        assert bill.provenance.read_at <= datetime.now(UTC)
        assert bill.provenance.complete_through
        assert bill.provenance.complete_through <= bill.provenance.read_at

    def test_one_answer_covers_the_day_the_week_and_the_month(self, live: Live) -> None:
        first, end = budget_days(live.bill.provenance.read_at.date())
        assert live.bill.covers is not None
        assert (min(live.bill.covers), max(live.bill.covers).toordinal() + 1) == (first, end.toordinal())

    def test_a_second_look_within_the_slot_costs_nothing(self, live: Live) -> None:
        live.bill  # noqa: B018 - the first look, if nobody has looked yet
        before = live.paid
        assert live.bill.gross == live.bill.gross
        assert build(live.parts.settings, clock=SystemClock()).bill_source.read().gross == live.bill.gross
        assert live.paid == before

    def test_every_request_was_reserved_before_it_was_sent_and_settled_at_its_price(self, live: Live) -> None:
        live.bill  # noqa: B018
        kinds: dict[str, list[EntryKind]] = {}
        for entry in live.parts.ledger.entries(after_id=live.first_entry):
            if (entry.operation.service, entry.operation.operation) == (SERVICE, OPERATION):
                kinds.setdefault(entry.hold_id, []).append(entry.kind)
                assert entry.amount in (Usd("0.01"), ZERO)
        assert all(steps[:2] == [EntryKind.RESERVE, EntryKind.START] for steps in kinds.values())

    def test_real_daily_weekly_and_monthly_spend_are_what_ledger_and_bill_say(
        self, live: Live, tracker: CostTracker
    ) -> None:
        live.bill  # noqa: B018
        asked = (tracker.get_real_daily_spend, tracker.get_real_weekly_spend, tracker.get_real_monthly_spend)
        for kind, ask in zip(WindowKind, asked, strict=True):
            span = window(kind, live.parts.clock.now())
            before = window_cost(live.parts, span)
            assert before <= asyncio.run(ask()) <= window_cost(live.parts, span)

    def test_gross_without_credits_is_never_less_than_the_sum_of_use(self, live: Live) -> None:
        lines = live.bill.lines
        assert live.bill.gross == sum((one.amount for one in lines if one.category not in ("Credit", "Refund")), ZERO)
        assert live.bill.net == sum((one.amount for one in lines), ZERO)

    def test_users_and_unattributed_sum_to_the_total(self, live: Live, tracker: CostTracker) -> None:
        live.bill  # noqa: B018
        assert sums_to_whole(live.parts, asyncio.run(tracker.get_cost_by_user(days=7)))

    def test_what_would_exceed_a_limit_is_refused_and_nothing_is_booked(self, live: Live) -> None:
        me = live.parts.users.ensure(live.parts.settings.user)
        before = live.parts.ledger.last_id()
        with pytest.raises(OverLimit):
            live.parts.budget.reserve(Operation(me.id, SERVICE, OPERATION, SOURCE), Usd("3999999"))
        assert live.parts.ledger.last_id() == before

    def test_the_ledger_beside_the_bill_has_a_kind_for_every_day_and_nothing_unexplained(self, live: Live) -> None:
        live.bill  # noqa: B018
        found = live.parts.bookkeeper.reconcile_days()
        assert sum(len(found.of_kind(kind)) for kind in DayKind) == len(found.rows)
        assert found.faults == ()

    def test_the_projection_is_our_own_and_holds_what_is_spent(self, live: Live) -> None:
        live.bill  # noqa: B018
        before = len(live.parts.payer.calls)
        found = live.parts.bookkeeper.projection()
        assert found.record()["month_to_date"]
        assert len(live.parts.payer.calls) == before  # nothing was asked of AWS for it

    @pytest.mark.sends_mail
    def test_a_real_mail_is_accepted_by_ses_and_booked_at_its_price(self, live: Live) -> None:
        parts = live.parts
        if parts.mailer.name != "Amazon SES":
            pytest.skip(f"not in use: Amazon SES; mails go by {parts.mailer.name}")
        live.may_pay(Usd("0.0001"))
        before = live.paid
        now = parts.clock.now()
        day = window(WindowKind.DAY, now).start
        alert = Alert("system", 0, WindowKind.DAY, day, "50", Usd("0.50"), Usd("1.00"), "a live test of this program")
        recipient = parts.settings.cost_alert_email or SIMULATOR
        mail = compose(alert, recipient=recipient, sender=parts.mailer.sender, at=now, drill=True)
        receipt = parts.mailer.send(mail)
        assert receipt.message_id
        assert live.paid - before == Usd("0.0001")

    def test_the_last_word_these_tests_cost_less_than_ten_cents(self, live: Live) -> None:
        assert live.paid.decimal < Decimal("0.10")

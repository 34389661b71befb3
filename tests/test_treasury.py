"""Treasury: every road an operation can take ends in the books, and what a person must hear of is mailed once."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default as modern
from pathlib import Path

import pytest

from podcastqa.bills.reconcile import Kind
from podcastqa.clock import SystemClock, WindowKind
from podcastqa.cost_tracker import CostTracker
from podcastqa.errors import (
    BillError,
    EmergencyStopped,
    HoldResolved,
    Misuse,
    OverLimit,
    UnknownPrice,
    UnknownUser,
)
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind, Operation
from podcastqa.spend.meter import COLUMNS
from podcastqa.spend.plans import OWN_ESTIMATE
from podcastqa.spend.status import SYSTEM_NAME
from podcastqa.treasury import LOCAL, Treasury
from podcastqa.wiring import Parts, build
from tests.conftest import ROOMY, Process, SetClock, settings_in

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]
DAY, WEEK, MONTH = WindowKind
CANARY = "Kq7vTz0pXw3mRb9cLd5e"
MINE = ("a-service-of-mine", "an-operation")


@pytest.fixture
def treasury(parts: Parts) -> Treasury:
    """With limits as nobody set them: 5, 25 and 100 dollars, for the system and for each user."""
    return parts.treasury


@pytest.fixture
def small(home: Path, clock: SetClock) -> Parts:
    """One dollar a day for everybody together, and room enough in every other window."""
    settings = settings_in(home, **(ROOMY | {"DAILY_BUDGET_LIMIT": "1.00", "COST_ALERT_EMAIL": "ops@example.org"}))
    return build(settings, clock=clock)


def mails(parts: Parts) -> list[EmailMessage]:
    """What lies in the mailbox."""
    files = [file for folder in ("new", "cur") for file in (parts.settings.maildir / folder).glob("*")]
    return [BytesParser(EmailMessage, policy=modern).parsebytes(file.read_bytes()) for file in files]


def subjects(parts: Parts) -> list[str]:
    return sorted(str(mail["Subject"]) for mail in mails(parts))


def thresholds(parts: Parts) -> list[str]:
    """What every mail that was sent is about, in the order of sending."""
    return [notice.alert.threshold for notice in parts.outbox.sent()]


def kinds(treasury: Treasury) -> list[EntryKind]:
    return [entry.kind for entry in treasury.ledger.entries()]


def held(treasury: Treasury) -> Usd:
    return treasury.status().line(DAY).spent.held


def burn() -> None:
    """Real CPU time."""
    hashlib.sha256(bytes(3_000_000)).digest()


def on_the_bill(parts: Parts, amount: str, *, user: int | None = None, day: str = "2024-02-28") -> None:
    """A charge that no operation of ours caused, appended to the meter's file as a process would."""
    path = parts.settings.home / "local-meter.focus.csv"
    row = dict.fromkeys(COLUMNS, "") | {
        "BilledCost": amount,
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargePeriodStart": f"{day}T10:00:00Z",
        "ChargePeriodEnd": f"{day}T11:00:00Z",
        "ServiceName": LOCAL,
        "ResourceId": f"elsewhere/{amount}",
        "Tags": "{}" if user is None else f'{{"podcastqa:user": "{user}"}}',
    }
    first = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if first:
            writer.writeheader()
        writer.writerow(row)


# ── a call whose cost is known before ─────────────────────────────────────────────────────────────────────────────────


def test_a_call_is_admitted_and_booked_at_its_estimate(treasury: Treasury) -> None:
    treasury.call(*MINE, Usd("0.25"))
    treasury.call(*MINE, Usd("0.50"))
    assert [treasury.spent(kind) for kind in WindowKind] == [Usd("0.75")] * 3  # 0.25 + 0.50
    assert kinds(treasury) == [EntryKind.RESERVE, EntryKind.SETTLE] * 2
    assert held(treasury) == ZERO


def test_a_refused_call_writes_nothing_and_says_which_limit(treasury: Treasury) -> None:
    treasury.call(*MINE, Usd("4.99"))
    before = list(treasury.ledger.entries())
    with pytest.raises(OverLimit, match=r"4\.99.* of \$5\.00") as refusal:
        treasury.call(*MINE, Usd("0.02"))  # 4.99 + 0.02 = 5.01
    assert (refusal.value.scope, refusal.value.window) == ("system", "day")
    assert list(treasury.ledger.entries()) == before
    treasury.call(*MINE, Usd("0.01"))  # 4.99 + 0.01 = 5.00
    assert treasury.spent(DAY) == Usd("5")


def test_whoever_owns_the_machine_needs_no_introduction_and_everybody_else_does(treasury: Treasury) -> None:
    treasury.call(*MINE, Usd("1"))
    assert [user.name for user in treasury.users.list().users] == ["me"]
    with pytest.raises(UnknownUser, match="eve"):
        treasury.call(*MINE, Usd("1"), "eve")
    assert treasury.spent(DAY) == treasury.spent(DAY, "me") == Usd("1")


def test_local_work_cannot_be_booked_at_an_estimate_because_its_meter_would_contradict(treasury: Treasury) -> None:
    with pytest.raises(Misuse, match="meter"):
        treasury.call(LOCAL, "hash", Usd("0.01"))
    assert kinds(treasury) == []
    assert treasury.reconcile().matches


# ── work on this machine ──────────────────────────────────────────────────────────────────────────────────────────────


def test_local_work_is_settled_at_what_the_meter_says_and_stands_so_on_the_bill(parts: Parts) -> None:
    treasury = parts.treasury
    with treasury.spending(None, LOCAL, "hash", Usd("0.01")) as spending:
        assert held(treasury) == Usd("0.01")
        burn()
    assert spending.actual is not None
    assert ZERO < spending.actual < Usd("0.01")
    [line] = [one for one in parts.bill_source.read().lines if one.resource_id == spending.hold.hold_id]
    assert line.amount == spending.actual
    assert [entry.amount for entry in treasury.ledger.entries()] == [Usd("0.01"), ZERO, spending.actual]
    assert held(treasury) == ZERO
    assert treasury.reconcile().matches


def test_nobody_can_say_what_local_work_cost_but_the_meter(treasury: Treasury) -> None:
    with (
        pytest.raises(Misuse, match="The local meter says what this operation cost"),
        treasury.spending(None, LOCAL, "hash", Usd("0.01")) as spending,
    ):
        spending.settle(Usd("0.000001"))
    assert spending.metered
    assert kinds(treasury)[-1] is EntryKind.SETTLE  # by the meter, all the same
    assert treasury.reconcile().matches


def test_local_work_cannot_be_given_back_because_its_time_is_gone(treasury: Treasury) -> None:
    with (
        pytest.raises(Misuse, match="The local meter says"),
        treasury.spending(None, LOCAL, "hash", Usd("0.01")) as spending,
    ):
        spending.void("it did nothing useful")
    assert kinds(treasury)[-1] is EntryKind.SETTLE
    assert treasury.reconcile().matches


def test_local_work_that_raises_is_booked_for_what_it_used(treasury: Treasury) -> None:
    with pytest.raises(TypeError), treasury.spending(None, LOCAL, "hash", Usd("0.01")) as spending:
        hashlib.sha256(bytes(3_000_000)).update("text is not bytes")  # type: ignore[arg-type]
    assert spending.actual is not None
    assert spending.actual > ZERO
    assert kinds(treasury)[-1] is EntryKind.SETTLE
    assert treasury.reconcile().matches


def test_local_work_refused_does_not_run_and_leaves_no_row_on_the_bill(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(OverLimit), parts.treasury.spending(None, LOCAL, "hash", Usd("5.01")):
        (tmp_path / "ran").touch()
    assert not (tmp_path / "ran").exists()
    assert [one for one in parts.bill_source.read().lines if one.user_tag] == []


# ── work that somebody else charges for ───────────────────────────────────────────────────────────────────────────────


def test_a_settled_operation_is_booked_at_what_it_cost_and_the_rest_of_its_hold_is_given_back(
    treasury: Treasury,
) -> None:
    with treasury.spending(None, *MINE, Usd("3")) as spending:
        assert (treasury.spent(DAY), held(treasury)) == (ZERO, Usd("3"))
        spending.settle(Usd("1.25"))
    assert (treasury.spent(DAY), held(treasury)) == (Usd("1.25"), ZERO)
    assert spending.actual == Usd("1.25")


def test_an_operation_that_raises_stays_in_doubt_and_counts_at_its_estimate_until_somebody_settles(
    treasury: Treasury, clock: SetClock
) -> None:
    with pytest.raises(ConnectionError), treasury.spending(None, *MINE, Usd("3")) as spending:
        raise ConnectionError
    clock.forward(hours=2)  # far past the 900 seconds of a hold that never started
    assert kinds(treasury) == [EntryKind.RESERVE, EntryKind.START]
    assert (treasury.spent(DAY), held(treasury)) == (ZERO, Usd("3"))
    with pytest.raises(OverLimit):
        treasury.call(*MINE, Usd("2.01"))  # 3 + 2.01 = 5.01
    treasury.settle(spending.hold, Usd("0.5"), "the provider's log says so")
    assert (treasury.spent(DAY), held(treasury)) == (Usd("0.5"), ZERO)


def test_an_operation_that_settled_and_then_raised_is_no_longer_in_doubt(treasury: Treasury) -> None:
    def settle_twice() -> None:
        with treasury.spending(None, *MINE, Usd("3")) as spending:
            spending.settle(Usd("1"))
            spending.settle(Usd("2"))

    with pytest.raises(HoldResolved, match=r"already settled at \$1\.00, not \$2\.00"):
        settle_twice()
    assert (treasury.spent(DAY), held(treasury)) == (Usd("1"), ZERO)


def test_an_operation_that_ends_without_a_word_is_booked_at_its_estimate(treasury: Treasury) -> None:
    with treasury.spending(None, *MINE, Usd("0.75")) as spending:
        pass
    assert spending.actual == treasury.spent(DAY) == Usd("0.75")
    assert [entry.reason for entry in treasury.ledger.entries()][-1] == "no actual cost was said"


def test_a_voided_operation_gives_its_money_back(treasury: Treasury) -> None:
    with treasury.spending(None, *MINE, Usd("5")) as spending:
        spending.void("the server was never reached")
    assert (treasury.spent(DAY), held(treasury)) == (ZERO, ZERO)
    assert kinds(treasury) == [EntryKind.RESERVE, EntryKind.START, EntryKind.VOID]
    treasury.call(*MINE, Usd("5"))


def test_a_void_without_a_reason_is_refused_once_the_operation_has_started(treasury: Treasury) -> None:
    with pytest.raises(Misuse, match="may have been charged"), treasury.spending(None, *MINE, Usd("5")) as spending:
        spending.void("")
    assert held(treasury) == Usd("5")


def test_the_same_hold_cannot_run_twice(treasury: Treasury) -> None:
    with treasury.spending(None, *MINE, Usd("1"), hold_id="order-1"):
        pass
    ran = []
    with pytest.raises(HoldResolved), treasury.spending(None, *MINE, Usd("1"), hold_id="order-1"):
        ran.append("twice")
    assert (ran, treasury.spent(DAY)) == ([], Usd("1"))


# ── prices ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_has_no_price_and_no_estimate_does_not_run(treasury: Treasury) -> None:
    ran = []
    with pytest.raises(UnknownPrice, match="There is no price for a-service-of-mine"), treasury.spending(None, *MINE):
        ran.append("ran")
    assert (ran, kinds(treasury)) == ([], [])


def test_an_estimate_of_ones_own_needs_no_price(treasury: Treasury) -> None:
    with treasury.spending(None, *MINE, Usd("0.5")) as spending:
        pass
    assert (spending.hold.operation.source, spending.hold.operation.price) == (OWN_ESTIMATE, "")


def test_a_price_a_request_is_its_own_estimate(treasury: Treasury) -> None:
    with treasury.spending(None, "aws-cost-explorer", "GetCostAndUsage") as spending:
        assert spending.hold.estimate == Usd("0.01")
    assert (spending.hold.operation.source, spending.hold.operation.price) == ("aws", "aws-cost-explorer-request")


def test_a_price_an_hour_is_no_estimate(treasury: Treasury) -> None:
    with pytest.raises(UnknownPrice, match="paid per vCPU-hour"), treasury.spending(None, LOCAL, "hash"):
        pass
    assert kinds(treasury) == []


def test_a_price_that_was_not_valid_yet_is_unknown(treasury: Treasury, clock: SetClock) -> None:
    clock.forward(days=-365)  # before the list's first day
    with pytest.raises(UnknownPrice, match="2023-02-28"), treasury.spending(None, "aws-ses", "SendRawEmail"):
        pass


# ── the bill ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_bill_says_beyond_the_ledger_counts_in_the_guard(parts: Parts) -> None:
    treasury = parts.treasury
    on_the_bill(parts, "4.50")
    assert [treasury.spent(kind) for kind in WindowKind] == [Usd("4.5")] * 3
    with pytest.raises(OverLimit):
        treasury.call(*MINE, Usd("0.51"))  # 4.50 + 0.51 = 5.01
    treasury.call(*MINE, Usd("0.50"))
    assert treasury.spent(DAY) == Usd("5")  # 4.50 on the meter's bill, 0.50 of a source without one


def test_a_charge_on_yesterdays_bill_counts_in_the_week_and_not_in_the_day(parts: Parts) -> None:
    on_the_bill(parts, "4.50", day="2024-02-27")
    on_the_bill(parts, "2.00", day="2024-02-25")  # a Sunday: another week, the same month
    assert [parts.treasury.spent(kind) for kind in WindowKind] == [ZERO, Usd("4.5"), Usd("6.5")]


def test_a_charge_with_a_users_tag_counts_for_that_user_too(parts: Parts) -> None:
    ada, bob = parts.users.add("ada"), parts.users.add("bob")
    on_the_bill(parts, "3", user=ada.id)
    on_the_bill(parts, "1", user=999)  # names nobody we know: the whole system's
    treasury = parts.treasury
    assert (treasury.spent(DAY, ada.name), treasury.spent(DAY, bob.name), treasury.spent(DAY)) == (
        *(Usd("3"), ZERO),
        Usd("4"),  # 3 + 1
    )


def test_a_bill_that_says_less_than_was_booked_lowers_nothing(parts: Parts) -> None:
    with parts.treasury.spending(None, "aws-ses", "SendRawEmail", Usd("2")):
        pass
    parts.ledger.put_bill("aws", [(parts.clock.now().toordinal(), 0, Usd("1.5"), Usd("1.5"))], parts.clock.now())
    assert parts.treasury.spent(DAY) == Usd("2")  # the larger of 2 and 1.50
    parts.ledger.put_bill("aws", [(parts.clock.now().toordinal(), 0, Usd("2.5"), Usd("2.5"))], parts.clock.now())
    assert parts.treasury.spent(DAY) == Usd("2.5")  # the larger of 2 and 2.50


def test_a_bill_that_cannot_be_read_stops_spending(parts: Parts) -> None:
    (parts.settings.home / "local-meter.focus.csv").write_text("<html>\n", encoding="utf-8")
    with pytest.raises(BillError, match="is not a FOCUS file"):
        parts.treasury.call(*MINE, Usd("0.01"))
    assert kinds(parts.treasury) == []


def test_an_operation_whose_row_the_meter_wrote_before_it_was_killed_is_in_doubt_and_seen(
    home: Path, process: Callable[..., Process]
) -> None:
    worker = process("""
parts = opened()
with parts.treasury.spending(None, "local-compute", "hash", Usd("0.01")) as spending:
    print(spending.hold.hold_id, flush=True)
    parts.meter.end(spending.hold.hold_id)  # the meter's half is on disk, the ledger's is not
    print("written", flush=True)
    sys.stdin.readline()
""")
    hold_id = worker.said()
    assert worker.said() == "written"
    worker.kill()
    treasury = build(settings_in(home), clock=SystemClock()).treasury
    assert held(treasury) == Usd("0.01")
    found = treasury.reconcile()
    assert [(line.operation_id, line.kind) for line in found.lines] == [(hold_id, Kind.IN_DOUBT)]
    assert not found.matches


def test_an_operation_that_is_interrupted_while_it_waits_to_begin_leaves_nothing_held(
    home: Path, process: Callable[..., Process]
) -> None:
    worker = process("""
import threading
parts = opened()
parts.treasury.call("svc", "op", Usd("0"))  # the payer is known
has_it, let_go = threading.Event(), threading.Event()

def hold_the_turn():
    with parts.budget.writer.alone():
        has_it.set()
        while not parts.budget.writer._waiting:
            pass
        print("waits", flush=True)
        let_go.wait(30)

other = threading.Thread(target=hold_the_turn)
other.start()
has_it.wait()
try:
    with parts.treasury.spending(None, "svc", "op", Usd("1.00")):
        print("it ran", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
let_go.set()
other.join()
parts.treasury.call("svc", "op", Usd("0"))  # whoever waited before has been led by now
print("done", flush=True)
""")
    assert worker.said() == "waits"
    worker.popen.send_signal(signal.SIGINT)
    assert [worker.said(), worker.said()] == ["interrupted", "done"]
    assert worker.ended()[0] == 0
    treasury = build(settings_in(home), clock=SystemClock()).treasury
    call = [EntryKind.RESERVE, EntryKind.SETTLE]
    assert kinds(treasury) == [*call, EntryKind.RESERVE, EntryKind.START, EntryKind.VOID, *call]
    assert held(treasury) == ZERO


# ── mails ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_threshold_is_mailed_when_it_is_reached_and_never_again(small: Parts) -> None:
    told = []
    for _ in range(10):
        small.treasury.call(*MINE, Usd("0.10"))
        told.append(thresholds(small))
    # 0.10 to 0.40: nothing; 0.50 is 50 %; 0.80 is 80 %; 1.00 is 100 %
    assert told == [*[[]] * 4, *[["50"]] * 3, *[["50", "80"]] * 2, ["50", "80", "100"]]
    assert subjects(small) == [
        "podcastqa: 100 % of the daily budget is spent (the whole system)",
        "podcastqa: 50 % of the daily budget is spent (the whole system)",
        "podcastqa: 80 % of the daily budget is spent (the whole system)",
    ]
    assert {mail["To"] for mail in mails(small)} == {"ops@example.org"}
    assert small.treasury.deliver_alerts().sent == ()


def test_one_leap_past_every_threshold_mails_each_of_them(small: Parts) -> None:
    small.treasury.call(*MINE, Usd("1.00"))
    assert thresholds(small) == ["50", "80", "100"]


def test_a_hair_below_a_threshold_is_below_it(small: Parts) -> None:
    small.treasury.call(*MINE, Usd("0.499999999999"))
    assert thresholds(small) == []
    small.treasury.call(*MINE, Usd("0.000000000001"))
    assert thresholds(small) == ["50"]


def test_money_held_is_not_yet_spent_and_mails_nothing(small: Parts) -> None:
    with small.treasury.spending(None, *MINE, Usd("0.9")) as spending:
        assert thresholds(small) == []
        spending.settle(Usd("0.4"))
    assert thresholds(small) == []


def test_a_new_day_mails_its_thresholds_anew(small: Parts, clock: SetClock) -> None:
    small.treasury.call(*MINE, Usd("0.5"))
    clock.forward(days=1)
    small.treasury.call(*MINE, Usd("0.5"))
    assert [(str(n.alert.window), n.alert.threshold) for n in small.outbox.sent()] == [
        ("day 2024-02-28", "50"),
        ("day 2024-02-29", "50"),
    ]


def test_a_bill_that_crosses_a_threshold_is_mailed_with_the_next_operation(small: Parts) -> None:
    on_the_bill(small, "0.60")
    small.treasury.call(*MINE, Usd("0"))
    assert thresholds(small) == ["50"]


def test_a_refusal_is_mailed_once_in_its_window_however_often_it_happens(small: Parts, clock: SetClock) -> None:
    for _ in range(3):
        with pytest.raises(OverLimit):
            small.treasury.call(*MINE, Usd("1.01"))
    assert thresholds(small) == ["refused"]
    assert subjects(small) == ["podcastqa: an operation was refused by the daily budget (the whole system)"]
    [mail] = mails(small)
    plain = mail.get_body(("plain",))
    assert plain is not None
    for words in ("$0.00 of $1.00", "a-service-of-mine an-operation ($1.01)", "podcastqa budget set day"):
        assert words in plain.get_content()
    clock.forward(days=1)
    with pytest.raises(OverLimit):
        small.treasury.call(*MINE, Usd("1.01"))
    assert thresholds(small) == ["refused", "refused"]


def test_a_users_own_limit_refuses_that_user_only_and_mails_that_user(small: Parts) -> None:
    small.users.add("ada", "ada@example.org")
    small.users.add("bob")
    small.treasury.set_limit(WEEK, Usd("0.05"), user="ada", by="me", reason="a trial")
    with pytest.raises(OverLimit) as refusal:
        small.treasury.call(*MINE, Usd("0.06"), "ada")
    assert (refusal.value.scope, refusal.value.window) == ("user", "week")
    small.treasury.call(*MINE, Usd("0.06"), "bob")
    [mail] = mails(small)
    assert (mail["To"], mail["Subject"]) == (
        "ada@example.org",
        "podcastqa: an operation was refused by the weekly budget (ada)",
    )


def test_a_services_own_limit_refuses_that_service_only_and_mails_the_operator_once(small: Parts) -> None:
    small.treasury.set_limit(DAY, Usd("0.05"), service=MINE[0], by="me", reason="a trial")
    for _ in range(2):
        with pytest.raises(OverLimit, match="the daily limit of the service a-service-of-mine") as refusal:
            small.treasury.call(*MINE, Usd("0.06"))
    assert (refusal.value.scope, refusal.value.window) == ("service", "day")
    small.treasury.call("another-service", "an-operation", Usd("0.06"))
    [mail] = mails(small)
    assert (mail["To"], mail["Subject"]) == (
        "ops@example.org",
        "podcastqa: an operation was refused by the daily budget (the service a-service-of-mine)",
    )
    plain = mail.get_body(("plain",))
    assert plain is not None
    for words in ("$0.00 of $0.05", "podcastqa budget set day AMOUNT --service a-service-of-mine --reason WHY"):
        assert words in plain.get_content()


def test_a_task_whose_service_has_no_room_is_refused_too(small: Parts) -> None:
    small.treasury.set_limit(WEEK, ZERO, service=MINE[0], by="me", reason="a trial")
    tracker = CostTracker(small.treasury)

    async def spend() -> None:
        async with tracker.spending(None, *MINE, "0.01"):
            raise AssertionError("it ran")

    with pytest.raises(OverLimit, match="the weekly limit of the service"):
        asyncio.run(spend())
    assert [(one.alert.service, one.alert.threshold) for one in small.outbox.sent()] == [(MINE[0], "refused")]


def test_a_services_thresholds_are_mailed_when_they_are_reached_and_never_again(small: Parts) -> None:
    small.treasury.set_limit(MONTH, Usd("0.40"), service=MINE[0], by="me", reason="a trial")
    told = []
    for _ in range(4):
        with small.treasury.spending(None, *MINE, Usd("0.10")) as spending:
            spending.settle(Usd("0.10"))
        told.append([(one.alert.service, one.alert.threshold) for one in small.outbox.sent()])
    # 0.10 is 25 % of the service's 0.40; 0.20 is 50; 0.30 is 75; 0.40 is 100, and 40 % of the system's 1.00
    half, whole = (MINE[0], "50"), [(MINE[0], "80"), (MINE[0], "100")]
    assert told == [[], [half], [half], [half, *whole]]
    assert "podcastqa: 50 % of the monthly budget is spent (the service a-service-of-mine)" in subjects(small)
    assert {mail["To"] for mail in mails(small)} == {"ops@example.org"}
    assert small.treasury.deliver_alerts().sent == ()


def test_a_services_threshold_that_a_crash_kept_from_being_raised_is_mailed_later(small: Parts) -> None:
    small.treasury.set_limit(DAY, Usd("0.10"), service=MINE[0], by="me", reason="a trial")
    payer = small.users.ensure("me")
    small.budget.book(Operation(payer.id, *MINE, OWN_ESTIMATE), Usd("0.05"))  # and then nobody looked
    assert thresholds(small) == []
    [sent] = small.treasury.deliver_alerts().sent
    assert (sent.alert.whose, sent.alert.threshold) == ("the service a-service-of-mine", "50")
    assert (sent.alert.spent, sent.alert.limit) == (Usd("0.05"), Usd("0.10"))


def test_an_overrun_is_booked_in_full_mailed_and_closes_the_door(small: Parts) -> None:
    with small.treasury.spending(None, *MINE, Usd("0.10")) as spending:
        spending.settle(Usd("1.25"))
    assert small.treasury.spent(DAY) == Usd("1.25")
    assert sorted(thresholds(small)) == ["100", "50", "80", "overrun"]
    assert "podcastqa: an operation cost more than was set aside for it (me)" in subjects(small)
    [detail] = [notice.alert.detail for notice in small.outbox.sent() if notice.alert.threshold == "overrun"]
    assert detail == "a-service-of-mine an-operation cost $1.15 more than its hold"  # 1.25 - 0.10
    with pytest.raises(OverLimit):
        small.treasury.call(*MINE, Usd("0.000000000001"))


def test_local_work_that_takes_longer_than_expected_is_an_overrun_too(small: Parts) -> None:
    with small.treasury.spending(None, LOCAL, "hash", Usd("0.000000000001")) as spending:
        burn()
    assert spending.actual is not None
    assert small.treasury.spent(DAY, "me") == spending.actual
    assert thresholds(small) == ["overrun"]


def test_the_emergency_stop_refuses_everything_is_mailed_each_time_and_needs_a_release(small: Parts) -> None:
    for times in (1, 2):
        small.treasury.stop(by="ada", reason=f"looks odd, {times}")
        with pytest.raises(EmergencyStopped, match=f"ada: looks odd, {times}"):
            small.treasury.call(*MINE, ZERO)
        assert len(mails(small)) == times
        small.treasury.release(by="ada", reason="it was not")
        small.treasury.call(*MINE, ZERO)
    assert subjects(small) == ["podcastqa: the emergency stop is on (the whole system)"] * 2


def test_what_was_started_before_the_stop_is_still_booked(small: Parts) -> None:
    with small.treasury.spending(None, *MINE, Usd("0.3")) as spending:
        small.treasury.stop(by="ada", reason="now")
        spending.settle(Usd("0.2"))
    assert small.treasury.spent(DAY) == Usd("0.2")


@pytest.mark.parametrize(("by", "reason"), [("", "why"), ("who", " ")])
def test_a_stop_and_a_release_need_a_name_and_a_reason(small: Parts, by: str, reason: str) -> None:
    with pytest.raises(Misuse):
        small.treasury.stop(by=by, reason=reason)
    assert small.budget.stopped() is None
    small.treasury.stop(by="ada", reason="now")
    with pytest.raises(Misuse):
        small.treasury.release(by=by, reason=reason)
    assert small.budget.stopped() is not None


def test_alerts_that_a_crash_lost_are_derived_again_from_the_ledger_and_mailed_once(
    home: Path, process: Callable[..., Process]
) -> None:
    worker = process(
        """
parts = opened()
me = parts.users.ensure("me")
parts.budget.book(Operation(me.id, "s", "o", "own-estimate"), Usd("0.85"))  # durable; its alerts are not raised yet
print("booked", flush=True)
sys.stdin.readline()
""",
        **(ROOMY | {"DAILY_BUDGET_LIMIT": "1.00"}),
    )
    assert worker.said() == "booked"
    worker.kill()
    made = build(settings_in(home, **(ROOMY | {"DAILY_BUDGET_LIMIT": "1.00"})), clock=SystemClock())
    assert mails(made) == []
    assert [notice.alert.threshold for notice in made.treasury.deliver_alerts().sent] == ["50", "80"]
    assert made.treasury.deliver_alerts().sent == ()
    assert len(mails(made)) == 2


def test_a_mailbox_that_cannot_be_used_stops_no_work_and_gets_its_mail_once_it_can(small: Parts) -> None:
    small.settings.maildir.write_text("in the way", encoding="utf-8")
    small.treasury.call(*MINE, Usd("0.5"))
    assert small.treasury.spent(DAY) == Usd("0.5")
    assert [problem for _, problem in small.treasury.deliver_alerts().failed] != []
    small.settings.maildir.unlink()
    assert [notice.alert.threshold for notice in small.treasury.deliver_alerts().sent] == ["50"]
    assert len(mails(small)) == 1


# ── limits, status, secrets ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_limit_set_today_is_in_force_at_once_and_is_told_with_every_other(treasury: Treasury) -> None:
    treasury.users.add("ada")
    treasury.set_limit(DAY, Usd("0.50"), by="me", reason="month end")
    treasury.set_limit(MONTH, Usd("2"), user="ada", by="me", reason="month end")
    assert treasury.limits().table().rows == (
        *((SYSTEM_NAME, "day", Usd("0.50")), (SYSTEM_NAME, "week", Usd("25")), (SYSTEM_NAME, "month", Usd("100"))),
        *(("ada", "day", Usd("5")), ("ada", "week", Usd("25")), ("ada", "month", Usd("2"))),
    )
    with pytest.raises(OverLimit):
        treasury.call(*MINE, Usd("0.51"))


def test_the_whole_systems_limits_are_shown_where_they_differ_from_the_users(home: Path, clock: SetClock) -> None:
    made = build(settings_in(home, DAILY_BUDGET_LIMIT="7", USER_DAILY_BUDGET_LIMIT="3"), clock=clock)
    made.users.add("ada")
    lines = {(line.name, line.window.kind): line.limit for line in made.treasury.status().lines}
    assert (lines[SYSTEM_NAME, DAY], lines["ada", DAY]) == (Usd("7"), Usd("3"))


def test_status_shows_spent_held_and_left_of_every_window(treasury: Treasury) -> None:
    treasury.call(*MINE, Usd("1"))
    with treasury.spending(None, *MINE, Usd("1.5")) as spending:
        line = treasury.status().line(DAY)
        assert (line.spent.real, line.spent.held, line.left) == (Usd("1"), Usd("1.5"), Usd("2.5"))  # 5 - 1 - 1.5
        assert line.percent == 50
        spending.void("a test")
    assert {line.name for line in treasury.status("me").lines} == {SYSTEM_NAME, "me"}
    treasury.stop(by="ada", reason="now")
    assert "THE EMERGENCY STOP IS ON (ada: now)" in str(treasury.status())


@pytest.mark.parametrize("days", [0, -1, 3661])
def test_a_span_of_no_days_or_of_too_many_is_a_misuse(treasury: Treasury, days: int) -> None:
    for asked in (treasury.summary, treasury.by_user, treasury.by_service, treasury.variance):
        with pytest.raises(Misuse, match=f"{days} is not a number of days"):
            asked(days)


def test_a_secret_in_a_name_or_a_reason_never_reaches_the_books_or_the_mail(home: Path, clock: SetClock) -> None:
    secret = CANARY
    made = build(settings_in(home, DAILY_BUDGET_LIMIT="1", AWS_SECRET_ACCESS_KEY=secret), clock=clock)
    with made.treasury.spending(None, f"svc {secret}", f"op {secret}", Usd("0.1")) as spending:
        spending.settle(Usd("0.2"), f"because {secret}")
    with made.treasury.spending(None, *MINE, Usd("0.1")) as spending:
        spending.void(f"because {secret}")
    with pytest.raises(OverLimit) as refusal:
        made.treasury.call(f"svc {secret}", f"op {secret}", Usd("2"))
    made.treasury.stop(by=secret, reason=f"because {secret}")
    made.treasury.release(by=secret, reason=f"because {secret}")
    made.treasury.set_limit(DAY, Usd("1"), by=secret, reason=f"because {secret}")
    made.treasury.by_user()
    assert secret not in str(refusal.value)
    assert len(mails(made)) >= 3  # overrun, refused, stop
    made.database.close()
    written = [file for file in home.rglob("*") if file.is_file()]
    assert len(written) > 4
    assert [file.name for file in written if secret.encode() in file.read_bytes()] == []


def test_two_homes_keep_two_books(parts: Parts, migrated: Path, tmp_path: Path, clock: SetClock) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(migrated, tmp_path / "other" / "podcastqa.sqlite")
    other = build(settings_in(tmp_path / "other"), clock=clock)
    parts.treasury.call(*MINE, Usd("1"))
    assert (parts.treasury.spent(DAY), other.treasury.spent(DAY)) == (Usd("1"), ZERO)


def test_an_alert_that_could_not_be_mailed_is_said_to_the_operator_and_to_no_user(home: Path, clock: SetClock) -> None:
    made = build(settings_in(home, MAILDIR=f"{os.devnull}/nowhere", DAILY_BUDGET_LIMIT="1.00"), clock=clock)
    made.users.add("ada")
    made.treasury.call("s", "o", Usd("0.60"), "ada")  # past 50 % of 1.00
    [said] = made.treasury.status().remarks
    assert said.startswith("ALERTS THAT WERE NOT MAILED: 1. The mailbox ")
    assert made.treasury.status("ada").remarks == ()
    made.database.close()

"""The cost tracker as its owner writes it in a notebook: `await` at the top level, exact money, one user's own door."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest

import podcastqa
from podcastqa.bills.desk import BillDesk
from podcastqa.clock import WindowKind
from podcastqa.cost_tracker import CostTracker, get_cost_tracker
from podcastqa.errors import (
    BadEstimate,
    CrossUserRefused,
    EmergencyStopped,
    HoldResolved,
    Misuse,
    OverLimit,
    UnknownPrice,
    UnknownUser,
)
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind
from podcastqa.sqlite_line import SqliteLine
from podcastqa.treasury import LOCAL, Treasury
from podcastqa.wiring import Parts
from tests.conftest import in_a_fork

pytestmark = pytest.mark.step1
CALL = ("a-service-of-mine", "an-operation")


@pytest.fixture
def tracker(parts: Parts) -> CostTracker:
    """Nobody's in particular; limits as nobody set them: 5, 25 and 100 dollars."""
    return CostTracker(parts.treasury)


def run(answer: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(answer)


def held(tracker: CostTracker) -> Usd:
    """What the whole system holds today."""
    return tracker.treasury.status().line(WindowKind.DAY).spent.held


def cells(source: str, **names: object) -> dict[str, Any]:
    """Run it as JupyterLab runs a cell: `await` may stand at the top level."""
    code = compile(source, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def cell() -> None:
        found = eval(code, names)  # noqa: S307 – the source is in this file
        if inspect.isawaitable(found):
            await found

    asyncio.run(cell())
    return names


# ── the owner's words ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_owners_cells_run_as_they_are_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODCASTQA_HOME", str(home))
    monkeypatch.setenv("PODCASTQA_CONFIG", os.devnull)
    found = cells("""
from decimal import Decimal
from podcastqa.clock import WindowKind
from podcastqa.cost_tracker import get_cost_tracker

tracker = get_cost_tracker()
if await tracker.track_api_call("aws-transcribe", "minute", Decimal("0.024")):
    made = True
daily = await tracker.get_real_daily_spend()
weekly = await tracker.get_real_weekly_spend()
monthly = await tracker.get_real_monthly_spend()
summary = await tracker.get_cost_summary(days=7)
by_user = await tracker.get_cost_by_user(days=7)
said = f"Today ${daily:.6f}, week ${weekly:.2f}, last 7 days ${summary.total_cost:.4f}"
""")
    assert found["made"]
    assert found["said"] == "Today $0.024000, week $0.02, last 7 days $0.0240"
    assert found["daily"] == found["weekly"] == found["monthly"] == found["by_user"].total_cost == Usd("0.024")


def test_the_package_and_the_module_open_the_same_door(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODCASTQA_HOME", str(home))
    monkeypatch.setenv("PODCASTQA_CONFIG", os.devnull)
    assert podcastqa.get_cost_tracker().treasury is get_cost_tracker().treasury
    assert get_cost_tracker().user is None
    assert get_cost_tracker(user="me").user == "me"  # whose machine this is: no introduction needed
    with pytest.raises(UnknownUser, match="eve"):
        get_cost_tracker(user="eve")


def test_what_one_process_books_another_sees(home: Path, parts: Parts) -> None:
    code = """
import asyncio
from podcastqa import get_cost_tracker
print(asyncio.run(get_cost_tracker().track_api_call("svc", "op", "0.5")))
"""
    environ = os.environ | {"PODCASTQA_HOME": str(home), "PODCASTQA_CONFIG": os.devnull}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
    assert [entry.amount for entry in parts.ledger.entries()] == [Usd("0.5"), Usd("0.5")]


# ── leave to spend ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_true_means_booked_and_false_means_refused_and_nothing_booked(tracker: CostTracker) -> None:
    assert run(tracker.track_api_call(*CALL, "4.99")) is True
    before = list(tracker.treasury.ledger.entries())
    assert run(tracker.track_api_call(*CALL, "0.02")) is False  # 4.99 + 0.02 = 5.01
    assert list(tracker.treasury.ledger.entries()) == before
    assert run(tracker.get_real_daily_spend()) == Usd("4.99")


def test_the_emergency_stop_is_a_false_too(tracker: CostTracker) -> None:
    tracker.treasury.stop(by="ada", reason="now")
    assert run(tracker.track_api_call(*CALL, Usd("0"))) is False


@pytest.mark.parametrize(
    ("estimate", "booked"),
    [
        (Usd("0.1"), "0.1"),
        (Decimal("0.1"), "0.1"),
        ("0.1", "0.1"),
        ("1e-3", "0.001"),
        (0, "0"),
        (Decimal("0.0000000000001"), "0.000000000001"),  # thirteen decimals: an estimate is rounded up
    ],
)
def test_an_estimate_is_usd_decimal_or_text(tracker: CostTracker, estimate: Usd | Decimal | str, booked: str) -> None:
    assert run(tracker.track_api_call(*CALL, estimate)) is True
    assert run(tracker.get_real_daily_spend()) == Usd(booked)


@pytest.mark.parametrize("estimate", [0.1, 1.0, float("nan"), None, True])
def test_a_float_is_refused_as_the_mistake_it_is(tracker: CostTracker, estimate: Any) -> None:
    with pytest.raises(TypeError, match=r"not (float|NoneType|bool)"):
        run(tracker.track_api_call(*CALL, estimate))
    assert list(tracker.treasury.ledger.entries()) == []


@pytest.mark.parametrize("estimate", ["NaN", "Infinity", "-1", "five", "", "1,50", "99999999"])
def test_what_is_no_amount_may_not_be_spent(tracker: CostTracker, estimate: str) -> None:
    assert run(tracker.track_api_call(*CALL, estimate)) is False
    assert list(tracker.treasury.ledger.entries()) == []


def test_many_calls_at_once_never_pass_the_limit(tracker: CostTracker) -> None:
    async def many() -> list[bool]:
        return await asyncio.gather(*(tracker.track_api_call(*CALL, "0.30") for _ in range(30)))

    assert sum(run(many())) == 16  # 16 × 0.30 = 4.80, and 17 × 0.30 = 5.10 is past 5.00
    assert run(tracker.get_real_daily_spend()) == Usd("4.80")


@pytest.mark.parametrize("turns", range(7))
@pytest.mark.parametrize("at_once", [False, True], ids=["led by a thread", "led at once"])
def test_a_task_that_is_cancelled_leaves_nothing_held_and_what_ran_is_settled(
    tracker: CostTracker, turns: int, at_once: bool
) -> None:
    line = tracker.treasury.budget.writer.line
    assert isinstance(line, SqliteLine)
    line.quick_seconds = 60.0 if at_once else 0.0
    ran = []

    async def block() -> None:
        async with tracker.spending(None, *CALL, "1.00") as hold:
            ran.append("ran")
            hold.settle(Usd("0.20"))

    async def cancelled() -> None:
        await tracker.track_api_call(*CALL, "0")  # bills are looked at, and everybody is known
        task = asyncio.create_task(block())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):  # one that was led at once may have ended already
            await task
        await tracker.track_api_call(*CALL, "0")  # whoever was asked before has been answered by now

    run(cancelled())
    resolved = [entry.kind for entry in tracker.treasury.ledger.entries() if entry.kind in ("settle", "void")][1:-1]
    assert held(tracker) == ZERO
    if ran:  # it was begun before it was cancelled
        assert (at_once, resolved) == (True, [EntryKind.SETTLE])
    else:
        assert set(resolved) <= {EntryKind.VOID}


def test_a_task_that_is_cancelled_while_it_waits_for_the_turn_leaves_nothing_held(tracker: CostTracker) -> None:
    has_it, let_go = threading.Event(), threading.Event()

    def hold_the_turn() -> None:
        with tracker.treasury.ledger.writer.alone():
            has_it.set()
            let_go.wait(30)

    async def block() -> None:
        async with tracker.spending(None, *CALL, "1.00"):
            raise AssertionError("it ran")

    async def cancelled() -> None:
        await tracker.track_api_call(*CALL, "0")
        other = asyncio.create_task(asyncio.to_thread(hold_the_turn))
        await asyncio.to_thread(has_it.wait)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(block(), 0.01)
        let_go.set()
        await other
        await tracker.track_api_call(*CALL, "0")

    run(cancelled())
    entries = [*tracker.treasury.ledger.entries()][2:-2]  # without those of the calls of nothing
    assert [entry.kind for entry in entries] == [EntryKind.RESERVE, EntryKind.START, EntryKind.VOID]
    assert (entries[-1].reason, held(tracker)) == ("interrupted before the operation ran", ZERO)


def test_a_secret_in_a_tasks_reason_does_not_get_into_the_ledger(tracker: CostTracker) -> None:
    async def call() -> None:
        async with tracker.spending(None, *CALL, "0.50") as hold:
            hold.settle(Usd("0.20"), "sent with Bearer abcdefghijklmnopqrstuvwxyz")

    run(call())
    reasons = [entry.reason for entry in tracker.treasury.ledger.entries() if entry.kind is EntryKind.SETTLE]
    assert reasons == ["sent with Bearer [redacted]"]


def test_a_call_whose_cost_is_known_afterwards_is_settled_in_its_block(tracker: CostTracker) -> None:
    found = cells(
        """
async with tracker.spending("me", "a-service-of-mine", "an-operation", "0.50") as hold:
    inside = await tracker.get_budget_status()
    hold.settle(Usd("0.20"))
after = await tracker.get_budget_status()
""",
        tracker=tracker,
        Usd=Usd,
    )
    first, last = found["inside"].lines[0].spent, found["after"].lines[0].spent
    assert (first.real, first.held) == (ZERO, Usd("0.50"))
    assert (last.real, last.held) == (Usd("0.20"), ZERO)


def test_an_operation_is_run_once_and_its_cost_is_said_once(tracker: CostTracker) -> None:
    kinds = lambda: [one.kind.value for one in tracker.treasury.ledger.entries()]  # noqa: E731

    async def block() -> None:
        running = tracker.spending(None, *CALL, "0.50")
        async with running as hold:
            hold.settle(Usd("0.20"))
            hold.settle(Usd("0.20"))  # twice is once
            with pytest.raises(HoldResolved, match=r"already settled at \$0.20, not \$0.30"):
                hold.settle(Usd("0.30"))
            with pytest.raises(HoldResolved):
                hold.void("nothing was charged")
        with pytest.raises(Misuse, match="run already"):
            async with running:
                raise AssertionError("it ran")
        with pytest.raises(HoldResolved):
            hold.settle(Usd("0.30"))

    run(block())
    assert kinds() == ["reserve", "start", "settle"]


def test_a_cost_that_is_said_after_its_block_failed_is_booked(tracker: CostTracker) -> None:
    async def block() -> None:
        with pytest.raises(ZeroDivisionError):
            async with tracker.spending(None, *CALL, "0.50") as hold:
                1 / 0  # noqa: B018
        assert held(tracker) == Usd("0.50")  # in doubt
        hold.settle(Usd("0.20"))

    run(block())
    assert held(tracker) == ZERO
    assert [one.amount for one in tracker.treasury.ledger.entries()][-1] == Usd("0.20")


def test_a_refused_block_does_not_run(tracker: CostTracker) -> None:
    ran = []

    async def block(estimate: str | None) -> None:
        async with tracker.spending(None, *CALL, estimate):
            ran.append(estimate)

    for estimate, refusal in (("5.01", OverLimit), (None, UnknownPrice), ("-1", BadEstimate)):
        with pytest.raises(refusal):
            run(block(estimate))
    tracker.treasury.stop(by="ada", reason="now")
    with pytest.raises(EmergencyStopped):
        run(block("0.01"))
    assert ran == []


def test_awaited_local_work_is_metered_and_matches_its_bill(tracker: CostTracker) -> None:
    async def work() -> Usd | None:
        async with tracker.spending(None, LOCAL, "sum", "0.01") as hold:
            sum(range(200_000))
            await asyncio.sleep(0)
        return hold.actual

    cost = run(work())
    assert ZERO < cost < Usd("0.01")
    assert tracker.treasury.reconcile().matches


# ── one user's tracker ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ada(parts: Parts) -> CostTracker:
    """Ada's own, beside Bob, who has spent two dollars."""
    parts.users.add("ada")
    parts.users.add("bob")
    parts.treasury.call(*CALL, Usd("2"), "bob")
    return CostTracker(parts.treasury, "ada")


def test_a_users_tracker_books_for_that_user_and_shows_that_users_spend(ada: CostTracker) -> None:
    assert run(ada.track_api_call(*CALL, "0.5"))
    assert run(ada.get_real_daily_spend()) == run(ada.get_real_daily_spend("ada")) == Usd("0.5")
    assert ada.treasury.spent(WindowKind.DAY) == Usd("2.5")  # 2 of Bob's and 0.50
    assert run(ada.get_cost_summary()).total_cost == Usd("0.5")
    assert [(part.name, part.cost) for part in run(ada.get_cost_by_user()).parts] == [("ada", Usd("0.5"))]
    assert [part.cost for part in run(ada.get_cost_by_service()).parts] == [Usd("0.5")]
    assert [row.calls for row in run(ada.get_variance()).rows] == [1]
    own = run(ada.get_budget_status())
    assert {line.name for line in own.lines} == {"ada"}  # 2.50 of all less 0.50 of her own would be Bob's 2
    assert "2.5" not in str(own)


@pytest.mark.parametrize("what", [CALL, (LOCAL, "tests")])
def test_a_refusal_tells_a_user_which_limit_is_full_but_not_what_the_others_have_spent(
    ada: CostTracker, what: tuple[str, str]
) -> None:
    treasury = ada.treasury
    treasury.set_limit(WindowKind.DAY, Usd("2.1"), by="ada", reason="why")

    async def block() -> None:
        async with ada.spending(None, *what, "0.50"):
            pass

    with pytest.raises(OverLimit, match=r"would exceed the daily limit of the whole system \(day 20") as refused:
        run(block())
    assert "$2" not in str(refused.value)
    with pytest.raises(OverLimit, match=r"\$2\.00 of \$2\.10 is spent"):  # whoever runs the machine hears all of it
        treasury.call(*CALL, Usd("0.50"), user="ada")


def test_a_user_who_was_deleted_and_added_again_meanwhile_spends_on(tracker: CostTracker) -> None:
    users = tracker.treasury.users
    users.add("eve")
    assert run(tracker.track_api_call(*CALL, "0.1", user="eve"))
    users.delete("eve")
    users.add("eve")
    with pytest.raises(UnknownUser):  # the number that was remembered is nobody's any more
        run(tracker.track_api_call(*CALL, "0.1", user="eve"))
    assert run(tracker.track_api_call(*CALL, "0.1", user="eve"))


@pytest.mark.parametrize(
    "name",
    [
        *("get_real_daily_spend", "get_real_weekly_spend", "get_real_monthly_spend", "get_cost_summary"),
        *("get_cost_by_user", "get_cost_by_service", "get_variance", "get_budget_status"),
    ],
)
def test_a_users_tracker_reads_nothing_of_another(ada: CostTracker, name: str) -> None:
    with pytest.raises(CrossUserRefused, match="This tracker is ada's: it neither reads nor spends for bob"):
        run(getattr(ada, name)(user="bob"))


def test_a_users_tracker_spends_for_nobody_else(ada: CostTracker) -> None:
    before = list(ada.treasury.ledger.entries())
    with pytest.raises(CrossUserRefused):
        run(ada.track_api_call(*CALL, "0.5", user="bob"))

    async def block() -> None:
        async with ada.spending("bob", *CALL, "0.5"):
            pass

    with pytest.raises(CrossUserRefused):
        run(block())
    assert list(ada.treasury.ledger.entries()) == before


def test_an_empty_name_is_nobodys_neither_yours_nor_the_whole_systems(tracker: CostTracker) -> None:
    before = list(tracker.treasury.ledger.entries())
    for question in (tracker.get_cost_summary, tracker.get_budget_status, tracker.get_real_daily_spend):
        with pytest.raises(UnknownUser, match="The name of the user is empty"):
            run(question(user=""))

    async def block() -> None:
        async with tracker.spending("", *CALL, "0.5"):
            pass

    with pytest.raises(UnknownUser, match="The name of the user is empty"):
        run(block())
    assert list(tracker.treasury.ledger.entries()) == before


def test_every_question_has_an_answer_and_none_lacks_the_user(ada: CostTracker) -> None:
    questions = {name for name, _ in inspect.getmembers(CostTracker, inspect.iscoroutinefunction) if name[0] != "_"}
    asked = {name for name in questions if "user" in inspect.signature(getattr(CostTracker, name)).parameters}
    assert questions == asked  # a new question that forgets whose it is fails here
    assert {"get_real_daily_spend", "get_cost_summary", "get_cost_by_user", "track_api_call"} <= questions


# ── how results look ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("question", "column"),
    [
        ("get_cost_summary", "cost in USD"),
        ("get_cost_by_user", "cost in USD"),
        ("get_cost_by_service", "cost in USD"),
        ("get_variance", "actual in USD"),
        ("get_budget_status", "spent in USD"),
    ],
)
def test_every_result_shows_itself_as_a_table_and_hands_exact_money_to_pandas(
    tracker: CostTracker, question: str, column: str
) -> None:
    run(tracker.track_api_call("<script>alert(1)</script>", "op", "0.1"))
    run(tracker.track_api_call("<script>alert(1)</script>", "op", "0.2"))
    result = run(getattr(tracker, question)())
    html = result._repr_html_()
    assert html.startswith("<table>")
    assert column in html
    assert "<script>" not in html
    values = [value for value in result.to_frame()[column] if value is not None]
    assert {type(value) for value in values} == {Decimal}
    assert max(values) == Decimal("0.3")  # 0.1 + 0.2, which no float can say
    assert column in str(result)
    json.dumps(result.table().records())


def test_results_cannot_be_changed(tracker: CostTracker) -> None:
    result = run(tracker.get_cost_summary())
    with pytest.raises(AttributeError):
        result.unattributed_cost = Usd("1")


class Watched(BillDesk):
    """The real desk, and how often somebody looked."""

    looks: ClassVar[list[int]] = []
    """In which thread each was."""

    def refresh(self) -> bool:
        self.looks.append(threading.get_ident())
        return super().refresh()


@pytest.fixture
def watched(parts: Parts) -> Treasury:
    """The real one, and how often somebody looked at its bills."""
    desk = parts.treasury.bills
    Watched.looks.clear()
    bills = Watched(*(getattr(desk, one.name) for one in dataclasses.fields(desk)))
    return dataclasses.replace(parts.treasury, bills=bills)


def test_tasks_that_ask_together_look_at_the_bills_once_and_each_call_of_a_thread_looks(watched: Treasury) -> None:
    tracker, looks = CostTracker(watched), Watched.looks

    async def together() -> list[bool]:
        return await asyncio.gather(*(tracker.track_api_call(*CALL, "0.01") for _ in range(20)))

    assert run(together()) == [True] * 20
    assert len(looks) == 1
    assert run(tracker.get_real_daily_spend()) == Usd("0.20")
    assert len(looks) == 2


def test_a_block_that_is_left_on_another_event_loop_is_settled_all_the_same(tracker: CostTracker) -> None:
    spending = tracker.spending(None, *CALL, "0.01")
    hold = run(spending.__aenter__())
    hold.settle(Usd("0.02"))
    run(spending.__aexit__(None, None, None))
    assert run(tracker.get_real_daily_spend()) == Usd("0.02")


def test_a_hold_cannot_be_changed_under_the_guard(tracker: CostTracker) -> None:
    hold = run(tracker.spending(None, *CALL, "0.5").__aenter__()).hold
    with pytest.raises(AttributeError):
        hold.estimate = Usd("0.1")
    assert held(tracker) == Usd("0.5")


def test_the_threads_of_a_tracker_outlast_event_loops(watched: Treasury) -> None:
    for _ in range(3):
        assert run(CostTracker(watched).track_api_call(*CALL, "0.01"))
    assert len(Watched.looks) == 3
    assert set(Watched.looks) <= {thread.ident for thread in threading.enumerate()}


def test_a_forked_child_looks_at_the_bills_in_a_thread_of_its_own(watched: Treasury) -> None:
    assert run(CostTracker(watched).track_api_call(*CALL, "0.01"))
    assert in_a_fork(lambda: run(CostTracker(watched).track_api_call(*CALL, "0.01")))
    assert run(CostTracker(watched).get_real_daily_spend()) == Usd("0.02")


def test_a_task_that_is_given_up_while_bills_are_looked_at_leaves_the_others_their_look(tracker: CostTracker) -> None:
    async def together() -> list[object]:
        asked = [asyncio.create_task(tracker.track_api_call(*CALL, "0.01")) for _ in range(3)]
        await asyncio.sleep(0)
        asked[0].cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    first, *others = run(together())
    assert isinstance(first, asyncio.CancelledError)
    assert others == [True, True]
    assert run(tracker.get_real_daily_spend()) == Usd("0.02")

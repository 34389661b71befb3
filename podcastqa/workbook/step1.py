"""Step 1 asks the guard, the meter, the bill and the mailbox themselves; each method answers one criterion.

A criterion that raises is a FAIL with the error in sight, and the others still run. Money is spent under the guard: the
run reserves its own cost when it opens, and settles it with what the meter measured.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, wraps
from itertools import chain
from typing import Any

from podcastqa.bills.bill import Bill
from podcastqa.clock import WindowKind, day_number, window
from podcastqa.cost_tracker import CostTracker
from podcastqa.database import head
from podcastqa.display import Table
from podcastqa.errors import PodcastQAError
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind
from podcastqa.spend.status import BudgetStatus
from podcastqa.spend.views import CostSummary, Variances
from podcastqa.treasury import LOCAL
from podcastqa.users import SYSTEM_ID
from podcastqa.wiring import Parts, parts
from podcastqa.workbook import drills, isolation
from podcastqa.workbook.criteria import Finding
from podcastqa.workbook.figures import Figure, estimate_against_actual, spend_against_limits, spend_per_user
from podcastqa.workbook.session import Session, open_session
from podcastqa.workbook.suite import NOT_IN_USE, run_suite
from podcastqa.workbook.work import work_table, work_together

#: What a run may cost, and what it sets aside for itself: 15 CPU minutes at the list price.
MOST = Usd("0.10")
RUN_ESTIMATE = Usd("0.01")
_SUITE_SECONDS = 420
_CALL_SECONDS = 5.0
NOT_PART = (
    "AWS Cost Explorer and cloud bills: not part of this version; AWS not validated",
    "Amazon SES and SMTP: mails go to a Maildir",
    "PostgreSQL and its row-level security: the database is SQLite",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a criterion found: True, False or (could not be checked) None, in words, and what to do about it."""

    holds: bool | None
    measured: str
    next_step: str = ""
    tables: Sequence[Table] = ()


def criterion(number: str) -> Callable[[Callable[[Step1], Answer]], Callable[[Step1], Finding]]:
    """Record what the method finds as that criterion; what it raises is a FAIL, with the traceback in sight."""

    def decorate(method: Callable[[Step1], Answer]) -> Callable[[Step1], Finding]:
        @wraps(method)
        def recorded(self: Step1) -> Finding:
            try:
                answer = method(self)
            except Exception as problem:  # noqa: BLE001 – one broken criterion must not hide the others
                print(self.parts.redactor.text(traceback.format_exc()), file=sys.stderr)  # noqa: T201
                said = str(problem) if isinstance(problem, PodcastQAError) else f"{type(problem).__name__}: {problem}"
                answer = Answer(False, said, "The traceback is in the cell's output.")
            step = answer.next_step or ("" if answer.holds else "See what was measured, and run the step again.")
            return self.session.record(number, answer.holds, answer.measured, step, answer.tables)

        return recorded

    return decorate


def open(*, users: int = 3, days: int = 7, work_rounds: int = 1) -> Step1:  # noqa: A001 – notebooks say step1.open(…)
    """Check the parameters, show what is about to be asked with which components, and start the run."""
    made = parts()
    given = {"users": users, "days": days, "work_rounds": work_rounds}
    return Step1(open_session("step1", given, made.components, made), made)


class Step1:
    """One run of step 1."""

    def __init__(self, session: Session, parts: Parts) -> None:
        self.session, self.parts = session, parts
        self.tracker = CostTracker(parts.treasury)
        self._calls: list[tuple[str, float]] = []
        parts.treasury.deliver_alerts()  # what a crash kept from being mailed is due now
        parts.meter.run_id = session.run_id
        self._run = ExitStack()
        self._run.enter_context(parts.treasury.spending(None, LOCAL, "validate-step1", RUN_ESTIMATE, background=True))

    @criterion("1")
    def billing_connection(self) -> Answer:
        """Run one real operation and find it on the bill, with its cost and its owner."""
        [[done]] = work_together(self.parts.treasury, [None], rounds=1)
        bill = self._timed("read the bill", self.parts.bill_source.read)
        found = [line for line in bill.lines if line.resource_id == done.hold_id]
        costs = sum((line.amount for line in found), ZERO)
        holds = len(found) == 1 and costs == done.cost > ZERO
        measured = (
            f"{bill.provenance.component}, {bill.provenance.account}, complete through "
            f"{bill.provenance.complete_through:%H:%M:%S} UTC; an operation that hashed {done.files} files "
            f"({done.megabytes} MB) is on it once, at {costs.shown()}; {len(bill.bad_rows)} rows cannot be read"
        )
        # A row that a power cut tore must not fail for ever: if its cost was booked, criterion 8 sees it missing.
        bad = Table("Rows that cannot be read", ("place", "reason"), tuple((b.place, b.reason) for b in bill.bad_rows))
        return Answer(holds, measured, "", [bill.provenance.table(), *([bad] if bad.rows else [])])

    @criterion("2")
    def cost_retrieval(self) -> Answer:
        """Ask for day, week and month, and compare with a recount of entries and bill in plain Python."""
        rows, agree = [], True
        for kind in WindowKind:
            before = self._recount(kind, self.parts.bill_source.read())
            told = self._timed(f"{kind.adjective} spend", partial(self.parts.treasury.spent, kind))
            counted = self._recount(kind, self.parts.bill_source.read())
            rows.append((str(window(kind, self.parts.clock.now())), told, counted))
            agree = agree and ZERO < before <= told <= counted  # others may book in between, which makes it more
        table = Table("Spend by window", ("window", "the tracker says in USD", "entries and bill in USD"), tuple(rows))
        return Answer(agree, ", ".join(f"{name}: {told.shown()}" for name, told, _ in rows), "", [table])

    @criterion("3")
    def budget_protection(self) -> Answer:
        """In books of their own, try to spend past each limit; look whether the operation really did not happen."""
        found = drills.try_limits(self.parts, self.session.run_id)
        held = [refusal.name for refusal in found if refusal.holds]
        measured = f"{len(held)} of {len(found)} held: {', '.join(held) or 'none'}"
        return Answer(len(held) == len(found), measured, "", [drills.refusal_table(found)])

    @criterion("4")
    def user_isolation(self) -> Answer:
        """Let users work at once, then compare every user's books, the sum, and what they can see of each other."""
        values, parts = self.session.parameters, self.parts
        users = [parts.users.ensure(f"validation-{i + 1}") for i in range(values["users"])]
        rounds = work_together(parts.treasury, [user.name for user in users], values["work_rounds"])
        together = isolation.were_together(parts.ledger, rounds)
        work = list(chain(*rounds))
        right, table = isolation.attribution(parts, users, work)
        summary = self._timed("cost by user", lambda: parts.treasury.by_user(values["days"]))
        whole = isolation.sums_to_whole(summary, parts.ledger, parts.bill_source.read())
        refused, tried = isolation.cross_access(parts, users)
        measured = (
            f"{len(users)} users, {len(work)} operations, all running at once: {_yes(together)}; "
            f"each user's books equal their rows on the bill: {_yes(right)}; "
            f"users and unattributed sum to the total to 1e-12 USD: {_yes(whole)}; "
            f"access across users refused: {refused} of {tried}"
        )
        holds = together and right and whole and refused == tried
        return Answer(holds, measured, "", [work_table(work), table])

    @criterion("5")
    def alerts(self) -> Answer:
        """Spend through the thresholds of a drill, and read the mails back from where they were delivered."""
        mails, repeated = drills.try_alerts(self.parts, self.session.run_id)
        asked = [*map(str, self.parts.settings.alert_thresholds), "refused"]
        got = sorted(mail.threshold for mail in mails)
        whole = all(mail.accepted and mail.whole for mail in mails)
        measured = f"{self.parts.mailer.name}: {len(mails)} mails ({', '.join(got)}), read back, {repeated} sent twice"
        holds = got == sorted(asked) and whole and not repeated
        return Answer(holds, measured, "", [drills.mail_table(mails)])

    @criterion("6")
    def database_models(self) -> Answer:
        """Compare the schema with the declared tables, and try to break every constraint."""
        differences = drills.schema_differences(self.parts, self.session.run_id)
        tried = drills.try_constraints(self.parts, self.session.run_id)
        held = [name for name, refusal in tried if drills.by_its_own_name(name, refusal)]
        untried = drills.named_constraints() - {name for name, _ in tried}
        measured = (
            f"schema {head()}, {len(differences)} differences; {len(held)} of {len(tried)} attempts refused; "
            f"{len(untried)} constraints untried"
        )
        holds = not differences and len(held) == len(tried) and not untried
        table = Table("Constraints, each broken once", ("constraint", "what the database said"), tuple(tried))
        return Answer(holds, measured, "; ".join([*differences, *untried]), [table])

    @criterion("7")
    def test_suite(self) -> Answer:
        """Run `pytest -m step1` in a process of its own."""
        root = self.parts.settings.root
        if root is None or not (root / "tests").is_dir():
            return Answer(
                None, "there are no tests beside the package", "Run it in a checkout: git clone, make validate"
            )
        try:
            result = run_suite(root, _SUITE_SECONDS)
        except subprocess.TimeoutExpired:
            return Answer(False, f"not finished after {_SUITE_SECONDS} s", "Run: pytest -m step1")
        skipped = [skip for skip in result.skipped if NOT_IN_USE not in skip]
        measured = f"{result.passed} passed, {len(result.failed)} failed, {len(result.skipped)} skipped"
        tables = [Table("Not passed", ("test",), tuple((name,) for name in (*result.failed, *result.skipped)))]
        holds = None if skipped and not result.failed else not result.failed and result.passed > 0
        return Answer(holds, measured, "" if holds else "Run: pytest -m step1", tables if tables[0].rows else [])

    @criterion("9")
    def validation_cost(self) -> Answer:
        """Settle what this run set aside for itself, and add up its rows on the bill."""
        self._run.close()
        cost = self._cost()
        measured = f"{cost.shown()} on the bill for this run; {RUN_ESTIMATE.shown()} had been set aside for it"
        return Answer(ZERO < cost < MOST, measured)

    @criterion("8")
    def books_match(self) -> Answer:
        """Put ledger and bill side by side, operation by operation."""
        found = self._timed("reconcile", self.parts.treasury.reconcile)
        measured = (
            f"difference {found.difference:.12f} USD over {len(found.lines)} operations; unattributed "
            f"{found.unattributed.shown()}; {len(found.faults)} operations whose books are wrong"
        )
        return Answer(
            found.matches, measured, "; ".join(f"{f.kind}: {f.operation_id}" for f in found.faults[:5]), [found.table()]
        )

    async def measure_cost_calls(self) -> Table:
        """Ask the tracker everything it answers, and keep how long each answer took."""
        days, tracker = self.session.parameters["days"], self.tracker
        asked: dict[str, Callable[[], Awaitable[object]]] = {
            "get_real_daily_spend": tracker.get_real_daily_spend,
            "get_real_weekly_spend": tracker.get_real_weekly_spend,
            "get_real_monthly_spend": tracker.get_real_monthly_spend,
            "get_cost_summary": lambda: tracker.get_cost_summary(days),
            "get_cost_by_user": lambda: tracker.get_cost_by_user(days),
            "get_cost_by_service": lambda: tracker.get_cost_by_service(days),
            "get_variance": lambda: tracker.get_variance(days),
            "get_budget_status": tracker.get_budget_status,
            "track_api_call": lambda: tracker.track_api_call("validation", "free-of-charge", Usd("0")),
        }
        for name, call in asked.items():
            began = time.perf_counter()
            await call()
            self._calls.append((name, time.perf_counter() - began))
            await asyncio.sleep(0)
        rows = tuple((name, f"{seconds * 1000:.1f}") for name, seconds in self._calls)
        return Table("Cost calls", ("call", "milliseconds"), rows)

    @criterion("10")
    def speed(self) -> Answer:
        """The slowest of the cost calls that this run made."""
        if not self._calls:
            return Answer(None, "no cost call was made", "Run the cells in order.")
        name, slowest = max(self._calls, key=lambda call: call[1])
        return Answer(slowest < _CALL_SECONDS, f"{len(self._calls)} calls, the slowest {slowest:.3f} s ({name})")

    def plot_users(self, spend: CostSummary) -> Figure:
        """Who spent what."""
        return spend_per_user(
            [*((part.name, part.cost) for part in spend.parts), ("unattributed", spend.unattributed_cost)]
        )

    def plot_limits(self, status: BudgetStatus) -> Figure:
        """How full the whole system's windows are, and each user's day."""
        lines = [line for line in status.lines if line.user_id == SYSTEM_ID or line.window.kind is WindowKind.DAY]
        return spend_against_limits([(f"{line.name}, {line.window}", line.spent.total, line.limit) for line in lines])

    def plot_variance(self, variances: Variances) -> Figure:
        """What operations were expected to cost, and what they did."""
        return estimate_against_actual([(f"{v.service} {v.operation}", v.estimate, v.actual) for v in variances.rows])

    def close(self) -> None:
        """Show the verdict, and remember the run; raises VerdictFailed if a criterion failed."""
        self._run.close()
        parts = self.parts
        self.session.finish(
            self._cost(),
            parts.bill_source.read().provenance.table(),
            f"On the embedded default ({', '.join(self.session.components.values())}); AWS not validated.",
            NOT_PART,
            notices=parts.choices,
        )

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return call()
        finally:
            self._calls.append((name, time.perf_counter() - began))

    def _cost(self) -> Usd:
        return self.parts.bill_source.read().of_run(self.session.run_id)

    def _recount(self, kind: WindowKind, bill: Bill) -> Usd:
        """What the window really cost, from the entries and the bill, without counters or mirror."""
        span = window(kind, self.parts.clock.now())
        booked: dict[tuple[str, int], Usd] = defaultdict(lambda: ZERO)
        for entry in self.parts.ledger.entries():
            if entry.kind in (EntryKind.SETTLE, EntryKind.CORRECT):
                booked[entry.operation.source, entry.day] += entry.amount
        billed: dict[tuple[str, int], Usd] = defaultdict(lambda: ZERO)
        for line in bill.lines:
            billed[bill.source, day_number(line.day)] += line.amount if line.is_use else ZERO
        days = range(day_number(span.start), day_number(span.end))
        keys = {key for key in (*booked, *billed) if key[1] in days}
        return sum((max(booked[key], billed[key]) for key in keys), ZERO)


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"

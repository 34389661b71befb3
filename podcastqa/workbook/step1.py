"""Step 1 asks the guard, the meter, the bill and the mailbox themselves; each method answers one criterion.

A criterion that raises is a FAIL with the error in sight, and the others still run. Money is spent under the guard: the
run reserves its own cost when it opens, and settles it with what the meter measured.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from itertools import chain

from podcastqa.clock import WindowKind, window
from podcastqa.cost_tracker import CostTracker
from podcastqa.database import head
from podcastqa.display import Table
from podcastqa.money import ZERO, Usd
from podcastqa.treasury import LOCAL
from podcastqa.wiring import Parts, parts
from podcastqa.workbook import aws_checks, constraints, drills, isolation, plots
from podcastqa.workbook.asking import Measured, criterion
from podcastqa.workbook.criteria import Answer
from podcastqa.workbook.recount import paid_since, sums_to_whole, window_cost
from podcastqa.workbook.session import Session, open_session
from podcastqa.workbook.suite import run_live, run_suite
from podcastqa.workbook.work import work_table, work_together

#: What a run may cost, and what it sets aside for itself: 15 CPU minutes at the list price.
MOST = Usd("0.10")
RUN_ESTIMATE = Usd("0.01")
_SUITE_SECONDS = 580
_CALL_SECONDS = 5.0


def open(*, users: int = 3, days: int = 7, work_rounds: int = 1, console_csv: str = "", tests: str = "") -> Step1:  # noqa: A001 – notebooks say step1.open(…)
    """Check the parameters, show what is about to be asked with which components, and start the run."""
    made = parts()
    given = {"users": users, "days": days, "work_rounds": work_rounds, "console_csv": console_csv, "tests": tests}
    return Step1(open_session("step1", given, made.components, made), made)


class Step1(Measured):
    """One run of step 1."""

    def __init__(self, session: Session, parts: Parts) -> None:
        super().__init__(session, parts)
        self.tracker = CostTracker(parts.treasury)
        self._first_entry = parts.ledger.last_id()
        self.unproved = aws_checks.unproved(parts)
        parts.treasury.deliver_alerts()  # what a crash kept from being mailed is due now
        parts.meter.run_id = session.run_id
        self._run = ExitStack()
        self._run.enter_context(parts.treasury.spending(None, LOCAL, "validate-step1", RUN_ESTIMATE, background=True))

    @criterion("1")
    def billing_connection(self) -> Answer:
        """Ask the billing source in use who it is and what it knows."""
        if self.parts.cost_explorer is None:
            return self._meter_answers()
        return aws_checks.answers(self.parts, self._timed("read the bill", self.parts.bill_source.read), self._paid())

    def _meter_answers(self) -> Answer:
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
            span = window(kind, self.parts.clock.now())
            before = window_cost(self.parts, span)
            told = self._timed(f"{kind.adjective} spend", partial(self.parts.treasury.spent, kind))
            counted = window_cost(self.parts, span)
            rows.append((str(span), told, counted))
            agree = agree and ZERO < before <= told <= counted  # others may book in between, which makes it more
        table = Table("Spend by window", ("window", "the tracker says in USD", "entries and bill in USD"), tuple(rows))
        measured = ", ".join(f"{name}: {told.shown()}" for name, told, _ in rows)
        if self.parts.bill_source.read().provenance.complete_through is None:
            return Answer(None, f"{measured}; the bill was never read", "See criterion 1.", [table])
        return Answer(agree, measured, "", [table])

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
        whole = sums_to_whole(parts, summary)
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
        whole = all(mail.accepted and mail.whole is not False for mail in mails)
        seen = "read back" if all(mail.whole for mail in mails) else "accepted"
        measured = f"{self.parts.mailer.name}: {len(mails)} mails ({', '.join(got)}), {seen}, {repeated} sent twice"
        holds = got == sorted(asked) and whole and not repeated
        return Answer(holds, measured, "", [drills.mail_table(mails)])

    @criterion("6")
    def database_models(self) -> Answer:
        """Compare the schema with the declared tables, and try to break every constraint."""
        differences = constraints.schema_differences(self.parts, self.session.run_id)
        tried = constraints.try_constraints(self.parts, self.session.run_id)
        held = [name for name, refusal in tried if constraints.by_its_own_name(name, refusal)]
        untried = constraints.named_constraints() - {name for name, _ in tried}
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
            server, chosen = self.parts.database.path is None, self.session.parameters["tests"]
            result = run_suite(root, _SUITE_SECONDS, server=server, chosen=chosen)
            live = run_live(root, _SUITE_SECONDS) if self.parts.cost_explorer else None
        except subprocess.TimeoutExpired:
            return Answer(False, f"not finished after {_SUITE_SECONDS} s", "Run: pytest -m step1")
        runs = [run for run in (result, live) if run]
        measured = "; live: ".join(run.counted() for run in runs)
        not_passed = [(name,) for run in runs for name in (*run.failed, *run.skipped)]
        tables = [Table("Not passed", ("test",), tuple(not_passed))] if not_passed else []
        holds = None if all(run.holds is not False for run in runs) else False
        holds = True if all(run.holds for run in runs) else holds
        if chosen and holds:
            return Answer(None, f"only tests of {chosen!r}: {measured}", "Run it without a choice of tests", tables)
        return Answer(holds, measured, "" if holds else "Run: pytest -m step1, and with AWS: pytest -m aws", tables)

    @criterion("9")
    def validation_cost(self) -> Answer:
        """Settle what this run set aside for itself, and add up its rows on the bill."""
        self._run.close()
        cost, paid = self._cost(), self._paid()
        measured = f"{cost.shown()} on the bill for this run; {RUN_ESTIMATE.shown()} had been set aside for it"
        if self.parts.aws:
            measured += f"; {paid.shown()} paid to AWS or in doubt; together {(cost + paid).shown()}"
        return Answer(ZERO < cost + paid < MOST, measured)

    @criterion("8")
    def books_match(self) -> Answer:
        """Put ledger and bill side by side: operation by operation on the meter, day by day on a cloud bill."""
        found = self._timed("reconcile", self.parts.treasury.reconcile)
        measured = (
            f"difference {found.difference:.12f} USD over {len(found.lines)} operations; unattributed "
            f"{found.unattributed.shown()}; {len(found.faults)} operations whose books are wrong"
        )
        wrong = "; ".join(f"{fault.kind}: {fault.operation_id}" for fault in found.faults[:5])
        mine = Answer(found.matches, measured, wrong, [found.table()])
        if self.parts.cost_explorer is None:
            return mine
        return aws_checks.books(self.parts, self.session.parameters["console_csv"], mine)

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
        """The slowest of the cost calls that this run made; a call to AWS ends with all its attempts."""
        if not self._calls:
            return Answer(None, "no cost call was made", "Run the cells in order.")
        paid = self.parts.payer.calls
        name, slowest = max([*self._calls, *paid], key=lambda call: call[1])
        aws = f" ({len(paid)} of them to AWS)" if self.parts.aws else ""
        measured = f"{len(self._calls) + len(paid)} calls{aws}, the slowest {slowest:.3f} s ({name})"
        return Answer(slowest < _CALL_SECONDS, measured)

    plot_users = staticmethod(plots.users)
    plot_limits = staticmethod(plots.limits)
    plot_variance = staticmethod(plots.variances)

    def close(self) -> None:
        """Show the verdict, and remember the run; raises VerdictFailed if a criterion failed."""
        self._run.close()
        parts, used = self.parts, ", ".join(self.session.components.values())
        place = f"On the embedded default ({used})" if parts.database.path else f"With {used}"
        speaks_for = f"With {used}." if parts.cost_explorer else f"{place}; AWS not validated."
        self.session.finish(
            self._cost() + self._paid(),
            parts.bill_source.read().provenance.table(),
            speaks_for,
            aws_checks.not_part(parts),
            aws_checks.figures(parts),
            notices=parts.choices,
        )

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _paid(self) -> Usd:
        """What this run has paid to AWS, its live tests with it, or may have paid."""
        return paid_since(self.parts, "aws", self._first_entry)


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"

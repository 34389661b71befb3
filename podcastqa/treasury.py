"""Every operation that may cost money asks here first and books here after: guard, meter, bill, mirror, alerts in one.

This is the synchronous core; `cost_tracker` is the async skin that notebooks and services use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from podcastqa.alerts.outbox import Delivery
from podcastqa.alerts.watch import Watch
from podcastqa.bills.desk import BillDesk
from podcastqa.bills.reconcile import Reconciliation, reconcile
from podcastqa.clock import Clock, WindowKind, day_number
from podcastqa.errors import Misuse, OverLimit, UnknownUser
from podcastqa.money import Usd
from podcastqa.spend import views
from podcastqa.spend.admission import Settled
from podcastqa.spend.budget import Budget
from podcastqa.spend.entries import Hold, Operation
from podcastqa.spend.job import Job
from podcastqa.spend.ledger import NOTHING, Ledger
from podcastqa.spend.meter import SOURCE, Meter
from podcastqa.spend.mirror import Mirror
from podcastqa.spend.plans import Plans
from podcastqa.spend.status import SYSTEM_NAME, BudgetStatus, DecisionHistory, LimitTable, budget_status
from podcastqa.users import SYSTEM_ID, Users

#: Work on this machine: the local meter says what it cost.
LOCAL = "local-compute"


@dataclass(slots=True)
class Spending:
    """An operation that is running under a hold; say what it cost before the block ends."""

    hold: Hold
    _treasury: Treasury = field(repr=False)
    actual: Usd | None = None
    voided: bool = False

    @property
    def metered(self) -> bool:
        """Whether the local meter, and not the caller, says what it cost."""
        return self.hold.operation.source == SOURCE

    def settle(self, actual: Usd, reason: str = "") -> None:
        """Book what it really cost, in full, even past the estimate."""
        if self.metered:
            raise Misuse("The local meter says what this operation cost.", next_step="Leave settle() out.")
        self._treasury.settle(self.hold, actual, reason)
        self.actual = actual

    def void(self, reason: str) -> None:
        """Give the money back: only when nothing can have been charged; say why."""
        if self.metered:
            raise Misuse("The local meter says what this operation cost.", next_step="Leave void() out.")
        self._treasury.budget.void(self.hold.hold_id, self._treasury.redact(reason))
        self.voided = True


@dataclass(frozen=True, slots=True)
class Treasury:
    """The parts that money passes through, and the verbs that move it."""

    budget: Budget
    ledger: Ledger
    meter: Meter
    bills: BillDesk
    mirror: Mirror
    plans: Plans
    users: Users
    watch: Watch
    clock: Clock
    me: str
    redact: Callable[[str], str]

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def refresh_bills(self) -> None:
        """Read each bill that may say something new, and let the guard know; what is then due is mailed."""
        if self.bills.refresh():
            self.watch.raise_all(
                [alert for user_id in self._names(None) or (SYSTEM_ID,) for alert in self.watch.due(user_id)]
            )

    def spent(self, kind: WindowKind, user: str | None = None) -> Usd:
        """What the system or a user has really spent in this window: booked or billed, whichever is more."""
        self.refresh_bills()
        scope = SYSTEM_ID if user is None else self.users.get(user).id
        return self.budget.standing(scope).get((scope, kind), NOTHING).real

    def status(self, user: str | None = None) -> BudgetStatus:
        """Every limit and what it has left; which bill that comes from, and which alerts could not be mailed."""
        self.refresh_bills()
        found = budget_status(self.budget, self._names(user), self.clock.now())
        if user is not None:
            return found  # accounts and other people's mail are the operator's
        bill = () if self.bills.in_use.name == SOURCE else self.bills.in_use.read().said()
        return replace(found, remarks=(*bill, *self.watch.deliver().said()))

    def limits(self) -> LimitTable:
        """The limits in force."""
        found = budget_status(self.budget, self._names(None), self.clock.now())
        return LimitTable(found.lines, found.later)

    def summary(self, days: int = 7, user: str | None = None) -> views.CostSummary:
        """What the last days cost, day by day."""
        return views.by_day(self.mirror, *self._days(days), self._scope(user))

    by_day = summary

    def by_user(self, days: int = 7, user: str | None = None) -> views.CostSummary:
        """What each user cost."""
        self.refresh_bills()
        return views.by_group(self.mirror, "user", *self._days(days), self._scope(user), self.users.names())

    def by_service(self, days: int = 7, user: str | None = None) -> views.CostSummary:
        """What each service cost."""
        self.refresh_bills()
        return views.by_group(self.mirror, "service", *self._days(days), self._scope(user), {})

    def variance(self, days: int = 7, user: str | None = None) -> views.Variances:
        """Estimate against actual, per operation."""
        return views.variance(self.mirror, *self._days(days), self._scope(user))

    def reconcile(self) -> Reconciliation:
        """The ledger beside the whole bill of this machine's meter, operation by operation."""
        return reconcile(SOURCE, self.ledger.entries(), self.bills.meter.read())

    # ── spending ──────────────────────────────────────────────────────────────────────────────────────────────────

    def call(self, service: str, operation: str, estimate: Usd, user: str | None = None) -> Hold:
        """Admit and book at the estimate in one transaction; raises Refused, and then the caller must not run."""
        what = self.plans.call(user, service, operation)
        self.refresh_bills()
        with self.mailing_refusals(what):
            hold = self.budget.book(what, estimate)
        self.watch.mail_due(what.user_id)
        return hold

    @contextmanager
    def spending(
        self,
        user: str | None,
        service: str,
        operation: str,
        estimate: Usd | None = None,
        *,
        hold_id: str | None = None,
        background: bool = False,
    ) -> Iterator[Spending]:
        """Reserve, start, run the block, settle; raises Refused before the block runs if a limit has no room.

        Local work is settled at what the meter says. Other work that ended without `settle` is booked at its
        estimate; work that raised without `settle` stays in doubt, counted at its estimate: failure is not void.
        """
        what, sure = self.plans.work(user, service, operation, estimate)
        self.refresh_bills()
        with self.mailing_refusals(what):
            hold = self.budget.begin(what, sure, hold_id)
        running = Spending(hold, self)
        if running.metered:
            self.meter.begin(hold.hold_id, what.user_id, hold.reserved_at, background=background)
            try:
                yield running
            finally:
                running.actual = self.meter.end(hold.hold_id)
                self.settle(hold, running.actual)
        else:
            yield running
            if running.actual is None and not running.voided:
                self.settle(hold, hold.estimate, "no actual cost was said")
                running.actual = hold.estimate

    def settle(self, hold: Hold, actual: Usd, reason: str = "") -> None:
        """Book what a hold really cost, then raise the alerts that are due."""
        self.watch.settled(hold, self.budget.writer.run(self.settling(hold, actual, reason)))

    def settling(self, hold: Hold, actual: Usd, reason: str = "") -> Job[Settled]:
        """The job that books what a hold really cost."""
        return self.budget.settling(hold.hold_id, actual, self.redact(reason) if reason else "")

    # ── deciding ──────────────────────────────────────────────────────────────────────────────────────────────────

    def set_limit(
        self,
        kind: WindowKind,
        amount: Usd,
        *,
        user: str | None = None,
        service: str = "",
        valid_from: datetime | None = None,
        by: str,
        reason: str,
    ) -> None:
        """Set a limit for the system, one user or one service, from now or a later instant on."""
        said = {"by": self.redact(by), "reason": self.redact(reason), "service": self.redact(service)}
        self.budget.set_limit(self._limited(user), kind, amount, **said, valid_from=valid_from)

    def remove_limit(
        self,
        kind: WindowKind,
        *,
        user: str | None = None,
        service: str = "",
        valid_from: datetime | None = None,
        by: str,
        reason: str,
    ) -> None:
        """Take back what was set: the settings' limit holds again, a service then has none."""
        said = {"by": self.redact(by), "reason": self.redact(reason), "service": self.redact(service)}
        self.budget.remove_limit(self._limited(user), kind, **said, valid_from=valid_from)

    def decisions(self) -> DecisionHistory:
        """Every decision on limits and on the emergency stop: who, when and why."""
        names = {SYSTEM_ID: SYSTEM_NAME, **self.users.names()}
        return DecisionHistory(self.budget.limit_history(), names, self.budget.stop_history())

    def stop(self, *, by: str, reason: str) -> None:
        """Press the emergency stop, and mail the operator."""
        number = self.budget.stop(by=self.redact(by), reason=self.redact(reason))
        detail = self.redact(f"{by}: {reason}")
        self.watch.raise_all([self.watch.alert(SYSTEM_ID, WindowKind.DAY, f"stop {number}", detail)])

    def release(self, *, by: str, reason: str) -> None:
        """Release it."""
        self.budget.release(by=self.redact(by), reason=self.redact(reason))

    def deliver_alerts(self) -> Delivery:
        """Mail what is due: alerts that a crash kept from being raised are derived again from the ledger first."""
        self.refresh_bills()
        for user_id in (SYSTEM_ID, *self._names(None)):  # a deleted user's mails are forgotten, and not sent anew
            self.watch.outbox.raise_all(self.watch.due(user_id))
        self.watch.outbox.raise_all(self.watch.due_of_services())
        return self.watch.deliver()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _scope(self, user: str | None) -> int | None:
        return None if user is None else self.users.get(user).id

    def _limited(self, user: str | None) -> int:
        return SYSTEM_ID if user is None else self.users.get(user).id

    def _names(self, user: str | None) -> dict[int, str]:
        if user is not None:
            return {self.users.get(user).id: user}
        return {one.id: one.name for one in self.users.list().users}

    def _days(self, days: int) -> tuple[int, int]:
        if not 1 <= days <= 3660:
            raise Misuse(f"{days} is not a number of days from 1 to 3660.")
        self.refresh_bills()
        today = self.clock.now().date()
        return day_number(today - timedelta(days=days - 1)), day_number(today)

    @contextmanager
    def mailing_refusals(self, what: Operation) -> Iterator[None]:
        """Mail that a limit refused the operation."""
        try:
            yield
        except OverLimit as refusal:
            self.watch.mail_refusal(what, refusal)
            raise
        except UnknownUser:
            self.plans.forget()
            raise

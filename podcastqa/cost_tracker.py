"""The cost tracker people use in notebooks: `await` it; each answer comes from the same treasury the shell asks.

A thin async skin over `Treasury` (worker threads, because the database and DuckDB are synchronous). Made with a user it
is confined to that user: it books for nobody else and shows nobody else's spend.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from decimal import Decimal
from typing import Any, NoReturn, TypeVar

from podcastqa.clock import WindowKind
from podcastqa.errors import CrossUserRefused, HoldResolved, Misuse, OverLimit, Refused, UnknownUser
from podcastqa.money import Usd
from podcastqa.spend.admission import Settled
from podcastqa.spend.entries import Hold, Operation
from podcastqa.spend.job import Job
from podcastqa.spend.meter import SOURCE as METER
from podcastqa.spend.status import BudgetStatus
from podcastqa.spend.views import CostSummary, Variances
from podcastqa.treasury import Spending, Treasury

T = TypeVar("T")
#: Tasks that ask one after the other look at the bills so often: they change a few times a day.
_BILLS_SECONDS = 0.05


def _begin_anew() -> None:
    """A forked child has none of its parent's threads."""
    global _threads  # noqa: PLW0603 – there is one process
    _threads = ThreadPoolExecutor(thread_name_prefix="podcastqa-tracker")


#: They outlast event loops: on SQLite a new thread would first connect to the database.
_threads: ThreadPoolExecutor
_begin_anew()
os.register_at_fork(after_in_child=_begin_anew)


def get_cost_tracker(user: str | None = None) -> CostTracker:
    """The cost tracker of this machine's settings; with `user`, confined to that user."""
    # The one named exception to the import rules: the owner's name for the door, and the wiring behind it.
    from podcastqa.wiring import get_cost_tracker as wired

    return wired(user)


class CostTracker:
    """What was spent, what is left, and leave to spend."""

    def __init__(self, treasury: Treasury, user: str | None = None) -> None:
        self.treasury, self.user = treasury, user
        self._bills_until = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def get_real_daily_spend(self, user: str | None = None) -> Usd:
        """What this UTC day has really cost: booked or billed, whichever is more."""
        return await self._spent(WindowKind.DAY, user)

    async def get_real_weekly_spend(self, user: str | None = None) -> Usd:
        """The same for the week from Monday."""
        return await self._spent(WindowKind.WEEK, user)

    async def get_real_monthly_spend(self, user: str | None = None) -> Usd:
        """The same for the calendar month."""
        return await self._spent(WindowKind.MONTH, user)

    async def get_cost_summary(self, days: int = 7, user: str | None = None) -> CostSummary:
        """What the last days cost, day by day; `.total_cost` is the whole."""
        return await self._ask(lambda: self.treasury.summary(days, self.whose(user)))

    async def get_cost_by_user(self, days: int = 7, user: str | None = None) -> CostSummary:
        """What each user cost; users and unattributed sum to the total exactly."""
        return await self._ask(lambda: self.treasury.by_user(days, self.whose(user)))

    async def get_cost_by_service(self, days: int = 7, user: str | None = None) -> CostSummary:
        """What each service cost."""
        return await self._ask(lambda: self.treasury.by_service(days, self.whose(user)))

    async def get_variance(self, days: int = 7, user: str | None = None) -> Variances:
        """Estimate against actual cost, per operation."""
        return await self._ask(lambda: self.treasury.variance(days, self.whose(user)))

    async def get_budget_status(self, user: str | None = None) -> BudgetStatus:
        """Every limit and what it has left; a confined tracker's are its user's own."""
        found = await self._ask(lambda: self.treasury.status(self.whose(user)))
        return found if self.user is None else found.only(self.user)

    async def track_api_call(
        self, service: str, operation: str, estimate: Usd | Decimal | str, user: str | None = None
    ) -> bool:
        """Admit a call and book it at its estimate; False means refused, and then the call must not be made."""

        treasury, payer = self.treasury, self.whose(user)
        try:
            sure = _usd(estimate)
            what = treasury.plans.call(payer, service, operation)
            job = treasury.budget.booking(what, sure)
            if self._bills_may_be_new():
                await self._look_at_bills()
            try:
                await treasury.budget.writer.ask(job)
            except (OverLimit, UnknownUser) as refusal:
                await self._refused(what, refusal)
        except Refused:
            return False
        await self._ask(lambda: treasury.watch.mail_due(what.user_id))
        return True

    def spending(
        self, user: str | None, service: str, operation: str, estimate: Usd | Decimal | str | None = None
    ) -> AbstractAsyncContextManager[Spending]:
        """Reserve, run the block, settle; raises Refused before the block runs.

        `async with tracker.spending("ada", service, operation, estimate) as hold: …; hold.settle(actual)`
        """
        payer = self.whose(user)
        what, sure = self.treasury.plans.work(payer, service, operation, None if estimate is None else _usd(estimate))
        if what.source == METER:
            return _InThisThread(self.treasury.spending(payer, service, operation, sure), self._told)
        return _Awaited(self, what, sure)

    async def _refused(self, what: Operation, refusal: OverLimit | UnknownUser) -> NoReturn:
        """Raise what whoever uses this tracker may hear of it; that a limit has no room is mailed first."""
        if isinstance(refusal, UnknownUser):
            self.treasury.plans.forget()
            raise refusal
        await self._ask(lambda: self.treasury.watch.mail_refusal(what, refusal))
        raise self._told(refusal) from None

    def _bills_may_be_new(self) -> bool:
        """Whether they are to be looked at before anything is admitted: what they say may close the door."""
        return time.monotonic() > self._bills_until

    def _told(self, refusal: OverLimit) -> OverLimit:
        """A refusal as whoever uses this tracker may hear it."""
        return refusal if self.user is None else refusal.for_user()

    async def _look_at_bills(self) -> None:
        """Once for all the tasks that ask meanwhile; one that is given up gives up for itself."""
        looking, loop = self._looking, asyncio.get_running_loop()
        if looking is None or looking.done() or looking.get_loop() is not loop:
            looking = self._looking = loop.create_task(self._ask(self.treasury.refresh_bills))
        await asyncio.shield(looking)
        self._bills_until = time.monotonic() + _BILLS_SECONDS

    async def _tell(self, hold: Hold, settled: Settled) -> None:
        """Raise the alerts that are due after a settle."""
        await self._ask(lambda: self.treasury.watch.settled(hold, settled))

    async def _spent(self, kind: WindowKind, user: str | None) -> Usd:
        return await self._ask(lambda: self.treasury.spent(kind, self.whose(user)))

    def whose(self, user: str | None) -> str | None:
        """Whose spend this tracker may speak of when asked for `user`; raises CrossUserRefused for another's."""
        if self.user is not None and user not in (None, self.user):
            raise CrossUserRefused(f"This tracker is {self.user}'s: it neither reads nor spends for {user}.")
        return self.user if user is None else user

    @staticmethod
    async def _ask(question: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(_threads, question)


class _Awaited(Spending):
    """An operation under a hold that a task awaits; a class, for a generator costs each operation more."""

    __slots__ = ("_estimate", "_has_begun", "_is_over", "_settling", "_tracker", "_what")

    def __init__(self, tracker: CostTracker, what: Operation, estimate: Usd) -> None:
        self._tracker, self._what, self._estimate = tracker, what, estimate
        self._treasury, self.actual, self.voided = tracker.treasury, None, False
        self._settling: Job[Settled] | None = None
        self._has_begun = self._is_over = False

    async def __aenter__(self) -> Spending:
        if self._has_begun:
            raise Misuse("This operation has been run already.", next_step="Ask spending() for each one anew.")
        self._has_begun = True
        tracker, budget = self._tracker, self._treasury.budget
        job = budget.beginning(self._what, self._estimate)
        if tracker._bills_may_be_new():
            await tracker._look_at_bills()
        try:
            self.hold = await budget.writer.ask(job)
        except asyncio.CancelledError:
            budget.give_up(job)
            raise
        except (OverLimit, UnknownUser) as refusal:
            await tracker._refused(self._what, refusal)
        return self

    def settle(self, actual: Usd, reason: str = "") -> None:
        """Book what it really cost, in full, when the block ends; at once where it has ended."""
        if self._is_over:
            super().settle(actual, reason)
            return
        if self.actual is not None and actual != self.actual:
            raise HoldResolved(
                f"This operation is already settled at {self.actual.shown()}, not {actual.shown()}.",
                next_step="Mend it with a correction and a reason.",
            )
        self._settling = self._treasury.settling(self.hold, actual, reason)
        self.actual = actual

    def void(self, reason: str) -> None:
        """Give the money back: only when nothing can have been charged; say why."""
        if self._settling is not None:
            raise HoldResolved("This operation is already settled.")
        super().void(reason)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.actual is None and not self.voided:
            self.settle(self.hold.estimate, "no actual cost was said")
        self._is_over = True
        if self._settling is None:
            return
        settled = await self._treasury.budget.writer.ask(self._settling)
        if self._treasury.watch.may_be_due(settled):
            await self._tracker._tell(self.hold, settled)


class _InThisThread(AbstractAsyncContextManager[Spending]):
    """The meter reads the CPU clock of the thread that does the work."""

    def __init__(self, spending: AbstractContextManager[Spending], told: Callable[[OverLimit], OverLimit]) -> None:
        self._spending, self._told = spending, told

    async def __aenter__(self) -> Spending:
        try:
            return self._spending.__enter__()
        except OverLimit as refusal:
            raise self._told(refusal) from None

    async def __aexit__(self, *problem: Any) -> bool | None:
        return self._spending.__exit__(*problem)


def _usd(estimate: Usd | Decimal | str) -> Usd:
    """An estimate with more than twelve decimals is rounded up; no float is taken."""
    return estimate if isinstance(estimate, Usd) else Usd.rounded_up(estimate)

"""Refuse at reserve, record at settle: before the call a limit can say no, after it the whole cost is booked.

Day, week and month, for the whole system and for the user, are checked in the one transaction that writes the hold.
What cannot be checked (no limit, no ledger, an estimate that is no amount) is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from podcastqa.clock import Clock, WindowKind, window
from podcastqa.database import Database
from podcastqa.errors import HoldExpired, HoldIdReused, HoldResolved, Misuse, OverLimit, UnknownUser
from podcastqa.money import ZERO, Usd
from podcastqa.spend.admission import Kept, Picos, Settled, first_over
from podcastqa.spend.books import Books
from podcastqa.spend.decisions import Decisions, Limits, refuse_if_stopped
from podcastqa.spend.entries import (
    EntryKind,
    Hold,
    Operation,
    checked_amount,
    checked_estimate,
    checked_hold_id,
    new_hold_id,
)
from podcastqa.spend.ledger import Ledger, Spent, Standing
from podcastqa.spend.limits import PLACE
from podcastqa.spend.standing import Expired, ScopeKey, without
from podcastqa.spend.writer import Job
from podcastqa.users import SYSTEM_ID


class Budget(Decisions):
    """The guard: reserve, start, settle, void, correct; it obeys the limits and the stop that people decide on.

    Each verb is a job that the writer runs; what ends in `ing` makes the job, so that a task can await it.
    """

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        clock: Clock,
        *,
        system_limits: Limits,
        user_limits: Limits,
        hold_for: timedelta,
        name_of: Callable[[int], str] = str,
        kept: Kept | None = None,
    ) -> None:
        super().__init__(database, clock, system_limits, user_limits)
        self.writer, self._kept = ledger.writer, kept
        self._ledger, self._hold_for, self._name_of = ledger, hold_for, name_of

    # ── the verbs ─────────────────────────────────────────────────────────────────────────────────────────────────

    def reserve(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Hold:
        """Set the estimate aside, or refuse; the same id asked twice gives the same hold.

        Raises OverLimit (with scope and window), EmergencyStopped, LimitMissing, BadEstimate, LedgerUnavailable,
        HoldIdReused, UnknownUser. A refused reserve writes nothing.
        """
        return self.writer.run(self.reserving(operation, estimate, hold_id))

    def begin(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Hold:
        """Reserve and start in one commit: for an operation that runs now. Raises what both raise."""
        return self.writer.run(self.beginning(operation, estimate, hold_id))

    def book(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Hold:
        """Admit and book at the estimate in one transaction: for calls whose cost is known before.

        Raises what `reserve` raises, and HoldResolved where the id's hold was voided or ran out of time.
        """
        return self.writer.run(self.booking(operation, estimate, hold_id))

    def start(self, hold_id: str) -> None:
        """Say that the operation runs now; raises EmergencyStopped, HoldExpired or HoldResolved. Twice is once."""
        self.writer.run(Job(lambda books: self._start(books, hold_id), hold_id))

    def settle(self, hold_id: str, actual: Usd, reason: str = "") -> Usd:
        """Book what the operation really cost, in full; returns the overrun past the estimate (0 if none).

        Settling twice with the same amount is settling once; another amount raises HoldResolved. A settle that
        comes after the hold expired or was voided is booked as a correction, once: money that left is never forgotten.
        """
        return self.writer.run(self.settling(hold_id, actual, reason)).overrun

    def void(self, hold_id: str, reason: str = "") -> None:
        """Give the hold back: only when nothing can have been charged (a started operation needs the reason)."""
        self.writer.run(Job(lambda books: self._void(books, hold_id, reason), hold_id))

    def correct(self, hold_id: str, delta: Usd, reason: str) -> None:
        """Mend what a settled hold booked by a difference, with a reason."""
        if not reason.strip():
            raise Misuse("A correction needs a reason.")
        delta = checked_amount(delta)
        self.writer.run(
            Job(
                lambda books: books.correct(books.get(hold_id), delta, books.now, reason),
                hold_id,
                again=False,  # twice would be two corrections
            )
        )

    def standing(self, user_id: int, now: datetime | None = None) -> Standing:
        """What the system and the user have spent in the windows of `now`."""
        return self._ledger.standing(user_id, now or self._clock.now())

    def service_standing(self, service: str, now: datetime | None = None) -> dict[WindowKind, Spent]:
        """What all together have spent on a service in the windows of `now`."""
        return self._ledger.service_standing(service, now or self._clock.now())

    # ── their jobs ────────────────────────────────────────────────────────────────────────────────────────────────

    def reserving(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Job[Hold]:
        """The job of `reserve`."""
        return self._job(self._admit, operation, estimate, hold_id)

    def beginning(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Job[Hold]:
        """The job of `begin`."""
        return self._job(self._begin, operation, estimate, hold_id)

    def booking(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Job[Hold]:
        """The job of `book`."""
        return self._job(self._book, operation, estimate, hold_id)

    def settling(self, hold_id: str, actual: Usd, reason: str = "") -> Job[Settled]:
        """The job of `settle`; says too where system and user stand then."""
        actual = checked_estimate(actual)
        return Job(lambda books: self._settle(books, hold_id, actual, reason), hold_id)

    def _job(
        self, do: Callable[[Books, Operation, Usd, str], Hold], operation: Operation, estimate: Usd, hold_id: str | None
    ) -> Job[Hold]:
        given = checked_hold_id(hold_id) or ""
        return Job(_Admission(do, operation, checked_estimate(estimate), given), given, operation.user_id)

    def _admit(self, books: Books, operation: Operation, estimate: Usd, hold_id: str) -> Hold:
        known = books.found(hold_id)
        if known is not None:
            return _same(known, operation, estimate)
        refuse_if_stopped(books.stop())
        if not books.knows(operation.user_id):
            books.prepare((operation.user_id,))
            if not books.is_user(operation.user_id):
                raise UnknownUser(f"There is no user with the number {operation.user_id}.")
        expired = books.expired()
        limits = self._limits_on(books, operation)
        spent = {scope: without(expired, scope, books.standing(scope)) for scope in limits}
        left = self._left_to(books, operation, estimate, limits)
        over = first_over(estimate.pico, spent, left)
        if over is not None and not self._is_kept_for(books, operation, estimate, limits):
            raise self._over_limit(over, operation, estimate, spent[over[0]], limits[over[0]], books.now)
        self._expire(books, expired)
        hold = Hold(hold_id, operation, estimate, books.now, books.now + self._hold_for)
        books.open(hold)
        return hold

    def _begin(self, books: Books, operation: Operation, estimate: Usd, hold_id: str) -> Hold:
        was_there = books.found(hold_id) is not None
        hold = self._admit(books, operation, estimate, hold_id)
        if was_there:
            self._start(books, hold_id)
        else:
            books.start(hold, hold.reserved_at)
        return hold

    def _book(self, books: Books, operation: Operation, estimate: Usd, hold_id: str) -> Hold:
        hold = self._admit(books, operation, estimate, hold_id)
        end = books.end(hold.hold_id)
        if end is None:
            books.close(EntryKind.SETTLE, hold, estimate, hold.reserved_at)
        elif end[0] is not EntryKind.SETTLE:
            raise HoldResolved(f"The hold {hold_id} has already ended: {end[0]}.", next_step="Book under a new id.")
        return hold

    def _start(self, books: Books, hold_id: str) -> None:
        hold, end, now = books.get(hold_id), books.end(hold_id), books.now
        started = books.is_started(hold_id)
        if end is None and not started and now >= hold.expires_at:
            books.close(EntryKind.EXPIRE, hold, ZERO, now)
            end = EntryKind.EXPIRE, ZERO
        if end and end[0] is EntryKind.EXPIRE:
            raise HoldExpired(  # that it ran out is written down all the same
                f"The hold {hold_id} ran out of time at {hold.expires_at:%H:%M:%S} UTC before its operation started.",
                next_step="Reserve again.",
            )
        if end:
            raise HoldResolved(f"The hold {hold_id} has already ended: {end[0]}.", next_step="Reserve a new one.")
        if not started:
            refuse_if_stopped(books.stop())
            books.start(hold, now)

    def _settle(self, books: Books, hold_id: str, actual: Usd, reason: str) -> Settled:
        hold, end = books.get(hold_id), books.end(hold_id)
        if end is None:
            books.close(EntryKind.SETTLE, hold, actual, books.now, reason)
        else:
            settled = end[1] if end[0] is EntryKind.SETTLE else books.settled_late(hold_id)
            if settled is None:
                books.settle_late(hold, actual, books.now, reason)
            elif settled != actual:
                raise HoldResolved(
                    f"The hold {hold_id} is already settled at {settled.shown()}, not {actual.shown()}.",
                    next_step="Mend it with a correction and a reason.",
                )
        user_id = hold.operation.user_id
        if not books.knows(user_id):
            books.prepare((user_id,))
        real = {scope: tuple(books.standing(scope).real) for scope in (SYSTEM_ID, user_id)}
        overrun = actual - hold.estimate if actual.pico > hold.estimate.pico else ZERO
        return Settled(overrun, real, self._limits_on(books, hold.operation))

    def _void(self, books: Books, hold_id: str, reason: str) -> None:
        hold, end = books.get(hold_id), books.end(hold_id)
        if end is not None and end[0] is not EntryKind.VOID:
            raise HoldResolved(f"The hold {hold_id} has already ended: {end[0]}.")
        if end is None and books.is_started(hold_id) and not reason:
            raise Misuse(
                "A started operation may have been charged.",
                next_step="Say why it was not, or settle it.",
            )
        if end is None:
            books.close(EntryKind.VOID, hold, ZERO, books.now, reason)

    @staticmethod
    def _expire(books: Books, expired: Sequence[Expired]) -> None:
        if expired:
            books.look_up([row[0] for row in expired])
        for hold_id, *_ in expired:
            books.close(EntryKind.EXPIRE, books.get(hold_id), ZERO, books.now)

    # ── what a limit leaves ───────────────────────────────────────────────────────────────────────────────────────

    def _limits_on(self, books: Books, operation: Operation) -> Picos:
        """The limits that an operation has to keep: the system's, the user's, and the service's if it has any."""
        set_by_people = books.limits()
        key = operation.user_id, operation.service
        found: dict[ScopeKey, Sequence[int | None]] | None = books.memory.get(key)
        if found is None:
            found = dict(self._limits_of(set_by_people, operation.user_id).items())
            if operation.service in set_by_people.services():
                found[operation.service] = set_by_people.of(SYSTEM_ID, operation.service)
            books.memory[key] = found
        return found

    def _left_to(self, books: Books, operation: Operation, estimate: Usd, limits: Picos) -> Picos:
        """The limits without what is kept for another service; what costs nothing need not leave anything."""
        kept = self._kept
        if kept is None or operation.service == kept.service or not estimate:
            return limits
        key = "kept", operation.user_id, operation.service
        found: Picos | None = books.memory.get(key)
        if found is None:
            found = books.memory[key] = {
                scope: picos if isinstance(scope, str) else [None if p is None else p - kept.of(p) for p in picos]
                for scope, picos in limits.items()
            }
        return found

    def _is_kept_for(self, books: Books, operation: Operation, estimate: Usd, limits: Picos) -> bool:
        """Whether the operation's service has enough left of what is kept for it, in every window."""
        if self._kept is None or operation.service != self._kept.service:
            return False
        whole = [picos for scope, picos in limits.items() if not isinstance(scope, str)]
        least = min(self._kept.of(pico or 0) for picos in whole for pico in picos)
        return books.spent_on(operation.service) + estimate.pico <= least

    def _over_limit(
        self,
        over: tuple[ScopeKey, WindowKind],
        operation: Operation,
        estimate: Usd,
        spent: Sequence[int],
        limits: Sequence[int | None],
        now: datetime,
    ) -> OverLimit:
        (scope, kind), place = over, PLACE[over[1].value]
        kept = 0
        if self._kept and operation.service != self._kept.service and not isinstance(scope, str):
            kept = self._kept.of(limits[place] or 0)
        keeps = f"; {Usd.from_pico(kept).shown()} of it is kept for alerts" if kept else ""
        have, limit = Usd.from_pico(spent[place]).shown(), Usd.from_pico(limits[place] or 0).shown()
        return OverLimit(
            f"{operation.service} {operation.operation} ({estimate.shown()}) would exceed the {kind.adjective} limit "
            f"of {self._called(scope)}: {have} of {limit} is spent or held ({window(kind, now)}){keeps}.",
            next_step="Wait for the next window, or raise it: podcastqa budget set",
            scope="service" if isinstance(scope, str) else "user" if scope else "system",
            window=kind.value,
        )

    def _called(self, scope: ScopeKey) -> str:
        if isinstance(scope, str):
            return f"the service {scope}"
        return "the whole system" if scope == SYSTEM_ID else self._name_of(scope)


class _Admission:
    """What a caller wants admitted; its hold's id is made in its turn, so that new ids lie side by side in an index."""

    __slots__ = ("do", "estimate", "hold_id", "is_made", "operation")

    def __init__(
        self, do: Callable[[Books, Operation, Usd, str], Hold], operation: Operation, estimate: Usd, hold_id: str
    ) -> None:
        self.do, self.operation, self.estimate, self.hold_id = do, operation, estimate, hold_id
        self.is_made = False

    def __call__(self, books: Books) -> Hold:
        if self.is_made:  # and was tried before: it may be written
            books.look_up([self.hold_id])
        elif not self.hold_id:
            self.hold_id, self.is_made = new_hold_id(), True
        return self.do(books, self.operation, self.estimate, self.hold_id)


def _same(known: Hold, operation: Operation, estimate: Usd) -> Hold:
    if (known.operation, known.estimate) != (operation, estimate):
        raise HoldIdReused(f"The id {known.hold_id} already names a hold for another operation.")
    return known

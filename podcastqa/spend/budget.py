"""Refuse at reserve, record at settle: before the call a limit can say no, after it the whole cost is booked.

Day, week and month, for the whole system and for the user, are checked in the one transaction that writes the hold.
What cannot be checked (no limit, no ledger, an estimate that is no amount) is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from podcastqa.clock import Clock, WindowKind
from podcastqa.database import Database
from podcastqa.errors import HoldExpired, HoldIdReused, HoldResolved, Misuse
from podcastqa.money import ZERO, Usd
from podcastqa.spend.admission import QUIET, Kept, Settled
from podcastqa.spend.books import Books
from podcastqa.spend.decisions import Limits, refuse_if_stopped
from podcastqa.spend.entries import (
    EntryKind,
    Hold,
    Operation,
    checked_amount,
    checked_estimate,
    checked_hold_id,
    new_hold_id,
)
from podcastqa.spend.job import Doing, Job
from podcastqa.spend.ledger import Ledger, Spent, Standing
from podcastqa.spend.room import Room


class Budget(Room):
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
        first_percent: int = 0,
    ) -> None:
        """`first_percent`: at which share of a limit somebody first wants to be told; 0: of every settle."""
        super().__init__(database, clock, system_limits, user_limits, name_of, kept, first_percent)
        self.writer, self._ledger, self._hold_for = ledger.writer, ledger, hold_for

    # ── the verbs ─────────────────────────────────────────────────────────────────────────────────────────────────

    def reserve(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Hold:
        """Set the estimate aside, or refuse; the same id asked twice gives the same hold.

        Raises OverLimit (with scope and window), EmergencyStopped, LimitMissing, BadEstimate, LedgerUnavailable,
        HoldIdReused, UnknownUser. A refused reserve writes nothing.
        """
        return self.writer.run(self.reserving(operation, estimate, hold_id))

    def begin(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Hold:
        """Reserve and start in one commit: for an operation that runs now. Raises what both raise."""
        job = self.beginning(operation, estimate, hold_id)
        try:
            return self.writer.run(job)
        except KeyboardInterrupt:
            if hold_id is None:  # under an id that was given, an earlier try may have run
                self.give_up(job)
            raise

    def book(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Hold:
        """Admit and book at the estimate in one transaction: for calls whose cost is known before.

        Raises what `reserve` raises, and HoldResolved where the id's hold was voided or ran out of time.
        """
        return self.writer.run(self.booking(operation, estimate, hold_id))

    def start(self, hold_id: str) -> None:
        """Say that the operation runs now; raises EmergencyStopped, HoldExpired or HoldResolved. Twice is once."""
        self.writer.run(Doing(lambda books: self._start(books, hold_id), hold_id))

    def settle(self, hold_id: str, actual: Usd, reason: str = "") -> Usd:
        """Book what the operation really cost, in full; returns the overrun past the estimate (0 if none).

        Settling twice with the same amount is settling once; another amount raises HoldResolved. A settle that
        comes after the hold expired or was voided is booked as a correction, once: money that left is never forgotten.
        """
        return self.writer.run(self.settling(hold_id, actual, reason)).overrun

    def void(self, hold_id: str, reason: str = "") -> None:
        """Give the hold back: only when nothing can have been charged (a started operation needs the reason)."""
        self.writer.run(Doing(lambda books: self._void(books, hold_id, reason), hold_id))

    def give_up(self, job: Job[Hold]) -> None:
        """Void what a job of `beginning` reserved, or is about to, under an id of its own: its caller was interrupted,
        and runs nothing. The writer sees to it; nobody waits."""
        # That job came first, and whoever waits is led in order: its hold is there by then, or never will be.
        self.writer.post(Doing(lambda books: self._void(books, job.hold_id, "interrupted before the operation ran")))

    def correct(self, hold_id: str, delta: Usd, reason: str) -> None:
        """Mend what a settled hold booked by a difference, with a reason."""
        self.writer.run(self.correcting(hold_id, delta, reason))

    def standing(self, user_id: int, now: datetime | None = None) -> Standing:
        """What the system and the user have spent in the windows of `now`."""
        return self._ledger.standing(user_id, now or self._clock.now())

    def service_standing(self, service: str, now: datetime | None = None) -> dict[WindowKind, Spent]:
        """What all together have spent on a service in the windows of `now`."""
        return self._ledger.service_standing(service, now or self._clock.now())

    # ── their jobs ────────────────────────────────────────────────────────────────────────────────────────────────

    def reserving(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Job[Hold]:
        """The job of `reserve`."""
        return Admission(self._admit, operation, checked_estimate(estimate), checked_hold_id(hold_id))

    def beginning(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Job[Hold]:
        """The job of `begin`."""
        return Admission(self._begin, operation, checked_estimate(estimate), checked_hold_id(hold_id))

    def booking(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Job[Hold]:
        """The job of `book`."""
        return Admission(self._book, operation, checked_estimate(estimate), checked_hold_id(hold_id))

    def settling(self, hold_id: str, actual: Usd, reason: str = "") -> Job[Settled]:
        """The job of `settle`; says too where system and user stand then."""
        return Settlement(self._settle, hold_id, checked_estimate(actual), reason)

    def correcting(self, hold_id: str, delta: Usd, reason: str) -> Job[None]:
        """The job of `correct`; it is not done again where a connection was cut, for twice would be two corrections."""
        if not reason.strip():
            raise Misuse("A correction needs a reason.")
        delta = checked_amount(delta)
        return Doing(lambda books: books.correct(books.get(hold_id), delta, books.now, reason), hold_id, again=False)

    def _admit(self, books: Books, wanted: Admission, known: Hold | None) -> Hold:
        return self._open(books, wanted, self._hold_for) if known is None else _same(known, wanted)

    def _open(self, books: Books, wanted: Admission, hold_for: timedelta | None) -> Hold:
        if word := books.stop():
            refuse_if_stopped(word)
        books.serve(self)
        operation, estimate = wanted.operation, wanted.estimate
        today = books.today(operation)
        if today is None or not today.has_room(estimate.pico):
            self.make_room(books, operation, estimate)
            today = None  # another, maybe, since what ran out of time was closed
        return books.open(wanted.hold_id, operation, estimate, hold_for, today)

    def _begin(self, books: Books, wanted: Admission, known: Hold | None) -> Hold:
        if known is None:
            return self._open(books, wanted, None)
        self._start(books, _same(known, wanted).hold_id)
        return known

    def _book(self, books: Books, wanted: Admission, known: Hold | None) -> Hold:
        hold = self._admit(books, wanted, known)
        end = books.end(hold.hold_id)
        if end is None:
            books.close(EntryKind.SETTLE, hold, hold.estimate, hold.reserved_at)
        elif end[0] is not EntryKind.SETTLE:
            raise HoldResolved(
                f"The hold {hold.hold_id} has already ended: {end[0]}.", next_step="Book under a new id."
            )
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
        hold, end = books.if_open(hold_id), None
        if hold is None:
            hold, end = books.get(hold_id), books.end(hold_id)
        if end is None:
            today = books.close(EntryKind.SETTLE, hold, actual, books.now, reason)
            if today is not None and today.is_quiet() and actual.pico <= hold.estimate.pico:
                return QUIET  # nearly always
        else:
            settled = end[1] if end[0] is EntryKind.SETTLE else books.settled_late(hold_id)
            if settled is None:
                books.settle_late(hold, actual, books.now, reason)
            elif settled != actual:
                raise HoldResolved(
                    f"The hold {hold_id} is already settled at {settled.shown()}, not {actual.shown()}.",
                    next_step="Mend it with a correction and a reason.",
                )
        limits = self.limits_on(books, hold.operation)
        overrun = actual - hold.estimate if actual.pico > hold.estimate.pico else ZERO
        return Settled(overrun, {scope: books.standing(scope).real for scope in limits}, limits)

    def _void(self, books: Books, hold_id: str, reason: str) -> None:
        hold, end = books.get(hold_id), books.end(hold_id)
        if end is not None and end[0] is not EntryKind.VOID:
            raise HoldResolved(f"The hold {hold_id} has already ended: {end[0]}.")
        if end is None and books.is_started(hold_id) and not reason.strip():
            raise Misuse(
                "A started operation may have been charged.",
                next_step="Say why it was not, or settle it.",
            )
        if end is None:
            books.close(EntryKind.VOID, hold, ZERO, books.now, reason)


class Admission(Job[Hold]):
    """What a caller wants admitted; its hold's id is made in its turn, so that new ids lie side by side in an index."""

    def __init__(
        self,
        verb: Callable[[Books, Admission, Hold | None], Hold],
        operation: Operation,
        estimate: Usd,
        hold_id: str,
    ) -> None:
        """`hold_id`: empty for a new one. `verb` is told which hold has that id already."""
        self.hold_id, self.user_id, self.verb = hold_id, operation.user_id, verb
        self.operation, self.estimate = operation, estimate

    def do(self, books: Books) -> Hold:
        """Admit it under its id."""
        if self.hold_id:
            return self.verb(books, self, books.found(self.hold_id))
        self.hold_id = new_hold_id(books.stem)  # once: where it is tried again, its first try may be written
        return self.verb(books, self, None)


class Settlement(Job[Settled]):
    """What a caller says that a hold cost."""

    def __init__(self, verb: Callable[[Books, str, Usd, str], Settled], hold_id: str, actual: Usd, reason: str) -> None:
        self.hold_id, self.user_id, self.verb = hold_id, 0, verb
        self.actual, self.reason = actual, reason

    def do(self, books: Books) -> Settled:
        """Book it."""
        return self.verb(books, self.hold_id, self.actual, self.reason)


def _same(known: Hold, wanted: Admission) -> Hold:
    if (known.operation, known.estimate) != (wanted.operation, wanted.estimate):
        raise HoldIdReused(f"The id {known.hold_id} already names a hold for another operation.")
    return known

"""Refuse at reserve, record at settle: before the call a limit can say no, after it the whole cost is booked.

Day, week and month, for the whole system and for the user, are checked in the one transaction that writes the hold.
What cannot be checked (no limit, no ledger, an estimate that is no amount) is refused.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from podcastqa.clock import Clock, WindowKind, microseconds, window
from podcastqa.database import Database
from podcastqa.errors import HoldExpired, HoldIdReused, HoldResolved, LimitMissing, Misuse, OverLimit, UnknownUser
from podcastqa.money import ZERO, Usd
from podcastqa.spend.decisions import PLACE, Decisions, Limits, refuse_if_stopped
from podcastqa.spend.entries import EntryKind, Hold, Operation, checked_amount, checked_estimate, checked_hold_id
from podcastqa.spend.ledger import KINDS, Books, Ledger, Standing
from podcastqa.users import SYSTEM_ID

_NOTHING = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Kept:
    """The last of each limit, set aside for one service from the window's start: the mail about a full budget is paid.

    Others leave it alone; the service may spend it even where a bill has passed the limit meanwhile.
    """

    service: str
    most: Usd

    def of(self, limit_pico: int) -> int:
        """How much of that limit is kept: a hundredth at most."""
        return min(self.most.pico, limit_pico // 100)


def first_over(
    estimate_pico: int, user_id: int, spent: Mapping[int, Sequence[int]], limits: Mapping[int, Sequence[int | None]]
) -> tuple[int, WindowKind] | None:
    """The first window without room for the estimate: the system's day, week, month, then the user's; None if all fit.

    `spent` and `limits` hold pico-dollars per scope, in the order day, week, month. Raises LimitMissing where a window
    has no limit.
    """
    for scope in (SYSTEM_ID, user_id):
        for kind, have, limit in zip(KINDS, spent.get(scope, _NOTHING), limits[scope], strict=True):
            if limit is None:
                whose = "the whole system" if scope == SYSTEM_ID else "this user"
                raise LimitMissing(
                    f"There is no {kind.adjective} limit for {whose}, so nothing may be spent.",
                    next_step=f"Set one: podcastqa budget set {kind} AMOUNT --reason WHY",
                )
            if have + estimate_pico > limit:
                return scope, kind
    return None


class Budget(Decisions):
    """The guard: reserve, start, settle, void, correct; it obeys the limits and the stop that people decide on."""

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
        self._kept = kept
        super().__init__(database, clock, system_limits, user_limits)
        self._ledger, self._hold_for, self._name_of = ledger, hold_for, name_of

    def reserve(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Hold:
        """Set the estimate aside, or refuse; the same id asked twice gives the same hold.

        Raises OverLimit (with scope and window), EmergencyStopped, LimitMissing, BadEstimate, LedgerUnavailable,
        HoldIdReused. A refused reserve writes nothing.
        """
        estimate, hold_id = checked_estimate(estimate), checked_hold_id(hold_id)
        with self._ledger.writing() as books:
            return self._admit(books, operation, estimate, hold_id)

    def book(self, operation: Operation, estimate: Usd, hold_id: str | None = None) -> Hold:
        """Admit and book at the estimate in one transaction: for calls whose cost is known before.

        Raises what `reserve` raises, and HoldResolved where the id's hold was voided or ran out of time.
        """
        estimate, hold_id = checked_estimate(estimate), checked_hold_id(hold_id)
        with self._ledger.writing() as books:
            hold = self._admit(books, operation, estimate, hold_id)
            end = books.end(hold.hold_id)
            if end is None:
                books.close(EntryKind.SETTLE, hold, estimate, hold.reserved_at)
            elif end[0] is not EntryKind.SETTLE:
                raise HoldResolved(f"The hold {hold_id} has already ended: {end[0]}.", next_step="Book under a new id.")
        return hold

    def start(self, hold_id: str) -> None:
        """Say that the operation runs now; raises EmergencyStopped, HoldExpired or HoldResolved. Twice is once."""
        now = self._clock.now()
        with self._ledger.writing() as books:
            hold, end = books.get(hold_id), books.end(hold_id)
            started = books.is_started(hold_id)
            late = end is None and not started and now >= hold.expires_at
            if late:
                books.close(EntryKind.EXPIRE, hold, ZERO, now)
            elif end is None and not started:
                refuse_if_stopped(books.driver)
                books.start(hold, now)
        if late or (end and end[0] is EntryKind.EXPIRE):
            raise HoldExpired(
                f"The hold {hold_id} ran out of time at {hold.expires_at:%H:%M:%S} UTC before its operation started.",
                next_step="Reserve again.",
            )
        if end:
            raise HoldResolved(f"The hold {hold_id} has already ended: {end[0]}.", next_step="Reserve a new one.")

    def settle(self, hold_id: str, actual: Usd, reason: str = "") -> Usd:
        """Book what the operation really cost, in full; returns the overrun past the estimate (0 if none).

        Settling twice with the same amount is settling once; another amount raises HoldResolved. A settle that
        comes after the hold expired or was voided is booked as a correction, once: money that left is never forgotten.
        """
        actual, now = checked_estimate(actual), self._clock.now()
        with self._ledger.writing() as books:
            hold, end = books.get(hold_id), books.end(hold_id)
            if end is None:
                books.close(EntryKind.SETTLE, hold, actual, now, reason)
                return max(actual - hold.estimate, ZERO)
            settled = end[1] if end[0] is EntryKind.SETTLE else books.settled_late(hold_id)
            if settled is None:
                books.settle_late(hold, actual, now, reason)
            elif settled != actual:
                raise HoldResolved(
                    f"The hold {hold_id} is already settled at {settled.shown()}, not {actual.shown()}.",
                    next_step="Mend it with a correction and a reason.",
                )
        return max(actual - hold.estimate, ZERO)

    def void(self, hold_id: str, reason: str = "") -> None:
        """Give the hold back: only when nothing can have been charged (a started operation needs the reason)."""
        now = self._clock.now()
        with self._ledger.writing() as books:
            hold, end = books.get(hold_id), books.end(hold_id)
            if end is not None and end[0] is not EntryKind.VOID:
                raise HoldResolved(f"The hold {hold_id} has already ended: {end[0]}.")
            if end is None and books.is_started(hold_id) and not reason:
                raise Misuse(
                    "A started operation may have been charged.",
                    next_step="Say why it was not, or settle it.",
                )
            if end is None:
                books.close(EntryKind.VOID, hold, ZERO, now, reason)

    def correct(self, hold_id: str, delta: Usd, reason: str) -> None:
        """Mend what a settled hold booked by a difference, with a reason."""
        if not reason.strip():
            raise Misuse("A correction needs a reason.")
        delta = checked_amount(delta)
        with self._ledger.writing() as books:
            books.correct(books.get(hold_id), delta, self._clock.now(), reason)

    def standing(self, user_id: int, now: datetime | None = None) -> Standing:
        """What the system and the user have spent in the windows of `now`."""
        return self._ledger.standing(user_id, now or self._clock.now())

    def _admit(self, books: Books, operation: Operation, estimate: Usd, hold_id: str | None) -> Hold:
        known = books.find(hold_id) if hold_id else None
        if known is not None:
            return _same(known, operation, estimate)
        now = self._clock.now()
        refuse_if_stopped(books.driver)
        user_id, expired = operation.user_id, books.expired(microseconds(now))
        spent, limits = books.totals(user_id, now.date(), expired), self._limits(books.driver, user_id)
        over = first_over(estimate.pico, user_id, spent, self._left_to(operation, estimate, limits))
        if over is not None and not self._is_kept_for(books, operation, estimate, limits, now):
            raise self._over_limit(over, operation, estimate, spent.get(over[0], _NOTHING), limits[over[0]], now)
        for expired_id, *_ in expired:
            books.close(EntryKind.EXPIRE, books.get(expired_id), ZERO, now)
        hold = Hold(hold_id or new_hold_id(), operation, estimate, now, now + self._hold_for)
        try:
            books.open(hold)
        except sqlite3.IntegrityError as problem:
            raise UnknownUser(f"There is no user with the number {user_id}.") from problem
        return hold

    def _left_to(
        self, operation: Operation, estimate: Usd, limits: dict[int, list[int | None]]
    ) -> Mapping[int, Sequence[int | None]]:
        """The limits without what is kept for another service; what costs nothing need not leave anything."""
        kept = self._kept
        if kept is None or operation.service == kept.service or not estimate:
            return limits
        return {
            scope: [None if pico is None else pico - kept.of(pico) for pico in row] for scope, row in limits.items()
        }

    def _is_kept_for(
        self, books: Books, operation: Operation, estimate: Usd, limits: dict[int, list[int | None]], now: datetime
    ) -> bool:
        """Whether the operation's service has enough left of what is kept for it, in every window of `now`."""
        if self._kept is None or operation.service != self._kept.service:
            return False
        least = min(self._kept.of(pico or 0) for row in limits.values() for pico in row)
        return books.spent_on(operation.service, now.date()) + estimate.pico <= least

    def _over_limit(
        self,
        over: tuple[int, WindowKind],
        operation: Operation,
        estimate: Usd,
        spent: Sequence[int],
        limits: Sequence[int | None],
        now: datetime,
    ) -> OverLimit:
        (scope, kind), place = over, PLACE[over[1].value]
        whose = "the whole system" if scope == SYSTEM_ID else self._name_of(scope)
        kept = self._kept.of(limits[place] or 0) if self._kept and operation.service != self._kept.service else 0
        keeps = f"; {Usd.from_pico(kept).shown()} of it is kept for alerts" if kept else ""
        have, limit = Usd.from_pico(spent[place]).shown(), Usd.from_pico(limits[place] or 0).shown()
        return OverLimit(
            f"{operation.service} {operation.operation} ({estimate.shown()}) would exceed the {kind.adjective} limit "
            f"of {whose}: {have} of {limit} is spent or held ({window(kind, now)}){keeps}.",
            next_step="Wait for the next window, or raise it: podcastqa budget set",
            scope="system" if scope == SYSTEM_ID else "user",
            window=kind.value,
        )


def new_hold_id() -> str:
    """An id that nobody else makes; it begins with the time, so that new ids lie side by side in an index."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def _same(known: Hold, operation: Operation, estimate: Usd) -> Hold:
    if (known.operation, known.estimate) != (operation, estimate):
        raise HoldIdReused(f"The id {known.hold_id} already names a hold for another operation.")
    return known

"""The books as a batch sees them: the rows that it touches, in memory, and what it changes, waiting to be written.

What was read is remembered from batch to batch. Where another writer added entries they are followed; where anything
else was written, all is read anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from podcastqa.clock import microseconds
from podcastqa.database import Driver
from podcastqa.money import Usd
from podcastqa.spend.changes import LONGEST_TAIL
from podcastqa.spend.entries import EntryKind, Hold, Operation, hold_id_stem
from podcastqa.spend.following import Following
from podcastqa.spend.limits import InForce, in_force
from podcastqa.spend.lives import LATE
from podcastqa.spend.standing import Today

#: So many holds, and so many scopes, are remembered at most: Python's garbage collector walks through all of them.
_MOST_REMEMBERED = 4096
_NAMES = {kind: kind.value for kind in EntryKind}


class Books(Following):
    """One write transaction of the ledger after another, by one writer, each at one instant."""

    def __init__(self, driver: Driver, now: datetime) -> None:
        super().__init__(driver)
        self._limits: InForce | None = None
        self._limit_rows: list[Any] = []
        self.memory: dict[Any, Any] = {}
        """For the guard: what it derived from the limits in force."""
        self._guard: object = None
        self._hold_for, self._expires_us = timedelta(), 0
        self.forget()
        self.at(now)

    def at(self, now: datetime) -> None:
        """The instant at which all of the transaction happens."""
        self.now, self.now_us = now, microseconds(now)
        self.stem = hold_id_stem(self.now_us)
        self._expires: datetime | None = None
        self.begin_lives()
        if self.at_day(now.date()):
            self.forget()
        if self._limits is not None and not self._limits.holds(self.now_us):
            self._limits_changed()

    def forget(self) -> None:
        """Nothing that is remembered may be believed: read anew."""
        super().forget()
        self._limits_read = False
        self._stop: tuple[int, int, str, str] | None = None
        self._stop_read = False

    @property
    def is_changed(self) -> bool:
        """Whether this transaction changes anything."""
        return self._written or bool(self.changes.entries)

    def write(self) -> None:
        """Write what was changed to the database, inside the transaction."""
        if self.changes.entries:
            self.write_entries()
        are_too_many = self.are_more_than(_MOST_REMEMBERED)
        if are_too_many or self.changes.length > LONGEST_TAIL:
            self.carry()
        if are_too_many:
            self.forget_scopes()
        self.forget_lives_past(_MOST_REMEMBERED)
        if len(self.memory) > _MOST_REMEMBERED:
            self.memory.clear()
        self._written = False

    def _expiry(self, hold_for: timedelta) -> datetime:
        if self._expires is None or self._hold_for is not hold_for:
            self._expires, self._hold_for = self.now + hold_for, hold_for
            self._expires_us = microseconds(self._expires)
        return self._expires

    # ── what people decided ───────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, user_ids: Iterable[int]) -> None:
        """Read what is not remembered of these users, and the limits: what others had left is nobody's room now."""
        super().prepare(user_ids)
        self.limits()

    def limits(self) -> InForce:
        """The limits that somebody set and that are in force."""
        if not self._limits_read:
            rows, self._limits_read = self.ask(_LIMIT_ROWS), True
            if rows != self._limit_rows:
                self._limit_rows = rows
                self._limits_changed()
        if self._limits is None:
            self._limits = in_force(self._limit_rows, self.now_us)
        return self._limits

    def _limits_changed(self) -> None:
        self._limits = None
        self._forget_room()

    def serve(self, guard: object) -> None:
        """What another guard derived, with usual limits of its own, is nothing to this one."""
        if self._guard is not guard:
            self._guard = guard
            self._forget_room()

    def _forget_room(self) -> None:
        self.forget_today()
        self.memory.clear()

    def stop(self) -> tuple[int, int, str, str] | None:
        """The newest word on the emergency stop (stopped, microseconds, who, why); None if nobody ever said one."""
        if not self._stop_read:
            rows = self.ask("SELECT stopped, at_us, said_by, reason FROM stops ORDER BY id DESC LIMIT 1")
            self._stop, self._stop_read = (tuple(rows[0]) if rows else None), True
        return self._stop

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def open(
        self, hold_id: str, operation: Operation, estimate: Usd, hold_for: timedelta | None, today: Today | None
    ) -> Hold:
        """Write that it is reserved now, and count its estimate as held; returns the hold.

        `hold_for`: how long it counts before it starts; None: it runs at once, and counts until it is resolved.
        `today`: what it moves, where that is known.
        """
        now, pico, expires_us = self.now, estimate.pico, 0
        if hold_for is None:
            hold = Hold(hold_id, operation, estimate, now, now)
        else:
            hold = Hold(hold_id, operation, estimate, now, self._expiry(hold_for))
            expires_us = self._expires_us
            self._unstarted.add(hold_id)
            if self._next_expiry_us is not None and expires_us < self._next_expiry_us:
                self._next_expiry_us = expires_us
        self.changes.note("reserve", hold, self.day, pico, self.now_us, expires_us, "")
        self._open[hold_id] = hold
        if today is None:
            self.count(operation, self.day, 0, pico)
        else:
            self.count_today(today, 0, pico)
        return hold

    def start(self, hold: Hold, at: datetime) -> None:
        """Write that the operation is about to run: from now on it counts until it is resolved."""
        self.changes.note("start", hold, hold.reserved_at.toordinal(), 0, microseconds(at), 0, "")
        self._unstarted.discard(hold.hold_id)

    def close(self, kind: EntryKind, hold: Hold, amount: Usd, at: datetime, reason: str = "") -> Today | None:
        """Resolve the hold: what was held is given back, what it cost (settle) is booked.

        Returns what such an operation moves today; None for a hold of another day.
        """
        day, at_us = hold.reserved_at.toordinal(), self.now_us if at is self.now else microseconds(at)
        self.changes.note(_NAMES[kind], hold, day, amount.pico, at_us, 0, reason)
        self.end_life(hold, kind, amount)
        today = self.today(hold.operation) if day == self.day else None
        if today is None:
            self.count(hold.operation, day, amount.pico, -hold.estimate.pico)
        else:
            self.count_today(today, amount.pico, -hold.estimate.pico)
        return today

    def settle_late(self, hold: Hold, actual: Usd, at: datetime, reason: str) -> None:
        """Book what a hold cost that had expired or was voided."""
        self.correct(hold, actual, at, f"{LATE}: {reason}" if reason else LATE)

    def correct(self, hold: Hold, delta: Usd, at: datetime, reason: str) -> None:
        """Book a difference in the hold's own windows."""
        day = hold.reserved_at.toordinal()
        self.changes.note("correct", hold, day, delta.pico, microseconds(at), 0, reason)
        self.count(hold.operation, day, delta.pico, 0)


_LIMIT_ROWS = "SELECT user_id, service, window_kind, amount_pico, removed, from_us, id, set_us FROM limits"

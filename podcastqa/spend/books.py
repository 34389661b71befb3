"""The books as a batch sees them: the rows that it touches, in memory, and what it changes, waiting to be written.

What was read is remembered from batch to batch. Where another writer added entries they are followed; where anything
else was written, all is read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from podcastqa.clock import from_microseconds, microseconds
from podcastqa.database import Driver
from podcastqa.errors import HoldUnknown, LedgerUnavailable
from podcastqa.money import Usd
from podcastqa.spend.changes import LONGEST_TAIL
from podcastqa.spend.entries import ENDS, STEP, EntryKind, Hold, Operation, hold_id_stem
from podcastqa.spend.limits import InForce, in_force
from podcastqa.spend.standing import NEVER, Expired, Today
from podcastqa.spend.tally import Tally, marks

#: How the reason of a settle begins that came after its hold had ended.
_LATE = "settled after the hold had ended"
#: So many holds, and so many scopes, are remembered at most: Python's garbage collector walks through all of them.
_MOST_REMEMBERED = 4096
_NAMES = {kind: kind.value for kind in EntryKind}
#: Where more entries are to be followed the books are read anew: they are carried forward far more often.
_MOST_FOLLOWED = 4 * LONGEST_TAIL


class Books(Tally):
    """One write transaction of the ledger after another, by one writer, each at one instant."""

    def __init__(self, driver: Driver, now: datetime) -> None:
        super().__init__(driver)
        self._known: dict[str, Hold] = {}  # a reserve that is written never changes: others need not be looked at
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
        if self.at_day(now.date()):
            self.forget()
        if self._limits is not None and not self._limits.holds(self.now_us):
            self._limits_changed()

    def forget(self) -> None:
        """Nothing that is remembered may be believed: read anew."""
        self.forget_counts()
        self._followed: Followed | None = None
        self._open: dict[str, bool] = {}  # hold id → whether it has started
        self._ended: dict[str, tuple[EntryKind, Usd]] = {}
        self._limits_read = False
        self._stop: tuple[int, int, str, str] | None = None
        self._stop_read = False
        self._next_expiry_us: int | None = None  # no unstarted hold runs out before; None: not read yet

    def undo(self) -> None:
        """What was changed is not kept: nothing that is remembered may be believed."""
        self._known.clear()
        self.forget()

    @property
    def is_changed(self) -> bool:
        """Whether this transaction changes anything."""
        return self._written or bool(self.changes.entries)

    def write(self) -> None:
        """Write what was changed to the database, inside the transaction."""
        if self.changes.entries:
            self.write_entries()
        self._written = False
        are_too_many = self.are_more_than(_MOST_REMEMBERED)
        if are_too_many or self.changes.length > LONGEST_TAIL:
            self.carry()
        if are_too_many:
            self.forget_scopes()
        if len(self._known) + len(self._ended) > _MOST_REMEMBERED:
            self._known, self._open, self._ended = {}, {}, {}
        if len(self.memory) > _MOST_REMEMBERED:
            self.memory.clear()

    # ── what others have written ──────────────────────────────────────────────────────────────────────────────────

    def follow(self, still: bool = False) -> None:
        """Take in what others have written since this writer last looked; `still`: nobody has."""
        known = self._followed
        if known is None:
            self._followed = self._read_tail(self._ask_followed())
        elif not still:
            now = self._ask_followed()
            if now.others != known.others or now.through_id - known.last_id > _MOST_FOLLOWED:
                self.forget()
                self._followed = self._read_tail(now)
            else:
                self._followed = self._catch_up(known, now)
        elif self.own > _MOST_FOLLOWED:  # they would be read again
            [(last_id,)] = self.ask("SELECT max(id) FROM entries")
            self._followed, self.own = known._replace(last_id=last_id), 0

    def carry(self) -> None:
        """Bring counters and open holds up to the newest entry, inside the transaction."""
        if self.changes.entries:
            self.write_entries()
        self.changes.carry(self.driver)
        self._written = True
        if self._followed is not None:
            self._followed = self._followed._replace(times=self._followed.times + 1)

    def _ask_followed(self) -> Followed:
        rows = self.ask(_FOLLOWED)
        if not rows:
            raise LedgerUnavailable(
                "The ledger does not say up to which entry its counters hold everything, so nothing may be spent.",
                next_step="Put a copy of it back, then run podcastqa audit.",
            )
        return Followed(*rows[0])

    def _read_tail(self, now: Followed) -> Followed:
        rows = self.ask(_ENTRIES_AFTER, (now.through_id,))
        self.own = 0
        self._take(rows)
        return now._replace(last_id=rows[-1][0]) if rows else now

    def _catch_up(self, known: Followed, now: Followed) -> Followed:
        """The entries that others wrote after our own, which are the first of those that were not there before."""
        rows = self.ask(_ENTRIES_AFTER, (known.last_id,))[self.own :]
        if now.times != known.times:  # somebody carried forward: the tail begins anew there
            carried = [row for row in rows if row[0] <= now.through_id]
            self._take(carried)
            self.changes.begin_tail()
            rows = rows[len(carried) :]
            last_id = now.through_id
        else:
            last_id = known.last_id
        if rows or last_id != known.last_id:
            self.own = 0
        self._take(rows)
        return now._replace(last_id=rows[-1][0] if rows else last_id)

    def _take(self, rows: Sequence[Any]) -> None:
        """Count entries as this writer would have, had it written them."""
        known, reading, this_day = self._today, self._reading, self.day
        for _, kind, user_id, service, source, day, pico, hold_id, estimate in rows:
            booked, held = 0, pico
            if hold_id is not None:  # no reserve
                if kind == "start":
                    if hold_id in self._open:
                        self._open[hold_id] = True
                    continue
                booked, held = (pico if kind in {"settle", "correct"} else 0), -estimate
                if kind != "correct":
                    self._open.pop(hold_id, None)  # how it ended is looked up if somebody asks
            today = known.get((user_id, service, source))
            if today is None or today.read != reading or day != this_day:
                self.count_other(user_id, source, service, day, booked, held)
            else:
                self.count_today(today, booked, held)
        self._next_expiry_us = None if rows else self._next_expiry_us
        self.changes.length += len(rows)

    # ── holds ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def look_up(self, hold_ids: Iterable[str]) -> None:
        """Read what is not remembered of these holds, all at once."""
        ids = [one for one in dict.fromkeys(hold_ids) if one not in self._open and one not in self._ended]
        if not ids:
            return
        for row in self.ask(f"{_LIVES} WHERE kind <> 'correct' AND hold_id IN ({marks(ids)}) ORDER BY id", ids):
            hold_id, kind = row[0], EntryKind(row[1])
            if kind is EntryKind.RESERVE:
                self._known[hold_id], self._open[hold_id] = _hold(row), row[9] == 0
            elif kind is EntryKind.START:
                self._open[hold_id] = True
            else:
                self._open.pop(hold_id, None)
                self._ended[hold_id] = kind, Usd.from_pico(row[7])

    def payers(self, hold_ids: Iterable[str]) -> set[int]:
        """Who pays for those of the holds that are remembered."""
        return {self._known[one].operation.user_id for one in hold_ids if one in self._known}

    def find(self, hold_id: str) -> Hold | None:
        """The hold of that id, as it was reserved."""
        if hold_id not in self._known:
            self.look_up([hold_id])
        return self._known.get(hold_id)

    def found(self, hold_id: str) -> Hold | None:
        """The hold of that id, of those that were looked up: an id that was made just now is nobody else's."""
        return self._known.get(hold_id)

    def get(self, hold_id: str) -> Hold:
        """The same; raises HoldUnknown."""
        hold = self.find(hold_id)
        if hold is None:
            raise HoldUnknown(f"There is no hold {hold_id}.", next_step="Reserve it first.")
        return hold

    def if_open(self, hold_id: str) -> Hold | None:
        """The hold of that id, if it is known to be open."""
        return self._known.get(hold_id) if hold_id in self._open else None

    def end(self, hold_id: str) -> tuple[EntryKind, Usd] | None:
        """How the hold was resolved, and the amount; None while it is open."""
        if hold_id in self._open:
            return None
        self.look_up([hold_id])
        return self._ended.get(hold_id)

    def is_started(self, hold_id: str) -> bool:
        """Whether the operation of this open hold has started."""
        self.look_up([hold_id])
        return self._open.get(hold_id, False)

    def expires(self, hold_for: timedelta) -> datetime:
        """When a hold runs out that is made now."""
        if self._expires is None or self._hold_for is not hold_for:
            self._expires, self._hold_for = self.now + hold_for, hold_for
            self._expires_us = microseconds(self._expires)
        return self._expires

    def settled_late(self, hold_id: str) -> Usd | None:
        """What was said to have been spent after the hold expired or was voided; None if nothing."""
        rows = self.ask(
            "SELECT amount_pico FROM entries WHERE hold_id = ? AND kind = 'correct'"
            " AND substr(reason, 1, CAST(? AS INTEGER)) = ?",
            (hold_id, len(_LATE), _LATE),
        )
        return Usd.from_pico(rows[0][0]) if rows else None

    def expired(self) -> list[Expired]:
        """Open holds that ran out of time before they started: they have stopped counting.

        All that are open are read for it: no index is kept for what few ask, and seldom.
        """
        if self._next_expiry_us is None:
            firsts = [first for (first,) in self.ask(_FIRST_EXPIRY) if first is not None]
            self._next_expiry_us = min(firsts, default=NEVER)
        if self.now_us < self._next_expiry_us:
            return []
        self._next_expiry_us = None  # what is found now is closed if it makes room
        return [tuple(row[:6]) for row in self.ask(_EXPIRED, (self.now_us, self.now_us))]

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

    def open(self, hold: Hold, today: Today | None = None, *, starts: bool = False) -> None:
        """Write the reserve and count its estimate as held; `today`: what it moves, where that is known.

        `starts`: its operation runs at once, and counts until it is resolved.
        """
        at_us, day, pico, expires_us = self.now_us, self.day, hold.estimate.pico, 0
        if hold.reserved_at is not self.now:
            at_us, day = microseconds(hold.reserved_at), hold.reserved_at.toordinal()
        if not starts:
            expires_us = self._expires_us if hold.expires_at is self._expires else microseconds(hold.expires_at)
            if self._next_expiry_us is not None and expires_us < self._next_expiry_us:
                self._next_expiry_us = expires_us
        self.changes.note("reserve", hold, day, pico, at_us, expires_us, "")
        self._known[hold.hold_id], self._open[hold.hold_id] = hold, starts
        if today is None:
            self.count(hold.operation, day, 0, pico)
        else:
            self.count_today(today, 0, pico)

    def start(self, hold: Hold, at: datetime) -> None:
        """Write that the operation is about to run: from now on it counts until it is resolved."""
        self.changes.note("start", hold, hold.reserved_at.toordinal(), 0, microseconds(at), 0, "")
        self._open[hold.hold_id] = True

    def close(self, kind: EntryKind, hold: Hold, amount: Usd, at: datetime, reason: str = "") -> Today | None:
        """Resolve the hold: what was held is given back, what it cost (settle) is booked.

        Returns what such an operation moves today; None for a hold of another day.
        """
        day, at_us = hold.reserved_at.toordinal(), self.now_us if at is self.now else microseconds(at)
        self.changes.note(_NAMES[kind], hold, day, amount.pico, at_us, 0, reason)
        self._open.pop(hold.hold_id, None)
        self._ended[hold.hold_id] = kind, amount
        today = self.today(hold.operation) if day == self.day else None
        if today is None:
            self.count(hold.operation, day, amount.pico, -hold.estimate.pico)
        else:
            self.count_today(today, amount.pico, -hold.estimate.pico)
        return today

    def settle_late(self, hold: Hold, actual: Usd, at: datetime, reason: str) -> None:
        """Book what a hold cost that had expired or was voided."""
        self.correct(hold, actual, at, f"{_LATE}: {reason}" if reason else _LATE)

    def correct(self, hold: Hold, delta: Usd, at: datetime, reason: str) -> None:
        """Book a difference in the hold's own windows."""
        day = hold.reserved_at.toordinal()
        self.changes.note("correct", hold, day, delta.pico, microseconds(at), 0, reason)
        self.count(hold.operation, day, delta.pico, 0)


class Followed(NamedTuple):
    """How far a writer has read."""

    last_id: int
    """The last entry that was there when it last looked; its own newer ones follow it at once."""
    through_id: int
    times: int
    others: int
    """Another number after each write of anything else."""


def _hold(row: Sequence[Any]) -> Hold:
    operation = Operation(user_id=row[2], service=row[3], operation=row[4], source=row[5], price=row[6])
    times = from_microseconds(row[8]), from_microseconds(row[9] or row[8])
    return Hold(row[0], operation, Usd.from_pico(row[7]), *times)


_RESERVED = f"(SELECT amount_pico FROM entries AS r WHERE r.hold_id = entries.hold_id AND ({STEP}) = 0)"
_ENTRIES_AFTER = f"""SELECT id, kind, user_id, service, source, day, amount_pico,
 CASE WHEN kind <> 'reserve' THEN hold_id END, CASE WHEN {ENDS} THEN coalesce({_RESERVED}, 0) ELSE 0 END
 FROM entries WHERE id > ? ORDER BY id"""
#: Decisions are looked at too: whoever types one into SQLite's shell says nothing of it in `carried`.
_FOLLOWED = """SELECT through_id, through_id, times, others + (SELECT coalesce(max(id), 0) FROM limits)
 + (SELECT coalesce(max(id), 0) FROM stops) FROM carried"""
_LIVES = """SELECT hold_id, kind, user_id, service, operation, source, price, amount_pico, at_us, expires_us
 FROM entries"""
_WENT_ON = f"EXISTS (SELECT 1 FROM entries WHERE hold_id = e.hold_id AND ({STEP}) > 0)"
_IN_TAIL = "e.kind = 'reserve' AND e.expires_us > 0 AND e.id > (SELECT through_id FROM carried)"
#: The earliest, of those that were carried forward and those of the tail; some may have started or ended since.
_FIRST_EXPIRY = f"""SELECT min(expires_us) FROM open_holds WHERE started = 0
 UNION ALL SELECT min(expires_us) FROM entries e WHERE {_IN_TAIL}"""
_LATE_HOLD = "SELECT e.hold_id, e.user_id, e.source, e.day, e.amount_pico, e.service, e.id AS place FROM"
_EXPIRED = f"""{_LATE_HOLD} open_holds h JOIN entries e ON e.hold_id = h.hold_id AND ({STEP}) = 0
 WHERE h.started = 0 AND h.expires_us <= ? AND NOT {_WENT_ON}
 UNION ALL {_LATE_HOLD} entries e WHERE {_IN_TAIL} AND e.expires_us <= ? AND NOT {_WENT_ON} ORDER BY place"""
_LIMIT_ROWS = "SELECT user_id, service, window_kind, amount_pico, removed, from_us, id, set_us FROM limits"

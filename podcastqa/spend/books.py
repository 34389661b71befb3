"""The books as a batch sees them: the rows that it touches, in memory, and what it changes, waiting to be written.

What was read is remembered from batch to batch as long as nobody else has written; then it is read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from podcastqa.clock import day_number, from_microseconds, microseconds
from podcastqa.database import Driver
from podcastqa.errors import HoldUnknown
from podcastqa.money import Usd
from podcastqa.spend.entries import EntryKind, Hold, Operation, hold_id_stem
from podcastqa.spend.limits import InForce, in_force
from podcastqa.spend.standing import NEVER, Expired, Today
from podcastqa.spend.tally import Tally, marks

#: How the reason of a settle begins that came after its hold had ended.
_LATE = "settled after the hold had ended"
_ENDS = "('settle', 'void', 'expire')"
#: So many holds, and so many scopes, are remembered at most: Python's garbage collector walks through all of them.
_MOST_REMEMBERED = 4096


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
        self.at_day(now.date())
        if self._limits is not None and not self._limits.holds(self.now_us):
            self._limits_changed()

    def forget(self) -> None:
        """Somebody else has written: read anew."""
        self.forget_counts()
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
        return self._written or bool(self.changes)

    def write(self) -> None:
        """Write what was changed to the database, inside the transaction."""
        if self.changes:
            self.changes.write(self.driver)
        self._written = False
        if len(self._known) + len(self._ended) > _MOST_REMEMBERED:
            self._known, self._open, self._ended = {}, {}, {}
        self.forget_standings_past(_MOST_REMEMBERED)
        if len(self.memory) > _MOST_REMEMBERED:
            self.memory.clear()

    # ── holds ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def look_up(self, hold_ids: Iterable[str]) -> None:
        """Read what is not remembered of these holds, all at once."""
        ids = [one for one in dict.fromkeys(hold_ids) if one not in self._open and one not in self._ended]
        unknown = [one for one in ids if one not in self._known]
        if unknown:
            for row in self.ask(f"{_RESERVES} WHERE kind = 'reserve' AND hold_id IN ({marks(unknown)})", unknown):
                self._known[row[0]] = _hold(row)
        ids = [one for one in ids if one in self._known]
        if not ids:
            return
        self._open.update(self._ask_states(ids))
        ended = [one for one in ids if one not in self._open]
        if ended:
            sql = (
                f"SELECT hold_id, kind, amount_pico FROM entries WHERE kind IN {_ENDS} AND hold_id IN ({marks(ended)})"
            )
            self._ended |= {row[0]: (EntryKind(row[1]), Usd.from_pico(row[2])) for row in self.ask(sql, ended)}

    def _ask_states(self, ids: Sequence[str]) -> dict[str, bool]:
        rows = self.ask(f"SELECT hold_id, started FROM open_holds WHERE hold_id IN ({marks(ids)})", ids)
        return {hold_id: bool(started) for hold_id, started in rows}

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
            [(first,)] = self.ask("SELECT min(expires_us) FROM open_holds WHERE started = 0")
            self._next_expiry_us = NEVER if first is None else int(first)
        if self.now_us < self._next_expiry_us:
            return []
        self._next_expiry_us = None  # what is found now is closed if it makes room
        return [tuple(row) for row in self.ask(_EXPIRED, (self.now_us,))]

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

    def open(self, hold: Hold, today: Today | None = None) -> None:
        """Write the reserve and count its estimate as held; `today`: what it moves, where that is known."""
        at_us, day = self._us(hold.reserved_at), self._day(hold.reserved_at)
        expires_us = self._expires_us if hold.expires_at is self._expires else microseconds(hold.expires_at)
        pico = hold.estimate.pico
        self.changes.note(EntryKind.RESERVE, hold, day, pico, at_us, expires_us, "")
        self.changes.open(hold, day, expires_us)
        self._known[hold.hold_id], self._open[hold.hold_id] = hold, False
        if self._next_expiry_us is not None and expires_us < self._next_expiry_us:
            self._next_expiry_us = expires_us
        self.count(hold.operation, day, 0, pico, today)

    def start(self, hold: Hold, at: datetime) -> None:
        """Write that the operation is about to run: from now on it counts until it is resolved."""
        self.changes.note(EntryKind.START, hold, self._day(hold.reserved_at), 0, self._us(at), 0, "")
        self.changes.start(hold.hold_id)
        self._open[hold.hold_id] = True

    def close(self, kind: EntryKind, hold: Hold, amount: Usd, at: datetime, reason: str = "") -> None:
        """Resolve the hold: what was held is given back, what it cost (settle) is booked."""
        day = self._day(hold.reserved_at)
        self.changes.note(kind, hold, day, amount.pico, self._us(at), 0, reason)
        self.changes.close(hold.hold_id)
        self._open.pop(hold.hold_id, None)
        self._ended[hold.hold_id] = kind, amount
        self.count(hold.operation, day, amount.pico, -hold.estimate.pico)

    def settle_late(self, hold: Hold, actual: Usd, at: datetime, reason: str) -> None:
        """Book what a hold cost that had expired or was voided."""
        self.correct(hold, actual, at, f"{_LATE}: {reason}" if reason else _LATE)

    def correct(self, hold: Hold, delta: Usd, at: datetime, reason: str) -> None:
        """Book a difference in the hold's own windows."""
        day = self._day(hold.reserved_at)
        self.changes.note(EntryKind.CORRECT, hold, day, delta.pico, self._us(at), 0, reason)
        self.count(hold.operation, day, delta.pico, 0)

    def _us(self, instant: datetime) -> int:
        return self.now_us if instant is self.now else microseconds(instant)

    def _day(self, instant: datetime) -> int:
        return self.day if instant is self.now else day_number(instant.date())


def _hold(row: Sequence[Any]) -> Hold:
    operation = Operation(user_id=row[1], service=row[2], operation=row[3], source=row[4], price=row[5])
    return Hold(row[0], operation, Usd.from_pico(row[6]), from_microseconds(row[7]), from_microseconds(row[8]))


_RESERVES = """SELECT hold_id, user_id, service, operation, source, price, amount_pico, at_us, expires_us
 FROM entries"""
_EXPIRED = """SELECT h.hold_id, h.user_id, h.source, h.day, h.amount_pico, e.service FROM open_holds h
 JOIN entries e ON e.hold_id = h.hold_id AND e.kind = 'reserve' WHERE h.started = 0 AND h.expires_us <= ?"""
_LIMIT_ROWS = "SELECT user_id, service, window_kind, amount_pico, removed, from_us, id, set_us FROM limits"

"""The books as a batch sees them: the rows that it touches, in memory, and what it changes, waiting to be written.

What was read is remembered from batch to batch as long as nobody else has written; then it is read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from podcastqa.clock import day_number, from_microseconds, microseconds
from podcastqa.database import Driver
from podcastqa.errors import HoldUnknown
from podcastqa.money import Usd
from podcastqa.spend.changes import Changes
from podcastqa.spend.entries import EntryKind, Hold, Operation
from podcastqa.spend.limits import InForce, in_force
from podcastqa.spend.standing import Expired, ScopeKey, Standing, edges
from podcastqa.users import SYSTEM_ID

#: How the reason of a settle begins that came after its hold had ended.
_LATE = "settled after the hold had ended"
_ENDS = "('settle', 'void', 'expire')"
#: So many holds, and so many scopes, are remembered at most: Python's garbage collector walks through all of them.
_MOST_REMEMBERED = 4096


class Books:
    """One write transaction of the ledger after another, by one writer, each at one instant."""

    def __init__(self, driver: Driver, now: datetime) -> None:
        self.driver, self.changes = driver, Changes()
        self._known: dict[str, Hold] = {}  # a reserve that is written never changes: others need not be looked at
        self.at(now)
        self.forget()

    def at(self, now: datetime) -> None:
        """The instant at which all of the transaction happens."""
        self.now, self.now_us, self.today = now, microseconds(now), now.date()
        self.day = day_number(self.today)

    def forget(self) -> None:
        """Somebody else has written: read anew."""
        self.changes.forget()
        self._written = False  # part of this transaction's changes stand in the database already
        self._open: dict[str, bool] = {}  # hold id → whether it has started
        self._ended: dict[str, tuple[EntryKind, Usd]] = {}
        self._standings: dict[ScopeKey, Standing] = {}
        self._users: set[int] = set()
        self._day, self._edges = self.day, edges(self.today)
        self._limits: InForce | None = None
        self._limit_rows: list[Any] | None = None
        self._stop: tuple[int, int, str, str] | None = None
        self._stop_read = False
        self._next_expiry_us: int | None = None  # no unstarted hold runs out before; None: not read yet
        self.memory: dict[Any, Any] = {}
        """For the guard: what it derived from the limits in force."""

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
        if len(self._standings) > _MOST_REMEMBERED:
            self._standings = {}

    def _ask(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """Rows as they are with all that was changed so far."""
        if self.changes:
            self.changes.write(self.driver)
            self._written = True
        return list(self.driver.execute(sql, values).fetchall())

    # ── holds ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def look_up(self, hold_ids: Iterable[str]) -> None:
        """Read what is not remembered of these holds, all at once."""
        ids = [one for one in dict.fromkeys(hold_ids) if one not in self._open and one not in self._ended]
        unknown = [one for one in ids if one not in self._known]
        if unknown:
            for row in self._ask(f"{_RESERVES} WHERE kind = 'reserve' AND hold_id IN ({_marks(unknown)})", unknown):
                self._known[row[0]] = _hold(row)
        ids = [one for one in ids if one in self._known]
        if not ids:
            return
        self._open.update(self._ask_states(ids))
        ended = [one for one in ids if one not in self._open]
        if ended:
            sql = (
                f"SELECT hold_id, kind, amount_pico FROM entries WHERE kind IN {_ENDS} AND hold_id IN ({_marks(ended)})"
            )
            self._ended |= {row[0]: (EntryKind(row[1]), Usd.from_pico(row[2])) for row in self._ask(sql, ended)}

    def _ask_states(self, ids: Sequence[str]) -> dict[str, bool]:
        rows = self._ask(f"SELECT hold_id, started FROM open_holds WHERE hold_id IN ({_marks(ids)})", ids)
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
        self.look_up([hold_id])
        return self._ended.get(hold_id)

    def is_started(self, hold_id: str) -> bool:
        """Whether the operation of this open hold has started."""
        self.look_up([hold_id])
        return self._open.get(hold_id, False)

    def settled_late(self, hold_id: str) -> Usd | None:
        """What was said to have been spent after the hold expired or was voided; None if nothing (rare: no index)."""
        rows = self._ask(
            "SELECT amount_pico FROM entries WHERE hold_id = ? AND kind = 'correct'"
            " AND substr(reason, 1, CAST(? AS INTEGER)) = ?",
            (hold_id, len(_LATE), _LATE),
        )
        return Usd.from_pico(rows[0][0]) if rows else None

    def expired(self) -> list[Expired]:
        """Open holds that ran out of time before they started: they have stopped counting."""
        if self._next_expiry_us is None:
            [(first,)] = self._ask("SELECT min(expires_us) FROM open_holds WHERE started = 0")
            self._next_expiry_us = _NEVER if first is None else int(first)
        if self.now_us < self._next_expiry_us:
            return []
        self._next_expiry_us = None  # what is found now is closed if anything is admitted
        return [tuple(row) for row in self._ask(_EXPIRED, (self.now_us,))]

    # ── what a scope has ──────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, user_ids: Iterable[int]) -> None:
        """Read what is not remembered of these users and of the whole system, all at once."""
        self._this_day()
        span, users = self._edges, {*user_ids}
        if strangers := users - self._users:
            sql = f"SELECT id FROM users WHERE name IS NOT NULL AND id IN ({_marks(strangers)})"
            self._users |= {row[0] for row in self._ask(sql, [*strangers])}
        if missing := {SYSTEM_ID, *users} - self._standings.keys():
            rows = self._ask(f"{_COUNTERS} AND user_id IN ({_marks(missing)})", [*_range(span), *missing])
            self._standings |= {scope: Standing(span) for scope in missing}
            for scope, day, source, booked, held, billed in rows:
                self._standings[scope].add(day, source, booked, held, billed)

    def _this_day(self) -> None:
        if self._day != self.day:
            self._standings, self._day, self._edges = {}, self.day, edges(self.today)

    def knows(self, user_id: int) -> bool:
        """Whether all about this user is remembered."""
        return self._day == self.day and user_id in self._standings and user_id in self._users

    def is_user(self, user_id: int) -> bool:
        """Whether there is somebody of that number (after `prepare`)."""
        return user_id in self._users

    def standing(self, scope: ScopeKey) -> Standing:
        """What a scope has in the windows of today."""
        self._this_day()
        found = self._standings.get(scope)
        if found is None:
            if isinstance(scope, str):
                self._standings[scope] = self._of_service(scope)
            else:
                self.prepare((scope,))
            found = self._standings[scope]
        return found

    def spent_on(self, service: str) -> int:
        """Pico-dollars booked or held for a service since the week or the month of today began."""
        rows = self.standing(service).rows.values()
        return sum(booked + held for booked, held, _ in rows)

    def _of_service(self, service: str) -> Standing:
        found = Standing(self._edges)
        for day, booked, held in self._ask(_SERVED, [service, *_range(self._edges)]):
            found.add(day, "", booked, held)
        return found

    # ── what people decided ───────────────────────────────────────────────────────────────────────────────────────

    def limits(self) -> InForce:
        """The limits that somebody set and that are in force."""
        if self._limits is None or not self._limits.holds(self.now_us):
            if self._limit_rows is None:
                self._limit_rows = self._ask(_LIMIT_ROWS)
            self._limits, self.memory = in_force(self._limit_rows, self.now_us), {}
        return self._limits

    def stop(self) -> tuple[int, int, str, str] | None:
        """The newest word on the emergency stop (stopped, microseconds, who, why); None if nobody ever said one."""
        if not self._stop_read:
            rows = self._ask("SELECT stopped, at_us, said_by, reason FROM stops ORDER BY id DESC LIMIT 1")
            self._stop, self._stop_read = (tuple(rows[0]) if rows else None), True
        return self._stop

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, hold: Hold) -> None:
        """Write the reserve and count its estimate as held."""
        at_us, day = self._time(hold.reserved_at)
        expires_us, pico = microseconds(hold.expires_at), hold.estimate.pico
        self.changes.note(EntryKind.RESERVE, hold, day, pico, at_us, expires_us, "")
        self.changes.open(hold, day, expires_us)
        self._known[hold.hold_id], self._open[hold.hold_id] = hold, False
        if self._next_expiry_us is not None and expires_us < self._next_expiry_us:
            self._next_expiry_us = expires_us
        self._count(hold, day, 0, pico)

    def start(self, hold: Hold, at: datetime) -> None:
        """Write that the operation is about to run: from now on it counts until it is resolved."""
        self.changes.note(EntryKind.START, hold, self._time(hold.reserved_at)[1], 0, self._time(at)[0], 0, "")
        self.changes.start(hold.hold_id)
        self._open[hold.hold_id] = True

    def close(self, kind: EntryKind, hold: Hold, amount: Usd, at: datetime, reason: str = "") -> None:
        """Resolve the hold: what was held is given back, what it cost (settle) is booked."""
        day = self._time(hold.reserved_at)[1]
        self.changes.note(kind, hold, day, amount.pico, self._time(at)[0], 0, reason)
        self.changes.close(hold.hold_id)
        self._open.pop(hold.hold_id, None)
        self._ended[hold.hold_id] = kind, amount
        self._count(hold, day, amount.pico, -hold.estimate.pico)

    def settle_late(self, hold: Hold, actual: Usd, at: datetime, reason: str) -> None:
        """Book what a hold cost that had expired or was voided."""
        self.correct(hold, actual, at, f"{_LATE}: {reason}" if reason else _LATE)

    def correct(self, hold: Hold, delta: Usd, at: datetime, reason: str) -> None:
        """Book a difference in the hold's own windows."""
        day = self._time(hold.reserved_at)[1]
        self.changes.note(EntryKind.CORRECT, hold, day, delta.pico, self._time(at)[0], 0, reason)
        self._count(hold, day, delta.pico, 0)

    def _time(self, instant: datetime) -> tuple[int, int]:
        """Its microseconds and its day's number."""
        if instant is self.now:  # nearly always
            return self.now_us, self.day
        return microseconds(instant), day_number(instant.date())

    def _count(self, hold: Hold, day: int, booked: int, held: int) -> None:
        what = hold.operation
        for scope in (SYSTEM_ID, what.user_id):
            standing = self._standings.get(scope)
            if standing is not None and standing.holds(day):  # the row is here: it is written as it then is
                standing.add(day, what.source, booked, held)
                self.changes.counters[scope, day, what.source] = standing.rows[day, what.source]
            else:
                self.changes.count(scope, day, what.source, booked, held)
        self.changes.serve(what.service, day, booked, held)
        if what.service in self._standings:
            self._standings[what.service].add(day, "", booked, held)


def _hold(row: Sequence[Any]) -> Hold:
    operation = Operation(user_id=row[1], service=row[2], operation=row[3], source=row[4], price=row[5])
    return Hold(row[0], operation, Usd.from_pico(row[6]), from_microseconds(row[7]), from_microseconds(row[8]))


def _range(span: tuple[int, ...]) -> tuple[int, int]:
    """From the first to one past the last day that is in any of the windows."""
    return min(span[2], span[4]), max(span[3], span[5])


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)


_NEVER = 2**63 - 1
_RESERVES = """SELECT hold_id, user_id, service, operation, source, price, amount_pico, at_us, expires_us
 FROM entries"""
_EXPIRED = """SELECT h.hold_id, h.user_id, h.source, h.day, h.amount_pico, e.service FROM open_holds h
 JOIN entries e ON e.hold_id = h.hold_id AND e.kind = 'reserve' WHERE h.started = 0 AND h.expires_us <= ?"""
_COUNTERS = """SELECT user_id, day, source, booked_pico, held_pico, bill_pico FROM counters
 WHERE day >= ? AND day < ?"""
_SERVED = "SELECT day, booked_pico, held_pico FROM service_counters WHERE service = ? AND day >= ? AND day < ?"
_LIMIT_ROWS = "SELECT user_id, service, window_kind, amount_pico, removed, from_us, id, set_us FROM limits"

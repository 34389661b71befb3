"""The ledger only grows: each step in a hold's life is a new row, and the counters beside it are sums of those rows.

`Books` is one write transaction of it. A window's spend is, per billing source and UTC day, the larger of what was
booked and what the bill says, plus what is held; a hold that ran out of time unstarted stops counting by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache

from podcastqa.clock import WindowKind, day_number, from_microseconds, microseconds, windows
from podcastqa.database import Database
from podcastqa.errors import HoldUnknown
from podcastqa.money import Usd
from podcastqa.spend.entries import Entry, EntryKind, Hold, Operation
from podcastqa.users import SYSTEM_ID

_INSERT = """INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us,
 expires_us, price, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_HOLD_MORE = """INSERT INTO counters (user_id, day, source, held_pico) VALUES (?, ?, ?, ?)
 ON CONFLICT DO UPDATE SET held_pico = held_pico + excluded.held_pico"""
_BOOK = """UPDATE counters SET booked_pico = booked_pico + ?, held_pico = held_pico + ?
 WHERE user_id = ? AND day = ? AND source = ?"""
_IN = ("day >= ?2 AND day < ?3", "day >= ?4 AND day < ?5", "day >= ?6 AND day < ?7")  # the day, the week, the month
_SCOPES = """ FROM (SELECT user_id, day, max(booked_pico, bill_pico) AS real, held_pico AS held FROM counters
 WHERE user_id IN (0, ?1) AND day >= min(?4, ?6) AND day < max(?5, ?7)) GROUP BY user_id"""
_sums = [[f"sum(CASE WHEN {days} THEN {what} ELSE 0 END)" for what in ("real", "held", "real + held")] for days in _IN]
_SPENT = f"SELECT user_id, {', '.join(sums[0] for sums in _sums)}, {', '.join(sums[1] for sums in _sums)}" + _SCOPES
_TOTALS = f"SELECT user_id, {', '.join(sums[2] for sums in _sums)}" + _SCOPES
_SPENT_ON = """SELECT coalesce(sum(amount_pico), 0) FROM entries WHERE service = ? AND day >= ?
 AND (kind IN ('settle', 'correct') OR kind = 'reserve' AND hold_id IN (SELECT hold_id FROM open_holds))"""
_RESERVE = """SELECT hold_id, user_id, service, operation, source, price, amount_pico, at_us, expires_us
 FROM entries WHERE hold_id = ? AND kind = 'reserve'"""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a scope has in a window: `real` is booked or billed, `held` is promised or in doubt."""

    real: Usd
    held: Usd

    @property
    def total(self) -> Usd:
        """What a limit is compared with."""
        return self.real + self.held


#: How the reason of a settle begins that came after its hold had ended.
_LATE = "settled after the hold had ended"
NOTHING = Spent(Usd.from_pico(0), Usd.from_pico(0))
#: (user id, 0 for the whole system; window) → what it has spent.
Standing = dict[tuple[int, WindowKind], Spent]
#: user id, 0 for the whole system → pico-dollars in the day, the week and the month.
Totals = dict[int, list[int]]
#: (hold id, user id, source, day, pico-dollars) of a hold.
Expired = tuple[str, int, str, int, int]
KINDS = tuple(WindowKind)


def _without(expired: Sequence[Expired], edges: tuple[int, ...], found: Totals) -> None:
    """Take expired holds out of the windows that they were counted in."""
    for _, whose, _, day, pico in expired:
        for i in range(len(KINDS)):
            if edges[2 * i] <= day < edges[2 * i + 1]:
                for scope in {SYSTEM_ID, whose} & found.keys():
                    found[scope][i] -= pico


@lru_cache(maxsize=64)
def _edges(today: date) -> tuple[int, ...]:
    """First and one past the last day number of the day, the week and the month."""
    noon = datetime(today.year, today.month, today.day, 12, tzinfo=UTC)
    return tuple(day_number(edge) for span in windows(noon) for edge in (span.start, span.end))


class Books:
    """One write transaction of the ledger."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self.driver = driver

    def find(self, hold_id: str) -> Hold | None:
        """The hold of that id, as it was reserved."""
        row = self.driver.execute(_RESERVE, (hold_id,)).fetchone()
        if row is None:
            return None
        operation = Operation(user_id=row[1], service=row[2], operation=row[3], source=row[4], price=row[5])
        times = from_microseconds(row[7]), from_microseconds(row[8])
        return Hold(row[0], operation, Usd.from_pico(row[6]), *times)

    def get(self, hold_id: str) -> Hold:
        """The same; raises HoldUnknown."""
        hold = self.find(hold_id)
        if hold is None:
            raise HoldUnknown(f"There is no hold {hold_id}.", next_step="Reserve it first.")
        return hold

    def end(self, hold_id: str) -> tuple[EntryKind, Usd] | None:
        """How the hold was resolved, and the amount; None while it is open."""
        row = self.driver.execute(
            "SELECT kind, amount_pico FROM entries WHERE hold_id = ? AND kind IN ('settle', 'void', 'expire')",
            (hold_id,),
        ).fetchone()
        return (EntryKind(row[0]), Usd.from_pico(row[1])) if row else None

    def settled_late(self, hold_id: str) -> Usd | None:
        """What was said to have been spent after the hold expired or was voided; None if nothing (rare: no index)."""
        row = self.driver.execute(
            "SELECT amount_pico FROM entries WHERE hold_id = ? AND kind = 'correct' AND substr(reason, 1, ?) = ?",
            (hold_id, len(_LATE), _LATE),
        ).fetchone()
        return Usd.from_pico(row[0]) if row else None

    def is_started(self, hold_id: str) -> bool:
        """Whether the operation of this open hold has started."""
        row = self.driver.execute("SELECT started FROM open_holds WHERE hold_id = ?", (hold_id,)).fetchone()
        return bool(row and row[0])

    def expired(self, now_us: int) -> list[Expired]:
        """Open holds that ran out of time before they started: they have stopped counting."""
        return self.driver.execute(
            "SELECT hold_id, user_id, source, day, amount_pico FROM open_holds WHERE started = 0 AND expires_us <= ?",
            (now_us,),
        ).fetchall()

    def totals(self, user_id: int, today: date, expired: Sequence[Expired]) -> Totals:
        """What the guard compares with the limits: real and held together, expired holds left out."""
        edges = _edges(today)
        found = {row[0]: list(row[1:]) for row in self.driver.execute(_TOTALS, (user_id, *edges))}
        _without(expired, edges, found)
        return found

    def spent_on(self, service: str, today: date) -> int:
        """Pico-dollars booked or held for a service since the week or the month of today began (rare: no index)."""
        edges = _edges(today)
        return int(self.driver.execute(_SPENT_ON, (service, min(edges[2], edges[4]))).fetchone()[0])

    def standing(self, user_id: int, now: datetime) -> Standing:
        """What the system and the user have in the day, the week and the month of `now`."""
        edges, expired = _edges(now.date()), self.expired(microseconds(now))
        rows = self.driver.execute(_SPENT, (user_id, *edges)).fetchall()
        held = {row[0]: list(row[4:]) for row in rows}
        _without(expired, edges, held)
        return {
            (row[0], kind): Spent(Usd.from_pico(row[1 + i]), Usd.from_pico(held[row[0]][i]))
            for row in rows
            for i, kind in enumerate(KINDS)
        }

    def open(self, hold: Hold) -> None:
        """Write the reserve and count its estimate as held."""
        day, what = self._append(EntryKind.RESERVE, hold, hold.estimate, hold.reserved_at), hold.operation
        self.driver.execute(
            "INSERT INTO open_holds (hold_id, user_id, source, day, amount_pico, expires_us) VALUES (?, ?, ?, ?, ?, ?)",
            (hold.hold_id, what.user_id, what.source, day, hold.estimate.pico, microseconds(hold.expires_at)),
        )
        rows = [(scope, day, what.source, hold.estimate.pico) for scope in (SYSTEM_ID, what.user_id)]
        self.driver.executemany(_HOLD_MORE, rows)

    def start(self, hold: Hold, at: datetime) -> None:
        """Write that the operation is about to run: from now on it counts until it is resolved."""
        self._append(EntryKind.START, hold, Usd.from_pico(0), at)
        self.driver.execute("UPDATE open_holds SET started = 1 WHERE hold_id = ?", (hold.hold_id,))

    def close(self, kind: EntryKind, hold: Hold, amount: Usd, at: datetime, reason: str = "") -> None:
        """Resolve the hold: what was held is given back, what it cost (settle) is booked."""
        day = self._append(kind, hold, amount, at, reason)
        self.driver.execute("DELETE FROM open_holds WHERE hold_id = ?", (hold.hold_id,))
        self._book(hold.operation, day, amount.pico, -hold.estimate.pico)

    def settle_late(self, hold: Hold, actual: Usd, at: datetime, reason: str) -> None:
        """Book what a hold cost that had expired or was voided."""
        self.correct(hold, actual, at, f"{_LATE}: {reason}" if reason else _LATE)

    def correct(self, hold: Hold, delta: Usd, at: datetime, reason: str) -> None:
        """Book a difference in the hold's own windows."""
        day = self._append(EntryKind.CORRECT, hold, delta, at, reason)
        self._book(hold.operation, day, delta.pico, 0)

    def _append(self, kind: EntryKind, hold: Hold, amount: Usd, at: datetime, reason: str = "") -> int:
        what, day = hold.operation, day_number(hold.reserved_at.date())
        expires_us = microseconds(hold.expires_at) if kind is EntryKind.RESERVE else 0
        self.driver.execute(
            _INSERT,
            (
                *(hold.hold_id, kind.value, what.user_id, what.source, what.service, what.operation),
                *(amount.pico, day, microseconds(at), expires_us, what.price, reason),
            ),
        )
        return day

    def _book(self, what: Operation, day: int, booked: int, held: int) -> None:
        rows = [(booked, held, scope, day, what.source) for scope in (SYSTEM_ID, what.user_id)]
        self.driver.executemany(_BOOK, rows)


class Ledger:
    """What we promised and what we spent, for good."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def writing(self) -> Iterator[Books]:
        """One write transaction, durable when the block ends; nothing of it stays if the block raises."""
        with self._database.hot() as driver:
            yield Books(driver)

    def standing(self, user_id: int, now: datetime) -> Standing:
        """What the system and the user have in the windows of `now`, read from one consistent state."""
        with self._database.snapshot() as driver:
            return Books(driver).standing(user_id, now)

    def entries(self, *, after_id: int = 0) -> Iterator[Entry]:
        """Every row after that id, in order."""
        rows = self._database.driver().execute(
            "SELECT id, hold_id, kind, user_id, service, operation, source, price, amount_pico, day, at_us, reason"
            " FROM entries WHERE id > ? ORDER BY id",
            (after_id,),
        )
        for row in rows:
            what = Operation(row[3], row[4], row[5], row[6], row[7])
            amount, at = Usd.from_pico(row[8]), from_microseconds(row[10])
            yield Entry(row[0], row[1], EntryKind(row[2]), what, amount, row[9], at, row[11])

    def last_id(self) -> int:
        """The number of the newest row; 0 while there is none."""
        (found,) = self._database.driver().execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
        return int(found)

    def put_bill(
        self,
        source: str,
        days: Iterable[tuple[int, int, Usd, Usd]],
        read_at: datetime,
        covers: Iterable[int] | None = None,
    ) -> None:
        """Remember what a source's bill says: (day number, user id or 0 for the whole, gross, net).

        Of the days that it `covers` (None: all there are) a day without a line costs nothing; others stay as they were.
        """
        read_us = microseconds(read_at)
        rows = [(source, d, user, gross.pico, net.pico, read_us) for d, user, gross, net in days]
        told = {(row[1], row[2]) for row in rows}
        rows += [(source, day, SYSTEM_ID, 0, 0, read_us) for day in covers or () if (day, SYSTEM_ID) not in told]
        with self._database.hot() as driver:
            if covers is None:
                driver.execute("DELETE FROM bill_days WHERE source = ?", (source,))
            driver.executemany(
                "DELETE FROM bill_days WHERE source = ? AND day = ?", [(source, d) for d in covers or ()]
            )
            driver.executemany("INSERT INTO bill_days VALUES (?, ?, ?, ?, ?, ?)", rows)
            driver.execute("UPDATE counters SET bill_pico = 0 WHERE source = ?", (source,))
            driver.execute(_BILL_COUNTERS, (source,))

    def bill_read_at(self, source: str) -> datetime | None:
        """When the bill of that source was last read; None if never."""
        row = self._database.driver().execute("SELECT max(read_us) FROM bill_days WHERE source = ?", (source,))
        (found,) = row.fetchone()
        return None if found is None else from_microseconds(found)

    def rebuild(self) -> None:
        """Throw the derived tables away and make them anew from the entries and the bills."""
        with self._database.hot() as driver:
            driver.execute("DELETE FROM open_holds")
            driver.execute("DELETE FROM counters")
            driver.execute(_OPEN_FROM_ENTRIES)
            driver.execute(_COUNTERS_FROM_ENTRIES)
            driver.execute(_BILL_COUNTERS.replace("source = ?", "1"))


_BILL_COUNTERS = """INSERT INTO counters (user_id, day, source, bill_pico)
 SELECT user_id, day, source, gross_pico FROM bill_days WHERE source = ?
 ON CONFLICT DO UPDATE SET bill_pico = excluded.bill_pico"""
_OPEN_FROM_ENTRIES = """INSERT INTO open_holds (hold_id, user_id, source, day, amount_pico, started, expires_us)
 SELECT hold_id, user_id, source, day, amount_pico,
 EXISTS (SELECT 1 FROM entries s WHERE s.hold_id = r.hold_id AND s.kind = 'start'), expires_us
 FROM entries r WHERE kind = 'reserve' AND NOT EXISTS (SELECT 1 FROM entries e
 WHERE e.hold_id = r.hold_id AND e.kind IN ('settle', 'void', 'expire'))"""
_COUNTERS_FROM_ENTRIES = """INSERT INTO counters (user_id, day, source, booked_pico, held_pico)
 SELECT scope, day, source, sum(booked), sum(held) FROM (
 SELECT user_id AS scope, day, source, CASE WHEN kind IN ('settle', 'correct') THEN amount_pico ELSE 0 END AS booked,
 0 AS held FROM entries UNION ALL
 SELECT 0, day, source, CASE WHEN kind IN ('settle', 'correct') THEN amount_pico ELSE 0 END, 0 FROM entries UNION ALL
 SELECT user_id, day, source, 0, amount_pico FROM open_holds UNION ALL
 SELECT 0, day, source, 0, amount_pico FROM open_holds) GROUP BY scope, day, source"""

"""The ledger only grows: each step in a hold's life is a new row, and the counters beside it are sums of those rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from podcastqa.clock import Clock, WindowKind, from_microseconds, microseconds
from podcastqa.database import Database, Driver
from podcastqa.money import ZERO, Usd
from podcastqa.spend.books import Books
from podcastqa.spend.changes import CARRIED, OPEN_FROM_ENTRIES
from podcastqa.spend.entries import Entry, EntryKind, Operation
from podcastqa.spend.standing import KINDS, Expired, ScopeKey, without
from podcastqa.spend.writer import Writer
from podcastqa.users import SYSTEM_ID


@dataclass(frozen=True, slots=True)
class Spent:
    """What a scope has in a window: `real` is booked or billed, `held` is promised or in doubt."""

    real: Usd
    held: Usd

    @property
    def total(self) -> Usd:
        """What a limit is compared with."""
        return self.real + self.held


NOTHING = Spent(Usd.from_pico(0), Usd.from_pico(0))
#: (user id, 0 for the whole system; window) → what it has spent.
Standing = dict[tuple[int, WindowKind], Spent]


class Ledger:
    """What we promised and what we spent, for good."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self.writer = database, Writer(database, clock)

    def writing(self) -> AbstractContextManager[Books]:
        """One write transaction, durable when the block ends; nothing of it stays if the block raises."""
        return self.writer.alone()

    def standing(self, user_id: int, now: datetime) -> Standing:
        """What the system and the user have in the windows of `now`, read from one consistent state."""
        with self._database.snapshot() as driver:
            return standing(_read(driver, now), user_id)

    def service_standing(self, service: str, now: datetime) -> dict[WindowKind, Spent]:
        """What all together have spent on a service in the windows of `now`, as the ledger says."""
        with self._database.snapshot() as driver:
            books = _read(driver, now)
            return _spent(books, service, books.expired())

    def entries(self, *, after_id: int = 0) -> Iterator[Entry]:
        """Every entry after that id that is there now, in order; a row that reserves and starts in one is two."""
        driver, last_id = self._database.driver(), self.last_id()
        while rows := driver.execute(_PAGE, (after_id, last_id)).fetchall():
            for row in rows:
                what = Operation(row[3], row[4], row[5], row[6], row[7])
                amount, at = Usd.from_pico(row[8]), from_microseconds(row[10])
                yield Entry(row[0], row[1], EntryKind(row[2]), what, amount, row[9], at, row[11])
                if row[2] == "reserve" and row[12] == 0:
                    yield Entry(row[0], row[1], EntryKind.START, what, ZERO, row[9], at, "")
            after_id = rows[-1][0]

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
            driver.execute("DELETE FROM service_counters")
            driver.execute(OPEN_FROM_ENTRIES)
            driver.execute(_COUNTERS_FROM_ENTRIES)
            driver.execute(_SERVICES_FROM_ENTRIES)
            driver.execute(_BILL_COUNTERS.replace("source = ?", "1 = 1"))
            driver.execute(CARRIED)

    def carry(self) -> None:
        """Bring the derived tables up to the newest entry: they say then what the entries do."""
        with self.writing() as books:
            books.carry()


_PAGE = """SELECT id, hold_id, kind, user_id, service, operation, source, price, amount_pico, day, at_us, reason,
 expires_us FROM entries WHERE id > ? AND id <= ? ORDER BY id LIMIT 10000"""
_BILL_COUNTERS = """INSERT INTO counters (user_id, day, source, bill_pico)
 SELECT user_id, day, source, gross_pico FROM bill_days WHERE source = ?
 ON CONFLICT (user_id, day, source) DO UPDATE SET bill_pico = excluded.bill_pico"""
_COUNTERS_FROM_ENTRIES = """INSERT INTO counters (user_id, day, source, booked_pico, held_pico)
 SELECT scope, day, source, sum(booked), sum(held) FROM (
 SELECT user_id AS scope, day, source, CASE WHEN kind IN ('settle', 'correct') THEN amount_pico ELSE 0 END AS booked,
 0 AS held FROM entries UNION ALL
 SELECT 0, day, source, CASE WHEN kind IN ('settle', 'correct') THEN amount_pico ELSE 0 END, 0 FROM entries UNION ALL
 SELECT user_id, day, source, 0, amount_pico FROM open_holds UNION ALL
 SELECT 0, day, source, 0, amount_pico FROM open_holds) AS sums GROUP BY scope, day, source"""
_SERVICES_FROM_ENTRIES = """INSERT INTO service_counters (service, day, booked_pico, held_pico)
 SELECT service, day, sum(booked), sum(held) FROM (
 SELECT service, day, CASE WHEN kind IN ('settle', 'correct') THEN amount_pico ELSE 0 END AS booked, 0 AS held
 FROM entries UNION ALL
 SELECT e.service, h.day, 0, h.amount_pico FROM open_holds h
 JOIN entries e ON e.hold_id = h.hold_id AND e.kind = 'reserve') AS sums GROUP BY service, day"""


def _read(driver: Driver, now: datetime) -> Books:
    """The books as they are, for a look."""
    books = Books(driver, now)
    books.follow()
    return books


def standing(books: Books, user_id: int) -> Standing:
    """What the system and the user have in the day, the week and the month of the books' instant."""
    books.prepare((user_id,))
    expired = books.expired()
    scopes = dict.fromkeys((SYSTEM_ID, user_id))
    return {(scope, kind): spent for scope in scopes for kind, spent in _spent(books, scope, expired).items()}


def _spent(books: Books, scope: ScopeKey, expired: Sequence[Expired]) -> dict[WindowKind, Spent]:
    has = books.standing(scope)
    totals = zip(KINDS, has.real, without(expired, scope, has), strict=True)
    return {kind: Spent(Usd.from_pico(real), Usd.from_pico(total - real)) for kind, real, total in totals}

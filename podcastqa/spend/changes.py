"""What happened is written at once; what follows from it is carried forward from time to time, many entries in one go.

Entries go to the database with every commit. Open holds and counters follow from them: what the newest entries, the
tail, make of them is kept here, and written when the tail has grown long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from podcastqa.database import Driver
from podcastqa.spend.entries import ENDS, HAS_ENDED, WAS_STARTED, Hold
from podcastqa.spend.standing import NEVER, CounterKey

_ENTRIES = """entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us, expires_us, price,
 reason)"""
_COUNTED = "counters (user_id, day, source, booked_pico, held_pico)"
_AS_COUNTED = """ON CONFLICT (user_id, day, source)
 DO UPDATE SET booked_pico = excluded.booked_pico, held_pico = excluded.held_pico"""
#: A tail that is longer is carried forward: whoever starts anew has to read it.
LONGEST_TAIL = 1024
#: Rows a statement: powers of two up to here, so that the database prepares a handful of statements once.
_LENGTHS = (1, 2, 4, 8, 16, 32, 64)
_MOST_ROWS = _LENGTHS[-1]
#: What 64 bits hold: a counter that would be more stays there for good, far above any limit, and every reserve is
#: refused; a correction cannot say how far past that it was.
_MOST = NEVER
_OPEN = """INSERT INTO open_holds (hold_id, user_id, source, day, amount_pico, started, expires_us)
 SELECT hold_id, user_id, source, day, amount_pico, CASE WHEN {} THEN 1 ELSE 0 END, expires_us
 FROM entries r WHERE kind = 'reserve' AND NOT {}"""
#: The reserves that nothing has resolved.
OPEN_FROM_ENTRIES = _OPEN.format(f"expires_us = 0 OR {WAS_STARTED}", HAS_ENDED)
#: Where the tail begins and ends: two values, for of anything else PostgreSQL believes that it tells of a third of all
#: entries, and reads them all.
_TAIL = "id > ? AND id <= ?"
#: The open holds of which the tail tells something; few, for most holds begin and end in one tail.
_TOLD = f"hold_id IN (SELECT h.hold_id FROM entries e JOIN open_holds h ON h.hold_id = e.hold_id WHERE e.{_TAIL} AND"
_CARRY_HOLDS = (
    f"DELETE FROM open_holds WHERE {_TOLD} {ENDS})",
    # It stands there if somebody moved the mark.
    f"{_OPEN.format('expires_us = 0', HAS_ENDED)} AND {_TAIL} ON CONFLICT (hold_id) DO NOTHING",
    f"UPDATE open_holds SET started = 1 WHERE {_TOLD} kind = 'start')",
)
#: The last entry before the tail, and the last one in it.
TAIL = "SELECT through_id, (SELECT coalesce(max(id), 0) FROM entries) FROM carried"
#: Said where the derived tables hold all entries.
CARRIED = "UPDATE carried SET through_id = (SELECT coalesce(max(id), 0) FROM entries), times = times + 1"
_COUNTERS = "counters", ("user_id", "day", "source")
_SERVICES = "service_counters", ("service", "day")


@dataclass(slots=True)
class Changes:
    """Entries that wait to be written, and what the tail makes of the derived tables; amounts in pico-dollars."""

    entries: list[Any] = field(default_factory=list)
    """The columns of one entry after the other."""
    length: int = 0
    """How many entries of the tail are written."""
    era: int = 0
    """Another one after each time that the tail was carried forward, or is read anew."""
    counters: dict[CounterKey, list[int]] = field(default_factory=dict)
    """Counter → what it then is: booked, held, billed."""
    counted: dict[int, dict[tuple[int, str], list[int]]] = field(default_factory=dict)
    """Scope that nobody has read → (day, source) → what is added: booked, held."""
    served: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    """(service, day) → what is added: booked, held."""

    def note(self, kind: str, hold: Hold, day: int, amount_pico: int, at_us: int, expires_us: int, why: str) -> None:
        """Append an entry."""
        what, add = hold.operation, self.entries.extend
        add((hold.hold_id, kind, what.user_id, what.source, what.service, what.operation, amount_pico))
        add((day, at_us, expires_us, what.price, why))

    def count(self, scope: int, day: int, source: str, booked: int, held: int) -> None:
        """Add to a counter that nobody has read."""
        _add(self.counted.setdefault(scope, {}), (day, source), booked, held)

    def serve(self, key: tuple[str, int], booked: int, held: int) -> None:
        """Add to the counter of a service and day."""
        _add(self.served, key, booked, held)

    def write(self, driver: Driver) -> int:
        """Write what happened; returns how many entries."""
        written = _insert(driver, _ENTRIES, self.entries)
        self.entries.clear()
        self.length += written
        return written

    def carry(self, driver: Driver) -> None:
        """Write what follows from it, after all that happened is written; there is no tail then."""
        tail = driver.execute(TAIL).fetchone()
        for change in _CARRY_HOLDS:
            driver.execute(change, tail)
        counted: list[Any] = []
        for key, row in self.counters.items():
            counted += key
            counted += min(row[0], _MOST), min(row[1], _MOST)
        _insert(driver, _COUNTED, counted, _AS_COUNTED)
        added = {(scope, *at): row for scope, rows in self.counted.items() for at, row in rows.items()}
        _add_up(driver, *_COUNTERS, added)
        _add_up(driver, *_SERVICES, self.served)
        driver.execute(CARRIED)
        self.begin_tail()

    def forget(self) -> None:
        """Nothing waits any more, and the tail is to be read anew."""
        self.entries.clear()
        self.begin_tail()

    def begin_tail(self) -> None:
        """The derived tables hold all that happened so far."""
        self.length = 0
        self.era += 1
        self.counters.clear()
        self.counted.clear()
        self.served.clear()


def _add(sums: dict[Any, list[int]], key: Any, booked: int, held: int) -> None:
    found = sums.get(key)
    if found is None:
        sums[key] = [booked, held]
    else:
        found[0] += booked
        found[1] += held


def _insert(driver: Driver, into: str, values: Sequence[Any], then: str = "") -> int:
    """Many rows a statement, given as the columns of one after the other: half the work of a statement a row."""
    width = into.count(",") + 1
    rows = len(values) // width
    if rows in _LENGTHS:  # mostly: one row of one caller, or a whole batch
        driver.execute(_values(into, width, rows, then), values)
        return rows
    for chunk in _chunks(values, width):
        driver.execute(_values(into, width, len(chunk) // width, then), chunk)
    return rows


def _sum(one: str, other: str) -> str:
    """The two added up, and no more than what 64 bits hold."""
    both = f"{one} + {other}"
    return (
        f"CASE WHEN {one} = {_MOST} THEN {_MOST} WHEN {other} <= 0 THEN {both}"
        f" WHEN {one} > {_MOST} - {other} THEN {_MOST} ELSE {both} END"
    )


def _chunks(values: Sequence[Any], width: int) -> Iterator[Sequence[Any]]:
    """Rows of so many columns, in as few lengths as can be."""
    at = 0
    while left := (len(values) - at) // width:
        size = min(_MOST_ROWS, 1 << left.bit_length() - 1)
        yield values[at : at + size * width]
        at += size * width


@lru_cache(maxsize=256)
def _values(into: str, width: int, rows: int, then: str) -> str:
    row = f"({', '.join('?' * width)})"
    return f"INSERT INTO {into} VALUES {', '.join([row] * rows)} {then}"


def _add_up(driver: Driver, table: str, key: tuple[str, ...], sums: dict[Any, list[int]]) -> None:
    """Add to counters; what gives back more than it holds has a counter already, what adds may be its first."""
    if not sums:
        return
    into, then, change = _adding(table, key)
    held_more: list[Any] = []
    for at, (booked, held) in sums.items():
        added = min(booked, _MOST)
        if held >= 0:
            held_more += *at, added, held
        else:
            driver.execute(change, (*[added] * 4, held, *at))
    _insert(driver, into, held_more, then)


@lru_cache
def _adding(table: str, key: tuple[str, ...]) -> tuple[str, str, str]:
    """The words of an addition: where to, what if the counter is there, and the change of one that is."""
    columns, same = ", ".join((*key, "booked_pico", "held_pico")), " AND ".join(f"{column} = ?" for column in key)
    added_to = ", ".join(
        f"{column} = {_sum(f'{table}.{column}', f'excluded.{column}')}" for column in ("booked_pico", "held_pico")
    )
    change = f"UPDATE {table} SET booked_pico = {_sum('booked_pico', '?')}, held_pico = held_pico + ? WHERE {same}"
    return f"{table} ({columns})", f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {added_to}", change

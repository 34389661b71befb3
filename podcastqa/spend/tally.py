"""What every scope has today, this week and this month, as a batch sees it, and how its changes are counted.

What stands in the counters is read when it is asked for, and what the tail adds to it is counted on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from podcastqa.clock import day_number
from podcastqa.database import Driver
from podcastqa.spend.changes import Changes
from podcastqa.spend.entries import Operation
from podcastqa.spend.standing import ScopeKey, Standing, Today, edges
from podcastqa.users import SYSTEM_ID


class Tally:
    """The standing of each scope that a batch asks for, beside the changes that wait to be written."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.changes = driver, Changes()
        self.day = self._reading = 0
        self.own = 0
        """How many entries this writer wrote since it last looked who else did."""
        self._standings: dict[ScopeKey, Standing] = {}
        self._today: dict[tuple[int, str, str], Today] = {}  # user, service, source

    def at_day(self, today: date) -> bool:
        """The day on which all of it happens; whether it is another one, so that all is to be read anew."""
        number = day_number(today)
        if number == self.day:
            return False
        self.day, self._edges = number, edges(today)
        self._standings = {}
        self.forget_today()
        return True

    def forget_counts(self) -> None:
        """Nothing that is remembered may be believed: read anew."""
        self.changes.forget()
        self._written = False  # part of this transaction's changes stand in the database already
        self._read: set[ScopeKey] = set()  # whose standing is as the database has it
        self.users: set[int] = set()
        """Of whom all is remembered."""
        self._reading += 1

    def are_more_than(self, most: int) -> bool:
        """Whether so many scopes, or kinds of operations, are remembered."""
        return max(len(self._standings), len(self._today)) > most

    def forget_scopes(self) -> None:
        """Remember nobody; the tail has just been carried forward, so that the counters say it all."""
        self._standings, self._read, self.users = {}, set(), set()
        self.forget_today()

    def forget_today(self) -> None:
        """What limits leave today is another now."""
        self._today.clear()

    def ask(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """Rows as they are with all entries so far; of counters and open holds without what the tail makes of them."""
        if self.changes.entries:
            self.write_entries()
        return list(self.driver.execute(sql, values).fetchall())

    def write_entries(self) -> None:
        """Write what happened to the database, inside the transaction."""
        self.own += self.changes.write(self.driver)
        self._written = True

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, user_ids: Iterable[int]) -> None:
        """Read what is not remembered of these users and of the whole system, all at once."""
        missing = {SYSTEM_ID, *user_ids} - self._read
        if not missing:
            return
        rows = self.ask(f"{_COUNTERS} WHERE users.id IN ({marks(missing)})", [*_range(self._edges), *missing])
        found = {scope: self._cleared(scope) for scope in missing}
        for scope, is_there, day, *counted in rows:
            if is_there:
                self.users.add(scope)
            if day is not None:
                found[scope].add(day, *counted)
        for scope, standing in found.items():
            self._add_tail(scope, standing)

    def _add_tail(self, scope: int, standing: Standing) -> None:
        """What the tail adds to a scope that was just read; from now on its rows are what its counters then are."""
        counted = self.changes.counted.get(scope)
        if not counted:
            return
        for day, source in [at for at in counted if standing.holds(at[0])]:
            standing.add(day, source, *counted.pop((day, source)))
            self.changes.counters[scope, day, source] = standing.row(day, source)

    def _cleared(self, scope: ScopeKey) -> Standing:
        """The scope's standing, to be filled with what was just read."""
        found = self._standings.get(scope)
        if found is None:
            found = self._standings[scope] = Standing(self._edges)
        else:
            found.clear()
        self._read.add(scope)
        return found

    def standing(self, scope: ScopeKey) -> Standing:
        """What a scope has in the windows of today."""
        if scope not in self._read:
            if isinstance(scope, str):
                self._read_service(scope)
            else:
                self.prepare((scope,))
        return self._standings[scope]

    def today(self, what: Operation) -> Today | None:
        """What such an operation moves today; None where its payer or the system is not remembered."""
        found = self._today.get((what.user_id, what.service, what.source))
        if found is not None and found.read == self._reading:
            return found
        return self._today_anew(what, found)

    def _today_anew(self, what: Operation, found: Today | None) -> Today | None:
        """Made, or told anew what there is room for, since the books were read."""
        user_id, source = what.user_id, what.source
        if user_id not in self.users or SYSTEM_ID not in self._read:
            return None
        if found is None:
            day, all_of_it, own = self.day, self._standings[SYSTEM_ID], self._standings[user_id]
            found = self._today[user_id, what.service, source] = Today(
                (user_id, what.service, source),
                ((all_of_it.row(day, source), all_of_it), (own.row(day, source), own)),
                self._standings.get(what.service),
            )
        found.read = self._reading
        self.look(found)
        return found

    def look(self, today: Today) -> None:
        """See what its limits leave it; nothing where a scope is yet to be read: that would write half a change."""
        known = [(self._standings[scope], picos) for scope, picos in today.limits if scope in self._read]
        is_whole = len(known) == len(today.limits)
        today.room = [(has, has.most_today(picos)) for has, picos in known] if is_whole else ()
        quiet = [(self._standings[scope], levels) for scope, levels in today.levels] if is_whole else []
        today.quiet = [(has, has.most_booked_today(levels)) for has, levels in quiet]

    def spent_on(self, service: str) -> int:
        """Pico-dollars booked or held for a service since the week or the month of today began."""
        rows = self.standing(service).rows.values()
        return sum(booked + held for booked, held, _ in rows)

    def _read_service(self, service: str) -> None:
        rows = self.ask(_SERVED, [service, *_range(self._edges)])
        if service not in self._standings:
            self.forget_today()  # what is counted of that service from now on is counted here too
        found = self._cleared(service)
        tail = [(at[1], *row) for at, row in self.changes.served.items() if at[0] == service and found.holds(at[1])]
        for day, booked, held in (*rows, *tail):
            found.add(day, "", booked, held)

    # ── counting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def count(self, what: Operation, day: int, booked: int, held: int) -> None:
        """Add to the counters of the system, the payer and the service; what is given back is negative."""
        today = self.today(what) if day == self.day else None
        if today is None:
            self.count_other(what.user_id, what.source, what.service, day, booked, held)
        else:
            self.count_today(today, booked, held)

    def count_today(self, today: Today, booked: int, held: int) -> None:
        """Of today, and of somebody who is remembered."""
        if today.era != self.changes.era:
            self._enter(today)
        if booked:
            today.count(booked, held)
            today.serving[0] += booked
        else:  # a reserve, mostly: the same, without what is booked
            (row, all_of_it), (own_row, own) = today.moves
            row[1] += held
            all_of_it.total_today += held
            own_row[1] += held
            own.total_today += held
        today.serving[1] += held
        if today.of_service is not None:
            today.of_service.add(self.day, "", booked, held)

    def _enter(self, today: Today) -> None:
        """Its rows are among those to be carried forward from now on."""
        changes, today.era = self.changes, self.changes.era
        (row, _), (own_row, _) = today.moves
        user_id, service, source = today.of
        changes.counters[SYSTEM_ID, self.day, source] = row
        changes.counters[user_id, self.day, source] = own_row
        today.serving = changes.served.setdefault((service, self.day), [0, 0])

    def count_other(self, user_id: int, source: str, service: str, day: int, booked: int, held: int) -> None:
        """Of another day, or of somebody who is not remembered."""
        for scope in (SYSTEM_ID, user_id):
            standing = self._standings[scope] if scope in self._read else None
            if standing is not None and standing.holds(day):  # the row is here: it is carried forward as it then is
                standing.add(day, source, booked, held)
                self.changes.counters[scope, day, source] = standing.row(day, source)
            else:
                self.changes.count(scope, day, source, booked, held)
        self.changes.serve((service, day), booked, held)
        if service in self._read and self._standings[service].holds(day):
            self._standings[service].add(day, "", booked, held)
        if day != self.day:
            self.forget_today()  # other days leave today less, or more


def _range(span: tuple[int, ...]) -> tuple[int, int]:
    """From the first to one past the last day that is in any of the windows."""
    return min(span[2], span[4]), max(span[3], span[5])


def marks(values: Iterable[object]) -> str:
    """A question mark for each value."""
    return ", ".join("?" for _ in values)


_COUNTERS = """SELECT users.id, name IS NOT NULL, day, source, booked_pico, held_pico, bill_pico
 FROM users LEFT JOIN counters ON user_id = users.id AND day >= ? AND day < ?"""
_SERVED = "SELECT day, booked_pico, held_pico FROM service_counters WHERE service = ? AND day >= ? AND day < ?"

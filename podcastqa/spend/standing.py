"""A window's spend is, per billing source and UTC day, the larger of booked and billed, plus what is held.

A hold that ran out of time unstarted stops counting by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache

from podcastqa.clock import WindowKind, day_number, windows
from podcastqa.users import SYSTEM_ID

KINDS = tuple(WindowKind)
#: (hold id, user id, source, day, pico-dollars, service) of a hold.
Expired = tuple[str, int, str, int, int, str]
#: A scope that has limits: 0 for the whole system, a user's number, a service's name.
ScopeKey = int | str
#: scope (0 or a user), day, source
CounterKey = tuple[int, int, str]
#: More than any time in microseconds, and than any amount in pico-dollars.
NEVER = 2**63 - 1


@lru_cache(maxsize=64)
def edges(today: date) -> tuple[int, ...]:
    """First and one past the last day number of the day, the week and the month."""
    noon = datetime(today.year, today.month, today.day, 12, tzinfo=UTC)
    return tuple(day_number(edge) for span in windows(noon) for edge in (span.start, span.end))


@dataclass(slots=True)
class Standing:
    """What a scope has in the day, the week and the month: booked or billed, and held (promised or in doubt).

    What happens today moves the three windows alike, so it is one number; only other days are kept by window.
    """

    edges: tuple[int, ...]
    rows: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    """(day, source) → booked, held, billed."""
    other_real: list[int] = field(default_factory=lambda: [0, 0, 0])
    other_total: list[int] = field(default_factory=lambda: [0, 0, 0])
    real_today: int = 0
    total_today: int = 0

    @property
    def real(self) -> tuple[int, int, int]:
        """Booked or billed, in day, week and month."""
        (day, week, month), today = self.other_real, self.real_today
        return day + today, week + today, month + today

    @property
    def total(self) -> tuple[int, int, int]:
        """Real and held together: what the limits of day, week and month are compared with."""
        (day, week, month), today = self.other_total, self.total_today
        return day + today, week + today, month + today

    def most_today(self, limits: Sequence[int]) -> int:
        """The most that today may come to, so that day, week and month stay within their limits."""
        (day, week, month), (a_day, a_week, a_month) = self.other_total, limits
        return min(a_day - day, a_week - week, a_month - month)

    def most_booked_today(self, levels: Sequence[int]) -> int:
        """The most that today's real spend may come to, so that none of day, week and month is past its level."""
        (day, week, month), (a_day, a_week, a_month) = self.other_real, levels
        return min(a_day - day, a_week - week, a_month - month)

    def holds(self, day: int) -> bool:
        """Whether that day is in one of the windows, so that its rows are here."""
        span = self.edges
        return span[2] <= day < span[3] or span[4] <= day < span[5]

    def clear(self) -> None:
        """Nothing is counted; the rows stay, and whoever knows one sees what is counted in it next."""
        for row in self.rows.values():
            row[:] = 0, 0, 0
        self.other_real[:] = self.other_total[:] = 0, 0, 0
        self.real_today = self.total_today = 0

    def row(self, day: int, source: str) -> list[int]:
        """What is counted of a day and source: booked, held, billed."""
        found = self.rows.get((day, source))
        if found is None:
            found = self.rows[day, source] = [0, 0, 0]
        return found

    def add(self, day: int, source: str, booked: int, held: int, billed: int = 0) -> None:
        """Count more of a day and source."""
        row, span = self.row(day, source), self.edges
        more = _more(row, booked, held, billed)
        if day == span[0]:
            self.real_today += more
            self.total_today += more + held
            return
        for window in (1, 2):
            if span[2 * window] <= day < span[2 * window + 1]:
                self.other_real[window] += more
                self.other_total[window] += more + held


def _more(row: list[int], booked: int, held: int, billed: int) -> int:
    """Count it in the row; returns by how much the larger of booked and billed grew."""
    was, promised, bill = row
    before = was if was > bill else bill
    if was < NEVER:  # one that is full stays full: the database has forgotten how far past that it is
        was += booked
    bill += billed
    row[:] = was, promised + held, bill
    return (was if was > bill else bill) - before


@dataclass(slots=True)
class Today:
    """What an operation of one user, service and source moves today, and what its limits leave it."""

    of: tuple[int, str, str]
    """User, service, source."""
    moves: tuple[tuple[list[int], Standing], tuple[list[int], Standing]]
    """The system's row of today and its standing, the user's row and standing."""
    of_service: Standing | None
    limits: Sequence[tuple[ScopeKey, Sequence[int]]] = ()
    """Every scope that has limits, with what they leave it in day, week and month; empty where nobody has asked yet."""
    room: Sequence[tuple[Standing, int]] = ()
    """The same scopes, with the most that each may come to today."""
    levels: Sequence[tuple[ScopeKey, Sequence[int]]] = ()
    """Every scope that has limits, with the real spend in day, week and month past which somebody wants to be told."""
    quiet: Sequence[tuple[Standing, int]] = ()
    """The same scopes, with the real spend that each may come to today and nobody need be told."""
    read: int = 0
    """At which reading of the books the room was told."""
    era: int = -1
    """Of which tail its rows are known to be."""
    serving: list[int] = field(default_factory=lambda: [0, 0])
    """What that tail adds to the service's counter: booked, held."""

    def count(self, booked: int, held: int) -> None:
        """Add to the rows of the system and of the user, and to their standings."""
        for row, standing in self.moves:
            was = row[0]
            if not row[2] and 0 <= was <= (now := was + booked) < NEVER:  # no bill speaks of it: mostly
                row[0], more = now, booked
            else:
                more = _more(row, booked, 0, 0)
            row[1] += held
            standing.real_today += more
            standing.total_today += more + held

    def has_room(self, pico: int) -> bool:
        """Whether so much surely fits into every window; if not, it takes a closer look."""
        for standing, most in self.room:
            if standing.total_today + pico > most:
                return False
        return bool(self.room)

    def is_quiet(self) -> bool:
        """Whether surely nobody need be told of what is spent; if not, it takes a closer look."""
        for standing, most in self.quiet:
            if standing.real_today > most:
                return False
        return bool(self.quiet)


def without(expired: Sequence[Expired], scope: ScopeKey, standing: Standing) -> Sequence[int]:
    """A scope's totals without the holds that ran out of time."""
    if not expired:
        return standing.total
    found = [*standing.total]
    for _, user_id, _, day, pico, service in expired:
        if scope in (SYSTEM_ID, user_id, service):
            for i in range(3):
                if standing.edges[2 * i] <= day < standing.edges[2 * i + 1]:
                    found[i] -= pico
    return found

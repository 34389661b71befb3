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


@lru_cache(maxsize=64)
def edges(today: date) -> tuple[int, ...]:
    """First and one past the last day number of the day, the week and the month."""
    noon = datetime(today.year, today.month, today.day, 12, tzinfo=UTC)
    return tuple(day_number(edge) for span in windows(noon) for edge in (span.start, span.end))


@dataclass(slots=True)
class Standing:
    """What a scope has in the day, the week and the month: `real` is booked or billed, `held` promised or in doubt."""

    edges: tuple[int, ...]
    rows: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    """(day, source) → booked, held, billed."""
    real: list[int] = field(default_factory=lambda: [0, 0, 0])
    total: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Real and held together: what the limits of day, week and month are compared with."""

    def holds(self, day: int) -> bool:
        """Whether that day is in one of the windows, so that its rows are here."""
        span = self.edges
        return span[2] <= day < span[3] or span[4] <= day < span[5]

    def add(self, day: int, source: str, booked: int, held: int, billed: int = 0) -> None:
        """Count more of a day and source."""
        row = self.rows.get((day, source))
        if row is None:
            row = self.rows[day, source] = [0, 0, 0]
        before = row[0] if row[0] > row[2] else row[2]
        row[0] += booked
        row[1] += held
        row[2] += billed
        more = (row[0] if row[0] > row[2] else row[2]) - before
        span, real, total, both = self.edges, self.real, self.total, more + held
        if span[0] <= day < span[1]:
            real[0] += more
            total[0] += both
        if span[2] <= day < span[3]:
            real[1] += more
            total[1] += both
        if span[4] <= day < span[5]:
            real[2] += more
            total[2] += both


def without(expired: Sequence[Expired], scope: ScopeKey, standing: Standing) -> list[int]:
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

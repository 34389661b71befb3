"""Time enters here, and windows are half-open stretches of UTC: the day, the ISO week from Monday, the month.

A window holds its start and not its end, so that every instant belongs to exactly one day, one week and
one month. Days are numbered (`day_number`, the proleptic ordinal of Python's `date.toordinal`): whole numbers
sort, subtract and index faster than dates, and mean the same in SQLite, PostgreSQL and DuckDB.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Protocol


class Clock(Protocol):
    """Says what time it is."""

    def now(self) -> datetime:
        """This instant, aware, in UTC."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """This instant, aware, in UTC."""
        return datetime.now(UTC)


class WindowKind(StrEnum):
    """The three windows that each limit is set for."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"

    @property
    def adjective(self) -> str:
        """As people say it: daily, weekly, monthly."""
        return {"day": "daily", "week": "weekly", "month": "monthly"}[self.value]


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open stretch of UTC days from `start` (in it) to `end` (not in it)."""

    kind: WindowKind
    start: date
    end: date

    def holds(self, instant: datetime) -> bool:
        """Whether the instant lies in this window; a naive one is refused."""
        return self.start <= utc(instant).date() < self.end

    @property
    def starts_at(self) -> datetime:
        """The first instant of the window."""
        return datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC)

    @property
    def ends_at(self) -> datetime:
        """The first instant after the window."""
        return datetime(self.end.year, self.end.month, self.end.day, tzinfo=UTC)

    def __str__(self) -> str:
        if self.kind is WindowKind.DAY:
            return f"day {self.start}"
        if self.kind is WindowKind.WEEK:
            return f"week {self.start:%G-W%V}"
        return f"month {self.start:%Y-%m}"


def window(kind: WindowKind, instant: datetime) -> Window:
    """The window of that kind which holds the instant."""
    return _containing(kind, utc(instant).date())


def windows(instant: datetime) -> tuple[Window, Window, Window]:
    """The day, the week and the month that hold the instant."""
    today = utc(instant).date()
    return (
        _containing(WindowKind.DAY, today),
        _containing(WindowKind.WEEK, today),
        _containing(WindowKind.MONTH, today),
    )


def _containing(kind: WindowKind, today: date) -> Window:
    if kind is WindowKind.DAY:
        return Window(kind, today, today + timedelta(days=1))
    if kind is WindowKind.WEEK:
        monday = today - timedelta(days=today.weekday())
        return Window(kind, monday, monday + timedelta(days=7))
    first = today.replace(day=1)
    return Window(kind, first, (first + timedelta(days=31)).replace(day=1))


def utc(instant: datetime) -> datetime:
    """The same instant in UTC; a datetime without a zone is refused, for nobody knows when it is."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone")
    return instant if instant.tzinfo is UTC else instant.astimezone(UTC)


def day_number(day: date) -> int:
    """The day as a whole number: 1 is 0001-01-01."""
    return day.toordinal()


def day_of(number: int) -> date:
    """The day of that number."""
    return date.fromordinal(number)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(instant: datetime) -> int:
    """Whole microseconds since 1970-01-01 UTC, exactly."""
    since = utc(instant) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_microseconds(count: int) -> datetime:
    """The instant so many microseconds after 1970-01-01 UTC."""
    return _EPOCH + timedelta(microseconds=count)

"""Windows: every instant lies in exactly one day, one ISO week, one month; `date.isocalendar` is the reference."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.clock import (
    SystemClock,
    Window,
    WindowKind,
    day_number,
    day_of,
    from_microseconds,
    microseconds,
    utc,
    window,
    windows,
)

pytestmark = pytest.mark.step1

zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(datetime(1970, 1, 3), datetime(9998, 12, 1), timezones=zones)  # noqa: DTZ001 (zones are drawn)


@pytest.mark.parametrize(
    ("day", "week", "month"),
    [
        ("2026-11-23", "2026-W48", "2026-11"),  # a Monday
        ("2026-11-22", "2026-W47", "2026-11"),  # the Sunday before it
        ("2024-02-29", "2024-W09", "2024-02"),  # a leap day
        ("2020-12-31", "2020-W53", "2020-12"),  # a year of 53 weeks
        ("2021-01-01", "2020-W53", "2021-01"),  # ... whose last week reaches into the next
        ("2021-01-03", "2020-W53", "2021-01"),
        ("2021-01-04", "2021-W01", "2021-01"),
        ("2024-12-30", "2025-W01", "2024-12"),  # a week that begins in the year before its own
        ("2000-02-29", "2000-W09", "2000-02"),  # a leap year by the rule of 400
    ],
)
def test_windows_are_named_as_iso_8601_names_them(day: str, week: str, month: str) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    assert [str(w) for w in windows(noon)] == [f"day {day}", f"week {week}", f"month {month}"]


@given(instants)
def test_weeks_agree_with_the_iso_calendar(instant: datetime) -> None:
    week = window(WindowKind.WEEK, instant)
    year, number, _ = utc(instant).date().isocalendar()
    assert week.start == date.fromisocalendar(year, number, 1)
    assert week.end - week.start == timedelta(days=7)
    assert str(week) == f"week {year}-W{number:02d}"


@given(instants)
def test_months_are_as_long_as_the_calendar_says(instant: datetime) -> None:
    month = window(WindowKind.MONTH, instant)
    assert month.start.day == month.end.day == 1
    assert (month.end - month.start).days == calendar.monthrange(month.start.year, month.start.month)[1]


@given(instants)
def test_every_instant_is_in_its_windows_and_in_no_neighbour(instant: datetime) -> None:
    for w in windows(instant):
        assert w.holds(instant)
        assert w.starts_at <= instant < w.ends_at
        before = window(w.kind, w.starts_at - timedelta(microseconds=1))
        after = window(w.kind, w.ends_at)
        assert before.end == w.start
        assert after.start == w.end
        assert not before.holds(instant)
        assert not after.holds(instant)


@given(instants)
def test_windows_are_those_that_window_gives(instant: datetime) -> None:
    assert windows(instant) == tuple(window(kind, instant) for kind in WindowKind)


def test_a_window_holds_its_start_and_not_its_end() -> None:
    day = window(WindowKind.DAY, datetime(2026, 11, 23, 9, tzinfo=UTC))
    assert day.holds(datetime(2026, 11, 23, tzinfo=UTC))
    assert day.holds(datetime(2026, 11, 23, 23, 59, 59, 999_999, tzinfo=UTC))
    assert not day.holds(datetime(2026, 11, 24, tzinfo=UTC))


def test_a_late_evening_far_west_is_already_the_next_utc_day() -> None:
    evening = datetime(2026, 11, 22, 21, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert str(window(WindowKind.DAY, evening)) == "day 2026-11-23"
    assert str(window(WindowKind.WEEK, evening)) == "week 2026-W48"


@pytest.mark.parametrize(
    "ask", [utc, microseconds, windows, window(WindowKind.DAY, datetime(2026, 1, 1, tzinfo=UTC)).holds]
)
def test_an_instant_without_a_zone_is_refused(ask: object) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        ask(datetime(2026, 11, 23))  # type: ignore[operator]  # noqa: DTZ001


@given(st.dates())
def test_days_are_numbered_without_gaps_in_the_order_of_the_calendar(day: date) -> None:
    assert day_of(day_number(day)) == day
    if day < date.max:
        assert day_number(day + timedelta(days=1)) == day_number(day) + 1


@given(instants)
def test_microseconds_lose_nothing(instant: datetime) -> None:
    assert from_microseconds(microseconds(instant)) == instant
    assert from_microseconds(microseconds(instant)).tzinfo is UTC


def test_the_epoch_is_zero_and_earlier_is_negative() -> None:
    assert microseconds(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert microseconds(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1


def test_the_system_clock_says_utc_and_does_not_stand_still() -> None:
    first, second = SystemClock().now(), SystemClock().now()
    assert first.tzinfo is UTC
    assert abs(datetime.now(UTC) - first) < timedelta(minutes=1)
    assert second >= first


def test_a_kind_has_the_word_people_use() -> None:
    assert [kind.adjective for kind in WindowKind] == ["daily", "weekly", "monthly"]


def test_windows_are_values() -> None:
    start = date(2026, 11, 23)
    assert Window(WindowKind.DAY, start, start + timedelta(days=1)) in set(windows(datetime(2026, 11, 23, tzinfo=UTC)))

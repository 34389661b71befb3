"""A projection says what a month will cost if its days go on as the last ones did, with an interval; it is no promise.

Method: the mean of the last complete days (28 at most) stands for each day that is left; of today, what the mean is
beyond what today has spent. Interval: 80 % of the sums of so many days to come, were they drawn from what the last days
were drawn from (normal, independent): t · s · sqrt(R + R²/n), with n days seen, R days to come (today is one), their
standard deviation s and Student's t for n − 1 degrees of freedom. Weekdays, trends and monthly lumps are not modelled.

Source of the method (mean method and its prediction interval): Hyndman and Athanasopoulos, Forecasting: Principles and
Practice, 3rd edition, 5.2 and 5.5, https://otexts.com/fpp3/prediction-intervals.html; the sum of R days has R times
the variance of one, and R² times that of the mean. Whole numbers and fractions throughout: no float holds money.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from math import ceil, floor, isqrt
from typing import Any

from podcastqa.clock import Window, WindowKind, window
from podcastqa.display import Table, Tabular, plain
from podcastqa.money import ZERO, Usd

HISTORY_DAYS = 28
LEAST_DAYS = 3
LEVEL = "80 %"
#: Student's t, 0.90 quantile (two-sided 80 %), for 2, 3, … 27 degrees of freedom; beyond, the last one errs on the wide
#: side. NIST/SEMATECH e-Handbook 1.3.6.7.2, https://www.itl.nist.gov/div898/handbook/eda/section3/eda3672.htm
T_90 = tuple(
    Fraction(thousandths, 1000)
    for thousandths in (
        *(1886, 1638, 1533, 1476, 1440, 1415, 1397, 1383, 1372, 1363, 1356, 1350, 1345),
        *(1341, 1337, 1333, 1330, 1328, 1325, 1323, 1321, 1319, 1318, 1316, 1315, 1314),
    )
)


@dataclass(frozen=True, slots=True)
class Projection(Tabular):
    """What the month is expected to cost in USD, and between which amounts it will end in four cases of five."""

    month: Window
    today: date
    month_to_date: Usd
    expected: Usd
    low: Usd
    high: Usd
    seen: tuple[date, date]
    """The first and the last of the days it was computed from."""
    days: int
    """How many of them are known."""
    daily_mean: Usd

    def table(self) -> Table:
        """What is known, then what is projected."""
        rows: list[tuple[object, ...]] = [
            ("spent so far", self.month_to_date),
            (f"mean of {self.days} complete days", self.daily_mean),
            ("projected to the month's end", self.expected),
            (f"low end of the {LEVEL} interval", self.low),
            (f"high end of the {LEVEL} interval", self.high),
        ]
        note = (
            f"A projection, not a bill: computed from the {self.days} days {self.seen[0]} to {self.seen[1]} UTC, as if "
            f"the days left were like them. Four months in five should end within the interval."
        )
        return Table(_title(self.month), ("what", "USD"), tuple(rows), (note,))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        names = ("today", "month_to_date", "expected", "low", "high", "days", "daily_mean")
        return {"projection": True, "level": LEVEL, "month": str(self.month)} | _plain(self, names)


@dataclass(frozen=True, slots=True)
class NoProjection(Tabular):
    """There is none, and why."""

    month: Window
    month_to_date: Usd
    reason: str

    def table(self) -> Table:
        """What is known, and why no more is said."""
        return Table(_title(self.month), ("what", "USD"), (("spent so far", self.month_to_date),), (self.reason,))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"projection": False, "month": str(self.month)} | _plain(self, ("month_to_date", "reason"))


def project(
    days: Sequence[tuple[date, Usd]], today: date, month_to_date: Usd, history_days: int = HISTORY_DAYS
) -> Projection | NoProjection:
    """What the month of `today` will have cost at its end, in USD.

    `days`: what each known UTC day really cost, zeros among them (see `every_day`); today's may be there, and counts
    as what today has spent so far. `month_to_date`: what the month has really cost until now.
    """
    month = window(WindowKind.MONTH, datetime(today.year, today.month, today.day, tzinfo=UTC))
    known: dict[date, int] = defaultdict(int)
    for day, cost in days:
        known[day] += cost.pico
    seen = {day: known[day] for day in known if today - timedelta(days=history_days) <= day < today}
    if len(seen) < LEAST_DAYS:
        have = f"{len(seen)} {'is' if len(seen) == 1 else 'are'} known"
        reason = f"No projection yet: it needs at least {LEAST_DAYS} complete days before {today}, and {have}."
        return NoProjection(month, month_to_date, reason)
    after = (month.end - today).days - 1
    mean = Fraction(sum(seen.values()), len(seen))
    ahead = max(after * mean + max(mean - known[today], Fraction(0)), Fraction(0))
    half = _half_width(list(seen.values()), after + 1)
    return Projection(
        month,
        today,
        month_to_date,
        expected=month_to_date + Usd.from_pico(round(ahead)),
        low=month_to_date + Usd.from_pico(max(floor(ahead) - half, 0)),
        high=month_to_date + Usd.from_pico(ceil(ahead) + half),
        seen=(min(seen), max(seen)),
        days=len(seen),
        daily_mean=Usd.from_pico(round(mean)),
    )


def every_day(rows: Iterable[tuple[date, Usd]], today: date, since: date | None = None) -> list[tuple[date, Usd]]:
    """The rows, with a zero for each day without one from `since` (else the first row) to yesterday; today's stays.

    For readers that know only days on which something was spent. Days before anybody used the program are not zeros:
    they say nothing about the days to come.
    """
    spent: dict[date, Usd] = defaultdict(lambda: ZERO)
    for day, cost in rows:
        spent[day] += cost
    first = since or min(spent, default=today)
    known = {first + timedelta(days=n) for n in range((today - first).days)} | ({today} & spent.keys())
    return [(day, spent[day]) for day in sorted(known)]


def _half_width(costs: list[int], ahead: int) -> int:
    """Half of the interval, in pico-dollars, rounded up."""
    count = len(costs)
    variance = Fraction(count * sum(cost * cost for cost in costs) - sum(costs) ** 2, count * (count - 1))
    t = T_90[min(count - 3, len(T_90) - 1)]
    square = t * t * variance * (ahead + Fraction(ahead * ahead, count))
    root = isqrt(floor(square))
    return root if root * root == square else root + 1


def _title(month: Window) -> str:
    return f"Projection to the end of {month}"


def _plain(found: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: plain(getattr(found, name)) for name in names}

"""What was spent, by day, user, service or operation: asked of the mirror, exact to the last unit.

The cost of a day is, per billing source, the larger of what was booked and what the bill says; a user's likewise, where
the bill names users, as long as the users do not exceed the day. What is left is `unattributed`, so that users (or
services) and unattributed always sum to the total.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from podcastqa.clock import day_of, from_microseconds
from podcastqa.display import Table, Tabular
from podcastqa.money import ZERO, Usd
from podcastqa.spend.mirror import Mirror

_DAYS = """WITH booked AS (SELECT day, source, sum(booked_pico) AS pico FROM day_sums
 WHERE day BETWEEN ? AND ? AND (? IS NULL OR user_id = ?) GROUP BY day, source),
 bills AS (SELECT day, source, sum(gross_pico) AS pico FROM bill_days
 WHERE day BETWEEN ? AND ? AND user_id = coalesce(?, 0) GROUP BY day, source)
 SELECT day, sum(greatest(coalesce(booked.pico, 0), coalesce(bills.pico, 0))), sum(coalesce(booked.pico, 0))
 FROM booked FULL JOIN bills USING (day, source) GROUP BY day ORDER BY day"""
_GROUPS = """SELECT {key}, sum(booked_pico), sum(calls) FROM day_sums
 WHERE day BETWEEN ? AND ? AND (? IS NULL OR user_id = ?) GROUP BY {key} ORDER BY {key}"""
_USERS = """WITH booked AS (SELECT day, source, user_id, sum(booked_pico) AS pico, sum(calls) AS calls FROM day_sums
 WHERE day BETWEEN $1 AND $2 AND ($3 IS NULL OR user_id = $3) GROUP BY day, source, user_id),
 billed AS (SELECT day, source, user_id, sum(gross_pico) AS pico FROM bill_days
 WHERE day BETWEEN $1 AND $2 AND user_id <> 0 AND ($3 IS NULL OR user_id = $3) GROUP BY day, source, user_id),
 whole AS (SELECT day, source, sum(gross_pico) AS pico FROM bill_days
 WHERE day BETWEEN $1 AND $2 AND user_id = coalesce($3, 0) GROUP BY day, source),
 users AS (SELECT day, source, user_id, coalesce(booked.pico, 0) AS booked, coalesce(billed.pico, 0) AS billed,
 greatest(coalesce(booked.pico, 0), coalesce(billed.pico, 0)) AS larger, coalesce(calls, 0) AS calls
 FROM booked FULL JOIN billed USING (day, source, user_id)),
 days AS (SELECT day, source, sum(booked) AS booked, sum(larger) AS larger, coalesce(any_value(whole.pico), 0) AS whole
 FROM users LEFT JOIN whole USING (day, source) GROUP BY day, source)
 SELECT user_id, sum(CASE WHEN days.larger <= greatest(whole, days.booked) THEN users.larger
 WHEN whole > days.booked THEN billed ELSE users.booked END) AS cost, sum(calls) AS calls
 FROM users JOIN days USING (day, source) GROUP BY user_id HAVING cost <> 0 OR sum(calls) > 0 ORDER BY user_id"""
_VARIANCE = """SELECT done.service, done.operation, count(*), sum(promised.amount_pico), sum(done.amount_pico),
 count(*) FILTER (WHERE done.amount_pico > promised.amount_pico)
 FROM entries done JOIN entries promised ON promised.hold_id = done.hold_id AND promised.kind = 'reserve'
 WHERE done.kind = 'settle' AND done.day BETWEEN ? AND ? AND (? IS NULL OR done.user_id = ?)
 GROUP BY done.service, done.operation ORDER BY done.service, done.operation"""


@dataclass(frozen=True, slots=True)
class Span:
    """The UTC days asked about, whose they are (None: everybody's), and how far the mirror had read."""

    first: date
    last: date
    user_id: int | None
    as_of: datetime

    def __str__(self) -> str:
        return f"{self.first} to {self.last} UTC"


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the cost: its name, what was booked for it, how many operations."""

    name: str
    cost: Usd
    operations: int


@dataclass(frozen=True, slots=True)
class CostSummary(Tabular):
    """What was spent in a span of days; `parts` and `unattributed_cost` sum to `total_cost` exactly."""

    span: Span
    by: str
    parts: tuple[Share, ...]
    unattributed_cost: Usd

    @property
    def total_cost(self) -> Usd:
        """The whole, to 1e-12 USD."""
        return sum((part.cost for part in self.parts), ZERO) + self.unattributed_cost

    def table(self) -> Table:
        """One row a part, then what nobody booked, then the total."""
        rows: list[tuple[object, ...]] = [(part.name, part.cost, part.operations) for part in self.parts]
        rows.append(("unattributed", self.unattributed_cost, None))
        rows.append(("total", self.total_cost, sum(part.operations for part in self.parts)))
        note = f"As of {self.span.as_of:%Y-%m-%d %H:%M:%S} UTC."
        return Table(f"Spend by {self.by}, {self.span}", (self.by, "cost in USD", "operations"), tuple(rows), (note,))


@dataclass(frozen=True, slots=True)
class Variance:
    """Estimate against actual for one operation."""

    service: str
    operation: str
    calls: int
    estimate: Usd
    actual: Usd
    overruns: int

    @property
    def difference(self) -> Usd:
        """Actual less estimate: positive is dearer than expected."""
        return self.actual - self.estimate


@dataclass(frozen=True, slots=True)
class Variances(Tabular):
    """Estimate against actual, per operation, over settled holds."""

    span: Span
    rows: tuple[Variance, ...]

    def table(self) -> Table:
        """One row an operation."""
        columns = ("service", "operation", "calls", "estimate in USD", "actual in USD", "difference in USD", "overruns")
        rows = ((v.service, v.operation, v.calls, v.estimate, v.actual, v.difference, v.overruns) for v in self.rows)
        return Table(f"Estimate against actual, {self.span}", columns, tuple(rows))


def by_day(mirror: Mirror, first: int, last: int, user_id: int | None) -> CostSummary:
    """What was booked on each day, and what nobody booked on any."""
    with mirror.opened() as (connection, watermark):
        span = _span(first, last, user_id, watermark.synced_us)
        days = _days(connection, first, last, user_id)
        counts = {row[0]: row[2] for row in _groups(connection, "day", first, last, user_id)}
    parts = tuple(Share(str(day_of(day)), _usd(booked), counts.get(day, 0)) for day, _, booked in days)
    return CostSummary(span, "day", parts, _usd(sum(real - booked for _, real, booked in days)))


def real_days(mirror: Mirror, first: int, last: int) -> list[tuple[date, Usd]]:
    """What each day on which anything was booked or billed really cost the whole system."""
    with mirror.opened() as (connection, _):
        return [(day_of(day), _usd(real)) for day, real, _ in _days(connection, first, last, None)]


def by_group(mirror: Mirror, by: str, first: int, last: int, user_id: int | None, names: dict[int, str]) -> CostSummary:
    """What each user or service cost (`by`), and what nobody booked."""
    with mirror.opened() as (connection, watermark):
        span = _span(first, last, user_id, watermark.synced_us)
        days = _days(connection, first, last, user_id)
        if by == "user":
            groups = list(connection.execute(_USERS, [first, last, user_id]).fetchall())
        else:
            groups = _groups(connection, by, first, last, user_id)
    beyond = sum(real for _, real, _ in days) - sum(cost for _, cost, _ in groups)
    parts = tuple(Share(names.get(name, str(name)), _usd(cost), int(calls)) for name, cost, calls in groups)
    return CostSummary(span, by, parts, _usd(beyond))


def variance(mirror: Mirror, first: int, last: int, user_id: int | None) -> Variances:
    """Estimate against actual per operation."""
    with mirror.opened() as (connection, watermark):
        rows = connection.execute(_VARIANCE, [first, last, user_id, user_id]).fetchall()
        span = _span(first, last, user_id, watermark.synced_us)
    return Variances(span, tuple(Variance(row[0], row[1], row[2], _usd(row[3]), _usd(row[4]), row[5]) for row in rows))


def _days(connection: Any, first: int, last: int, user_id: int | None) -> list[Any]:
    return list(connection.execute(_DAYS, [first, last, user_id, user_id, first, last, user_id]).fetchall())


def _groups(connection: Any, key: str, first: int, last: int, user_id: int | None) -> list[Any]:
    sql = _GROUPS.format(key=key)
    return list(connection.execute(sql, [first, last, user_id, user_id]).fetchall())


def _span(first: int, last: int, user_id: int | None, synced_us: int) -> Span:
    return Span(day_of(first), day_of(last), user_id, from_microseconds(synced_us))


def _usd(pico: int) -> Usd:
    return Usd.from_pico(int(pico))

"""Figures of a bill: who and what it charges, how it stands beside the ledger, and where the month is going.

Where there is nothing to draw them from, a sentence says so instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from itertools import accumulate

from podcastqa.bills.bill import Bill, BillLine
from podcastqa.bills.days import DayKind, DayReconciliation, DayRow
from podcastqa.display import Table
from podcastqa.money import ZERO, Usd
from podcastqa.spend.projection import LEVEL, NoProjection, Projection
from podcastqa.workbook.drawing import INK, OVER, SOFT, SPENT, as_svg, days_axes, pixel, unit_of
from podcastqa.workbook.figures import MOST_ROWS, Figure, NoFigure, counted, listed, ranked


def spend_on_bill(bill: Bill, by: str, names: Mapping[str, str] | None = None) -> Figure | NoFigure:
    """What a bill charges per `service` or `user`, gross, the most first; `names`: what tags are called."""
    title = f"Bill of {bill.source} by {by}"
    told: dict[str, Callable[[BillLine], str]] = {
        "service": lambda line: line.service or "no service named",
        "user": lambda line: (names or {}).get(line.user_tag, line.user_tag) or "unattributed",
    }
    spent: dict[str, Usd] = defaultdict(lambda: ZERO)
    for line in bill.lines:
        if line.is_use:
            spent[told[by](line)] += line.amount
    if not spent:
        return NoFigure(title, "The bill has no charges, so there is nothing to draw.")
    rows = sorted(spent.items(), key=lambda row: (-row[1].pico, row[0]))
    owed = "" if bill.net == bill.gross else f" With credits and refunds it comes to {bill.net.shown()}."
    return ranked(title, by, rows, f"Gross: without credits and refunds.{owed}")


def bill_against_ledger(found: DayReconciliation) -> Figure | NoFigure:
    """Each day's bill as a bar and its bookings as a ring; orange where the books are wrong, grey where it is early."""
    title = f"Bill of {found.source} against the ledger"
    if not found.rows:
        return NoFigure(title, f"Neither has anything from {found.first} to {found.end - timedelta(days=1)}.")
    of_day: dict[date, list[DayRow]] = defaultdict(list)
    for row in found.rows:
        of_day[row.day].append(row)
    days = sorted(of_day)
    billed, booked = zip(*(_both(of_day[day]) for day in days), strict=True)
    unit, unit_name = unit_of([*billed, *booked])
    axes = days_axes(days, unit_name)
    colours = [_colour(of_day[day]) for day in days]
    axes.bar(range(len(days)), [pixel(amount, unit) for amount in billed], width=0.62, color=colours)
    rings = [pixel(amount, unit) for amount in booked]
    axes.scatter(
        range(len(days)), rings, s=60, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=3, clip_on=False
    )
    caption = (
        "A bar is the bill (gross), a ring what the ledger booked; orange where the books are wrong, grey where the "
        "bill is not complete or says nothing yet."
    )
    rows = tuple((day, a, b, b - a, _kinds(of_day[day])) for day, a, b in zip(days, billed, booked, strict=True))
    table = Table(title, ("day", "bill", "ledger", "difference", "kind"), rows)
    return Figure(title, _days_in_words(found, len(days)), as_svg(axes), caption, table)


def _both(rows: Iterable[DayRow]) -> tuple[Usd, Usd]:
    """Gross and booked."""
    return sum((row.gross for row in rows), ZERO), sum((row.ledger for row in rows), ZERO)


def _kinds(rows: Iterable[DayRow]) -> str:
    return "; ".join(dict.fromkeys(row.kind.value for row in rows))


def _colour(rows: Sequence[DayRow]) -> str:
    if any(row.is_fault for row in rows):
        return OVER
    return SOFT if any(row.kind in (DayKind.LATE, DayKind.NOT_COVERED) for row in rows) else SPENT


def _days_in_words(found: DayReconciliation, days: int) -> str:
    billed, booked = _both(found.rows)
    span = f"{counted(days, 'day')} from {found.rows[0].day} to {found.rows[-1].day}"
    noun = "row" if found.by_service else "day"
    of = ((kind, found.of_kind(kind)) for kind in DayKind)
    kinds = listed(
        f"{kind} {counted(len(rows), noun)} ({sum((row.difference for row in rows), ZERO).shown()} ledger less bill)"
        for kind, rows in of
        if rows
    )
    faults = f"Wrong: {listed(map(str, found.faults[:MOST_ROWS]))}" if found.faults else "Nothing is wrong."
    return (
        f"Bars of the bill and rings of the ledger on {span}: {billed.shown()} billed, {booked.shown()} booked. "
        f"{kinds} {faults}"
    )


def projection_against_limit(
    days: Iterable[tuple[date, Usd]], found: Projection | NoProjection, limit: Usd
) -> Figure | NoFigure:
    """The month's spend so far, where it is projected to end, and the month's limit; `days`: (day, spent)."""
    title = f"Projection to the end of {found.month}"
    if isinstance(found, NoProjection):
        return NoFigure(title, found.reason)
    month = [found.month.start + timedelta(days=n) for n in range((found.month.end - found.month.start).days)]
    whole = month[: month.index(found.today)]
    so_far = [*accumulate(_per_day(days, whole)), found.month_to_date]
    ends = (("low", found.low), ("expected", found.expected), ("high", found.high))
    is_near = limit <= found.high * 4
    drawing = _drawn(month, so_far, [amount for _, amount in ends], limit if is_near else None)
    alt = (
        f"{found.month_to_date.shown()} spent until {found.today}; projected to end at {found.expected.shown()}, "
        f"between {found.low.shown()} and {found.high.shown()} ({LEVEL} interval), "
        f"{'above' if found.expected > limit else 'within'} the month's limit of {limit.shown()}."
    )
    where = "Orange: the limit." if is_near else f"The limit of {limit.shown()} is far above the drawing."
    caption = f"Solid: spent. Dashed, with its interval: a projection, not a bill. {where}"
    rows = [*zip(month, so_far, strict=False), *((f"{month[-1]}, {name}", end) for name, end in ends), ("limit", limit)]
    return Figure(title, alt, drawing, caption, Table(title, ("day", "spent to its end"), tuple(rows)))


def _per_day(days: Iterable[tuple[date, Usd]], wanted: Sequence[date]) -> list[Usd]:
    spent: dict[date, Usd] = defaultdict(lambda: ZERO)
    for day, amount in days:
        spent[day] += amount
    return [spent[day] for day in wanted]


def _drawn(month: Sequence[date], so_far: Sequence[Usd], ends: Sequence[Usd], limit: Usd | None) -> str:
    today, last = len(so_far) - 1, len(month) - 1
    unit, unit_name = unit_of([*so_far, *ends, limit or ZERO])
    axes = days_axes(month, unit_name)
    line, (low, expected, high) = [pixel(amount, unit) for amount in so_far], (pixel(end, unit) for end in ends)
    axes.fill_between([today, last], [line[-1], low], [line[-1], high], color=SPENT, alpha=0.22, linewidth=0)
    axes.vlines(last, low, high, colors=SPENT, linewidth=2)  # on the last day the fan has no width
    axes.plot([today, last], [line[-1], expected], color=SPENT, linewidth=1.6, linestyle=(0, (4, 3)))
    axes.plot(range(today + 1), line, color=SPENT, linewidth=2.2, marker="o", markersize=3)
    if limit is not None:
        axes.axhline(pixel(limit, unit), color=OVER, linewidth=1.2)
    axes.set_ylim(bottom=min(0.0, *line))
    return as_svg(axes)

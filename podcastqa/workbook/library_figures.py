"""Figures of what somebody heard: by day, and by show; where nothing was heard, a sentence says so."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

from podcastqa.clock import from_microseconds
from podcastqa.display import Table
from podcastqa.podcasts.catalog import History
from podcastqa.workbook.drawing import INK, SOFT, SPENT, as_svg, days_axes, plain_text, rows_axes
from podcastqa.workbook.figures import MOST_ROWS, Figure, NoFigure, counted, listed

Figures = Figure | NoFigure
_MOST_DAYS = 90
_NONE = "No source has told of any listening, so there is nothing to draw."


def listening_by_day(history: History) -> Figures:
    """Minutes heard a UTC day, over the last ninety days up to the last listen."""
    title = "Listening by day"
    heard = Counter[date]()
    for one in history.listens:
        heard[from_microseconds(one.ended_us).date()] += one.played_ms
    if not heard:
        return NoFigure(title, _NONE)
    last = max(heard)
    first = max(min(heard), last - timedelta(days=_MOST_DAYS - 1))
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    minutes = [heard[day] / 60_000 for day in days]
    axes = days_axes(days, "minutes")
    axes.bar(range(len(days)), minutes, width=0.7, color=SPENT)
    most = max(days, key=lambda day: heard[day])
    alt = (
        f"Bars of minutes heard from {first} to {last}: {sum(minutes):.0f} minutes on "
        f"{counted(sum(m > 0 for m in minutes), 'day')}, the most on {most} ({heard[most] / 60_000:.0f})."
    )
    caption = "Each bar is a UTC day." + (f" The {len(days)} days up to the last listen." if first > min(heard) else "")
    rows = tuple((str(day), round(heard[day] / 60_000, 1)) for day in days if heard[day])
    return Figure(title, alt, as_svg(axes), caption, Table(title, ("day", "minutes"), rows))


def listening_by_show(history: History) -> Figures:
    """Minutes heard of each show, the most first."""
    title = "Listening by show"
    heard = Counter[str]()
    for one in history.listens:
        heard[one.show or "no show is named"] += one.played_ms
    if not heard:
        return NoFigure(title, _NONE)
    rows = [(show, played / 60_000) for show, played in heard.most_common()]
    drawn = rows[:MOST_ROWS]
    axes = rows_axes(len(drawn), [show[:40] for show, _ in drawn])
    axes.barh(range(len(drawn)), [minutes for _, minutes in drawn], height=0.55, color=SPENT)
    most = max(drawn[0][1], 1e-9)
    for row, (_, minutes) in enumerate(drawn):
        axes.text(minutes + most * 0.015, row, plain_text(f"{minutes:.0f} min"), color=INK, fontsize=9.5, va="center")
    axes.set_xlim(0, most * 1.2)
    axes.set_xlabel("minutes", color=SOFT, fontsize=9)
    caption = f"The first {len(drawn)} of {len(rows)} are drawn; the table has all." if len(rows) > len(drawn) else ""
    alt = f"Bars of minutes heard of {counted(len(rows), 'show')}. " + listed(f"{s[:60]} {m:.0f} min" for s, m in drawn)
    table = Table(title, ("show", "minutes"), tuple((show, round(minutes, 1)) for show, minutes in rows))
    return Figure(title, alt, as_svg(axes), caption or "All shows that were heard.", table)

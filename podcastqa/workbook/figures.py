"""A figure is a drawing, the words that say the same, and the table it was drawn from; it is never a picture alone.

Drawn with matplotlib as SVG: text stays text, colours follow the reader's light or dark, no display is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from podcastqa.display import Table, show
from podcastqa.money import ZERO, Usd
from podcastqa.workbook.criteria import FIGURE_MIME
from podcastqa.workbook.drawing import INK, OVER, SOFT, SPENT, TRACK, as_svg, pixel, plain_text, rows_axes, unit_of

MOST_ROWS = 24


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: `alt` says what the drawing shows, `table` holds every number in it."""

    title: str
    alt: str
    svg: str
    caption: str
    table: Table

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        image = f'<img src="{data_uri(self.svg)}" alt="{escape(self.alt)}" style="max-width: 100%">'
        html = (
            f'<figure role="img" aria-label="{escape(self.alt)}">{image}'
            f"<figcaption><strong>{escape(self.title)}.</strong> {escape(self.caption)}</figcaption></figure>"
        )
        return {"text/plain": f"{self.title}: {self.alt}", "text/html": html, FIGURE_MIME: self.record()}

    def record(self) -> dict[str, Any]:
        """What a report needs to show the figure again."""
        rows = self.table.rows
        numeric = [all(isinstance(row[i], Usd | int) for row in rows) for i in range(len(self.table.columns))]
        table = {
            "title": self.table.title,
            "columns": list(self.table.columns),
            "rows": [[show(value) for value in row] for row in rows],
            "numeric": numeric,
        }
        return {"title": self.title, "alt": self.alt, "svg": self.svg, "caption": self.caption, "table": table}


@dataclass(frozen=True, slots=True)
class NoFigure:
    """What stands where a figure would: a sentence that says why there is none."""

    title: str
    sentence: str

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        html = f"<p><strong>{escape(self.title)}.</strong> {escape(self.sentence)}</p>"
        return {"text/plain": f"{self.title}: {self.sentence}", "text/html": html}


def data_uri(svg: str) -> str:
    """The drawing as an address that an img element takes: in there no script runs and nothing is loaded."""
    return "data:image/svg+xml," + quote(svg, safe=" =:/;,()'!*@?-._~")


def spend_against_limits(rows: Sequence[tuple[str, Usd, Usd]]) -> Figure:
    """How much of each limit is spent: rows of (limit's name, spent, limit)."""
    shares = [_share(spent, limit) for _, spent, limit in rows]
    said = [f"{_percent(spent, limit)}: {spent.shown()} of {limit.shown()}" for _, spent, limit in rows]
    axes = rows_axes(len(rows), [name for name, _, _ in rows])
    axes.barh(range(len(rows)), [100.0] * len(rows), height=0.42, color=TRACK)
    colours = [OVER if share >= 100 else SPENT for share in shares]
    axes.barh(range(len(rows)), [min(share, 118.0) for share in shares], height=0.42, color=colours)
    for row, words in enumerate(said):
        axes.text(0, row - 0.34, plain_text(words), color=SOFT, fontsize=9, va="bottom")
    axes.axvline(100, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(0, 120)
    axes.set_xticks([0, 50, 80, 100], ["0 %", "50 %", "80 %", "the limit"])
    table = Table("Spend against limits", ("limit", "spent", "of", "share"), _with_shares(rows))
    alt = "Bars of spend as a share of each limit. " + listed(
        f"{r[0]} {words}" for r, words in zip(rows, said, strict=True)
    )
    return Figure(
        "Spend against limits", alt, as_svg(axes), "Each bar is one limit; full means nothing is left.", table
    )


def estimate_against_actual(rows: Sequence[tuple[str, Usd, Usd]]) -> Figure:
    """What operations were expected to cost and what they did: rows of (operation, estimate, actual)."""
    by_difference = sorted(rows, key=lambda row: -abs(row[2].pico - row[1].pico))
    drawn = by_difference[:MOST_ROWS]
    unit, name = unit_of(amount for _, *pair in drawn for amount in pair)
    axes = rows_axes(len(drawn), [row[0] for row in drawn])
    estimates = [pixel(estimate, unit) for _, estimate, _ in drawn]
    actuals = [pixel(actual, unit) for _, _, actual in drawn]
    over = [OVER if actual > estimate else SPENT for _, estimate, actual in drawn]
    axes.hlines(range(len(drawn)), estimates, actuals, colors=over, linewidth=2)
    axes.scatter(
        estimates,
        range(len(drawn)),
        s=95,  # a ring around the dot where both are equal
        facecolors="none",
        edgecolors=INK,
        linewidths=1.4,
        zorder=3,
        label="estimate",
    )
    axes.scatter(actuals, range(len(drawn)), s=42, color=over, zorder=3, label="actual")
    axes.set_xlim(0, max([*estimates, *actuals, 1e-9]) * 1.08)
    axes.set_xlabel(name, color=SOFT, fontsize=9)
    more = (
        f" The {len(drawn)} with the largest differences of {len(rows)}; the table has all."
        if len(rows) > len(drawn)
        else ""
    )
    caption = f"A ring is the estimate, a dot what it really cost; orange where it cost more.{more}"
    above = sum(actual > estimate for _, estimate, actual in rows)
    promised = sum((estimate for _, estimate, _ in rows), ZERO)
    paid = sum((actual for _, _, actual in rows), ZERO)
    alt = (
        f"Estimate and actual cost of {counted(len(rows), 'operation')}: {promised.shown()} expected, {paid.shown()} "
        f"really spent; {above} cost more than estimated."
    )
    columns = ("operation", "estimate", "actual", "difference")
    table = Table("Estimate against actual", columns, tuple((*row, row[2] - row[1]) for row in by_difference))
    return Figure("Estimate against actual", alt, as_svg(axes), caption, table)


def spend_per_user(rows: Sequence[tuple[str, Usd]]) -> Figure:
    """Who spent what: rows of (user, spent); a row named `unattributed` is what belongs to nobody."""
    return ranked("Spend per user", "user", rows, "What is unattributed was measured, and no user asked for it.")


def ranked(title: str, noun: str, rows: Sequence[tuple[str, Usd]], caption: str) -> Figure:
    """Bars of rows (name, spent), in the order they come in; `noun` is what the names are of."""
    drawn = rows[:MOST_ROWS]
    unit, unit_name = unit_of(spent for _, spent in drawn)
    axes = rows_axes(len(drawn), [name for name, _ in drawn])
    widths = [pixel(spent, unit) for _, spent in drawn]
    colours = [SOFT if name == "unattributed" else SPENT for name, _ in drawn]
    axes.barh(range(len(drawn)), widths, height=0.55, color=colours)
    most = max([*map(abs, widths), 1e-9])
    for row, (_, spent) in enumerate(drawn):
        words, right = plain_text(spent.shown()), max(widths[row], 0) + most * 0.015
        axes.text(right, row, words, color=INK, fontsize=9.5, va="center")
    axes.set_xlim(min([*widths, 0]) * 1.05, most * 1.25)
    axes.set_xlabel(unit_name, color=SOFT, fontsize=9)
    total = sum((spent for _, spent in rows), ZERO)
    said = [f"{name} {spent.shown()}" for name, spent in drawn]
    if len(rows) > len(drawn):
        said.append(f"{len(rows) - len(drawn)} others {sum((spent for _, spent in rows[MOST_ROWS:]), ZERO).shown()}")
        caption += f" The first {len(drawn)} of {len(rows)} are drawn; the table has all."
    alt = f"Bars of spend per {noun}, {total.shown()} in all. " + listed(said)
    return Figure(title, alt, as_svg(axes), caption, Table(title, (noun, "spent"), (*rows, ("all", total))))


def _share(spent: Usd, limit: Usd) -> float:
    # a float at the pixel, as in drawing.py
    return 100 * spent.pico / limit.pico if limit.pico else (100.0 if spent.pico else 0.0)


def _percent(spent: Usd, limit: Usd) -> str:
    share = _share(spent, limit)
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.2g} %" if share >= 0.001 else "under 0.001 %"


def _with_shares(rows: Sequence[tuple[str, Usd, Usd]]) -> tuple[tuple[object, ...], ...]:
    return tuple((*row, _percent(row[1], row[2])) for row in rows)


def listed(parts: Iterable[str]) -> str:
    """As one sentence."""
    return "; ".join(parts) + "."


def counted(count: int, noun: str) -> str:
    """1 day, 2 days."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

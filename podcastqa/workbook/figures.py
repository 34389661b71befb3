"""A figure is a drawing, the words that say the same, and the table it was drawn from; it is never a picture alone.

Drawn with matplotlib as SVG: text stays text, colours follow the reader's light or dark, no display is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from podcastqa.display import Table, show
from podcastqa.money import ZERO, Usd
from podcastqa.workbook.criteria import FIGURE_MIME

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which stay apart for colour-blind eyes; each with a lighter twin for the dark.
_COLOURS = {
    "#010201": ("ink", "#2b2926", "#e6e3dc"),
    "#010202": ("soft", "#6a665d", "#a39e93"),
    "#010203": ("track", "#e6e1d6", "#3a3733"),
    "#010204": ("spent", "#0072b2", "#56b4e9"),
    "#010205": ("over", "#c04a00", "#ff9a4d"),
}
_INK, _SOFT, _TRACK, _SPENT, _OVER = _COLOURS
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Helvetica, Arial, sans-serif"
_MOST_ROWS = 24


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


def data_uri(svg: str) -> str:
    """The drawing as an address that an img element takes: in there no script runs and nothing is loaded."""
    return "data:image/svg+xml," + quote(svg, safe=" =:/;,()'!*@?-._~")


def spend_against_limits(rows: Sequence[tuple[str, Usd, Usd]]) -> Figure:
    """How much of each limit is spent: rows of (limit's name, spent, limit)."""
    shares = [_share(spent, limit) for _, spent, limit in rows]
    said = [f"{_percent(spent, limit)}: {spent.shown()} of {limit.shown()}" for _, spent, limit in rows]
    axes = _axes(len(rows), [name for name, _, _ in rows])
    axes.barh(range(len(rows)), [100.0] * len(rows), height=0.42, color=_TRACK)
    colours = [_OVER if share >= 100 else _SPENT for share in shares]
    axes.barh(range(len(rows)), [min(share, 118.0) for share in shares], height=0.42, color=colours)
    for row, words in enumerate(said):
        axes.text(0, row - 0.34, _plain(words), color=_SOFT, fontsize=9, va="bottom")
    axes.axvline(100, color=_SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(0, 120)
    axes.set_xticks([0, 50, 80, 100], ["0 %", "50 %", "80 %", "the limit"])
    table = Table("Spend against limits", ("limit", "spent", "of", "share"), _with_shares(rows))
    alt = "Bars of spend as a share of each limit. " + _list(
        f"{r[0]} {words}" for r, words in zip(rows, said, strict=True)
    )
    return Figure("Spend against limits", alt, _svg(axes), "Each bar is one limit; full means nothing is left.", table)


def estimate_against_actual(rows: Sequence[tuple[str, Usd, Usd]]) -> Figure:
    """What operations were expected to cost and what they did: rows of (operation, estimate, actual)."""
    by_difference = sorted(rows, key=lambda row: -abs(row[2].pico - row[1].pico))
    drawn = by_difference[:_MOST_ROWS]
    unit, name = _unit(amount for _, *pair in drawn for amount in pair)
    axes = _axes(len(drawn), [row[0] for row in drawn])
    estimates = [_pixel(estimate, unit) for _, estimate, _ in drawn]
    actuals = [_pixel(actual, unit) for _, _, actual in drawn]
    over = [_OVER if actual > estimate else _SPENT for _, estimate, actual in drawn]
    axes.hlines(range(len(drawn)), estimates, actuals, colors=over, linewidth=2)
    axes.scatter(
        estimates,
        range(len(drawn)),
        s=95,  # a ring around the dot where both are equal
        facecolors="none",
        edgecolors=_INK,
        linewidths=1.4,
        zorder=3,
        label="estimate",
    )
    axes.scatter(actuals, range(len(drawn)), s=42, color=over, zorder=3, label="actual")
    axes.set_xlim(0, max([*estimates, *actuals, 1e-9]) * 1.08)
    axes.set_xlabel(name, color=_SOFT, fontsize=9)
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
        f"Estimate and actual cost of {_counted(len(rows), 'operation')}: {promised.shown()} expected, {paid.shown()} "
        f"really spent; {above} cost more than estimated."
    )
    columns = ("operation", "estimate", "actual", "difference")
    table = Table("Estimate against actual", columns, tuple((*row, row[2] - row[1]) for row in by_difference))
    return Figure("Estimate against actual", alt, _svg(axes), caption, table)


def spend_per_user(rows: Sequence[tuple[str, Usd]]) -> Figure:
    """Who spent what: rows of (user, spent); a row named `unattributed` is what belongs to nobody."""
    unit, name = _unit(spent for _, spent in rows)
    axes = _axes(len(rows), [user for user, _ in rows])
    widths = [_pixel(spent, unit) for _, spent in rows]
    colours = [_SOFT if user == "unattributed" else _SPENT for user, _ in rows]
    axes.barh(range(len(rows)), widths, height=0.55, color=colours)
    most = max([*widths, 1e-9])
    for row, (_, spent) in enumerate(rows):
        axes.text(widths[row] + most * 0.015, row, _plain(spent.shown()), color=_INK, fontsize=9.5, va="center")
    axes.set_xlim(0, most * 1.25)
    axes.set_xlabel(name, color=_SOFT, fontsize=9)
    total = sum((spent for _, spent in rows), ZERO)
    alt = f"Bars of spend per user, {total.shown()} in all. " + _list(f"{user} {spent.shown()}" for user, spent in rows)
    table = Table("Spend per user", ("user", "spent"), (*rows, ("all", total)))
    return Figure(
        "Spend per user", alt, _svg(axes), "What is unattributed was measured, and no user asked for it.", table
    )


def _axes(rows: int, labels: Sequence[str]) -> Axes:
    """An empty drawing with one line per row, the first on top."""
    from matplotlib.figure import Figure as Canvas

    axes = Canvas(figsize=(7.6, 0.75 + 0.46 * max(rows, 1)), layout="constrained").subplots()
    axes.set_ylim(max(rows, 1) - 0.4, -0.65)
    axes.set_yticks(range(rows), [_plain(label) for label in labels], color=_INK, fontsize=10)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelcolor=_SOFT, labelsize=9)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(axis="x", color=_TRACK, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _plain(words: str) -> str:
    """Text for matplotlib, in which a dollar sign is a dollar sign: two of them would make a formula."""
    return words.replace("$", r"\$")


def _svg(axes: Axes) -> str:
    """The drawing without what would differ from run to run, in colours that follow the reader's screen."""
    from matplotlib import rc_context

    canvas: Any = axes.figure
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    out = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "podcastqa"}):
        canvas.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = re.sub(r"font:\s*([\d.]+px)[^;\"]*", rf"font: \1 {_FONTS}", out.getvalue()[out.getvalue().index("<svg") :])
    for drawn, (name, _, _) in _COLOURS.items():
        svg = svg.replace(drawn, f"var(--{name})")
    light, dark = (";".join(f"--{c[0]}:{c[shade]}" for c in _COLOURS.values()) for shade in (1, 2))
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda found: found[1] + style, svg, count=1)


def _share(spent: Usd, limit: Usd) -> float:
    # Only here, at the pixel, does money become a float: a bar cannot be drawn finer than one.
    return 100 * spent.pico / limit.pico if limit.pico else (100.0 if spent.pico else 0.0)


def _percent(spent: Usd, limit: Usd) -> str:
    share = _share(spent, limit)
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.2g} %" if share >= 0.001 else "under 0.001 %"


def _with_shares(rows: Sequence[tuple[str, Usd, Usd]]) -> tuple[tuple[object, ...], ...]:
    return tuple((*row, _percent(row[1], row[2])) for row in rows)


def _pixel(amount: Usd, unit: int) -> float:
    return amount.pico / unit  # a float at the pixel, as in _share


def _unit(amounts: Any) -> tuple[int, str]:
    """The unit in which the largest amount reads without leading zeros."""
    most = max((abs(amount.pico) for amount in amounts), default=0)
    names = {10**12: "US dollars", 10**9: "thousandths of a US dollar", 10**6: "millionths of a US dollar"}
    return next(((unit, name) for unit, name in names.items() if most >= unit), (10**6, names[10**6]))


def _list(parts: Any) -> str:
    return "; ".join(parts) + "."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

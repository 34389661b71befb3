"""How figures are drawn: matplotlib to SVG, in colours that follow the reader's light or dark, without a display.

Money becomes a float only here, at the pixel: a bar cannot be drawn finer than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

from podcastqa.money import Usd

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
INK, SOFT, TRACK, SPENT, OVER = _COLOURS
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Helvetica, Arial, sans-serif"
_MOST_DATES = 8


def rows_axes(rows: int, labels: Sequence[str]) -> Axes:
    """An empty drawing with one line per row, the first on top."""
    from matplotlib.figure import Figure as Canvas

    axes = Canvas(figsize=(7.6, 0.75 + 0.46 * max(rows, 1)), layout="constrained").subplots()
    axes.set_ylim(max(rows, 1) - 0.4, -0.65)
    axes.set_yticks(range(rows), [plain_text(label) for label in labels], color=INK, fontsize=10)
    return _bare(axes, "x")


def days_axes(days: Sequence[date], unit_name: str) -> Axes:
    """An empty drawing with one place per day, named where there is room, and money going up."""
    from matplotlib.figure import Figure as Canvas

    axes = Canvas(figsize=(7.6, 3.4), layout="constrained").subplots()
    named = range(0, len(days), max(-(-len(days) // _MOST_DATES), 1))
    axes.set_xticks(named, [f"{days[place]:%m-%d}" for place in named], color=SOFT, fontsize=9)
    axes.set_xlim(-0.7, max(len(days), 1) - 0.3)
    axes.set_ylabel(unit_name, color=SOFT, fontsize=9)
    return _bare(axes, "y")


def _bare(axes: Axes, amounts: Literal["x", "y"]) -> Axes:
    """Without frame and ticks, and with thin lines to read the amounts by."""
    axes.tick_params(length=0)
    axes.tick_params(axis=amounts, labelcolor=SOFT, labelsize=9)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(axis=amounts, color=TRACK, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def plain_text(words: str) -> str:
    """Text for matplotlib, in which a dollar sign is a dollar sign: two of them would make a formula."""
    return words.replace("$", r"\$")


def as_svg(axes: Axes) -> str:
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


def pixel(amount: Usd, unit: int) -> float:
    """Where an amount is drawn, in that unit (see `unit_of`)."""
    return amount.pico / unit


def unit_of(amounts: Iterable[Usd]) -> tuple[int, str]:
    """The unit in which the largest amount reads without leading zeros."""
    most = max((abs(amount.pico) for amount in amounts), default=0)
    names = {10**12: "US dollars", 10**9: "thousandths of a US dollar", 10**6: "millionths of a US dollar"}
    return next(((unit, name) for unit, name in names.items() if most >= unit), (10**6, names[10**6]))

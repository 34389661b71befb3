"""The same lines are added up three ways that share no arithmetic: exact sums agree to the last unit, 1e-12 USD.

Python adds what each line states, from the provider's own text; SQL adds whole pico-dollars where they are kept;
DuckDB adds its copy of them as decimals.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from podcastqa.money import ZERO, Usd
from podcastqa.wiring import Parts

WAYS = ("Python", "SQL", "DuckDB")
ALL = "all"
_BILLED, _EFFECTIVE = "BilledCost", "EffectiveCost"
_STATED = "SELECT source, amount_text, effective_pico FROM bill_lines_usd"
_ADDED = "SELECT source, sum(amount_usd), sum(effective_usd) FROM bill_lines_usd GROUP BY source"
_Sums = dict[tuple[str, str], Usd]


@dataclass(frozen=True, slots=True)
class Sum:
    """What one amount of one source's lines (or of all) comes to, in USD."""

    source: str
    what: str
    """BilledCost or EffectiveCost, as FOCUS calls them."""
    lines: int
    counted: tuple[Usd, ...]
    """In the order of WAYS."""

    @property
    def apart(self) -> Usd:
        """The largest less the smallest."""
        return max(self.counted) - min(self.counted)


def three_ways(parts: Parts) -> tuple[Sum, ...]:
    """What stands of imported bills: two amounts a source, then the two of all."""
    totals = parts.archive.totals().sources
    in_sql = {(total.source, _BILLED): total.net for total in totals}
    in_sql |= {(total.source, _EFFECTIVE): total.effective for total in totals}
    with parts.mirror.opened() as (connection, _):
        in_python = _stated(connection.execute(_STATED).fetchall())
        in_duckdb = _added(connection.execute(_ADDED).fetchall())
    ways = [_with_all(way) for way in (in_python, in_sql, in_duckdb)]
    lines = {total.source: total.rows for total in totals} | {ALL: sum(total.rows for total in totals)}
    return tuple(
        Sum(source, what, count, tuple(way.get((source, what), ZERO) for way in ways))
        for source, count in lines.items()
        for what in (_BILLED, _EFFECTIVE)
    )


def _stated(rows: list[tuple[str, str, int]]) -> _Sums:
    found: _Sums = defaultdict(lambda: ZERO)
    for source, text, effective in rows:
        found[source, _BILLED] += Usd.rounded_half_even(text)
        found[source, _EFFECTIVE] += Usd.from_pico(effective)
    return found


def _added(rows: list[tuple[str, Any, Any]]) -> _Sums:
    billed = {(source, _BILLED): Usd(billed) for source, billed, _ in rows}
    return billed | {(source, _EFFECTIVE): Usd(effective) for source, _, effective in rows}


def _with_all(sums: _Sums) -> _Sums:
    whole: _Sums = defaultdict(lambda: ZERO)
    for (_, what), amount in sums.items():
        whole[ALL, what] += amount
    return {**sums, **whole}

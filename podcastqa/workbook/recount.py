"""What a window and a span of days must have cost, recounted in plain Python from entries and bills, without counters.

Per billing source and UTC day it is the larger of what was booked and what the bill says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import select

from podcastqa.bills.bill import Bill
from podcastqa.clock import Window, day_number, day_of
from podcastqa.database import SYSTEM
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind
from podcastqa.spend.tables import bill_days
from podcastqa.spend.views import CostSummary
from podcastqa.wiring import Parts

_Days = dict[tuple[str, int], Usd]


def window_cost(parts: Parts, span: Window) -> Usd:
    """What the window cost."""
    return _larger(parts, day_number(span.start), day_number(span.end) - 1)


def sums_to_whole(parts: Parts, summary: CostSummary) -> bool:
    """Whether users and unattributed are together what entries and bills say of the same days, to the last unit."""
    whole = _larger(parts, day_number(summary.span.first), day_number(summary.span.last))
    return sum((part.cost for part in summary.parts), ZERO) + summary.unattributed_cost == whole


def paid_since(parts: Parts, source: str, first_entry: int) -> Usd:
    """What was booked against a source after that entry, and what has been in doubt since: it may have been charged."""
    booked, doubt = ZERO, {}
    for entry in parts.ledger.entries(after_id=first_entry):
        if entry.operation.source != source:
            continue
        if entry.kind is EntryKind.RESERVE:
            doubt[entry.hold_id] = entry.amount
        elif entry.kind is not EntryKind.START:
            doubt.pop(entry.hold_id, None)
        if entry.kind in (EntryKind.SETTLE, EntryKind.CORRECT):
            booked += entry.amount
    return sum(doubt.values(), booked)


def _larger(parts: Parts, first: int, last: int) -> Usd:
    booked, billed = _booked(parts), _billed(parts, [source.read() for source in parts.treasury.bills.sources()])
    keys = {key for key in (*booked, *billed) if first <= key[1] <= last}
    return sum((max(booked[key], billed[key]) for key in keys), ZERO)


def _booked(parts: Parts) -> _Days:
    found: _Days = defaultdict(lambda: ZERO)
    for entry in parts.ledger.entries():
        if entry.kind in (EntryKind.SETTLE, EntryKind.CORRECT):
            found[entry.operation.source, entry.day] += entry.amount
    return found


def _billed(parts: Parts, bills: Iterable[Bill]) -> _Days:
    """The bills as they are now; days that a bill no longer speaks of, as they were last told."""
    found: _Days = defaultdict(lambda: ZERO)
    for bill in bills:
        if bill.covers is not None:
            found.update(
                {key: amount for key, amount in _kept(parts, bill.source).items() if day_of(key[1]) not in bill.covers}
            )
        for line in bill.lines:
            found[bill.source, day_number(line.day)] += line.amount if line.is_use else ZERO
    return found


def _kept(parts: Parts, source: str) -> _Days:
    wanted = bill_days.c.source == source, bill_days.c.user_id == 0
    with parts.database.read(SYSTEM) as connection:
        rows = connection.execute(select(bill_days.c.day, bill_days.c.gross_pico).where(*wanted)).all()
    return {(source, day): Usd.from_pico(pico) for day, pico in rows}

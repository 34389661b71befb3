"""Ledger beside bill, operation by operation and day by day: each difference has a kind, and nothing is netted away.

Two errors that cancel each other in a total still show, because the comparison is made per operation. What nobody
booked is on the bill without an owner: it is shown as `unattributed`, and is no difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from podcastqa.bills.bill import Bill
from podcastqa.clock import day_of
from podcastqa.display import Table, Tabular
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import Entry, EntryKind


class Kind(StrEnum):
    """What a difference is."""

    MATCHED = "matched"
    IN_DOUBT = "in doubt"
    MISSING_IN_LEDGER = "missing in the ledger"
    MISSING_IN_BILL = "missing in the bill"
    UNEXPLAINED = "unexplained"


#: These mean that the books are wrong; an operation in doubt is known, and counted at its estimate.
FAULTS = (Kind.MISSING_IN_LEDGER, Kind.MISSING_IN_BILL, Kind.UNEXPLAINED)


@dataclass(frozen=True, slots=True)
class Line:
    """One operation: what the bill and the ledger say of it."""

    operation_id: str
    day: date
    user_tag: str
    bill: Usd
    ledger: Usd
    kind: Kind

    @property
    def difference(self) -> Usd:
        """Ledger less bill."""
        return self.ledger - self.bill


@dataclass(frozen=True, slots=True)
class Reconciliation(Tabular):
    """Every operation of one billing source, and the bill's time that nobody booked."""

    source: str
    lines: tuple[Line, ...]
    bill_total: Usd
    unattributed: Usd

    @property
    def ledger_total(self) -> Usd:
        """What the ledger has booked against this source."""
        return sum((line.ledger for line in self.lines), ZERO)

    @property
    def difference(self) -> Usd:
        """Ledger and unattributed less bill: exactly zero when the books are right."""
        return self.ledger_total + self.unattributed - self.bill_total

    @property
    def faults(self) -> tuple[Line, ...]:
        """The operations whose books are wrong."""
        return tuple(line for line in self.lines if line.kind in FAULTS)

    @property
    def matches(self) -> bool:
        """No fault in any operation, and nothing left over in total."""
        return not self.faults and not self.difference

    def table(self) -> Table:
        """Per kind: how many operations, both sides, the difference; then unattributed and the total."""
        rows: list[tuple[object, ...]] = []
        for kind in Kind:
            lines = [line for line in self.lines if line.kind is kind]
            bill, ledger = (sum((getattr(line, side) for line in lines), ZERO) for side in ("bill", "ledger"))
            rows.append((kind.value, len(lines), bill, ledger, ledger - bill))
        rows.append(("unattributed", None, self.unattributed, None, None))
        rows.append(("total", len(self.lines), self.bill_total, self.ledger_total, self.difference))
        columns = ("kind", "operations", "bill in USD", "ledger in USD", "difference in USD")
        notes = tuple(f"{fault.kind}: {fault.operation_id} ({fault.day})" for fault in self.faults[:20])
        return Table(f"Ledger beside the bill of {self.source}", columns, tuple(rows), notes)


def reconcile(source: str, entries: Iterable[Entry], bill: Bill) -> Reconciliation:
    """Compare what the ledger booked against a source with that source's bill, operation by operation."""
    booked: dict[str, Usd] = defaultdict(lambda: ZERO)
    about: dict[str, tuple[date, str]] = {}
    open_ids: set[str] = set()
    for entry in entries:
        if entry.operation.source != source:
            continue
        about[entry.hold_id] = (day_of(entry.day), str(entry.operation.user_id))
        if entry.kind is EntryKind.START:
            open_ids.add(entry.hold_id)
        if entry.kind in (EntryKind.SETTLE, EntryKind.VOID, EntryKind.EXPIRE):
            open_ids.discard(entry.hold_id)
        if entry.kind in (EntryKind.SETTLE, EntryKind.CORRECT):
            booked[entry.hold_id] += entry.amount
    billed: dict[str, Usd] = defaultdict(lambda: ZERO)
    tags: dict[str, tuple[date, str]] = {}
    for charge in bill.lines:
        if charge.user_tag:
            billed[charge.resource_id] += charge.amount
            tags[charge.resource_id] = (charge.day, charge.user_tag)
    lines = tuple(
        _line(name, about.get(name), tags.get(name), booked.get(name), billed.get(name), name in open_ids)
        for name in sorted({*booked, *billed, *open_ids})
    )
    return Reconciliation(source, lines, bill.gross, bill.unattributed)


def _line(
    name: str,
    in_ledger: tuple[date, str] | None,
    on_bill: tuple[date, str] | None,
    booked: Usd | None,
    billed: Usd | None,
    is_open: bool,
) -> Line:
    day, user = in_ledger or on_bill or (date.min, "")
    ledger, bill = booked or ZERO, billed or ZERO
    if is_open and booked is None:
        kind = Kind.IN_DOUBT
    elif booked is None:
        kind = Kind.MISSING_IN_LEDGER
    elif billed is None and booked:
        kind = Kind.MISSING_IN_BILL
    elif billed is not None and (ledger != bill or in_ledger != on_bill):
        kind = Kind.UNEXPLAINED
    else:
        kind = Kind.MATCHED
    return Line(name, day, user, bill, ledger, kind)

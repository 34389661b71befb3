"""Ledger beside a cloud's bill, day by day: use is compared with use, each difference has a kind, none is netted away.

The ledger books what was used, at its price. So the difference is ledger less *gross*: credits and refunds lower what
is paid, and would make every day with a credit look wrong. They stand in a column of their own, and gross and credits
sum to net. A bill speaks of a whole account, so that others' costs on it are expected and no fault.

| kind                  | when (the first line that fits)                                    | a fault?        |
|-----------------------|--------------------------------------------------------------------|-----------------|
| not covered           | the bill does not speak of that day at all                         | no              |
| late                  | the day is after the last complete one: both sides may still grow  | no              |
| matched               | equal to 1e-12 USD, or to half of the last decimal that is stated  | no              |
| in doubt              | the bill says more, by no more than what is in doubt there         | no              |
| missing in the ledger | it says more, or nothing was booked: other use of the account, tax | no              |
| missing in the bill   | something was booked, and the bill charges nothing there           | on a closed day |
| unexplained           | the bill charges something, and less than was booked               | yes             |

By service the same holds for each service of each day, and finds what a day's total hides: a booking that the bill
does not know, on a day on which others spent more. More on the bill than was booked is no fault there either, for no
bill says which program of the account used a service.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

from podcastqa.bills.bill import Bill, BillLine
from podcastqa.bills.reconcile import Kind
from podcastqa.clock import day_of
from podcastqa.display import Table, Tabular, plain
from podcastqa.errors import BillError
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import Entry, EntryKind

#: Every spelling of a service to the one that Cost Explorer's API and FOCUS use: ours (as in spend/price_list.toml),
#: the short name of the console's CSV, the product code of a CUR. A name that is not here stands for itself.
SERVICE_NAMES = {
    **dict.fromkeys(("aws-cost-explorer", "Cost Explorer", "AWSCostExplorer"), "AWS Cost Explorer"),
    **dict.fromkeys(("aws-ses", "SES", "AmazonSES"), "Amazon Simple Email Service"),
}
_ENDS = (EntryKind.SETTLE, EntryKind.VOID, EntryKind.EXPIRE)
_MOST_NOTES = 20


class DayKind(StrEnum):
    """What a difference is; the words are those of `reconcile`, where both have them."""

    MATCHED = Kind.MATCHED.value
    LATE = "late"
    MISSING_IN_LEDGER = Kind.MISSING_IN_LEDGER.value
    MISSING_IN_BILL = Kind.MISSING_IN_BILL.value
    UNEXPLAINED = Kind.UNEXPLAINED.value
    IN_DOUBT = Kind.IN_DOUBT.value
    NOT_COVERED = "not covered"


@dataclass(frozen=True, slots=True)
class DayRow:
    """One day, or one service of it: what the bill and the ledger say, in USD."""

    day: date
    service: str
    gross: Usd
    credits: Usd
    """Credits and refunds: negative, where there are any."""
    ledger: Usd
    in_doubt: Usd
    """Estimates of holds that started and have not ended: on the bill or not, nobody knows yet."""
    kind: DayKind
    is_closed: bool

    @property
    def net(self) -> Usd:
        """What the bill wants paid."""
        return self.gross + self.credits

    @property
    def difference(self) -> Usd:
        """Ledger less bill, gross."""
        return self.ledger - self.gross

    @property
    def is_fault(self) -> bool:
        """Whether the books are wrong here."""
        return self.kind is DayKind.UNEXPLAINED or (self.kind is DayKind.MISSING_IN_BILL and self.is_closed)

    def __str__(self) -> str:
        where = f"{self.day} {self.service}".strip()
        return f"{self.kind}: {where}, {self.ledger.shown()} booked, {self.gross.shown()} billed"


@dataclass(frozen=True, slots=True)
class DayReconciliation(Tabular):
    """Ledger and bill of one source, from the day `first` (in it) to `end` (not in it)."""

    source: str
    first: date
    end: date
    by_service: bool
    complete_through: date | None
    closed_before: date | None
    rows: tuple[DayRow, ...]
    remarks: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[DayRow, ...]:
        """The rows in which the books are wrong."""
        return tuple(row for row in self.rows if row.is_fault)

    @property
    def matches(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def of_kind(self, kind: DayKind) -> tuple[DayRow, ...]:
        """The rows of that kind."""
        return tuple(row for row in self.rows if row.kind is kind)

    def table(self) -> Table:
        """One row a day (and service), then the total of each column."""
        said: list[tuple[object, ...]] = [
            (row.day, *((row.service,) if self.by_service else ()), row.kind.value, *_sides([row])) for row in self.rows
        ]
        said.append(("total", *((None,) if self.by_service else ()), None, *_sides(self.rows)))
        service = ("service",) if self.by_service else ()
        faults = tuple(f"FAULT: {row}." for row in self.faults)
        more = (f"… and {len(faults) - _MOST_NOTES} more faults.",) if len(faults) > _MOST_NOTES else ()
        notes = (*self.remarks, *faults[:_MOST_NOTES], *more)
        return Table(self._title("day by day"), ("day", *service, "kind", *_SIDES), tuple(said), notes)

    def by_kind(self) -> Table:
        """One row a kind: how many rows, and both sides; then the total."""
        found = {kind: self.of_kind(kind) for kind in DayKind}
        faults = {kind: sum(row.is_fault for row in rows) for kind, rows in found.items()}
        rows = [(kind.value, len(rows), faults[kind], *_sides(rows)) for kind, rows in found.items()]
        rows.append(("total", len(self.rows), len(self.faults), *_sides(self.rows)))
        what = "services of days" if self.by_service else "days"
        return Table(self._title("by kind"), ("kind", what, "faults", *_SIDES), tuple(rows), self.remarks)

    def record(self) -> dict[str, Any]:
        """For JSON: the span, what was judged complete and closed, every row, the total of each kind."""
        names = ("source", "first", "end", "by_service", "complete_through", "closed_before", "matches", "remarks")
        rows = [
            record | {"fault": row.is_fault} for record, row in zip(self.table().records(), self.rows, strict=False)
        ]
        said = {name: plain(getattr(self, name)) for name in names}
        return said | {"rows": rows, "kinds": self.by_kind().records()}

    def _title(self, how: str) -> str:
        return f"Ledger beside the bill of {self.source} {how}, {self.first} to {self.end - timedelta(days=1)} UTC"


_SIDES = (
    *("bill gross in USD", "credits and refunds in USD", "bill net in USD"),
    *("ledger in USD", "in doubt in USD", "difference in USD"),
)


def _sides(rows: Iterable[DayRow]) -> tuple[Usd, ...]:
    each = [(row.gross, row.credits, row.net, row.ledger, row.in_doubt, row.difference) for row in rows]
    return tuple(sum(column, ZERO) for column in zip(*each, strict=True)) or (ZERO,) * len(_SIDES)


def last_complete_day(bill: Bill) -> date | None:
    """The last UTC day that is over for the provider too; None where nothing was ever read."""
    complete = bill.provenance.complete_through
    return (complete - timedelta(days=1)).date() if complete else None


def reconcile_days(
    source: str,
    entries: Iterable[Entry],
    bill: Bill,
    *,
    first: date,
    end: date,
    complete_through: date | None,
    closed_before: date | None,
    by_service: bool = False,
    service_names: Mapping[str, str] = SERVICE_NAMES,
    decimals: int = 12,
) -> DayReconciliation:
    """Compare what was booked against `source` with its bill, for the days from `first` (in it) to `end` (not in it).

    `complete_through`: the last day the bill is complete for (None: none is). `closed_before`: days before it are
    final, unless the bill itself calls them estimated (None: none is). `decimals`: how many the provider states (Cost
    Explorer 10): each line may be off by half of the last one. Raises BillError by service where the bill names none.
    """
    if by_service and bill.lines and not any(line.service for line in bill.lines):
        raise BillError("This bill does not say for which services it charges.", next_step="Ask for it by service.")
    cells: dict[tuple[date, str], _Cell] = defaultdict(_Cell)
    for line in bill.lines:
        if first <= line.day < end:
            cells[line.day, service_names.get(line.service, line.service) if by_service else ""].bill(line)
    for entry in entries:
        if entry.operation.source == source and first <= day_of(entry.day) < end:
            service = entry.operation.service
            cells[day_of(entry.day), service_names.get(service, service) if by_service else ""].book(entry)
    judge = _Judge(bill, complete_through, closed_before, decimals)
    rows = tuple(
        judge.row(day, service, cell) for (day, service), cell in sorted(cells.items(), key=lambda item: item[0])
    )
    return DayReconciliation(source, first, end, by_service, complete_through, closed_before, rows, _remarks(bill))


@dataclass(slots=True)
class _Cell:
    """Both sides of one row, while they are added up."""

    gross: Usd = ZERO
    credits: Usd = ZERO
    lines: int = 0
    ledger: Usd = ZERO
    promised: dict[str, Usd] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)

    def bill(self, line: BillLine) -> None:
        self.lines += line.is_use
        if line.is_use:
            self.gross += line.amount
        else:
            self.credits += line.amount

    def book(self, entry: Entry) -> None:
        if entry.kind in (EntryKind.SETTLE, EntryKind.CORRECT):
            self.ledger += entry.amount
        if entry.kind is EntryKind.RESERVE:
            self.promised[entry.hold_id] = entry.amount
        if entry.kind is EntryKind.START:
            self.started.add(entry.hold_id)
        if entry.kind in _ENDS:
            self.ended.add(entry.hold_id)

    @property
    def in_doubt(self) -> Usd:
        return sum((self.promised.get(hold, ZERO) for hold in self.started - self.ended), ZERO)


@dataclass(frozen=True, slots=True)
class _Judge:
    bill: Bill
    complete_through: date | None
    closed_before: date | None
    decimals: int

    def row(self, day: date, service: str, cell: _Cell) -> DayRow:
        final = self.closed_before is not None and day < self.closed_before and day not in self.bill.estimated
        return DayRow(
            day, service, cell.gross, cell.credits, cell.ledger, cell.in_doubt, self._kind(day, cell), is_closed=final
        )

    def _kind(self, day: date, cell: _Cell) -> DayKind:
        more = (cell.gross - cell.ledger).pico
        rounding = cell.lines * 10 ** (12 - self.decimals) // 2
        rules = (
            (DayKind.NOT_COVERED, self.bill.covers is not None and day not in self.bill.covers),
            (DayKind.LATE, self.complete_through is None or day > self.complete_through),
            (DayKind.MATCHED, abs(more) <= rounding),
            (DayKind.IN_DOUBT, 0 < more <= cell.in_doubt.pico + rounding),
            (DayKind.MISSING_IN_LEDGER, more > 0 or not cell.ledger),
            (DayKind.MISSING_IN_BILL, not cell.gross),
        )
        return next((kind for kind, fits in rules if fits), DayKind.UNEXPLAINED)


def _remarks(bill: Bill) -> tuple[str, ...]:
    stale = (f"The bill is stale: {bill.problem}",) if bill.problem else ()
    bad = (f"Rows of the bill that could not be read, and are missing here: {len(bill.bad_rows)}.",)
    return (*stale, *(bad if bill.bad_rows else ()))

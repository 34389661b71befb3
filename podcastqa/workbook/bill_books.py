"""Bills are read once, whole, and then only looked at: what a person explores changes no figure of the guard.

A file that is given is read into books of its own, which are gone as soon as it is read. Nothing asks a provider, so
nothing is paid; without a file it is what was imported, and the bill of this machine's meter, as the guard knows them.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from podcastqa.bills.bill import Bill
from podcastqa.bills.days import DayReconciliation, reconcile_days
from podcastqa.bills.imported import ImportedBill
from podcastqa.bookkeeper import Bookkeeper
from podcastqa.clock import WindowKind, day_number
from podcastqa.display import Tabular
from podcastqa.money import ZERO, Usd
from podcastqa.spend import views
from podcastqa.spend.ledger import NOTHING
from podcastqa.spend.projection import HISTORY_DAYS, NoProjection, Projection, every_day, project
from podcastqa.users import SYSTEM_ID
from podcastqa.wiring import Parts, drill_parts
from podcastqa.workbook.bill_sums import Sum, three_ways
from podcastqa.workbook.figures import counted

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Outlook:
    """A projection, the days that it was made from, and in a sentence what it is of."""

    found: Projection | NoProjection
    days: tuple[tuple[date, Usd], ...]
    said: str


@dataclass(frozen=True, slots=True)
class BillBooks:
    """Every bill that was read, with what stands beside it."""

    where: str
    """Which books these are, in a sentence."""
    looked_at: str
    """The same in a word or two."""
    bills: tuple[Bill, ...]
    """One a source: clouds first, the most lines first, this machine's meter last."""
    sums: tuple[Sum, ...]
    files: Tabular
    bad_rows: int
    """Rows of those files that could not be read."""
    beside: dict[str, DayReconciliation]
    """The ledger beside each bill, by source."""
    outlook: Outlook

    @property
    def whole(self) -> Bill | None:
        """All of them as one; None where there is none."""
        if not self.bills:
            return None
        lines = tuple(line for bill in self.bills for line in bill.lines)
        *others, last = (bill.source for bill in self.bills)
        source = f"{', '.join(others)} and {last}" if others else last
        return replace(self.bills[0], source=source, lines=lines)


def read_file(made: Parts, bill_file: str) -> BillBooks:
    """What stands in a file, a folder or what a glob finds, beside the real ledger; raises BillError."""
    with tempfile.TemporaryDirectory(prefix="podcastqa-bills-") as folder:
        aside = replace(made, settings=replace(made.settings, home=Path(folder)))
        own = drill_parts(aside, "explored", in_a_file=True)
        try:
            result = own.archive.add(bill_file)
            bills = _imported(own)
            where = (
                f"{bill_file} was read into books of its own, which are gone again: nothing of it is imported, and the "
                "guard's figures are as they were. Keep it: podcastqa bills import PATH"
            )
            beside = _beside(made, own, bills)
            sums, outlook = three_ways(own), _outlook_of_bills(made, bills)
            return BillBooks(where, Path(bill_file).name, bills, sums, result, len(result.bad_rows), beside, outlook)
        finally:
            own.database.close()


def read_imported(made: Parts) -> BillBooks:
    """What was imported, and this machine's bill."""
    imported, meter = _imported(made), made.treasury.bills.meter.read()
    bills = (*imported, *([meter] if meter.lines else []))
    where = f"These are the books in use: {_counted(imported)}; {_meter_said(meter)}. They are read, and not changed."
    if not bills:
        where = (
            "There is nothing yet: no bill was imported, and this machine's meter has measured nothing. Try any file "
            "with the parameter bill_file, or keep one: podcastqa bills import PATH"
        )
    beside = _beside(made, made, imported)
    if meter.lines:
        beside[meter.source] = _beside_meter(made, meter)
    files = made.archive.list()
    bad_rows = sum(len(file.bad_rows) for file in files.files if file.standing)
    sums, outlook = three_ways(made), _outlook_of_guard(made)
    return BillBooks(where, "what was imported", bills, sums, files, bad_rows, beside, outlook)


def _imported(parts: Parts) -> tuple[Bill, ...]:
    bills = [ImportedBill(parts.archive, source, parts.clock).read() for source in parts.archive.sources()]
    return tuple(sorted(bills, key=lambda bill: (-len(bill.lines), bill.source)))


def _beside(made: Parts, own: Parts, bills: Iterable[Bill]) -> dict[str, DayReconciliation]:
    """The real ledger beside bills of `own` books; where one has no day, there is nothing to compare."""
    bookkeeper = Bookkeeper(made.treasury, own.archive, None)
    return {bill.source: bookkeeper.reconcile_days(source=bill.source) for bill in bills if bill.lines}


def _beside_meter(made: Parts, meter: Bill) -> DayReconciliation:
    """The meter's bill is complete at every instant: each operation writes its row before it is booked."""
    today = made.clock.now().date()
    first, end = min(line.day for line in meter.lines), today + _DAY
    return reconcile_days(
        *(meter.source, made.ledger.entries(), meter),
        first=first,
        end=end,
        complete_through=today,
        closed_before=today,
    )


def _outlook_of_bills(made: Parts, bills: Iterable[Bill]) -> Outlook:
    """As if the first day after the bills were today: their days are history, and what comes next is projected."""
    spent: dict[date, Usd] = defaultdict(lambda: ZERO)
    for line in (line for bill in bills for line in bill.lines):
        spent[line.day] += line.amount if line.is_use else ZERO
    today = min(max(spent, default=made.clock.now().date()) + _DAY, made.clock.now().date())
    days = every_day([row for row in spent.items() if row[0] <= today], today)
    so_far = sum((cost for day, cost in days if day >= today.replace(day=1)), ZERO)
    said = f"from the days of these bills (gross), as if today were {today}, the first day that they do not know"
    return Outlook(project(days, today, so_far), tuple(days), said)


def _outlook_of_guard(made: Parts) -> Outlook:
    """From what the guard knows already; to ask anew may be paid for, and exploring is not."""
    today = made.clock.now().date()
    rows = views.real_days(made.mirror, day_number(today - timedelta(days=HISTORY_DAYS)), day_number(today))
    so_far = made.budget.standing(SYSTEM_ID).get((SYSTEM_ID, WindowKind.MONTH), NOTHING).real
    days = every_day(rows, today)
    said = "from all that the guard knows: booked or billed, whichever is more"
    return Outlook(project(days, today, so_far), tuple(days), said)


def _counted(bills: Iterable[Bill]) -> str:
    said = ", ".join(f"{bill.source} ({counted(len(bill.lines), 'line')})" for bill in bills)
    return f"imported bills of {said}" if said else "no bill was imported yet (podcastqa bills import PATH)"


def _meter_said(meter: Bill) -> str:
    return (
        f"{counted(len(meter.lines), 'line')} of this machine's meter"
        if meter.lines
        else "the meter has measured nothing yet"
    )

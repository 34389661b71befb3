"""What providers say is kept, put beside the ledger, projected and handed out; nothing here admits or refuses.

Money moves in `treasury`; this reads. Only a question that AWS has to answer anew costs something, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from podcastqa.bills.bill import Bill
from podcastqa.bills.cost_explorer import SOURCE as AWS
from podcastqa.bills.days import DayReconciliation, last_complete_day, reconcile_days
from podcastqa.bills.imported import ImportedBill
from podcastqa.clock import WindowKind, day_number, window
from podcastqa.errors import BillError, Misuse
from podcastqa.spend import views
from podcastqa.spend.meter import ISSUER as METER_ISSUER
from podcastqa.spend.projection import HISTORY_DAYS, NoProjection, Projection, every_day, project

if TYPE_CHECKING:
    from podcastqa.bills.archive import BillArchive
    from podcastqa.bills.console_match import ConsoleMatch
    from podcastqa.bills.cost_explorer import CostExplorerBill
    from podcastqa.bills.focus_out import FocusFile
    from podcastqa.bills.import_result import ImportList, ImportResult
    from podcastqa.treasury import Treasury

#: A provider has made a month final by then; a bill that says of its days whether they are is believed instead.
_CLOSING_DAYS = 7
#: Cost Explorer states so many decimals; files state what they like.
_DECIMALS = {True: 10, False: 12}


@dataclass(frozen=True, slots=True)
class Bookkeeper:
    """Reads bills and ledger."""

    treasury: Treasury
    archive: BillArchive
    cost_explorer: CostExplorerBill | None

    def import_bills(self, path: str) -> ImportResult:
        """Keep the bills in a file, a folder or what a glob finds, and let the guard know; raises BillError."""
        from podcastqa.bills.focus import source_of
        from podcastqa.bills.focus_out import ISSUER

        result = self.archive.add(path, own={source_of(issuer, "", "") for issuer in (ISSUER, METER_ISSUER)})
        self.treasury.refresh_bills()
        return result

    def imports(self) -> ImportList:
        """Every file that was imported, and whether it still stands."""
        return self.archive.list()

    def reconcile_days(
        self, month: date | None = None, *, source: str = AWS, by_service: bool = False
    ) -> DayReconciliation:
        """The ledger beside a cloud's bill, day by day; of the month of `month`, or of what the last answer covers.

        Raises BillError where nothing is known of that bill. `by_service` and another month may cost one request.
        """
        today = self._today()
        bill = self._bill(source, month, by_service=by_service)
        first, end = _month_of(month, today) if month else _covered(bill, today)
        return reconcile_days(
            source,
            self.treasury.ledger.entries(),
            bill,
            first=first,
            end=end,
            by_service=by_service,
            complete_through=last_complete_day(bill),
            closed_before=self._closed_before(),
            decimals=_DECIMALS[source == AWS and self.cost_explorer is not None],
        )

    def console_match(self, console_csv: Path) -> ConsoleMatch:
        """AWS's answer beside the console's file; days that the answer lacks are asked for, which costs one request."""
        from podcastqa.bills.console_csv import read_console_csv
        from podcastqa.bills.console_match import compare_with_console

        if self.cost_explorer is None:  # an imported file may be the very same
            raise BillError(
                "Cost Explorer is not in use, so there is no answer of it to compare with.",
                next_step="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and leave BILLING_SOURCE at auto.",
            )
        costs = read_console_csv(console_csv)
        if not costs.days:
            raise BillError(f"{console_csv.name} holds no day that can be read.", next_step="Download it anew, by day.")
        bill = self.cost_explorer.read()
        first, end = min(costs.days), min(max(costs.days), self._today()) + timedelta(days=1)
        if not bill.covers or not set(costs.days) & bill.covers:
            bill = self.cost_explorer.read_days(first, end)
        return compare_with_console(
            bill, costs.days, complete_through=last_complete_day(bill), closed_before=self._closed_before()
        )

    def projection(self) -> Projection | NoProjection:
        """What the month will have cost at its end, if it goes on as the last days did."""
        today, days = self._today(), timedelta(days=HISTORY_DAYS)
        spent = self.treasury.spent(WindowKind.MONTH)
        rows = views.real_days(self.treasury.mirror, day_number(today - days), day_number(today))
        return project(every_day(rows, today), today, spent)

    def write_focus(self, path: Path) -> FocusFile:
        """Write the ledger as FOCUS 1.2; raises BillError where the file cannot be."""
        from podcastqa.bills.focus_out import write_focus

        names = {user.id: user.name for user in self.treasury.users.list().users}
        return write_focus(self.treasury.ledger, names, path, self.treasury.clock)

    def _bill(self, source: str, month: date | None, *, by_service: bool) -> Bill:
        """What is known of those days; Cost Explorer is asked only for what it has not answered."""
        files = ImportedBill(self.archive, source, self.treasury.clock).read()
        if source != AWS or self.cost_explorer is None:
            if not files.lines:
                raise BillError(f"There is no bill of {source}.", next_step="Import one: podcastqa bills import PATH.")
            return files
        first, end = _month_of(month, self._today()) if month else (date.min, date.max)
        filed = [line for line in files.lines if first <= line.day < end]
        if month and filed:
            return files
        bill = self.treasury.bills.in_use.read()
        if month is None and not by_service:
            return bill
        first, end = (first, end) if month else _covered(bill, self._today())
        return self.cost_explorer.read_days(first, end, by_service=by_service)

    def _today(self) -> date:
        return self.treasury.clock.now().date()

    def _closed_before(self) -> date:
        return (self._today() - timedelta(days=_CLOSING_DAYS)).replace(day=1)


def _month_of(day: date, today: date) -> tuple[date, date]:
    """The days of that month that have begun; raises Misuse for a month to come."""
    span = window(WindowKind.MONTH, datetime(day.year, day.month, day.day, tzinfo=UTC))
    if span.start > today:
        raise Misuse(f"{span} has not begun.")
    return span.start, min(span.end, today + timedelta(days=1))


def _covered(bill: Bill, today: date) -> tuple[date, date]:
    days = bill.covers if bill.covers is not None else {line.day for line in bill.lines}
    if not days:
        raise BillError(bill.problem or "The bill says nothing yet.", next_step="See: podcastqa status")
    return min(days), min(max(days), today) + timedelta(days=1)

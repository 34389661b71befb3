"""Every bill that may say something new is read once and put before the guard: no window forgets what a bill says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from podcastqa.bills.bill import Bill, BillingSource
from podcastqa.clock import day_number
from podcastqa.spend.ledger import Ledger
from podcastqa.spend.meter import SOURCE as METER
from podcastqa.users import Users


@dataclass(frozen=True, slots=True)
class BillDesk:
    """The billing source in use, this machine's meter, and what was imported."""

    in_use: BillingSource
    meter: BillingSource
    imported: Callable[[], tuple[BillingSource, ...]]
    ledger: Ledger
    users: Users

    def sources(self) -> tuple[BillingSource, ...]:
        """The one in use first; no source twice."""
        others = {one.name: one for one in (*self.imported(), self.meter)}
        return self.in_use, *(one for name, one in others.items() if name != self.in_use.name)

    def refresh(self) -> bool:
        """Let the guard know what is new; whether it came from outside, so that alerts may be due.

        The meter's own rows are booked, and mailed about, as they are settled.
        """
        fresh = [one for one in self.sources() if one.changed_since(self.ledger.bill_read_at(one.name))]
        for source in fresh:
            self._put(source.read())
        return any(source.name != METER for source in fresh)

    def _put(self, bill: Bill) -> None:
        if bill.provenance.complete_through is None:
            return  # nothing was ever read
        users = {str(user_id): user_id for user_id in self.users.names()}
        if bill.source != METER:  # the meter tags by number, people in a cloud console by name
            users |= {user.name: user.id for user in self.users.list().users}
        covers = None if bill.covers is None else {day_number(day) for day in bill.covers}
        self.ledger.put_bill(bill.source, bill.day_totals(users), bill.provenance.read_at, covers)

"""A bill is what a provider says was spent: lines with exact amounts, read whole, with where they came from.

The provider's amounts are parsed as decimals, never as floats. A row that cannot be read is reported with its place
and its reason, and the good rows are kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from podcastqa.clock import day_number
from podcastqa.display import Table, Tabular
from podcastqa.money import ZERO, Usd

_DAY = timedelta(days=1)
#: FOCUS charge categories that lower what is paid without lowering what was used: budgets look past them.
NOT_USE = ("Credit", "Refund")


@dataclass(frozen=True, slots=True)
class BillLine:
    """One charge: the UTC day it is filed under, whose it is, what for, and the amount."""

    day: date
    user_tag: str
    resource_id: str
    service: str
    category: str
    amount: Usd
    run: str = ""

    @property
    def is_use(self) -> bool:
        """Whether it counts toward a budget (gross)."""
        return self.category not in NOT_USE


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read: file, line, reason."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a figure came from: component, account or file, sha256, when it was read, through when complete."""

    component: str
    account: str
    sha256: str
    read_at: datetime
    complete_through: datetime | None
    """None: nothing was ever read."""
    remarks: tuple[tuple[str, str], ...] = ()

    def table(self) -> Table:
        """For reports: it stands beside the figure."""
        rows = (
            ("component", self.component),
            ("account or file", self.account),
            ("sha256", self.sha256 or None),
            ("read at", f"{self.read_at:%Y-%m-%d %H:%M:%S} UTC"),
            ("complete through", f"{self.complete_through:%Y-%m-%d %H:%M:%S} UTC" if self.complete_through else None),
            *self.remarks,
        )
        return Table("Where the bill comes from", ("what", "value"), rows)


@dataclass(frozen=True, slots=True)
class Bill(Tabular):
    """All lines of one billing source."""

    source: str
    lines: tuple[BillLine, ...]
    bad_rows: tuple[BadRow, ...]
    provenance: Provenance
    covers: frozenset[date] | None = None
    """The days that it speaks of; None: all that ever were."""
    estimated: frozenset[date] = frozenset()
    """Days that the provider may still change."""
    problem: str = ""
    """Why there is no newer one, where one was wanted: this one is stale."""

    def aged(self, now: datetime, problem: str = "") -> Bill:
        """The same bill with its age beside it, and why it is stale if it is."""
        age = ("age", _age(now - self.provenance.read_at))
        stale = (("STALE", problem),) if problem else ()
        remarks = (*self.provenance.remarks, age, *stale)
        return replace(self, provenance=replace(self.provenance, remarks=remarks), problem=problem)

    def said(self) -> tuple[str, ...]:
        """For people, in a sentence or two: whose it is, how old, how complete, and why it is stale if it is."""
        made = self.provenance
        if made.complete_through is None:
            return (f"{made.component}, {made.account}, was never read: {dict(made.remarks).get('never read', '')}",)
        through = made.complete_through - _DAY
        bill = f"Bill: {made.component}, {made.account}, read at {made.read_at:%Y-%m-%d %H:%M} UTC"
        bill += f" ({dict(made.remarks).get('age', '0 min')} ago), complete through {through:%Y-%m-%d}."
        return (bill, *((f"THE BILL IS STALE: {self.problem}",) if self.problem else ()))

    def limited(self) -> Bill:
        """The same bill, speaking of no other days than it has lines for."""
        return replace(self, covers=frozenset(line.day for line in self.lines))

    @property
    def gross(self) -> Usd:
        """Without credits and refunds."""
        return sum((line.amount for line in self.lines if line.is_use), ZERO)

    @property
    def net(self) -> Usd:
        """With them."""
        return sum((line.amount for line in self.lines), ZERO)

    @property
    def unattributed(self) -> Usd:
        """What carries no user's tag (gross)."""
        return sum((line.amount for line in self.lines if line.is_use and not line.user_tag), ZERO)

    def between(self, first: date, end: date) -> Usd:
        """Gross from the day `first` (in it) to `end` (not in it)."""
        return sum((line.amount for line in self.lines if line.is_use and first <= line.day < end), ZERO)

    def of_run(self, run: str) -> Usd:
        """Gross of the lines that one run wrote."""
        return sum((line.amount for line in self.lines if line.is_use and line.run == run), ZERO)

    def gross_by_day(self) -> dict[date, Usd]:
        """Gross of each day that has a line."""
        found: dict[date, Usd] = defaultdict(lambda: ZERO)
        for line in self.lines:
            found[line.day] += line.amount if line.is_use else ZERO
        return found

    def day_totals(self, users: Mapping[str, int]) -> list[tuple[int, int, Usd, Usd]]:
        """(day number, user id or 0 for the whole day, gross, net): what the guard keeps of a bill.

        `users`: tag to user id. A tag that names no user counts in the whole only.
        """
        totals: dict[tuple[int, int], list[Usd]] = defaultdict(lambda: [ZERO, ZERO])
        for line in self.lines:
            scopes = {0, users.get(line.user_tag, 0)}
            for scope in scopes:
                both = totals[day_number(line.day), scope]
                both[0], both[1] = both[0] + (line.amount if line.is_use else ZERO), both[1] + line.amount
        return [(day, scope, gross, net) for (day, scope), (gross, net) in sorted(totals.items())]

    def table(self) -> Table:
        """The bill day by day."""
        days = sorted({line.day for line in self.lines})
        rows = tuple((day, *(self._of_day(day))) for day in days)
        notes = tuple(f"{bad.place}: {bad.reason}" for bad in self.bad_rows)
        return Table(f"Bill of {self.source}", ("day", "gross in USD", "net in USD", "lines"), rows, notes)

    def _of_day(self, day: date) -> tuple[Usd, Usd, int]:
        lines = [line for line in self.lines if line.day == day]
        gross = sum((line.amount for line in lines if line.is_use), ZERO)
        return gross, sum((line.amount for line in lines), ZERO), len(lines)


def larger_per_day(one: Bill, other: Bill) -> Bill:
    """Two accounts of the same source as one: each day as the one with the larger gross tells it, `other` on a tie.

    A window never forgets the bill; taking both would count the day twice.
    """
    told, filed = one.gross_by_day(), other.gross_by_day()
    mine = {day for day in {*told, *filed} if told.get(day, ZERO) > filed.get(day, ZERO)}
    lines = [line for line in one.lines if line.day in mine] + [line for line in other.lines if line.day not in mine]
    covers = None if one.covers is None or other.covers is None else one.covers | other.covers
    return replace(one, lines=tuple(lines), bad_rows=(*one.bad_rows, *other.bad_rows), covers=covers)


def _age(age: timedelta) -> str:
    minutes = int(age.total_seconds()) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 0)} min"


def exact_usd(text: str) -> Usd:
    """An amount as a bill spells it ('1E-7', '0.00000080000'), exactly; raises BadEstimate."""
    return Usd(text.strip())


def focus_time(text: str) -> datetime:
    """`2024-09-18T22:00:00Z` or `2024-09-18 22:00:00`, both UTC; raises ValueError."""
    found = datetime.fromisoformat(text.strip())
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


class BillingSource(Protocol):
    """Where a bill comes from; one file beside this one for each."""

    @property
    def name(self) -> str:
        """The source that ledger entries name."""

    @property
    def component(self) -> str:
        """What reports call it."""

    @property
    def account(self) -> str:
        """Whose bill it is."""

    def read(self) -> Bill:
        """The whole bill; raises BillError."""

    def changed_since(self, read_at: datetime | None) -> bool:
        """Whether the bill may say more than it did then; cheap."""

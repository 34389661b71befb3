"""The API's day totals beside those that the provider's own console exported: within a cent, and exactly when closed.

Both are net unblended costs by UTC day, which is what the console shows unless told otherwise. A day is asked by how
final it is: a complete one to $0.01, for the two were not read in the same minute; a day of a closed month to the ten
decimals that both state; a late one is shown and not judged. Rounded once, at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

from podcastqa.bills.bill import Bill
from podcastqa.display import Table, Tabular, plain
from podcastqa.money import ZERO, Usd

_CENT = Usd("0.01")
#: Half of the tenth decimal: a difference up to it is zero when it is rounded to ten decimals.
_HALF_OF_THE_TENTH = Usd("0.00000000005")


class Asked(StrEnum):
    """How closely a day's two totals have to agree."""

    CENT = "within $0.01"
    EXACT = "0 at ten decimals"
    NOTHING = "nothing: late"


@dataclass(frozen=True, slots=True)
class ConsoleDay:
    """One day: net in USD by the API and by the console; None where one of them does not speak of it."""

    day: date
    api: Usd | None
    console: Usd | None
    asked: Asked

    @property
    def difference(self) -> Usd | None:
        """API less console."""
        return None if self.api is None or self.console is None else self.api - self.console

    @property
    def holds(self) -> bool | None:
        """Whether it is as asked; None: not judged."""
        if self.asked is Asked.NOTHING:
            return None
        most = _CENT if self.asked is Asked.CENT else _HALF_OF_THE_TENTH
        return self.difference is not None and -most <= self.difference <= most

    def __str__(self) -> str:
        if self.api is None or self.console is None:
            side = "the bill" if self.api is None else "the console's file"
            return f"{self.day} is not covered by {side}"
        return f"{self.day} differs by {(self.api - self.console).shown()}, asked: {self.asked}"


@dataclass(frozen=True, slots=True)
class ConsoleMatch(Tabular):
    """API and console, day by day."""

    days: tuple[ConsoleDay, ...]

    @property
    def judged(self) -> tuple[ConsoleDay, ...]:
        """The days that are complete."""
        return tuple(day for day in self.days if day.holds is not None)

    @property
    def faults(self) -> tuple[ConsoleDay, ...]:
        """The days that are not as asked."""
        return tuple(day for day in self.days if day.holds is False)

    @property
    def holds(self) -> bool | None:
        """Whether every day that is judged is as asked; None: no day can be judged yet."""
        return not self.faults if self.judged else None

    def table(self) -> Table:
        """One row a day, then the totals of the days that both speak of."""
        shown = {True: "yes", False: "NO", None: "not judged"}
        rows: list[tuple[object, ...]] = [
            (day.day, _or_not(day.api), _or_not(day.console), day.difference, day.asked.value, shown[day.holds])
            for day in self.days
        ]
        both = [(day.api, day.console) for day in self.days if day.api is not None and day.console is not None]
        api, console = (sum((pair[side] for pair in both), ZERO) for side in (0, 1))
        rows.append(("total", api, console, api - console, None, shown[self.holds]))
        columns = ("day", "API net in USD", "console in USD", "difference in USD", "asked", "holds")
        return Table("The API beside the console's file", columns, tuple(rows), tuple(f"{day}." for day in self.faults))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"holds": self.holds, "judged": len(self.judged), "days": plain(self.table().records())}


def compare_with_console(
    bill: Bill, console_days: Mapping[date, Usd], *, complete_through: date | None, closed_before: date | None
) -> ConsoleMatch:
    """Compare net day totals, for each day between the console's first and last.

    `complete_through`: the last day the bill is complete for (None: none is). `closed_before`: days before it are
    final, unless the bill itself calls them estimated (None: none is).
    """
    net: dict[date, Usd] = defaultdict(lambda: ZERO)
    for line in bill.lines:
        net[line.day] += line.amount
    inside = {day for day in net if console_days and min(console_days) <= day <= max(console_days)}

    def compared(day: date) -> ConsoleDay:
        covered = bill.covers is None or day in bill.covers
        if complete_through is None or day > complete_through:
            asked = Asked.NOTHING
        elif closed_before is not None and day < closed_before and day not in bill.estimated:
            asked = Asked.EXACT
        else:
            asked = Asked.CENT
        return ConsoleDay(day, net[day] if covered else None, console_days.get(day), asked)

    return ConsoleMatch(tuple(compared(day) for day in sorted({*console_days, *inside})))


def _or_not(amount: Usd | None) -> Usd | str:
    return "not covered" if amount is None else amount

"""Where every budget stands: spent, held and left of each limit, for the whole system and for each user."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from podcastqa.clock import Window, WindowKind, windows
from podcastqa.display import Table, Tabular
from podcastqa.money import Usd
from podcastqa.spend.budget import Budget
from podcastqa.spend.decisions import Stop
from podcastqa.spend.ledger import NOTHING, Spent
from podcastqa.users import SYSTEM_ID

SYSTEM_NAME = "whole system"


@dataclass(frozen=True, slots=True)
class LimitLine:
    """One scope in one window."""

    user_id: int
    name: str
    window: Window
    spent: Spent
    limit: Usd

    @property
    def left(self) -> Usd:
        """What may still be reserved; negative after an overrun."""
        return self.limit - self.spent.total

    @property
    def percent(self) -> int | None:
        """How much of the limit is spent or held, in whole percent; None where the limit is zero."""
        return 100 * self.spent.total.pico // self.limit.pico if self.limit else None


@dataclass(frozen=True, slots=True)
class BudgetStatus(Tabular):
    """Every limit in force and what it has left, as of an instant; and the emergency stop, if it is on."""

    lines: tuple[LimitLine, ...]
    stop: Stop | None
    as_of: datetime
    remarks: tuple[str, ...] = ()
    """Which bill the figures come from, its age, and why it is stale if it is."""

    def line(self, kind: WindowKind, user_id: int = SYSTEM_ID) -> LimitLine:
        """The line of that window, for the whole system or one user."""
        return next(line for line in self.lines if line.window.kind is kind and line.user_id == user_id)

    def table(self) -> Table:
        """One row a scope and window."""
        columns = ("who", "window", "spent in USD", "held in USD", "limit in USD", "left in USD", "used in %")
        rows = tuple(
            (line.name, str(line.window), line.spent.real, line.spent.held, line.limit, line.left, line.percent)
            for line in self.lines
        )
        stop = "The emergency stop is off."
        if self.stop:
            stop = f"THE EMERGENCY STOP IS ON ({self.stop.said_by}: {self.stop.reason}): every operation is refused."
        return Table("Budgets", columns, rows, (stop, *self.remarks, f"As of {self.as_of:%Y-%m-%d %H:%M:%S} UTC."))


@dataclass(frozen=True, slots=True)
class LimitTable(Tabular):
    """The limits in force."""

    lines: tuple[LimitLine, ...]

    def table(self) -> Table:
        """One row a scope and window kind."""
        rows = tuple((line.name, line.window.kind.value, line.limit) for line in self.lines)
        note = "Change one: podcastqa budget set day|week|month AMOUNT [--user NAME] --reason WHY"
        return Table("Limits", ("who", "window", "limit in USD"), rows, (note,))


def budget_status(budget: Budget, names: dict[int, str], now: datetime) -> BudgetStatus:
    """The whole system first, then the users named."""
    lines: list[LimitLine] = []
    for scope, name in {SYSTEM_ID: SYSTEM_NAME, **names}.items():
        spent, limits = budget.standing(scope), budget.limits(scope)
        lines += [
            LimitLine(scope, name, span, spent.get((scope, span.kind), NOTHING), limits[scope, span.kind])
            for span in windows(now)
        ]
    return BudgetStatus(tuple(lines), budget.stopped(), now)

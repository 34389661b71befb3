"""Where every budget stands: spent, held and left of each limit, for the whole system, each user and each service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from podcastqa.clock import Window, WindowKind, from_microseconds, windows
from podcastqa.display import Table, Tabular
from podcastqa.money import Usd
from podcastqa.spend.budget import Budget
from podcastqa.spend.decisions import LimitWord, Stop, WordState
from podcastqa.spend.ledger import NOTHING, Spent
from podcastqa.users import SYSTEM_ID

SYSTEM_NAME = "whole system"


def service_name(service: str) -> str:
    """What a service's limit is for, as tables say it: no user has a name with a space."""
    return f"service {service}"


def limited_name(user_id: int, service: str, names: Mapping[int, str]) -> str:
    """What a limit is for, as tables say it."""
    return service_name(service) if service else SYSTEM_NAME if user_id == SYSTEM_ID else names[user_id]


def limit_of(name: str, kind: WindowKind) -> str:
    """What a limit is called in a sentence."""
    return f"{kind.adjective} limit of {f'the {name}' if ' ' in name else f'user {name}'}"


@dataclass(frozen=True, slots=True)
class LimitLine:
    """One scope in one window."""

    user_id: int
    name: str
    window: Window
    spent: Spent
    limit: Usd
    service: str = ""
    """The service that the whole system's limit is for; nothing: all of them."""

    @property
    def left(self) -> Usd:
        """What may still be reserved; negative after an overrun."""
        return self.limit - self.spent.total

    @property
    def percent(self) -> int | None:
        """How much of the limit is spent or held, in whole percent; None where the limit is zero."""
        return 100 * self.spent.total.pico // self.limit.pico if self.limit else None


@dataclass(frozen=True, slots=True)
class LaterLimit:
    """A limit that begins, or is removed, at an instant to come."""

    name: str
    word: LimitWord

    def __str__(self) -> str:
        word = self.word
        what = "removed" if word.amount is None else word.amount.shown()
        begins = f"{word.valid_from:%Y-%m-%d %H:%M} UTC"
        return f"From {begins} on the {limit_of(self.name, word.kind)} is {what} ({word.said_by}: {word.reason})."


@dataclass(frozen=True, slots=True)
class BudgetStatus(Tabular):
    """Every limit in force and what it has left, as of an instant; and the emergency stop, if it is on."""

    lines: tuple[LimitLine, ...]
    stop: Stop | None
    as_of: datetime
    remarks: tuple[str, ...] = ()
    """Which bill the figures come from, its age, and why it is stale if it is."""
    later: tuple[LaterLimit, ...] = ()
    """Limits that begin later."""

    def line(self, kind: WindowKind, user_id: int = SYSTEM_ID, service: str = "") -> LimitLine:
        """The line of that window, for the whole system, one user or one service."""
        wanted = (kind, user_id, service)
        return next(line for line in self.lines if (line.window.kind, line.user_id, line.service) == wanted)

    def only(self, name: str) -> BudgetStatus:
        """One user's own limits: what all together have spent says what the others have."""
        lines = tuple(line for line in self.lines if line.name == name)
        return replace(self, lines=lines, later=tuple(limit for limit in self.later if limit.name == name))

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
        said = (stop, *map(str, self.later), *self.remarks)
        return Table("Budgets", columns, rows, (*said, f"As of {self.as_of:%Y-%m-%d %H:%M:%S} UTC."))


@dataclass(frozen=True, slots=True)
class LimitTable(Tabular):
    """The limits in force, and those that begin later."""

    lines: tuple[LimitLine, ...]
    later: tuple[LaterLimit, ...] = ()

    def said_of(self, name: str, kind: WindowKind) -> tuple[str, ...]:
        """Sentences about one limit: what it is, whether it is below what is spent, what it will be."""
        limit = limit_of(name, kind)
        line = next((line for line in self.lines if (line.name, line.window.kind) == (name, kind)), None)
        said = [f"The {limit} is now {line.limit.shown()}." if line else f"There is no {limit} now."]
        if line and line.left.pico < 0:
            spent = f"{line.spent.total.shown()} is spent or held already"
            said += [f"{spent}: nothing more is admitted until {line.window} ends, or the limit is raised."]
        return *said, *(str(later) for later in self.later if (later.name, later.word.kind) == (name, kind))

    def table(self) -> Table:
        """One row a scope and window kind."""
        rows = tuple((line.name, line.window.kind.value, line.limit) for line in self.lines)
        note = "Change one: podcastqa budget set day|week|month AMOUNT [--user NAME | --service NAME] --reason WHY"
        return Table("Limits", ("who", "window", "limit in USD"), rows, (*map(str, self.later), note))


@dataclass(frozen=True, slots=True)
class DecisionHistory(Tabular):
    """Every decision on limits and on the emergency stop, in the order they were said."""

    words: tuple[LimitWord, ...]
    names: Mapping[int, str]
    stops: tuple[Stop, ...] = ()

    def speaks_of(self, name: str, kind: WindowKind) -> bool:
        """Whether somebody ever set this limit."""
        return any(
            (limited_name(word.user_id, word.service, self.names), word.kind) == (name, kind) for word in self.words
        )

    def table(self) -> Table:
        """One row a decision; it is never changed or deleted."""
        columns = ("said (UTC)", "by", "who", "window", "limit in USD", "valid from (UTC)", "state", "reason")
        said = [(word.said_at, self._row(word)) for word in self.words]
        said += [(from_microseconds(stop.at_us), _stop_row(stop)) for stop in self.stops]
        rows = tuple(row for _, row in sorted(said, key=lambda one: one[0]))
        removed = any(word.amount is None for word in self.words)
        notes = ("Without an amount: the limit was removed.",) if removed else ()
        nobody = "Nobody has set a limit: those of config.env hold, or its defaults."
        return Table("Decisions", columns, rows, notes if self.words else (nobody,))

    def _row(self, word: LimitWord) -> tuple[object, ...]:
        return (
            *(_minute(word.said_at), word.said_by, limited_name(word.user_id, word.service, self.names)),
            *(word.kind.value, word.amount, _minute(word.valid_from), word.state.value, word.reason),
        )


def _stop_row(stop: Stop) -> tuple[object, ...]:
    at, state = _minute(from_microseconds(stop.at_us)), "pulled" if stop.stopped else "released"
    return at, stop.said_by, "emergency stop", None, None, at, state, stop.reason


def _minute(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M}"


def budget_status(budget: Budget, names: dict[int, str], now: datetime) -> BudgetStatus:
    """The whole system first, then the users named, then the services that have limits."""
    lines: list[LimitLine] = []
    for scope, name in {SYSTEM_ID: SYSTEM_NAME, **names}.items():
        spent, limits = budget.standing(scope, now), budget.limits(scope, now)
        lines += [
            LimitLine(scope, name, span, spent.get((scope, span.kind), NOTHING), limits[scope, span.kind])
            for span in windows(now)
        ]
    lines += _service_lines(budget, now)
    later = tuple(
        LaterLimit(limited_name(word.user_id, word.service, names), word)
        for word in sorted(budget.limit_history(now), key=lambda word: word.valid_from)
        if word.state is WordState.LATER and word.user_id in {SYSTEM_ID, *names}
    )
    return BudgetStatus(tuple(lines), budget.stopped(), now, later=later)


def _service_lines(budget: Budget, now: datetime) -> list[LimitLine]:
    limits = budget.service_limits(now)
    spent = {service: budget.service_standing(service, now) for service in dict.fromkeys(name for name, _ in limits)}
    return [
        LimitLine(
            SYSTEM_ID, service_name(service), span, spent[service][span.kind], limits[service, span.kind], service
        )
        for service in spent
        for span in windows(now)
        if (service, span.kind) in limits
    ]

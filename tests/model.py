"""What the books must be, in plain Python: a list instead of a database, and no counter anywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from podcastqa.clock import WindowKind
from podcastqa.spend.entries import Operation

HOLD_FOR = timedelta(minutes=15)
#: 0 for the whole system, a user's number, a service's name.
Scope = int | str


def in_window(kind: WindowKind, day: date, today: date) -> bool:
    """Whether the day is in today's window: said again, in other words than `podcastqa.clock` uses."""
    if kind is WindowKind.DAY:
        return day == today
    if kind is WindowKind.WEEK:
        return day.isocalendar()[:2] == today.isocalendar()[:2]
    return (day.year, day.month) == (today.year, today.month)


@dataclass
class ModelHold:
    operation: Operation
    estimate: int
    at: datetime
    ended: str = ""  # settle, void, expire
    started: bool = False
    settled: int | None = None
    corrected: int = 0

    def runs_out(self, now: datetime) -> bool:
        return not self.ended and not self.started and self.at + HOLD_FOR <= now

    def held(self, now: datetime, *, with_late: bool) -> int:
        return 0 if self.ended or (self.runs_out(now) and not with_late) else self.estimate

    def is_of(self, scope: Scope) -> bool:
        return scope in (0, self.operation.user_id, self.operation.service)


@dataclass
class Model:
    """What the guard must do; amounts in pico-dollars."""

    usual: dict[tuple[Scope, WindowKind], int]
    """The settings' limits; a user who has none of their own here has those of scope -1."""
    holds: dict[str, ModelHold] = field(default_factory=dict)
    by_day: dict[date, list[ModelHold]] = field(default_factory=lambda: defaultdict(list))
    bills: dict[tuple[int, date, str], int] = field(default_factory=dict)  # by scope, day, source
    unstarted: dict[str, ModelHold] = field(default_factory=dict)
    words: dict[tuple[Scope, WindowKind], list[tuple[datetime, bool, int | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """What was said of each limit: when it begins, whether at once, and how much (None: removed)."""
    said_at: dict[tuple[Scope, WindowKind], datetime] = field(default_factory=dict)
    stopped: bool = False

    def limit(self, scope: Scope, kind: WindowKind, now: datetime) -> int | None:
        words = self.words[scope, kind]
        begun = [(begins, n) for n, (begins, at_once, _) in enumerate(words) if at_once or begins <= now]
        found = words[max(begun)[1]][2] if begun else None
        usual = self.usual.get((scope, kind))
        if usual is None and isinstance(scope, int):
            usual = self.usual.get((-1, kind))
        return usual if found is None else found

    def say_limit(
        self, scope: Scope, kind: WindowKind, pico: int | None, now: datetime, begins: datetime | None = None
    ) -> None:
        at_once = begins is None or begins <= now
        # A word begins after what was said to hold at once before it, even where the clock was set back.
        begins = max(begins or now, self.said_at.get((scope, kind), now))
        if at_once:
            self.said_at[scope, kind] = begins
        self.words[scope, kind].append((begins, at_once, pico))

    def scopes(self, what: Operation, now: datetime) -> Iterator[Scope]:
        yield from (0, what.user_id)
        if any(self.limit(what.service, kind, now) is not None for kind in WindowKind):
            yield what.service

    def spent(self, scope: Scope, kind: WindowKind, now: datetime, *, with_late: bool = False) -> tuple[int, int]:
        """(booked or billed, held) of a scope in a window; `with_late`: with the holds that ran out of time."""
        today = now.date()
        days = [today + timedelta(days=n) for n in range(-31, 32)]
        days = [day for day in days if in_window(kind, day, today)]
        mine = [hold for day in days for hold in self.by_day.get(day, ()) if hold.is_of(scope)]
        booked = {key[1:]: 0 for key in self.bills if key[0] == scope and key[1] in days}
        for hold in mine:
            key = hold.at.date(), "" if isinstance(scope, str) else hold.operation.source  # bills know no services
            booked[key] = booked.get(key, 0) + (hold.settled or 0) + hold.corrected
        real = sum(max(pico, self.bills.get((scope, *key), 0)) for key, pico in booked.items())  # type: ignore[arg-type]
        return real, sum(hold.held(now, with_late=with_late) for hold in mine)

    def reserve(self, hold_id: str, what: Operation, estimate: int, now: datetime) -> str:
        known = self.holds.get(hold_id)
        if known:
            return "" if (known.operation, known.estimate) == (what, estimate) else "HoldIdReused"
        if self.stopped:
            return "EmergencyStopped"
        if self.over(what, estimate, now, with_late=True):
            if over := self.over(what, estimate, now, with_late=False):
                return over
            for known_id, hold in list(self.unstarted.items()):
                if hold.runs_out(now):
                    hold.ended = "expire"
                if hold.ended or hold.started:
                    del self.unstarted[known_id]
        self.holds[hold_id] = self.unstarted[hold_id] = ModelHold(what, estimate, now)
        self.by_day[now.date()].append(self.holds[hold_id])
        return ""

    def over(self, what: Operation, estimate: int, now: datetime, *, with_late: bool) -> str:
        for scope in self.scopes(what, now):
            for kind in WindowKind:
                limit = self.limit(scope, kind, now)
                if limit is not None and sum(self.spent(scope, kind, now, with_late=with_late)) + estimate > limit:
                    name = "service" if isinstance(scope, str) else "user" if scope else "system"
                    return f"OverLimit {name} {kind}"
        return ""

    def begin(self, hold_id: str, what: Operation, estimate: int, now: datetime) -> str:
        return self.reserve(hold_id, what, estimate, now) or self.start(hold_id, now)

    def book(self, hold_id: str, what: Operation, estimate: int, now: datetime) -> str:
        refused = self.reserve(hold_id, what, estimate, now)
        if refused:
            return refused
        hold = self.holds[hold_id]
        if hold.ended in ("void", "expire"):
            return "HoldResolved"
        if not hold.ended:
            hold.ended, hold.settled = "settle", estimate
        return ""  # it was booked, or settled at another amount: as it was

    def start(self, hold_id: str, now: datetime) -> str:
        hold = self.holds.get(hold_id)
        if hold is None:
            return "HoldUnknown"
        if hold.runs_out(now):
            hold.ended = "expire"
        if hold.ended:
            return "HoldExpired" if hold.ended == "expire" else "HoldResolved"
        if self.stopped and not hold.started:
            return "EmergencyStopped"
        hold.started = True
        return ""

    def settle(self, hold_id: str, actual: int) -> str:
        hold = self.holds.get(hold_id)
        if hold is None:
            return "HoldUnknown"
        if hold.settled is not None:
            return "" if hold.settled == actual else "HoldResolved"
        hold.ended, hold.settled = hold.ended or "settle", actual
        return ""

    def void(self, hold_id: str) -> str:
        hold = self.holds.get(hold_id)
        if hold is None:
            return "HoldUnknown"
        hold.ended = hold.ended or "void"
        return "" if hold.ended == "void" else "HoldResolved"

    def correct(self, hold_id: str, delta: int) -> str:
        if hold_id not in self.holds:
            return "HoldUnknown"
        self.holds[hold_id].corrected += delta
        return ""

"""People decide on limits and the emergency stop: each decision is a row with who and why, and the newest holds.

A limit is the whole system's, one user's, or the most that all together may spend on one service; it begins when it is
set, or later. Where nobody set one for the system or a user, the settings' limits hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from podcastqa.clock import Clock, WindowKind, from_microseconds, microseconds, utc
from podcastqa.database import Database, Driver
from podcastqa.errors import EmergencyStopped, Misuse
from podcastqa.money import ZERO, Usd
from podcastqa.spend.books import Books
from podcastqa.spend.entries import MOST_LETTERS, checked_estimate
from podcastqa.spend.limits import InForce, in_force, to_come
from podcastqa.spend.standing import KINDS
from podcastqa.users import SYSTEM_ID

Limits = Mapping[WindowKind, Usd]
#: (user id, 0 for the whole system; window) → the most it may spend.
EffectiveLimits = dict[tuple[int, WindowKind], Usd]
_WORDS = """SELECT user_id, service, window_kind, amount_pico, removed, from_us, id, set_us, set_by, reason
 FROM limits ORDER BY id"""


class WordState(StrEnum):
    """What has become of a decision on a limit."""

    IN_FORCE = "in force"
    LATER = "begins later"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class LimitWord:
    """One decision on a limit; `amount` None: it was removed."""

    user_id: int
    service: str
    kind: WindowKind
    amount: Usd | None
    valid_from: datetime
    said_at: datetime
    said_by: str
    reason: str
    state: WordState


@dataclass(frozen=True, slots=True)
class Stop:
    """The emergency stop: who pressed or released it, when and why."""

    stopped: bool
    at_us: int
    said_by: str
    reason: str


class Decisions:
    """What people decided."""

    def __init__(self, database: Database, clock: Clock, system_limits: Limits, user_limits: Limits) -> None:
        self._database, self._clock = database, clock
        self._system_limits, self._user_limits = _picos(system_limits), _picos(user_limits)

    def limits(self, user_id: int, now: datetime | None = None) -> EffectiveLimits:
        """The limits in force for the system and the user: what somebody set, else the settings'."""
        with self._database.snapshot() as driver:
            found = self._limits_of(Books(driver, now or self._clock.now()).limits(), user_id)
        return {
            (scope, kind): Usd.from_pico(pico)
            for scope, picos in found.items()
            for kind, pico in zip(KINDS, picos, strict=True)
            if pico is not None
        }

    def service_limits(self, now: datetime | None = None) -> dict[tuple[str, WindowKind], Usd]:
        """The limits in force for services."""
        with self._database.snapshot() as driver:
            set_by_people = Books(driver, now or self._clock.now()).limits()
        return {
            (service, kind): Usd.from_pico(pico)
            for service in set_by_people.services()
            for kind, pico in zip(KINDS, set_by_people.of(SYSTEM_ID, service), strict=True)
            if pico is not None
        }

    def set_limit(
        self,
        user_id: int,
        kind: WindowKind,
        amount: Usd,
        *,
        by: str,
        reason: str,
        service: str = "",
        valid_from: datetime | None = None,
    ) -> None:
        """Set a limit for the system (user id 0), one user or one service, from now or a later instant on."""
        self._say_limit(user_id, service, kind, checked_estimate(amount), by, reason, valid_from)

    def remove_limit(
        self,
        user_id: int,
        kind: WindowKind,
        *,
        by: str,
        reason: str,
        service: str = "",
        valid_from: datetime | None = None,
    ) -> None:
        """Take back what was set: the settings' limit holds again, a service then has none."""
        self._say_limit(user_id, service, kind, None, by, reason, valid_from)

    def limit_history(self, now: datetime | None = None) -> tuple[LimitWord, ...]:
        """Every decision on limits, in the order they were said, and what has become of it."""
        now_us = microseconds(now or self._clock.now())
        with self._database.snapshot() as driver:
            rows = driver.execute(_WORDS).fetchall()
        states = {row[6]: WordState.LATER for row in to_come(rows, now_us)}
        states |= {row[6]: WordState.IN_FORCE for row in in_force(rows, now_us).rows.values()}
        return tuple(
            LimitWord(
                *(row[0], row[1], WindowKind(row[2]), None if row[4] else Usd.from_pico(row[3])),
                *(from_microseconds(row[5]), from_microseconds(row[7]), row[8], row[9]),
                states.get(row[6], WordState.REPLACED),
            )
            for row in rows
        )

    def _say_limit(
        self,
        user_id: int,
        service: str,
        kind: WindowKind,
        amount: Usd | None,
        by: str,
        reason: str,
        valid_from: datetime | None,
    ) -> None:
        if service and user_id != SYSTEM_ID:
            raise Misuse("A limit is one user's or one service's, not both.")
        if len(service) > MOST_LETTERS:
            raise Misuse(f"A service has a name of 1 to {MOST_LETTERS} characters.")
        who, why = _said(by, "who"), _said(reason, "why")
        with self._database.hot() as driver:
            now = self._clock.now()  # in its turn: decisions and entries then have one order
            begins = utc(valid_from) if valid_from else now
            if begins < now:
                raise Misuse(
                    f"A limit cannot begin in the past ({begins:%Y-%m-%d %H:%M} UTC).",
                    next_step="Leave its beginning out, and it holds from now on.",
                )
            pico, removed = (amount or ZERO).pico, int(amount is None)
            driver.execute(
                "INSERT INTO limits (user_id, service, window_kind, amount_pico, removed, from_us, set_us, set_by,"
                " reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (user_id, service, kind.value, pico, removed, microseconds(begins), microseconds(now), who, why),
            )

    def stop(self, *, by: str, reason: str) -> int:
        """Close everything at once, in every process; returns the number of this order."""
        return self._say_stop(True, by, reason)

    def release(self, *, by: str, reason: str) -> int:
        """Open it again; recorded with who and why."""
        return self._say_stop(False, by, reason)

    def stopped(self) -> Stop | None:
        """The stop in force, or None."""
        with self._database.snapshot() as driver:
            word = Books(driver, self._clock.now()).stop()
        return Stop(True, *word[1:]) if word and word[0] else None

    def stop_history(self) -> tuple[Stop, ...]:
        """Every word on the emergency stop, in the order they were said."""
        with self._database.snapshot() as driver:
            rows = driver.execute("SELECT stopped, at_us, said_by, reason FROM stops ORDER BY id").fetchall()
        return tuple(Stop(bool(row[0]), *row[1:]) for row in rows)

    def _say_stop(self, stopped: bool, by: str, reason: str) -> int:
        who, why = _said(by, "who"), _said(reason, "why")
        with self._database.hot() as driver:
            row = int(stopped), microseconds(self._clock.now()), who, why
            driver.execute("INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (?, ?, ?, ?)", row)
            return _last_stop(driver)

    def _limits_of(self, set_by_people: InForce, user_id: int) -> dict[int, Sequence[int | None]]:
        """System first, then the user; where nobody set a limit the settings' own."""
        usual = {user_id: self._user_limits, SYSTEM_ID: self._system_limits}  # in this order: the user may be 0
        return {
            scope: [
                default if pico is None else pico
                for pico, default in zip(set_by_people.of(scope), usual[scope], strict=True)
            ]
            for scope in dict.fromkeys((SYSTEM_ID, user_id))
        }


def _last_stop(driver: Driver) -> int:
    (number,) = driver.execute("SELECT max(id) FROM stops").fetchone()
    return int(number)


def _picos(limits: Limits) -> list[int | None]:
    return [limits[kind].pico if kind in limits else None for kind in KINDS]


def refuse_if_stopped(word: tuple[int, int, str, str] | None) -> None:
    """Raises EmergencyStopped while the newest word on the stop (stopped, microseconds, who, why) is that it is on."""
    if word is not None and word[0]:
        raise EmergencyStopped(
            f"The emergency stop is on ({word[2]}: {word[3]}).",
            next_step="Release it: podcastqa budget release --reason WHY",
        )


def _said(text: str, what: str) -> str:
    if not text.strip():
        raise Misuse(f"This is recorded: say {what}.", next_step='For example --by ada --reason "month end".')
    return text.strip()

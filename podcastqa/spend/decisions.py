"""People decide on limits and the emergency stop: each decision is a row with who and why, and the newest holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from podcastqa.clock import Clock, WindowKind, microseconds
from podcastqa.database import Database
from podcastqa.errors import EmergencyStopped, Misuse
from podcastqa.money import Usd
from podcastqa.spend.entries import checked_estimate
from podcastqa.spend.ledger import KINDS
from podcastqa.users import SYSTEM_ID

Limits = Mapping[WindowKind, Usd]
#: (user id, 0 for the whole system; window) → the most it may spend.
EffectiveLimits = dict[tuple[int, WindowKind], Usd]
_LATEST = """SELECT user_id, window_kind, amount_pico FROM limits WHERE id IN
 (SELECT max(id) FROM limits WHERE user_id IN (0, ?) GROUP BY user_id, window_kind)"""

#: A window's place among day, week, month.
PLACE = {kind.value: place for place, kind in enumerate(KINDS)}


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

    def limits(self, user_id: int) -> EffectiveLimits:
        """The limits in force for the system and the user: the latest that somebody set, else the settings'."""
        with self._database.snapshot() as driver:
            found = self._limits(driver, user_id)
        return {
            (scope, kind): Usd.from_pico(pico)
            for scope, picos in found.items()
            for kind, pico in zip(KINDS, picos, strict=True)
            if pico is not None
        }

    def set_limit(self, user_id: int, kind: WindowKind, amount: Usd, *, by: str, reason: str) -> None:
        """Set a limit from now on, for the system (user id 0) or one user, recorded with who and why."""
        amount = checked_estimate(amount)
        row = (
            user_id,
            kind.value,
            amount.pico,
            microseconds(self._clock.now()),
            _said(by, "who"),
            _said(reason, "why"),
        )
        with self._database.hot() as driver:
            driver.execute(
                "INSERT INTO limits (user_id, window_kind, amount_pico, set_us, set_by, reason)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                row,
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
            return _stop(driver)

    def _say_stop(self, stopped: bool, by: str, reason: str) -> int:
        row = (int(stopped), microseconds(self._clock.now()), _said(by, "who"), _said(reason, "why"))
        with self._database.hot() as driver:
            done = driver.execute("INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (?, ?, ?, ?)", row)
            return int(done.lastrowid or 0)

    def _limits(self, driver: sqlite3.Connection, user_id: int) -> dict[int, list[int | None]]:
        found = {user_id: list(self._user_limits), SYSTEM_ID: list(self._system_limits)}  # in this order: it may be 0
        for scope, kind, pico in driver.execute(_LATEST, (user_id,)):
            found[scope][PLACE[kind]] = pico
        return found


def _picos(limits: Limits) -> list[int | None]:
    return [limits[kind].pico if kind in limits else None for kind in KINDS]


def _stop(driver: sqlite3.Connection) -> Stop | None:
    row = driver.execute("SELECT stopped, at_us, said_by, reason FROM stops ORDER BY id DESC LIMIT 1").fetchone()
    return Stop(True, *row[1:]) if row and row[0] else None


def refuse_if_stopped(driver: sqlite3.Connection) -> None:
    """Raises EmergencyStopped while the stop is on."""
    stop = _stop(driver)
    if stop is not None:
        raise EmergencyStopped(
            f"The emergency stop is on ({stop.said_by}: {stop.reason}).",
            next_step="Release it: podcastqa budget release --reason WHY",
        )


def _said(text: str, what: str) -> str:
    if not text.strip():
        raise Misuse(f"This is recorded: say {what}.", next_step='For example --by ada --reason "month end".')
    return text.strip()

"""Money that is set aside and not resolved yet: who holds it, for what and how long, and what of it is in doubt.

A hold that started and then vanished counts at its estimate until somebody says what came of it: nothing here resolves
by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from podcastqa.clock import from_microseconds
from podcastqa.database import Database
from podcastqa.display import Table, Tabular
from podcastqa.errors import HoldUnknown
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import HAS_ENDED, WAS_STARTED, Hold, Operation

_HOLDS = f"""SELECT r.hold_id, r.user_id, r.service, r.operation, r.source, r.price, r.amount_pico, r.at_us,
 r.expires_us, CASE WHEN {HAS_ENDED} THEN NULL WHEN r.expires_us = 0 OR {WAS_STARTED} THEN 1 ELSE 0 END FROM entries r
 WHERE r.kind = 'reserve'"""
# Open are those that were when the books were carried forward and those reserved since, but for what has ended.
_OPEN = f"""{_HOLDS} AND (r.id > (SELECT through_id FROM carried) OR r.hold_id IN (SELECT hold_id FROM open_holds))
 AND NOT {HAS_ENDED} ORDER BY r.id"""
_ONE = f"{_HOLDS} AND r.hold_id = ?"


#: What was reserved and started in one, and runs longer, has probably vanished.
_RUNS_FOR = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A hold as it stands: `started` None where it is resolved."""

    hold: Hold
    started: bool | None

    def state(self, now: datetime) -> str:
        """What can be said of it: nobody but its own process knows whether it still runs."""
        hold = self.hold
        at_once = hold.expires_at == hold.reserved_at
        late = now >= (hold.reserved_at + _RUNS_FOR if at_once else hold.expires_at)
        if self.started:
            return "in doubt" if late else "runs, or in doubt"
        return "ran out of time, does not count" if late else "reserved"


@dataclass(frozen=True, slots=True)
class OpenHolds(Tabular):
    """Every hold that nothing has resolved, the oldest first."""

    holds: tuple[OpenHold, ...]
    names: Mapping[int, str]
    as_of: datetime

    def table(self) -> Table:
        """One row a hold."""
        columns = ("hold", "user", "operation", "estimate in USD", "state", "age")
        rows = tuple(
            (
                *(
                    one.hold.hold_id,
                    self.names.get(what.user_id, str(what.user_id)),
                    f"{what.service} {what.operation}",
                ),
                *(one.hold.estimate, one.state(self.as_of), shown_age(self.as_of - one.hold.reserved_at)),
            )
            for one in self.holds
            for what in (one.hold.operation,)
        )
        started = [one.hold.estimate for one in self.holds if one.started]
        notes = [f"{len(started)} started, at {sum(started, ZERO).shown()} together, of {len(self.holds)} open holds."]
        if started:
            notes.append(
                "Say what came of one: podcastqa holds settle ID AMOUNT --reason WHY, or holds void ID --reason WHY"
            )
        return Table("Open holds", columns, rows, tuple(notes))


def open_holds(database: Database, names: Mapping[int, str], now: datetime) -> OpenHolds:
    """All of them."""
    with database.snapshot() as driver:
        rows = driver.execute(_OPEN).fetchall()
    return OpenHolds(tuple(map(_hold, rows)), names, now)


def find_hold(database: Database, hold_id: str) -> OpenHold:
    """The hold of that id; raises HoldUnknown."""
    with database.snapshot() as driver:
        rows = driver.execute(_ONE, (hold_id,)).fetchall()
    if not rows:
        raise HoldUnknown(f"There is no hold {hold_id}.", next_step="See which are open: podcastqa holds list")
    return _hold(rows[0])


def shown_age(age: timedelta) -> str:
    """A stretch of time in its two largest units."""
    seconds = max(int(age.total_seconds()), 0)
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


def _hold(row: tuple[str, int, str, str, str, str, int, int, int, int | None]) -> OpenHold:
    what = Operation(user_id=row[1], service=row[2], operation=row[3], source=row[4], price=row[5])
    times = from_microseconds(row[7]), from_microseconds(row[8] or row[7])
    return OpenHold(Hold(row[0], what, Usd.from_pico(row[6]), *times), None if row[9] is None else bool(row[9]))

"""Writers of the same books follow each other: each counts the entries that others have added, as if they were its own.

Where anything else was written (a limit, a bill, a user) all is read anew. Counters and open holds are carried forward
when the tail has grown long, by whoever writes then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from podcastqa.errors import LedgerUnavailable
from podcastqa.spend.changes import LONGEST_TAIL
from podcastqa.spend.entries import ENDS, STEP
from podcastqa.spend.lives import Lives

#: Where more entries are to be followed the books are read anew: they are carried forward far more often.
_MOST_FOLLOWED = 4 * LONGEST_TAIL


class Followed(NamedTuple):
    """How far a writer has read."""

    last_id: int
    """The last entry that was there when it last looked; its own newer ones follow it at once."""
    through_id: int
    times: int
    others: int
    """Another number after each write of anything else."""


class Following(Lives):
    """What this writer knows of what was written."""

    _followed: Followed | None = None

    def forget(self) -> None:
        """Nothing that is remembered may be believed: read anew."""
        self._followed = None
        self.forget_counts()
        self.forget_lives()

    def follow(self, still: bool = False) -> None:
        """Take in what others have written since this writer last looked; `still`: nobody has."""
        known = self._followed
        if known is None:
            self._followed = self._read_tail(self._ask_followed())
        elif not still:
            now = self._ask_followed()
            if now.others != known.others or now.through_id - known.last_id > _MOST_FOLLOWED:
                self.forget()
                self._followed = self._read_tail(now)
            else:
                self._followed = self._catch_up(known, now)
        elif self.own > _MOST_FOLLOWED:  # they would be read again
            [(last_id,)] = self.ask("SELECT max(id) FROM entries")
            self._followed, self.own = known._replace(last_id=last_id), 0

    def carry(self) -> None:
        """Bring counters and open holds up to the newest entry, inside the transaction."""
        if self.changes.entries:
            self.write_entries()
        self.changes.carry(self.driver)
        self._written = True
        if self._followed is not None:
            self._followed = self._followed._replace(times=self._followed.times + 1)

    def _ask_followed(self) -> Followed:
        rows = self.ask(_FOLLOWED)
        if not rows:
            raise LedgerUnavailable(
                "The ledger does not say up to which entry its counters hold everything, so nothing may be spent.",
                next_step="Put a copy of it back, then run podcastqa audit.",
            )
        return Followed(*rows[0])

    def _read_tail(self, now: Followed) -> Followed:
        rows = self.ask(_ENTRIES_AFTER, (now.through_id,))
        self.own = 0
        self._take(rows)
        return now._replace(last_id=rows[-1][0]) if rows else now

    def _catch_up(self, known: Followed, now: Followed) -> Followed:
        """The entries that others wrote after our own, which are the first of those that were not there before."""
        rows = self.ask(_ENTRIES_AFTER, (known.last_id,))[self.own :]
        if now.times != known.times:  # somebody carried forward: the tail begins anew there
            carried = [row for row in rows if row[0] <= now.through_id]
            self._take(carried)
            self.changes.begin_tail()
            rows = rows[len(carried) :]
            last_id = now.through_id
        else:
            last_id = known.last_id
        if rows or last_id != known.last_id:
            self.own = 0
        self._take(rows)
        return now._replace(last_id=rows[-1][0] if rows else last_id)

    def _take(self, rows: Sequence[Any]) -> None:
        """Count entries as this writer would have, had it written them."""
        known, reading, this_day = self._today, self._reading, self.day
        for _, kind, user_id, service, source, day, pico, hold_id, estimate in rows:
            booked, held = 0, pico
            if hold_id is not None:  # no reserve
                if kind == "start":
                    self._unstarted.discard(hold_id)
                    continue
                booked, held = (pico if kind in {"settle", "correct"} else 0), -estimate
                if kind != "correct":
                    self.forget_life(hold_id)
            today = known.get((user_id, service, source))
            if today is None or today.read != reading or day != this_day:
                self.count_other(user_id, source, service, day, booked, held)
            else:
                self.count_today(today, booked, held)
        self._next_expiry_us = None if rows else self._next_expiry_us
        self.changes.length += len(rows)


_RESERVED = f"(SELECT amount_pico FROM entries AS r WHERE r.hold_id = entries.hold_id AND ({STEP}) = 0)"
_ENTRIES_AFTER = f"""SELECT id, kind, user_id, service, source, day, amount_pico,
 CASE WHEN kind <> 'reserve' THEN hold_id END, CASE WHEN {ENDS} THEN coalesce({_RESERVED}, 0) ELSE 0 END
 FROM entries WHERE id > ? ORDER BY id"""
#: Decisions are looked at too: whoever types one into SQLite's shell says nothing of it in `carried`.
_FOLLOWED = """SELECT through_id, through_id, times, others + (SELECT coalesce(max(id), 0) FROM limits)
 + (SELECT coalesce(max(id), 0) FROM stops) FROM carried"""

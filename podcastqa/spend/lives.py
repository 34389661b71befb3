"""What is known of holds, as a batch sees them: for what they were reserved, whether they started, how they ended.

Those that are open are remembered; of one that has ended few ask again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from podcastqa.clock import from_microseconds
from podcastqa.database import Driver
from podcastqa.errors import HoldUnknown
from podcastqa.money import Usd
from podcastqa.spend.changes import TAIL
from podcastqa.spend.entries import STEP, EntryKind, Hold, Operation
from podcastqa.spend.standing import NEVER, Expired
from podcastqa.spend.tally import Tally, marks

#: How the reason of a settle begins that came after its hold had ended.
LATE = "settled after the hold had ended"


class Lives(Tally):
    """The holds that a batch asks for."""

    now_us: int
    """The instant at which all of it happens."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.forget_lives()

    def forget_lives(self) -> None:
        """What has become of holds is to be read anew."""
        self._open: dict[str, Hold] = {}
        self._unstarted: set[str] = set()  # of the open ones
        self._ended: dict[str, tuple[Hold, EntryKind, Usd]] = {}  # in this transaction, or before and asked for in it
        self._next_expiry_us: int | None = None  # no unstarted hold runs out before; None: not read yet

    def begin_lives(self) -> None:
        """Another transaction begins."""
        self._ended.clear()

    def end_life(self, hold: Hold, kind: EntryKind, amount: Usd) -> None:
        """The hold ends in this transaction."""
        self.forget_life(hold.hold_id)
        self._ended[hold.hold_id] = hold, kind, amount

    def forget_life(self, hold_id: str) -> None:
        """What has become of this hold is to be read anew."""
        self._open.pop(hold_id, None)
        self._unstarted.discard(hold_id)

    def forget_lives_past(self, most: int) -> None:
        """Remember no hold where there are more than so many."""
        if len(self._open) > most:
            self._open, self._unstarted = {}, set()

    def look_up(self, hold_ids: Iterable[str]) -> list[str]:
        """Read what is not remembered of these holds, all at once; returns which of them that was asked of."""
        ids = [one for one in hold_ids if one not in self._open and one not in self._ended]
        if not ids:
            return ids
        for row in self.ask(f"{_LIVES} WHERE kind <> 'correct' AND hold_id IN ({marks(ids)}) ORDER BY id", ids):
            hold_id, kind = row[0], EntryKind(row[1])
            if kind is EntryKind.RESERVE:
                self._open[hold_id] = _hold(row)
                if row[9]:
                    self._unstarted.add(hold_id)
            elif kind is EntryKind.START:
                self._unstarted.discard(hold_id)
            elif hold_id in self._open:
                self.end_life(self._open[hold_id], kind, Usd.from_pico(row[7]))
        return ids

    def payers(self, hold_ids: Iterable[str]) -> set[int]:
        """Who pays for those of the holds that are remembered."""
        return {hold.operation.user_id for one in hold_ids if (hold := self.found(one))}

    def found(self, hold_id: str) -> Hold | None:
        """The hold of that id, of those that were looked up: an id that was made just now is nobody else's."""
        hold = self._open.get(hold_id)
        if hold is None and hold_id in self._ended:
            hold = self._ended[hold_id][0]
        return hold

    def get(self, hold_id: str) -> Hold:
        """The hold of that id, as it was reserved; raises HoldUnknown."""
        self.look_up([hold_id])
        hold = self.found(hold_id)
        if hold is None:
            raise HoldUnknown(f"There is no hold {hold_id}.", next_step="Reserve it first.")
        return hold

    def if_open(self, hold_id: str) -> Hold | None:
        """The hold of that id, if it is known to be open."""
        return self._open.get(hold_id)

    def end(self, hold_id: str) -> tuple[EntryKind, Usd] | None:
        """How the hold was resolved, and the amount; None while it is open."""
        self.look_up([hold_id])
        return self._ended[hold_id][1:] if hold_id in self._ended else None

    def is_started(self, hold_id: str) -> bool:
        """Whether the operation of this open hold has started."""
        self.look_up([hold_id])
        return hold_id in self._open and hold_id not in self._unstarted

    def settled_late(self, hold_id: str) -> Usd | None:
        """What was said to have been spent after the hold expired or was voided; None if nothing."""
        rows = self.ask(
            "SELECT amount_pico FROM entries WHERE hold_id = ? AND kind = 'correct'"
            " AND substr(reason, 1, CAST(? AS INTEGER)) = ?",
            (hold_id, len(LATE), LATE),
        )
        return Usd.from_pico(rows[0][0]) if rows else None

    def expired(self) -> list[Expired]:
        """Open holds that ran out of time before they started: they have stopped counting.

        All that are open are read for it: no index is kept for what few ask, and seldom.
        """
        if self._next_expiry_us is None:
            firsts = [first for (first,) in self.ask(_FIRST_EXPIRY, self.ask(TAIL)[0]) if first is not None]
            self._next_expiry_us = min(firsts, default=NEVER)
        if self.now_us < self._next_expiry_us:
            return []
        self._next_expiry_us = None  # what is found now is closed if it makes room
        return [tuple(row[:6]) for row in self.ask(_EXPIRED, (self.now_us, *self.ask(TAIL)[0], self.now_us))]


def _hold(row: Sequence[Any]) -> Hold:
    operation = Operation(user_id=row[2], service=row[3], operation=row[4], source=row[5], price=row[6])
    times = from_microseconds(row[8]), from_microseconds(row[9] or row[8])
    return Hold(row[0], operation, Usd.from_pico(row[7]), *times)


_LIVES = """SELECT hold_id, kind, user_id, service, operation, source, price, amount_pico, at_us, expires_us
 FROM entries"""
_WENT_ON = f"EXISTS (SELECT 1 FROM entries WHERE hold_id = e.hold_id AND ({STEP}) > 0)"
_IN_TAIL = "e.kind = 'reserve' AND e.expires_us > 0 AND e.id > ? AND e.id <= ?"
#: The earliest, of those that were carried forward and those of the tail; some may have started or ended since.
_FIRST_EXPIRY = f"""SELECT min(expires_us) FROM open_holds WHERE started = 0
 UNION ALL SELECT min(expires_us) FROM entries e WHERE {_IN_TAIL}"""
_LATE_HOLD = "SELECT e.hold_id, e.user_id, e.source, e.day, e.amount_pico, e.service, e.id AS place FROM"
_EXPIRED = f"""{_LATE_HOLD} open_holds h JOIN entries e ON e.hold_id = h.hold_id AND ({STEP}) = 0
 WHERE h.started = 0 AND h.expires_us <= ? AND NOT {_WENT_ON}
 UNION ALL {_LATE_HOLD} entries e WHERE {_IN_TAIL} AND e.expires_us <= ? AND NOT {_WENT_ON} ORDER BY place"""

"""Of all the words that people said about a limit, the one in force is that with the latest beginning that has come.

A word begins when it is said, or at a later instant that it names; of two that begin at once the later one counts. A
limit that was removed counts as never set: the system and the users fall back to the settings' limits, a service then
has none. Clocks are set back, and those of two machines differ: what was to hold at once holds all the same, and the
words that are said after it begin no earlier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from podcastqa.clock import WindowKind
from podcastqa.users import SYSTEM_ID

#: user id (0: the whole system), service ("": all), window, pico-dollars, removed (0 or 1), valid from (us), row id,
#: said at (us)
LimitRow = tuple[int, str, str, int, int, int, int, int]
#: What a limit is for: user id, service, window.
LimitKey = tuple[int, str, str]
#: A window's place among day, week, month.
PLACE = {kind.value: place for place, kind in enumerate(WindowKind)}
_NEVER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class InForce:
    """What people set, as it is from one instant (microseconds) until before another."""

    from_us: int
    until_us: int
    rows: Mapping[LimitKey, LimitRow]
    """The word that counts on each limit; it may be that the limit is removed."""
    _picos: Mapping[tuple[int, str], Sequence[int | None]]

    def holds(self, now_us: int) -> bool:
        """Whether this is what is in force at that instant."""
        return self.from_us <= now_us < self.until_us

    def of(self, user_id: int, service: str = "") -> Sequence[int | None]:
        """The limits of a scope in pico-dollars: day, week, month; None where nobody set one."""
        return self._picos.get((user_id, service), (None, None, None))

    def services(self) -> tuple[str, ...]:
        """The services that have a limit, in the order of the alphabet."""
        return tuple(sorted(service for user_id, service in self._picos if user_id == SYSTEM_ID and service))


def in_force(rows: Iterable[LimitRow], now_us: int) -> InForce:
    """What is in force at that instant, and from when until when nothing of it changes."""
    begin, end, newest = 0, _NEVER, dict[LimitKey, LimitRow]()
    for begins, row in _by_beginning(rows):
        if not _at_once(row):
            if begins > now_us:
                end = min(end, begins)
                continue
            begin = begins
        newest[row[:3]] = row
    picos: dict[tuple[int, str], list[int | None]] = {}
    for (user_id, service, kind), row in newest.items():
        if not row[4]:
            picos.setdefault((user_id, service), [None, None, None])[PLACE[kind]] = row[3]
    return InForce(begin, end, newest, picos)


def to_come(rows: Iterable[LimitRow], now_us: int) -> list[LimitRow]:
    """The words that begin later, in the order of their beginnings; one that another replaces at once is none."""
    planned = dict[tuple[LimitKey, int], LimitRow]()
    for begins, row in _by_beginning(rows):
        if _at_once(row):  # it holds: what begins before it never will
            planned = {key: other for key, other in planned.items() if key[0] != row[:3]}
        elif begins > now_us:
            planned[row[:3], begins] = row
    return list(planned.values())


def _at_once(row: LimitRow) -> bool:
    return row[5] <= row[7]


def _by_beginning(rows: Iterable[LimitRow]) -> list[tuple[int, LimitRow]]:
    """Each word with when it begins, so that the later ones on a limit count."""
    found, last = [], dict[LimitKey, int]()
    for row in sorted(rows, key=lambda one: one[6]):
        begins = max(row[5], last.get(row[:3], 0))
        if _at_once(row):
            last[row[:3]] = begins
        found.append((begins, row))
    return sorted(found, key=lambda one: one[0])  # stable: of two that begin at once the later word comes later

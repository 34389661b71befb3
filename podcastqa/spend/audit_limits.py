"""Every admission again, in the order of ids, against the limit and the stop in force then: the guard kept its word.

What is booked and held is replayed from the entries alone. The bills of that time are not kept; they can only have
made a window fuller than it is here. So an overrun, a late settle, a correction or a bill may fill a window past its
limit, and whoever was admitted into such a window is still found. Limits and entries are numbered apart: where an
admission and a decision lie within a second of each other, or the clock went back between entries, either may have
been first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from itertools import accumulate
from typing import Any

from podcastqa.clock import WindowKind, day_number, day_of, from_microseconds, window
from podcastqa.money import Usd
from podcastqa.spend.admission import Kept
from podcastqa.spend.limits import LimitRow, in_force
from podcastqa.users import SYSTEM_ID

KINDS = tuple(WindowKind)
#: Pico-dollars in day, week and month; None where there is no limit.
Picos = Sequence[int | None]
#: Clocks of several machines, and the wait for the turn to write, differ by less.
_ABOUT_US = 1_000_000
_NEVER = 2**63 - 1
_EPOCH_DAY = day_number(from_microseconds(0).date())
_MONTH = f"date_diff('month', DATE '1970-01-01', DATE '1970-01-01' + (e.day - {_EPOCH_DAY})::INTEGER)"
_ADMITTED = "kind IN ('reserve', 'start')"
#: What each entry adds to what is booked and held. Days are numbered from a Monday. `payer`: whose limits a user has.
_MOVES = f"""CREATE TABLE moves AS SELECT e.id, e.id = e.reserved AS admits, 0 AS whole, e.user_id, e.service,
 CASE WHEN e.user_id::VARCHAR IN (SELECT scope FROM spells WHERE law = 'payer') THEN e.user_id::VARCHAR ELSE '' END
 AS payer, e.at_us, e.day, (e.day - 1) // 7 AS week, {_MONTH} AS month, CASE
 WHEN e.kind = 'correct' THEN e.amount_pico WHEN e.id = e.reserved THEN r.amount_pico
 WHEN e.id = e.ended THEN e.amount_pico - r.amount_pico ELSE 0 END AS delta
 FROM entries e JOIN reserves r ON r.id = e.reserved WHERE e.kind <> 'start'"""
_FAULTS = (
    "CREATE TABLE faults (id BIGINT, day BIGINT, kind VARCHAR, scope VARCHAR, law VARCHAR, total HUGEINT,"
    " pico BIGINT, people BOOLEAN)"
)
#: The admissions that no order of the decisions allows. A window needs no replay whose estimates, overruns and
#: corrections all together stay below the lowest limit that it ever had.
_FIND = """INSERT INTO faults WITH law AS (SELECT * FROM spells WHERE law = '{law}' AND kind = '{kind}'),
 low AS (SELECT scope AS {law}, min(pico) AS pico FROM law GROUP BY scope),
 filled AS (SELECT {scope}, {kind} FROM moves JOIN low USING ({law}) GROUP BY {scope}, {kind}, pico
 HAVING sum(greatest(delta, 0)) > pico),
 totals AS (SELECT id, admits, at_us, day, {scope} AS whose, {law},
 sum(delta) OVER (PARTITION BY {scope}, {kind} ORDER BY id ROWS UNBOUNDED PRECEDING) AS total
 FROM moves SEMI JOIN filled USING ({scope}, {kind})),
 doubtful AS (SELECT totals.* FROM totals JOIN low USING ({law}) WHERE admits AND total > pico)
 SELECT id, any_value(day), '{kind}', any_value(whose), '{law}', any_value(total), max(pico), bool_and(people)
 FROM doubtful d JOIN law ON law.scope = d.{law} AND id BETWEEN first_id AND last_id
 AND at_us >= from_us AND at_us < until_us GROUP BY id HAVING bool_and(coalesce(total > pico, false))"""
#: The end of each limit is kept for the mail that says so: what one service had since the week or the month began.
_KEPT = """DELETE FROM faults USING (SELECT f.id, f.kind, f.law, sum(m.delta) AS spent
 FROM faults f JOIN moves own ON own.id = f.id JOIN moves m ON m.service = own.service AND m.id <= f.id
 AND (m.week >= own.week OR m.month >= own.month) WHERE own.service = ? GROUP BY f.id, f.kind, f.law) AS k
 WHERE faults.id = k.id AND faults.kind = k.kind AND faults.law = k.law AND k.spent <= least(?, faults.pico // 100)"""


@dataclass(frozen=True, slots=True)
class Faults:
    """Admissions and starts that should have been refused: how many, the first of them, and what it did."""

    count: int
    first_id: int = 0
    said: str = ""


def replay(connection: Any, system: Picos, user: Picos, kept: Kept | None) -> tuple[int, Faults, Faults]:
    """How many admissions there are; those that passed what people had set; those that passed the settings' limits."""
    rows: list[LimitRow] = connection.execute(
        "SELECT user_id, service, window_kind, amount_pico, removed, from_us, id, set_us FROM limits ORDER BY id"
    ).fetchall()
    order = _Order(connection, [row[7] for row in rows])
    _fill_spells(connection, _all_spells(rows, order, system, user))
    connection.execute(_MOVES)
    connection.execute(_FAULTS)
    for scope, law in (("whole", "whole"), ("user_id", "payer"), ("service", "service")):
        for kind in KINDS:
            connection.execute(_FIND.format(scope=scope, law=law, kind=kind))
    if kept:
        connection.execute(_KEPT, [kept.service, kept.most.pico])
    ((count,),) = connection.execute("SELECT count(*) FROM reserves").fetchall()
    return count, _found(connection, "people"), _found(connection, "NOT people")


def while_stopped(connection: Any) -> tuple[int, Faults]:
    """How many admissions and starts there are, and those that came surely between a stop and its release."""
    words = connection.execute("SELECT id, stopped, at_us, said_by FROM stops ORDER BY id").fetchall()
    order, faults = _Order(connection, [row[2] for row in words]), Faults(0)
    for place, (number, stopped, _, by) in enumerate(words):
        until = order.first_after[place + 1] if place + 1 < len(words) else _NEVER
        ((count, first, kind),) = connection.execute(
            f"SELECT count(*), min(id), arg_min(kind, id) FROM entries WHERE {_ADMITTED} AND id > ? AND id < ?",
            [order.last_before[place], until if stopped else 0],
        ).fetchall()
        if count:
            said = faults.said or f"{kind}, though {by} had pressed the emergency stop (number {number})"
            faults = Faults(faults.count + count, faults.first_id or first, said)
    ((looked_at,),) = connection.execute(f"SELECT count(*) FROM entries WHERE {_ADMITTED}").fetchall()
    return looked_at, faults


class _Order:
    """Which admissions and starts came surely before, and which surely after, each of some decisions.

    Whoever knows one decision knows all before it. Where the clock went back, an instant was more than once: then
    whatever lies between its first time and its last is in doubt.
    """

    def __init__(self, connection: Any, said_us: Sequence[int]) -> None:
        rows = []
        if said_us:
            rows = connection.execute(f"SELECT id, at_us FROM entries WHERE {_ADMITTED} ORDER BY id").fetchall()
        self._ids = [row[0] for row in rows]
        self._latest = list(accumulate((row[1] for row in rows), max))
        self._earliest = list(accumulate((row[1] for row in reversed(rows)), min))[::-1]
        self._back = [place for place in range(1, len(rows)) if rows[place][1] < rows[place - 1][1] - _ABOUT_US]
        around = [self._around(at_us) for at_us in said_us]
        self.first_after = list(accumulate((first for first, _ in reversed(around)), min))[::-1]
        """The first entry that may have known each."""
        self.last_before = list(accumulate((last for _, last in around), max))
        """The last entry that may not have known it."""

    def _around(self, at_us: int) -> tuple[int, int]:
        first, last = bisect_left(self._latest, at_us - _ABOUT_US), bisect_right(self._earliest, at_us + _ABOUT_US) - 1
        for place in self._back:
            if at_us <= self._latest[place - 1] + _ABOUT_US:
                first, last = min(first, place), max(last, place - 1)
        return self._ids[first] if first < len(self._ids) else _NEVER, self._ids[last] if last >= 0 else 0

    def times(self, first_id: int, last_id: int) -> tuple[int, int]:
        """Between which instants those entries lie; (1, 0) if there are none."""
        begin, end = bisect_left(self._ids, first_id), bisect_right(self._ids, last_id)
        return (self._earliest[begin], self._latest[end - 1]) if begin < end else (1, 0)


#: law, scope, window, first and last entry, from and until (us), pico-dollars, whether people set it
_Spell = tuple[str, str, str, int, int, int, int, int | None, bool]
_SPELL = (
    "law VARCHAR, scope VARCHAR, kind VARCHAR, first_id BIGINT, last_id BIGINT, from_us BIGINT, until_us BIGINT,"
    " pico BIGINT, people BOOLEAN"
)


def _all_spells(rows: Sequence[LimitRow], order: _Order, system: Picos, user: Picos) -> Iterator[_Spell]:
    """For each scope, the limit that an admission of some ids and instants may have known."""
    places: dict[tuple[int, str], list[int]] = {(SYSTEM_ID, ""): []}
    for place, row in enumerate(rows):
        places.setdefault((row[0], row[1]), []).append(place)
    for (user_id, service), mine in places.items():
        if service:
            yield from _spells("service", service, rows, mine, order, (None, None, None))
        else:
            law, usual = ("payer", user) if user_id else ("whole", system)
            yield from _spells(law, str(user_id), rows, mine, order, usual)
    yield from _spells("payer", "", rows, [], order, user)  # everybody for whom nobody set one


def _spells(
    law: str, scope: str, rows: Sequence[LimitRow], mine: Sequence[int], order: _Order, usual: Picos
) -> Iterator[_Spell]:
    for known in range(len(mine) + 1):
        first = order.first_after[mine[known - 1]] if known else 0
        last = order.last_before[mine[known]] if known < len(mine) else _NEVER
        at_us, end_us = order.times(first, last) if mine else (0, 0)
        while first <= last and at_us <= end_us:
            force = in_force([rows[place] for place in mine[:known]], at_us)
            told = force.of(rows[mine[0]][0], rows[mine[0]][1]) if mine else (None, None, None)
            for kind, pico, default in zip(KINDS, told, usual, strict=True):
                limit = default if pico is None else pico
                yield law, scope, kind.value, first, last, force.from_us, force.until_us, limit, pico is not None
            at_us = force.until_us


def _fill_spells(connection: Any, spells: Iterator[_Spell]) -> None:
    import pyarrow as pa

    connection.execute(f"CREATE TABLE spells ({_SPELL})")
    batch = pa.table([pa.array(column) for column in zip(*spells, strict=True)], names=[f"c{i}" for i in range(9)])
    connection.register("batch", batch)
    connection.execute("INSERT INTO spells SELECT * FROM batch")
    connection.unregister("batch")


def _found(connection: Any, which: str) -> Faults:
    """The faults of admissions that passed what people set, or of those that passed the settings' limits alone."""
    belongs = "IN" if which == "people" else "NOT IN"
    sql = f"SELECT * FROM faults WHERE id {belongs} (SELECT id FROM faults WHERE people) AND {which}"
    rows = connection.execute(
        f"SELECT (SELECT count(DISTINCT id) FROM ({sql})), * FROM ({sql}) ORDER BY id, law DESC, kind LIMIT 1"
    ).fetchall()
    if not rows:
        return Faults(0)
    count, entry_id, day, kind, scope, law, total, pico, _ = rows[0]
    whose = {"whole": "the whole system", "payer": f"user {scope}", "service": f"the service {scope}"}[law]
    span = window(WindowKind(kind), datetime.combine(day_of(day), time.min, UTC))
    said = f"admitted to {_usd(total)} of {whose} in {span}, whose limit was {_usd(pico)}"
    return Faults(count, entry_id, said)


def _usd(pico: int) -> str:
    return Usd.from_pico(int(pico)).shown()

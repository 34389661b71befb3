"""The mirror, once it has caught up, holds what the ledger holds: each entry in every column, and each day's bill;
what it keeps as the sums of days are the sums of its entries.

It may have read further than the audit has: what is newer is left out. Rows are compared by a hash of their columns.
"""

from __future__ import annotations

from typing import Any

from podcastqa.clock import day_of
from podcastqa.spend.audit_copy import TABLES
from podcastqa.spend.mirror import Mirror
from podcastqa.spend.mirror_copy import SUMS

_NUMBERS, _TEXTS = TABLES["entries"][1:]
_PRINT = f"hash({', '.join([f'{one}::BIGINT' for one in _NUMBERS] + [f'{one}::VARCHAR' for one in _TEXTS])})"
_BILL = "source, day::BIGINT AS day, user_id::BIGINT AS user_id, gross_pico, net_pico, read_us"
_ENTRIES = f"""WITH mine AS (SELECT id, place, {_PRINT} AS print FROM entries),
 theirs AS (SELECT id, any_value(print) AS print, count(*) AS rows FROM mirrored
 WHERE id <= (SELECT max(id) FROM entries) GROUP BY id)
 SELECT coalesce(mine.id, theirs.id) AS turn, coalesce(place, 'entry ' || theirs.id) AS place,
 CASE WHEN theirs.id IS NULL THEN 'not in the mirror' WHEN mine.id IS NULL THEN 'in the mirror, and not in the ledger'
 WHEN rows > 1 THEN rows || ' times in the mirror' ELSE '' END AS said
 FROM mine FULL JOIN theirs USING (id)
 WHERE mine.id IS NULL OR theirs.id IS NULL OR rows > 1 OR mine.print <> theirs.print"""
#: A bill that was read anew since the audit began is left out.
_BILLS = f"""WITH mine AS (SELECT {_BILL} FROM bill_days), theirs AS (SELECT * FROM mirrored_bills),
 newer AS (SELECT source FROM theirs GROUP BY source HAVING max(read_us) >
 coalesce((SELECT max(read_us) FROM mine WHERE mine.source = theirs.source), -1))
 SELECT day AS turn, 'the bill of ' || source || ' for ' || date_of(day), 'the mirror has another'
 FROM ((SELECT * FROM mine EXCEPT ALL SELECT * FROM theirs) UNION ALL
 (SELECT * FROM theirs EXCEPT ALL SELECT * FROM mine)) WHERE source NOT IN (SELECT source FROM newer)"""
#: Of the mirror alone, where its entries hold: each sum that it keeps, beside that of its entries.
_SUMS = f"""WITH kept AS (SELECT day, source, user_id, service, sum(booked_pico) AS booked_pico,
 sum(calls) AS calls FROM day_sums GROUP BY day, source, user_id, service), sums AS ({SUMS})
 SELECT count(*) OVER (), day, service, user_id FROM kept FULL JOIN sums USING (day, source, user_id, service)
 WHERE kept.booked_pico IS DISTINCT FROM sums.booked_pico OR kept.calls IS DISTINCT FROM sums.calls
 ORDER BY day, service, user_id LIMIT 1"""


def compared(connection: Any, mirror: Mirror) -> tuple[int, int, str] | None:
    """How many rows were looked at, how many differ, and the first in words; None where the mirror cannot be had."""
    with mirror.opened() as (copy, watermark):
        if not watermark.on_disk:
            return None
        connection.register("mirrored", copy.sql(f"SELECT id, {_PRINT} AS print FROM entries").to_arrow_table())
        connection.register("mirrored_bills", copy.sql(f"SELECT {_BILL} FROM bill_days").to_arrow_table())
        found = connection.execute(
            f"SELECT count(*) OVER (), * FROM (({_ENTRIES}) UNION ALL ({_BILLS})) ORDER BY turn, place LIMIT 1"
        ).fetchall()
        [(looked_at,)] = connection.execute("SELECT count(*) FROM entries").fetchall()
        if not found:
            return looked_at, *_sums(copy)
        broken, entry_id, place, said = found[0]
        return looked_at, broken, f"{place}: {said or _difference(connection, copy, entry_id)}"


def _sums(copy: Any) -> tuple[int, str]:
    """How many of the sums that the mirror keeps are not those of its entries, and the first in words."""
    found = copy.execute(_SUMS, [0]).fetchall()
    if not found:
        return 0, ""
    broken, day, service, user_id = found[0]
    return broken, f"the mirror's sum of {service!r} for user {user_id} on {day_of(day)}: not that of its entries"


def _difference(connection: Any, copy: Any, entry_id: int) -> str:
    """The first column in which the mirror's row is another."""
    columns = (*_NUMBERS, *_TEXTS)
    sql = f"SELECT {', '.join(columns)} FROM entries WHERE id = ?"
    (mine,), (theirs,) = (one.execute(sql, [entry_id]).fetchall() for one in (connection, copy))
    pairs = zip(columns, mine, theirs, strict=True)
    return next(f"{name} is {ours!r}, in the mirror {other!r}" for name, ours, other in pairs if ours != other)

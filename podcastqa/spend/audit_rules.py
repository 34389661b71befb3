"""What must be true of a ledger, rule by rule: each is a query that finds the rows which break it, in order.

The queries run in DuckDB on what `audit_copy` took. Each gives (order, which row, what is wrong); none: the rule holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podcastqa.clock import day_number, from_microseconds
from podcastqa.money import MOST_PICO
from podcastqa.spend.entries import STARTS
from podcastqa.spend.standing import NEVER

_EPOCH_DAY = day_number(from_microseconds(0).date())
_DAY_US = 86_400_000_000
_ENDS = "('settle', 'void', 'expire')"
#: A counter that was full once stays so.
_FULL = f"CASE WHEN booked_pico = {NEVER} AND t.gross >= {NEVER} THEN {NEVER} ELSE coalesce(t.booked, 0) END"
_THEN = "{} <= (SELECT max(through_id) FROM carried)"
_BOOKED = "CASE WHEN kind IN ('settle', 'correct') THEN amount_pico ELSE 0 END"

#: Run once before the rules: what each entry's hold has gone through, and helpers to say things.
PREPARED = (
    # Written out, for `/` and most products would be floating point.
    "CREATE MACRO usd(pico) AS '$' || (pico::DECIMAL(26, 0) * 0.000000000001::DECIMAL(12, 12))::VARCHAR",
    f"CREATE MACRO date_of(number) AS (DATE '1970-01-01' + (number - {_EPOCH_DAY})::INTEGER)::VARCHAR",
    "CREATE MACRO whose(number) AS CASE WHEN number = 0 THEN 'the whole system' ELSE 'user ' || number END",
    f"""CREATE TABLE lives AS SELECT hold_id, min(id) FILTER (WHERE kind = 'reserve') AS reserved,
 min(id) FILTER (WHERE {STARTS}) AS started, min(id) FILTER (WHERE kind IN {_ENDS}) AS ended
 FROM entries GROUP BY hold_id""",
    """CREATE TABLE steps AS SELECT entries.*, reserved, started, ended, 'entry ' || id || ', hold ' || hold_id AS place
 FROM entries JOIN lives USING (hold_id)""",
    "DROP TABLE entries",
    "CREATE VIEW entries AS SELECT * FROM steps",
    "CREATE TABLE reserves AS SELECT * FROM steps WHERE id = reserved",
    # What was carried forward is compared with the entries up to there, as they were then.
    f"""CREATE TABLE carried_steps AS SELECT * REPLACE (CASE WHEN {_THEN.format("started")} THEN started END AS started,
 CASE WHEN {_THEN.format("ended")} THEN ended END AS ended) FROM steps WHERE {_THEN.format("id")}""",
    "CREATE TABLE carried_reserves AS SELECT * FROM carried_steps WHERE id = reserved",
    """CREATE VIEW decisions AS SELECT set_us AS said_us, 'limit ' || id AS place, set_by AS said_by, reason,
 amount_pico, from_us FROM limits UNION ALL SELECT at_us, 'stop ' || id, said_by, reason, 0, at_us FROM stops""",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what must be true, the table whose rows are looked at, and the query for those that break it."""

    says: str
    looks_at: str
    broken: str


def _gaps(table: str, one: str) -> str:
    """Where the numbers of a table that only grows stand still, leave one out, or stop short of the last one given."""
    given = f"(SELECT last_id, dense FROM numbering WHERE name = '{table}')"
    last = f"(SELECT coalesce(max(id), 0) AS last FROM {table})"
    return f"""SELECT id, '{one} ' || id AS place, 'the one before it is ' || coalesce(before, 0) ||
 ': what stood between is gone, or this was not written by the program' AS said
 FROM (SELECT id, lag(id) OVER (ORDER BY id) AS before FROM {table}), {given}
 WHERE id <= coalesce(before, 0) OR id <> coalesce(before, 0) + 1 AND dense
 UNION ALL SELECT last_id, '{one} ' || last_id, 'gone: the last one is now ' || last
 FROM {given}, {last} WHERE dense AND last_id > last
 UNION ALL SELECT last + 1, '{one} ' || last, 'its number can be given again: the next one is ' || last_id + 1
 FROM {given}, {last} WHERE last_id < last"""


RULES = (
    Rule("Entry numbers only grow, and on SQLite without a gap", "entries", _gaps("entries", "entry")),
    Rule(
        "So do the numbers of decisions on limits and the stop",
        "decisions",
        f"{_gaps('limits', 'limit')} UNION ALL {_gaps('stops', 'stop')}",
    ),
    Rule(
        "Every hold is reserved exactly once",
        "entries",
        """SELECT id, place, CASE WHEN reserved IS NULL THEN kind || ' of a hold that was never reserved'
 ELSE 'reserved again: entry ' || reserved || ' had reserved it' END
 FROM entries WHERE reserved IS NULL OR kind = 'reserve' AND id <> reserved""",
    ),
    Rule(
        "No hold starts twice",
        "entries",
        """SELECT id, place, 'started again: entry ' || started || ' had started it'
 FROM entries WHERE kind = 'start' AND id <> started""",
    ),
    Rule(
        "No hold is resolved twice",
        "entries",
        f"""SELECT e.id, e.place, e.kind || ', though entry ' || e.ended || ' had resolved it (' || before.kind || ')'
 FROM entries e JOIN entries before ON before.id = e.ended WHERE e.kind IN {_ENDS} AND e.id <> e.ended""",
    ),
    Rule(
        "A hold is reserved, then started, then resolved, each in its time",
        "entries",
        """SELECT e.id, e.place, CASE WHEN e.id < e.reserved THEN e.kind || ' before its reserve, entry ' || e.reserved
 WHEN e.id > e.ended THEN 'started after entry ' || e.ended || ' had resolved it'
 WHEN e.kind = 'start' THEN 'started after its time had run out'
 WHEN e.started < e.id THEN 'expired, though entry ' || e.started || ' had started it'
 ELSE 'expired before its time had run out' END
 FROM entries e JOIN reserves r ON r.id = e.reserved WHERE e.id < e.reserved
 OR e.kind = 'start' AND e.id = e.started AND (e.id > e.ended OR e.at_us >= r.expires_us)
 OR e.kind = 'expire' AND e.id = e.ended AND (e.started < e.id OR e.at_us < r.expires_us)""",
    ),
    Rule(
        "All entries of a hold name its user, source, service, operation, price and day",
        "entries",
        f"""SELECT e.id, e.place, CASE
 WHEN e.user_id <> r.user_id THEN 'user ' || e.user_id || ', but it was reserved for user ' || r.user_id
 WHEN e.source <> r.source THEN 'source ' || e.source || ', but it was reserved against ' || r.source
 WHEN (e.service, e.operation) <> (r.service, r.operation) THEN
 e.service || ' ' || e.operation || ', but it was reserved for ' || r.service || ' ' || r.operation
 WHEN e.price <> r.price THEN 'price ' || e.price || ', but it was reserved at ' || r.price
 WHEN e.day <> r.day THEN 'day ' || date_of(e.day) || ', but it was reserved on ' || date_of(r.day)
 ELSE 'day ' || date_of(e.day) || ', but it was reserved on ' || date_of(e.at_us // {_DAY_US} + {_EPOCH_DAY}) END
 FROM entries e JOIN reserves r ON r.id = e.reserved
 WHERE (e.user_id, e.source, e.service, e.operation, e.price, e.day)
 <> (r.user_id, r.source, r.service, r.operation, r.price, r.day)
 OR e.id = r.id AND e.day <> e.at_us // {_DAY_US} + {_EPOCH_DAY}""",
    ),
    Rule(
        "Corrections, and voids of what had started, say why",
        "entries",
        """SELECT id, place, CASE kind WHEN 'correct' THEN 'a correction without a reason'
 ELSE 'void without a reason, though entry ' || started || ' had started it' END
 FROM entries WHERE trim(reason) = '' AND (kind = 'correct' OR kind = 'void' AND started < id)""",
    ),
    Rule(
        "Amounts are whole pico-dollars within range",
        "entries",
        f"""SELECT * FROM (SELECT id, place, CASE
 WHEN abs(amount_pico::HUGEINT) > {MOST_PICO} THEN usd(amount_pico) || ' is more than one entry may hold'
 WHEN amount_pico < 0 THEN kind || ' of ' || usd(amount_pico) || ', which is below zero'
 ELSE kind || ' of ' || usd(amount_pico) || ', which moves no money' END FROM entries
 WHERE abs(amount_pico::HUGEINT) > {MOST_PICO} OR amount_pico < 0 AND kind <> 'correct'
 OR amount_pico <> 0 AND kind NOT IN ('reserve', 'settle', 'correct')
 UNION ALL SELECT coalesce(try_cast(name AS BIGINT), 0), CASE table_name WHEN 'entries' THEN 'entry'
 ELSE table_name END || ' ' || name, 'columns of the wrong type: ' || said FROM misfits)""",
    ),
    Rule(
        "Every user number is known",
        "entries",
        """SELECT id, place, 'nobody has the number ' || user_id FROM (SELECT id, place, user_id, 1 FROM entries
 UNION ALL SELECT 0, 'open hold ' || hold_id, user_id, 1 FROM open_holds
 UNION ALL SELECT 0, 'a counter of ' || date_of(day), user_id, 0 FROM counters
 UNION ALL SELECT 0, 'the bill of ' || source || ' for ' || date_of(day), user_id, 0 FROM bill_days
 UNION ALL SELECT 0, 'limit ' || id, user_id, 0 FROM limits) AS named (id, place, user_id, least)
 WHERE user_id < least OR user_id NOT IN (SELECT id FROM users)""",
    ),
    Rule(
        "One row says up to which entry counters and open holds are carried forward",
        "carried",
        """SELECT 1, 'carried', 'through entry ' || through_id || ', and the last one is ' || last
 FROM carried, (SELECT coalesce(max(id), 0) AS last FROM entries) WHERE through_id > last OR through_id < 0
 UNION ALL SELECT 0, 'carried', 'there are ' || count(*) || ' such rows' FROM carried HAVING count(*) <> 1""",
    ),
    Rule(
        "Open holds are the reserves that nothing has resolved",
        "open_holds",
        """SELECT coalesce(r.id, 0), CASE WHEN r.id IS NULL THEN 'hold ' || o.hold_id ELSE r.place END,
 CASE WHEN o.hold_id IS NULL THEN 'not among the open holds, though nothing has resolved it'
 WHEN r.id IS NULL THEN 'open, though there is no reserve of it'
 WHEN r.ended IS NOT NULL THEN 'open, though entry ' || r.ended || ' has resolved it'
 WHEN o.amount_pico <> r.amount_pico THEN 'open at ' || usd(o.amount_pico) || ', reserved at ' || usd(r.amount_pico)
 WHEN o.started <> (r.started IS NOT NULL)::INTEGER THEN
 'open as ' || CASE o.started WHEN 0 THEN 'not ' ELSE '' END || 'started, its entries say otherwise'
 ELSE 'its user, source, day or time differs from its reserve' END
 FROM open_holds o FULL JOIN carried_reserves r USING (hold_id)
 WHERE o.hold_id IS NULL AND r.ended IS NULL OR r.id IS NULL OR o.hold_id IS NOT NULL AND (r.ended IS NOT NULL
 OR (o.amount_pico, o.started, o.user_id, o.source, o.day, o.expires_us)
 <> (r.amount_pico, (r.started IS NOT NULL)::BIGINT, r.user_id, r.source, r.day, r.expires_us))""",
    ),
    Rule(
        "Counters are the sums of their entries and bills",
        "counters",
        f"""WITH moved AS (SELECT user_id, day, source, {_BOOKED} AS booked,
 CASE WHEN id = reserved AND ended IS NULL THEN amount_pico ELSE 0 END AS held FROM carried_steps),
 sums AS (SELECT user_id, day, source, sum(booked) AS booked, sum(held) AS held, 0 AS billed,
 sum(greatest(booked, 0)) AS gross FROM moved GROUP BY ALL
 UNION ALL SELECT 0, day, source, sum(booked), sum(held), 0, sum(greatest(booked, 0)) FROM moved GROUP BY ALL
 UNION ALL SELECT user_id, day, source, 0, 0, gross_pico, 0 FROM bill_days),
 told AS (SELECT user_id, day, source, sum(booked) AS booked, sum(held) AS held, sum(billed) AS billed,
 sum(gross) AS gross FROM sums GROUP BY ALL),
 side AS (SELECT user_id, day, source, coalesce(booked_pico, 0) AS booked, {_FULL} AS booked_told,
 coalesce(held_pico, 0) AS held, coalesce(t.held, 0) AS held_told, coalesce(bill_pico, 0) AS billed,
 coalesce(t.billed, 0) AS billed_told FROM counters c FULL JOIN told t USING (user_id, day, source))
 SELECT row_number() OVER (ORDER BY day, user_id, source),
 'the counter of ' || whose(user_id) || ' on ' || date_of(day) || ' for ' || source,
 CASE WHEN booked <> booked_told THEN 'booked ' || usd(booked) || ', the entries say ' || usd(booked_told)
 WHEN held <> held_told THEN 'held ' || usd(held) || ', the entries say ' || usd(held_told)
 ELSE 'billed ' || usd(billed) || ', the bill says ' || usd(billed_told) END
 FROM side WHERE (booked, held, billed) <> (booked_told, held_told, billed_told)""",
    ),
    Rule(
        "Counters of services are the sums of their entries",
        "service_counters",
        f"""WITH told AS (SELECT service, day, sum({_BOOKED}) AS booked,
 sum(CASE WHEN id = reserved AND ended IS NULL THEN amount_pico ELSE 0 END) AS held,
 sum(greatest({_BOOKED}, 0)) AS gross FROM carried_steps GROUP BY service, day),
 side AS (SELECT service, day, coalesce(booked_pico, 0) AS booked, {_FULL} AS booked_told,
 coalesce(held_pico, 0) AS held, coalesce(t.held, 0) AS held_told
 FROM service_counters c FULL JOIN told t USING (service, day))
 SELECT row_number() OVER (ORDER BY day, service), 'the counter of service ' || service || ' on ' || date_of(day),
 CASE WHEN booked <> booked_told THEN 'booked ' || usd(booked) || ', the entries say ' || usd(booked_told)
 ELSE 'held ' || usd(held) || ', the entries say ' || usd(held_told) END
 FROM side WHERE (booked, held) <> (booked_told, held_told)""",
    ),
    Rule(
        "Users and unattributed sum to the total of each source and day",
        "counters",
        f"""WITH sums AS (SELECT day, source, sum(booked_pico) FILTER (WHERE user_id = 0) AS booked,
 sum(booked_pico) FILTER (WHERE user_id <> 0) AS booked_users, sum(held_pico) FILTER (WHERE user_id = 0) AS held,
 sum(held_pico) FILTER (WHERE user_id <> 0) AS held_users FROM counters GROUP BY day, source),
 side AS (SELECT day, source, coalesce(booked, 0) AS booked, coalesce(booked_users, 0) AS booked_users,
 coalesce(held, 0) AS held, coalesce(held_users, 0) AS held_users FROM sums)
 SELECT row_number() OVER (ORDER BY day, source), source || ' on ' || date_of(day),
 CASE WHEN booked <> booked_users THEN 'booked ' || usd(booked) || ', its users together ' || usd(booked_users)
 ELSE 'held ' || usd(held) || ', its users together ' || usd(held_users) END
 FROM side WHERE booked <> booked_users AND booked <> {NEVER} OR held <> held_users""",
    ),
    Rule(
        "Decisions on limits and the stop say who and why",
        "decisions",
        f"""SELECT said_us, place, said FROM decisions JOIN (VALUES (1, 'nobody is named, or no reason'),
 (2, 'an amount that no limit may have'), (3, 'begins before it was said')) AS faults (fault, said) ON CASE fault
 WHEN 1 THEN trim(said_by) = '' OR trim(reason) = '' WHEN 2 THEN NOT amount_pico BETWEEN 0 AND {MOST_PICO}
 ELSE from_us < said_us END""",
    ),
)


def first_broken(connection: Any, rule: Rule) -> tuple[int, int, str]:
    """How many rows were looked at, how many break the rule, and the first of them in words."""
    ((looked_at,),) = connection.execute(f"SELECT count(*) FROM {rule.looks_at}").fetchall()
    broken = connection.execute(
        f"SELECT count(*) OVER (), * FROM ({rule.broken}) AS found (turn, place, said) ORDER BY turn, place LIMIT 1"
    ).fetchall()
    if not broken:
        return looked_at, 0, ""
    count, _, place, said = broken[0]
    return looked_at, count, f"{place}: {said}"

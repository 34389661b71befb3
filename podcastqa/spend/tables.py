"""The ledger is append-only, and everything beside it that makes a check fast can be rebuilt from it.

`entries`, `limits` and `stops` are facts: triggers refuse to change or delete them. `open_holds`, `counters` and
`service_counters` are derived (`ledger.rebuild`): they are carried forward from time to time, up to the entry that
`carried` names, and whoever reads them adds the entries after it, the tail. `bill_days` is the last bill that each
billing source gave. All columns are NOT NULL: copies into other systems infer types from what they see first.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from podcastqa.database import metadata, row_id
from podcastqa.money import MOST_PICO
from podcastqa.spend.entries import STEP, EntryKind
from podcastqa.users import owner

_KINDS = " OR ".join(f"kind = '{kind}'" for kind in EntryKind)
_OWNED = {"owner": "user_id"}
_KEPT = {"owner": "user_id", "kept": True}  # stays when a user is deleted: the number without the name


def amount(name: str) -> Column[int]:
    """A column of pico-dollars."""
    return Column(name, BigInteger, nullable=False)


entries = Table(
    "entries",
    metadata,
    row_id(BigInteger),
    Column("hold_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    owner(),
    Column("source", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("operation", Text, nullable=False),
    amount("amount_pico"),
    Column("day", Integer, nullable=False),  # the UTC day of the reserve: the hold's windows, for good
    Column("at_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False, server_default="0"),
    Column("price", Text, nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    # Each row is checked, so that plain comparisons, the likely one first, stand where IN and functions would do.
    CheckConstraint(_KINDS, name="ck_entries_kind"),
    CheckConstraint(
        f"amount_pico BETWEEN 0 AND {MOST_PICO} OR (kind = 'correct' AND amount_pico BETWEEN -{MOST_PICO} AND 0)",
        name="ck_entries_amount",
    ),
    CheckConstraint("hold_id <> '' AND length(hold_id) <= 200", name="ck_entries_hold"),
    CheckConstraint("kind <> 'correct' OR reason <> ''", name="ck_entries_reason"),
    # A hold is reserved, started and resolved once, and corrected as often as need be: no two NULLs are the same.
    Index("uq_entries_step", "hold_id", text(f"({STEP})"), unique=True),
    info=_KEPT,
    sqlite_autoincrement=True,
)

open_holds = Table(
    "open_holds",
    metadata,
    Column("hold_id", Text, primary_key=True),
    Column("user_id", Integer, nullable=False),  # its reserve's, who is known: not asked for again
    Column("source", Text, nullable=False),
    Column("day", Integer, nullable=False),
    amount("amount_pico"),
    Column("started", Integer, nullable=False, server_default="0"),
    Column("expires_us", BigInteger, nullable=False),
    CheckConstraint("started IN (0, 1)", name="ck_open_holds_started"),
    info=_KEPT,
    sqlite_with_rowid=False,
)

counters = Table(
    "counters",
    metadata,
    owner(),  # 0: the whole system
    Column("day", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("booked_pico", BigInteger, nullable=False, server_default="0"),
    Column("held_pico", BigInteger, nullable=False, server_default="0"),
    Column("bill_pico", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("user_id", "day", "source"),
    CheckConstraint("held_pico >= 0", name="ck_counters_held"),
    info=_KEPT,
    sqlite_with_rowid=False,
)

service_counters = Table(
    "service_counters",
    metadata,
    Column("service", Text, nullable=False),
    Column("day", Integer, nullable=False),
    Column("booked_pico", BigInteger, nullable=False, server_default="0"),
    Column("held_pico", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("service", "day"),
    CheckConstraint("held_pico >= 0", name="ck_service_counters_held"),
    info={"operator": True},
    sqlite_with_rowid=False,
)

carried = Table(
    "carried",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("through_id", BigInteger, nullable=False),  # the last entry that the derived tables hold
    Column("times", BigInteger, nullable=False),  # how often they were carried forward
    Column("others", BigInteger, nullable=False),  # how often anything was written that is no entry of a writer
    CheckConstraint("id = 1", name="ck_carried_one"),
    CheckConstraint("through_id >= 0", name="ck_carried_through"),
    info={"operator": True},
)

bill_days = Table(
    "bill_days",
    metadata,
    Column("source", Text, nullable=False),
    Column("day", Integer, nullable=False),
    owner(),  # 0: the whole bill of that day, attributed or not
    amount("gross_pico"),
    amount("net_pico"),
    Column("read_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("source", "day", "user_id"),
    info=_KEPT,
    sqlite_with_rowid=False,
)

limits = Table(
    "limits",
    metadata,
    row_id(),
    owner(),  # 0: the whole system
    Column("window_kind", Text, nullable=False),
    amount("amount_pico"),  # 0 where it was removed
    Column("set_us", BigInteger, nullable=False),
    Column("set_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("service", Text, nullable=False, server_default=""),  # "": not one service's
    Column("from_us", BigInteger, nullable=False),  # it holds from here on
    Column("removed", Integer, nullable=False, server_default="0"),
    CheckConstraint("service = '' OR user_id = 0", name="ck_limits_service"),
    CheckConstraint("removed = 0 OR (removed = 1 AND amount_pico = 0)", name="ck_limits_removed"),
    CheckConstraint("from_us >= set_us", name="ck_limits_from"),
    CheckConstraint("window_kind IN ('day', 'week', 'month')", name="ck_limits_window"),
    CheckConstraint(f"amount_pico BETWEEN 0 AND {MOST_PICO}", name="ck_limits_amount"),
    CheckConstraint("length(set_by) > 0 AND length(reason) > 0", name="ck_limits_who"),
    info=_KEPT,
    sqlite_autoincrement=True,
)

stops = Table(
    "stops",
    metadata,
    row_id(),
    Column("stopped", Integer, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("said_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    CheckConstraint("stopped IN (0, 1)", name="ck_stops_stopped"),
    CheckConstraint("length(said_by) > 0 AND length(reason) > 0", name="ck_stops_who"),
    sqlite_autoincrement=True,
)

#: Tables that only grow: each gets two triggers that refuse UPDATE and DELETE (see the migration).
APPEND_ONLY = ("entries", "limits", "stops")

"""Users pay for their own work and see nothing of each other: checked on the ledger, the bill and the scope itself."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select

from podcastqa.cost_tracker import CostTracker
from podcastqa.database import Scope
from podcastqa.display import Table
from podcastqa.errors import CrossUserRefused
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind
from podcastqa.spend.ledger import Ledger
from podcastqa.spend.tables import bill_days, entries
from podcastqa.users import User
from podcastqa.wiring import Parts
from podcastqa.workbook.work import Verified


def were_together(ledger: Ledger, rounds: Sequence[Sequence[Verified]]) -> bool:
    """Whether in each round the last operation started before the first one ended, by the ledger's own times."""
    times = {(entry.hold_id, entry.kind): entry.at for entry in ledger.entries()}
    return all(
        max(times[done.hold_id, EntryKind.START] for done in work)
        < min(times[done.hold_id, EntryKind.SETTLE] for done in work)
        for work in rounds
    )


def attribution(parts: Parts, users: Sequence[User], work: Sequence[Verified]) -> tuple[bool, Table]:
    """Every user's booked cost beside that user's rows on the bill: equal, and more than nothing."""
    bill, ids = parts.treasury.bills.meter.read(), {done.hold_id for done in work}
    rows: list[tuple[str, Usd, Usd]] = []
    for user in users:
        booked = sum((done.cost for done in work if done.user == user.name), ZERO)
        lines = [line for line in bill.lines if line.resource_id in ids and line.user_tag == str(user.id)]
        rows.append((user.name, booked, sum((line.amount for line in lines), ZERO)))
    right = all(booked == billed > ZERO for _, booked, billed in rows)
    return right, Table("Attribution", ("user", "booked in USD", "on the bill in USD"), tuple(rows))


def cross_access(parts: Parts, users: Sequence[User]) -> tuple[int, int]:
    """For every pair of users: ask one's tracker for the other, read the other's rows, write in the other's name.

    Returns how many of the attempts were refused, and how many there were.
    """
    pairs = [(one, other) for one in users for other in users if one != other]
    tries = [_tracker_refuses, _sees_nothing, _cannot_write]
    if parts.database.path is None:  # a server keeps users apart itself; a file has the one wall only
        tries.append(_raw_sql_sees_nothing)
    return sum(refused(parts, *pair) for refused in tries for pair in pairs), len(tries) * len(pairs)


def _tracker_refuses(parts: Parts, one: User, other: User) -> bool:
    try:
        CostTracker(parts.treasury, one.name).whose(other.name)
    except CrossUserRefused:
        return True
    return False


def _sees_nothing(parts: Parts, one: User, other: User) -> bool:
    with parts.database.read(Scope(one.id)) as connection:
        own = connection.execute(select(entries.c.id).where(entries.c.user_id == one.id)).all()
        theirs = connection.execute(select(entries.c.id).where(entries.c.user_id == other.id)).all()
    return bool(own) and not theirs


def _raw_sql_sees_nothing(parts: Parts, one: User, other: User) -> bool:
    with parts.database.raw(Scope(one.id)) as driver:
        owners = {row[0] for row in driver.execute("SELECT user_id FROM entries").fetchall()}
        names = {row[0] for row in driver.execute("SELECT name FROM users").fetchall()}
    return owners == {one.id} and names == {one.name} and other.id not in owners


def _cannot_write(parts: Parts, one: User, other: User) -> bool:
    row = {"source": "cross-user", "day": 1, "user_id": other.id, "gross_pico": 0, "net_pico": 0, "read_us": 0}
    try:
        with parts.database.write(Scope(one.id)) as connection:
            connection.execute(insert(bill_days).values(row))
    except CrossUserRefused:
        return True
    return False

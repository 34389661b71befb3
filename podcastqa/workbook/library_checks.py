"""What step 2 tries on purpose: reach another user's podcasts, find what a deleted user left, open a moved login."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

from sqlalchemy import Table, func, insert, select, update

from podcastqa.database import SYSTEM, Scope, metadata
from podcastqa.errors import CrossUserRefused, Misuse, ProviderError
from podcastqa.podcasts.connections import Login
from podcastqa.podcasts.listens import PLAYING, POSITION, Listen, Told
from podcastqa.podcasts.tables import connections, episodes, library, listening
from podcastqa.users import User
from podcastqa.wiring import Parts, drill_parts

_TABLES = (library, episodes, listening, connections)


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt, and whether it came to nothing."""

    who: str
    what: str
    refused: bool


def cross_access(parts: Parts, users: Sequence[User]) -> tuple[list[Try], list[str]]:
    """Each user tries to read and to write what belongs to each other; also the tables in which nobody has a row.

    A read is tried only where there is something to find: else it could not fail. All but the first user are the
    validation's own: they are lent a login that opens nothing.
    """
    tried = []
    with _logins(parts, users[1:]):
        has = {user.id: rows_of(parts, user) for user in users}
        for one in users:
            for other in users:
                if one != other:
                    tables = [table for table in _TABLES if has[other.id][table.name]]
                    tried += _tries(parts, one, other, tables)
    return tried, [table.name for table in _TABLES if not any(rows[table.name] for rows in has.values())]


def _tries(parts: Parts, one: User, other: User, tables: Sequence[Table]) -> list[Try]:
    who = f"{one.name} → {other.name}"
    tried = [Try(who, f"read {table.name}", _reads_nothing(parts, one, other, table)) for table in tables]
    tried.append(Try(who, "write library", _writes_nothing(parts, one, other)))
    if parts.database.path is None:
        tried += [Try(who, f"raw SQL on {table.name}", _raw_finds_own(parts, one, table.name)) for table in tables]
    return tried


@contextmanager
def _logins(parts: Parts, users: Sequence[User]) -> Iterator[None]:
    lent = [user for user in users if not rows_of(parts, user)["connections"]]
    try:
        for user in lent:
            keep_a_login(parts, user)
        yield
    finally:
        for user in lent:
            parts.connections.forget(user)


def _reads_nothing(parts: Parts, one: User, other: User, table: Table) -> bool:
    columns = table.c
    with parts.database.read(Scope(one.id)) as connection:
        theirs = connection.execute(select(columns.id).where(columns.user_id == other.id)).all()
        everyones = {row[0] for row in connection.execute(select(columns.user_id))}
    return not theirs and everyones <= {one.id}


def _writes_nothing(parts: Parts, one: User, other: User) -> bool:
    row = {"user_id": other.id, "source": "cross-user", "show": "x", "added_us": 1, "digest": "cross-user"}
    try:
        with parts.database.write(Scope(one.id)) as connection:
            connection.execute(insert(library).values(row))
    except CrossUserRefused:
        return True
    return False


def _raw_finds_own(parts: Parts, one: User, table: str) -> bool:
    with parts.database.raw(Scope(one.id)) as driver:
        return {row[0] for row in driver.execute(f"SELECT user_id FROM {table}").fetchall()} <= {one.id}


def recounted(told: Sequence[Told], counted: Sequence[Listen]) -> tuple[int, int]:
    """How many listens nobody can have heard beside another that is as long, and how many exact rows have no listen."""
    twice = 0
    by_length = sorted(counted, key=lambda one: (one.played_ms, one.ended_us))
    for one, after in pairwise(by_length):
        apart_us = after.ended_us + after.precision_us - one.ended_us
        twice += one.played_ms == after.played_ms and apart_us < after.played_ms * 1000
    ends: dict[int, list[int]] = defaultdict(list)
    for listen in sorted(counted):
        ends[listen.played_ms].append(listen.ended_us)
    lost = sum(
        bisect_left(ends[row.played_ms], row.ended_us)
        == bisect_left(ends[row.played_ms], row.ended_us + row.precision_us)
        for row in told
        if not row.source.endswith((PLAYING, POSITION))
    )
    return twice, lost


def rows_of(parts: Parts, user: User) -> dict[str, int]:
    """How many rows of each table are the user's; what stays under the number when a user is deleted is left out."""
    owned = [t for t in metadata.sorted_tables if t.info.get("owner") == "user_id" and not t.info.get("kept")]
    with parts.database.read(SYSTEM) as connection:
        return {
            table.name: int(
                connection.execute(
                    select(func.count()).select_from(table).where(table.c.user_id == user.id)
                ).scalar_one()
            )
            for table in owned
        }


def files_naming(parts: Parts, name: str) -> list[str]:
    """Files of the home and the reports that have the user's name in theirs or in their text."""
    found = []
    for folder in (parts.settings.home, parts.settings.reports):
        for path in folder.rglob("*") if folder.is_dir() else ():
            if path.is_file() and path.stat().st_size < 10 * 2**20 and _names(path.read_bytes(), path.name, name):
                found.append(str(path))
    return [one for one in found if not one.endswith((".sqlite", ".sqlite-wal", ".sqlite-shm"))]


def _names(content: bytes, file: str, name: str) -> bool:
    return name in file or name.encode() in content


def keep_a_login(parts: Parts, user: User) -> None:
    """A login that opens nothing, to see that it goes; without the extra `spotify` there is none to keep."""
    if find_spec("cryptography") is None:
        return
    parts.connections.keep(user, "no account: a validation", Login("opens nothing", "opens nothing", 0))


def try_login(parts: Parts, run_id: str, login: Login) -> list[tuple[str, bool]]:
    """In books of their own: a copy of the login is sealed, moved to another user, and deleted."""
    drill = drill_parts(parts, f"{run_id}-login")
    one, other = drill.users.add("one"), drill.users.add("other")
    drill.connections.keep(one, "copy", login)
    with drill.database.read(SYSTEM) as connection:
        kept = str(connection.execute(select(connections)).all())
    sealed = login.access_token not in kept and login.refresh_token not in kept
    opens = drill.connections.login(one) == login
    with drill.database.write(SYSTEM) as connection:
        connection.execute(update(connections).values(user_id=other.id))
    moved = _refused(drill, other, ProviderError)
    with drill.database.write(SYSTEM) as connection:
        connection.execute(update(connections).values(user_id=one.id))
    drill.connections.forget(one)
    return [
        ("sealed at rest", sealed),
        ("opens for its user", opens),
        ("does not open for another user", moved),
        ("gone after a disconnect", _refused(drill, one, Misuse)),
    ]


def _refused(parts: Parts, user: User, how: type[Exception]) -> bool:
    try:
        parts.connections.login(user)
    except how:
        return True
    return False

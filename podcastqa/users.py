"""A user is somebody who asks and pays; the ledger knows a number, and only this table knows the name.

Deleting a user forgets the name and the address and everything that is theirs, while the number stays in the
ledger: money that left is never forgotten, and nobody can be found through it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    Table,
    Text,
    func,
    select,
    update,
)

from podcastqa.clock import Clock, microseconds
from podcastqa.database import SYSTEM, Database, metadata, row_id
from podcastqa.display import Table as Shown
from podcastqa.display import Tabular
from podcastqa.errors import Misuse, UnknownUser, UserExists

#: The system itself: a user that nobody is, for rows that belong to the whole.
SYSTEM_ID = 0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

users_table = Table(
    "users",
    metadata,
    row_id(),
    Column("name", Text, unique=True),  # NULL once deleted
    Column("email", Text, nullable=False, server_default=""),
    Column("created_us", BigInteger, nullable=False),
    Column("deleted_us", BigInteger),
    CheckConstraint("(name IS NULL) = (deleted_us IS NOT NULL OR id = 0)", name="ck_users_name"),
    info={"owner": "id"},
    sqlite_autoincrement=True,
)


def owner() -> Column[int]:
    """The column that makes a table belong to users; pair it with `info={"owner": "user_id"}`."""
    return Column("user_id", Integer, ForeignKey("users.id"), nullable=False)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who asks and pays."""

    id: int
    name: str
    email: str = ""


@dataclass(frozen=True, slots=True)
class UserList(Tabular):
    """Everybody, in the order they were added."""

    users: tuple[User, ...]

    def table(self) -> Shown:
        """Name and address."""
        notes = () if self.users else ("Nobody yet: podcastqa users add NAME",)
        rows = tuple((user.name, user.email or None) for user in self.users)
        return Shown("Users", ("user", "email"), rows, notes)


class Users:
    """Who may ask and pays for it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def add(self, name: str, email: str = "") -> User:
        """A new user; raises UserExists, or Misuse where the name or the address cannot be used."""
        name, email = checked_name(name), _checked_email(email)
        with self._database.write(SYSTEM) as connection:
            if connection.execute(select(users_table.c.id).where(users_table.c.name == name)).scalar():
                raise UserExists(f"There already is a user {name}.", next_step="See: podcastqa users list")
            row = {"name": name, "email": email, "created_us": microseconds(self._clock.now())}
            result = connection.execute(users_table.insert().values(row))
            key = result.inserted_primary_key
            return User(int(key[0]) if key else 0, name, email)

    def get(self, name: str) -> User:
        """The user of that name; raises UnknownUser."""
        if not name.strip():
            raise UnknownUser(
                "The name of the user is empty.", next_step="Say whose it is, or leave it out where you mean yourself."
            )
        row = None
        if _NAME.fullmatch(name):  # a database need not take what nobody can be called
            with self._database.read(SYSTEM) as connection:
                row = connection.execute(
                    select(users_table.c.id, users_table.c.name, users_table.c.email).where(users_table.c.name == name)
                ).one_or_none()
        if row is None:
            raise UnknownUser(f"There is no user {name}.", next_step=f"Add them: podcastqa users add {name}")
        return User(*row)

    def meant(self, name: str | None, me: str) -> User:
        """The user of that name; without one, whoever's machine this is, who need not be added first."""
        return self.ensure(me) if name in (None, me) else self.get(str(name))

    def ensure(self, name: str) -> User:
        """The user of that name, added where there is none: for the person whose machine this is."""
        try:
            return self.get(name)
        except UnknownUser:
            try:
                return self.add(name)
            except UserExists:  # another process was first
                return self.get(name)

    def list(self) -> UserList:
        """Everybody who has not been deleted."""
        columns = (users_table.c.id, users_table.c.name, users_table.c.email)
        with self._database.read(SYSTEM) as connection:
            rows = connection.execute(
                select(*columns).where(users_table.c.name.is_not(None)).order_by(users_table.c.id)
            )
            return UserList(tuple(User(*row) for row in rows))

    def names(self) -> dict[int, str]:
        """What to call each number that the ledger knows; a deleted user is `deleted user 7`."""
        with self._database.read(SYSTEM) as connection:
            rows = connection.execute(select(users_table.c.id, users_table.c.name)).all()
        return {key: name if name is not None else f"deleted user {key}" for key, name in rows if key != SYSTEM_ID}

    def delete(self, name: str) -> User:
        """Forget the user: name, address, mails about them; spend and limits stay, under a number without a name."""
        user = self.get(name)
        with self._database.write(SYSTEM) as connection:
            for table in metadata.sorted_tables:
                if table.info.get("owner") == "user_id" and not table.info.get("kept"):
                    connection.execute(table.delete().where(table.c.user_id == user.id))
            connection.execute(
                update(users_table)
                .where(users_table.c.id == user.id)
                .values(name=None, email="", deleted_us=microseconds(self._clock.now()))
            )
        return user

    def count(self) -> int:
        """How many users there are."""
        with self._database.read(SYSTEM) as connection:
            counted = select(func.count()).select_from(users_table).where(users_table.c.name.is_not(None))
            return int(connection.execute(counted).scalar_one())


def checked_name(name: str) -> str:
    """The name, if it can be one: it stands in mails, reports and file names."""
    if not _NAME.fullmatch(name):
        raise Misuse(
            f"{name!r} cannot be a user's name.",
            next_step="Use up to 63 of a-z, 0-9, dot, dash and underscore; begin with a letter or a digit.",
        )
    return name


def _checked_email(email: str) -> str:
    if email and not re.fullmatch(r"[^@\s<>,;\"]{1,64}@[^@\s<>,;\"]{1,255}", email):
        raise Misuse(f"{email!r} is not an e-mail address.", next_step="Write it as name@example.org.")
    return email

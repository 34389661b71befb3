"""Nothing is read or written without saying for whom: every statement runs inside a scope.

A table that belongs to users carries a `user_id` column. Inside a user's scope each statement on such a table is
confined to that user's rows before it reaches the database; without a scope it is an error. `SYSTEM` is the
operator's scope: budgets, reports and migrations need the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Column, Connection, Engine, Identity, Integer, MetaData, event

from podcastqa.errors import LedgerUnavailable
from podcastqa.scope import SYSTEM, Scope, confine_to, no_raw_sql, said

__all__ = ["SYSTEM", "Database", "Scope", "driver_of", "head", "metadata", "open_database", "row_id"]

metadata = MetaData()
MIGRATIONS = Path(__file__).with_name("migrations")


def row_id(kind: type[Integer] = Integer) -> Column[int]:
    """A number that the database gives each row; SQLite's INTEGER has 64 bits anyway, and only it counts by itself."""
    number = kind().with_variant(Integer, "sqlite")
    return Column("id", number, Identity(), primary_key=True, autoincrement=True)


class Cursor(Protocol):
    """What a statement answered."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """The rows that are left."""

    def fetchmany(self, size: int) -> list[Any]:
        """The next rows, at most so many."""

    def __iter__(self) -> Iterator[Any]: ...


class Driver(Protocol):
    """SQL past SQLAlchemy, in the system scope; `?` stands for a value on every database."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Run one statement."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Cursor:
        """Run it for each row."""


class Line(Protocol):
    """The connection on which this process writes the ledger; one thread at a time uses it."""

    @property
    def driver(self) -> Driver:
        """What the transaction's statements run on."""

    def reachable(self) -> AbstractContextManager[None]:
        """Turns what the database says when it cannot be used into LedgerUnavailable."""

    def begins_at_once(self) -> bool:
        """Take the turn for `begin` if there is nothing to wait for: another writer, a server, a slow disk."""

    def give_back(self) -> None:
        """End the turn, where `begins_at_once` took it and an interrupt kept `begin` from using it."""

    def begin(self, look_ahead: Callable[[], None]) -> bool:
        """Queue for the turn to write and begin; True if nobody else has written since this line last began.

        `look_ahead` may be called, inside a read transaction, while another one has the turn.
        """

    def commit(self, write: Callable[[], None]) -> None:
        """Write the last of it (where it is sent at once: nothing is asked), make all durable, and end the turn."""

    def rollback(self) -> None:
        """Forget it, and end the turn."""


class Backend(Protocol):
    """What a kind of database does in its own way; `sqlite` and `postgres`."""

    @property
    def engine(self) -> Engine: ...
    @property
    def path(self) -> Path | None: ...
    @property
    def place(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def integrity_errors(self) -> tuple[type[Exception], ...]: ...
    @property
    def refusals(self) -> tuple[type[Exception], ...]: ...
    @property
    def own_tables(self) -> frozenset[str]: ...
    @property
    def is_cut(self) -> bool: ...
    def revision(self) -> str | None:
        """The schema's revision; None while there is none."""

    def migrating(self) -> AbstractContextManager[tuple[Connection, str | None]]:
        """The transaction of one process that changes the schema, and the revision that it begins with."""

    def transaction(self, scope: Scope, *, writes: bool) -> AbstractContextManager[Connection]:
        """SQLAlchemy's connection in a transaction."""

    def hot(self) -> AbstractContextManager[Driver]: ...
    def snapshot(self) -> AbstractContextManager[Driver]: ...
    def raw(self, scope: Scope) -> AbstractContextManager[Driver]: ...
    def driver(self) -> Driver: ...
    def line(self) -> Line: ...
    def close(self) -> None: ...
    def schema(self) -> dict[str, str]: ...
    def beside(self, name: str) -> str: ...


class Database:
    """The one door to the tables; `read` and `write` ask for a scope, `hot` and `line` are the guard's short cuts.

    Each raises LedgerUnavailable if the database cannot be reached, and keeps nothing that was changed if its block
    raises.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend, self._engine = backend, backend.engine
        self.path, self.kind = backend.path, backend.kind
        self.place = backend.place
        """Where the ledger is, in words: the file, or host and database (never a password)."""
        self.integrity_errors = backend.integrity_errors
        """What a broken constraint raises from the driver."""
        self.refusals = backend.refusals
        """The same, and what a missing right raises."""
        self.own_tables = backend.own_tables
        """Tables that only this kind of database needs."""
        event.listen(self._engine, "before_execute", confine_to(metadata), retval=True)
        event.listen(self._engine, "before_cursor_execute", no_raw_sql)

    def read(self, scope: Scope) -> AbstractContextManager[Connection]:
        """A connection whose statements see one consistent state, confined to the scope."""
        return self._backend.transaction(said(scope), writes=False)

    def write(self, scope: Scope) -> AbstractContextManager[Connection]:
        """The same for one write transaction: committed at the end, rolled back on an error."""
        return self._backend.transaction(said(scope), writes=True)

    def hot(self) -> AbstractContextManager[Driver]:
        """The guard's write transaction on a driver connection of this thread (system scope)."""
        return self._backend.hot()

    def snapshot(self) -> AbstractContextManager[Driver]:
        """A driver connection of this thread whose reads see one consistent state (system scope)."""
        return self._backend.snapshot()

    def raw(self, scope: Scope) -> AbstractContextManager[Driver]:
        """Raw SQL in a scope, of which nothing stays: for a look at the wall that the database itself keeps.

        Raises ScopeMissing for a user's scope where the database has no such wall (SQLite).
        """
        return self._backend.raw(said(scope))

    def driver(self) -> Driver:
        """The driver connection of this thread, for reads in the system scope."""
        return self._backend.driver()

    def line(self) -> Line:
        """The connection on which this process writes the ledger."""
        return self._backend.line()

    @property
    def is_cut(self) -> bool:
        """Whether a connection was lost under this thread's last call; the next one makes another."""
        return self._backend.is_cut

    def schema(self) -> dict[str, str]:
        """Every table, constraint, index, trigger and policy with the SQL that made it."""
        return self._backend.schema()

    def beside(self, name: str) -> str:
        """The URL of other books of this kind on the same server; empty where a home of their own sets them apart."""
        return self._backend.beside(name)

    def close(self) -> None:
        """Close every connection of this thread and of the pool."""
        self._backend.close()


def open_database(url: str) -> Database:
    """The database at a URL, its schema brought up to date on first use.

    Raises LedgerUnavailable, with the reason, where it cannot be opened.
    """
    backend = _backend(url)
    revision = backend.revision()
    if revision is not None and revision > head():
        raise LedgerUnavailable(
            f"The database {backend.place} was made by a newer version of this program (revision {revision}).",
            next_step="Use that version, or another PODCASTQA_HOME.",
        )
    database = Database(backend)
    if revision != head():
        _migrate(backend)
    return database


def _backend(url: str) -> Backend:
    if url.startswith("sqlite:///"):
        from podcastqa.sqlite import Sqlite

        return Sqlite(Path(url.removeprefix("sqlite:///")))
    try:
        from podcastqa.postgres import Postgres
    except ModuleNotFoundError as missing:
        raise LedgerUnavailable(
            "DATABASE_URL names a PostgreSQL server, and the package that talks to one is not installed.",
            next_step="Install it: pip install 'podcastqa[postgres]'",
        ) from missing
    return Postgres(url)


def driver_of(connection: Connection) -> Driver:
    """The driver under a connection that `read` or `write` gave, in the same transaction."""
    driver: Driver = connection.info["driver"]
    return driver


def head() -> str:
    """The newest schema revision that this version of the program knows."""
    return max(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _migrate(backend: Backend) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with backend.migrating() as (connection, revision):
        if revision == head():
            return  # another process was first
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

"""Nothing is read or written without saying for whom: every statement runs inside a scope.

A table that belongs to users carries a `user_id` column. Inside a user's scope each statement on such a table is
confined to that user's rows before it reaches the database; without a scope it is an error. `SYSTEM` is the
operator's scope: budgets, reports and migrations need the whole.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Delete,
    Dialect,
    Engine,
    Insert,
    MetaData,
    Select,
    Table,
    TypeDecorator,
    Update,
    create_engine,
    event,
    select,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.util import ClauseAdapter

from podcastqa.clock import from_microseconds, microseconds
from podcastqa.errors import CrossUserRefused, LedgerUnavailable, ScopeMissing
from podcastqa.money import Usd

metadata = MetaData()
MIGRATIONS = Path(__file__).with_name("migrations")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows a statement may touch: one user's, or (`user_id` None) the whole system's."""

    user_id: int | None


SYSTEM = Scope(None)


class Money(TypeDecorator[Usd]):
    """Usd in Python, whole pico-dollars in the database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Usd | None, _dialect: Dialect) -> int | None:
        """To the database; anything but Usd is a bug and fails here."""
        return None if value is None else value.pico

    def process_result_value(self, value: int | None, _dialect: Dialect) -> Usd | None:
        """From the database."""
        return None if value is None else Usd.from_pico(value)


class Instant(TypeDecorator[datetime]):
    """Aware UTC in Python, whole microseconds since 1970 in the database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> int | None:
        """To the database; a naive datetime is refused."""
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, _dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else from_microseconds(value)


class FileLock:
    """A queue for writers, in and between processes: the kernel wakes one waiter at a time and frees it if one dies.

    SQLite's own busy handler sleeps and polls, so one writer can starve the others for seconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mine = threading.local()

    def _descriptor(self) -> int:
        # A forked child shares its parent's open file, and with it the parent's lock: it must open its own.
        if getattr(self._mine, "pid", None) != os.getpid():
            self._mine.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._mine.pid = os.getpid()
        return int(self._mine.fd)

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor(), fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor(), fcntl.LOCK_UN)


class Database:
    """The one door to the tables; `read` and `write` ask for a scope, `hot` is the guard's short cut."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.path = path
        self._engine = engine
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._mine = threading.local()

    @property
    def kind(self) -> str:
        """The database's name and version, as reports show it."""
        return f"SQLite {sqlite3.sqlite_version}"

    @contextmanager
    def read(self, scope: Scope) -> Iterator[Connection]:
        """A connection whose statements see one consistent state, confined to the scope."""
        with self._engine.connect().execution_options(scope=_said(scope)) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, scope: Scope) -> Iterator[Connection]:
        """The same for one write transaction: committed at the end, rolled back on an error."""
        scope = _said(scope)
        with self._lock, self._engine.connect() as plain:
            connection = plain.execution_options(scope=scope, writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def hot(self) -> Iterator[sqlite3.Connection]:
        """The guard's write transaction on the engine's own driver connection (system scope).

        Nothing that was changed stays if the block raises. Raises LedgerUnavailable if the database cannot be reached.
        """
        try:
            with self._lock:
                driver = self._driver()
                driver.execute("BEGIN IMMEDIATE")
                try:
                    yield driver
                    driver.execute("COMMIT")
                finally:
                    if driver.in_transaction:
                        driver.execute("ROLLBACK")
        except (sqlite3.OperationalError, sqlite3.DatabaseError, OSError) as problem:
            if isinstance(problem, sqlite3.IntegrityError):
                raise
            raise LedgerUnavailable(
                f"The ledger at {self.path} cannot be written ({problem}), so nothing may be spent.",
                next_step="Check that the folder exists, is writable and has room.",
            ) from problem

    def driver(self) -> sqlite3.Connection:
        """The driver connection of this thread, for reads in the system scope."""
        return self._driver()

    def _driver(self) -> sqlite3.Connection:
        if getattr(self._mine, "pid", None) != os.getpid():
            pooled = self._engine.raw_connection()
            self._mine.driver, self._mine.pid = pooled.driver_connection, os.getpid()
            pooled.detach()  # one connection a thread, for good: it must not use up the pool
        driver: sqlite3.Connection = self._mine.driver
        return driver

    def close(self) -> None:
        """Close every connection of this thread and of the pool."""
        if getattr(self._mine, "pid", None) == os.getpid():
            self._mine.driver.close()
            del self._mine.pid
        self._engine.dispose()


def open_database(url: str) -> Database:
    """The database at a SQLAlchemy URL, its schema brought up to date on first use.

    Raises LedgerUnavailable, with the reason, where it cannot be opened.
    """
    path = Path(url.removeprefix("sqlite:///"))
    engine = create_engine(url)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    event.listen(engine, "before_execute", _confine, retval=True)
    event.listen(engine, "before_cursor_execute", _no_raw_sql)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = Database(engine, path)
        if _revision(path) != head():
            _migrate(database)
    except (OSError, sqlite3.Error) as problem:
        raise LedgerUnavailable(
            f"The database {path} cannot be opened ({problem}).",
            next_step="Check PODCASTQA_HOME and its rights.",
        ) from problem
    return database


def head() -> str:
    """The newest schema revision that this version of the program knows."""
    return max(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _revision(path: Path) -> str | None:
    """The schema's revision, read without loading Alembic: the usual start must not pay for it."""
    if not path.exists():
        return None
    connection = sqlite3.connect(path)
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else None
    except sqlite3.OperationalError:
        return None
    finally:
        connection.close()


def _migrate(database: Database) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with database.write(SYSTEM) as connection:
        if _revision_in(connection) == head():
            return  # another process was first
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision_in(connection: Connection) -> str | None:
    names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() if names else None


def _on_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves: the driver's own is deferred and comes too late
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _said(scope: Scope) -> Scope:
    if not isinstance(scope, Scope):
        raise ScopeMissing(next_step="Say whose data: Scope(user_id), or SYSTEM for the operator.")
    return scope


def _confine(
    connection: Connection,
    statement: Any,
    many: list[Mapping[str, Any]],
    single: Mapping[str, Any],
    _options: Mapping[str, Any],
) -> tuple[Any, Any, Any]:
    """Before each statement: refuse it without a scope, narrow it to the user's rows inside one."""
    owned = {table for table in visitors.iterate(statement) if isinstance(table, Table) and "owner" in table.info}
    target = getattr(statement, "table", None) if isinstance(statement, Insert | Update | Delete) else None
    if isinstance(target, Table) and "owner" in target.info:
        owned.add(target)
    scope = connection.get_execution_options().get("scope")
    if scope is None and owned:
        raise ScopeMissing()
    if scope is None or scope.user_id is None:
        return statement, many, single
    if isinstance(statement, Insert):
        _only_own_rows(statement, target, [*many, single], scope)
    elif isinstance(statement, Update | Delete):
        statement = statement.where(owner_column(target) == scope.user_id)
    elif isinstance(statement, Select):
        for table in owned:
            own = select(table).where(owner_column(table) == scope.user_id).subquery(table.name)
            statement = ClauseAdapter(own).traverse(statement)
    else:
        raise ScopeMissing("Only statements built from tables can be confined to a user.")
    return statement, many, single


def _no_raw_sql(
    connection: Connection, _cursor: object, statement: str, _values: object, context: Any, _many: bool
) -> None:
    """A string of SQL cannot be confined, so it runs in the system scope only."""
    raw = context is None or context.compiled is None
    if raw and connection.get_execution_options().get("scope") != SYSTEM and not statement.startswith("BEGIN"):
        raise ScopeMissing("Raw SQL cannot be confined to a user; build the statement from tables.")


def owner_column(table: Table | None) -> Any:
    """The column that says whose a row is; a table without one has no business in a user's scope."""
    if table is None or "owner" not in table.info:
        raise CrossUserRefused("A user's scope cannot change what belongs to the whole system.")
    return table.c[table.info["owner"]]


def _only_own_rows(statement: Insert, target: Any, rows: list[Mapping[str, Any]], scope: Scope) -> None:
    name = owner_column(target).name
    said = [row[name] for row in rows if name in row]
    said += [value for key, value in statement.compile().params.items() if key == name and value is not None]
    if not said or any(value != scope.user_id for value in said):
        raise CrossUserRefused("A row can be written only for the user whose scope this is.")

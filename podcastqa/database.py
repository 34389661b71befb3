"""Nothing is read or written without saying for whom: every statement runs inside a scope.

A table that belongs to users carries a `user_id` column. Inside a user's scope each statement on such a table is
confined to that user's rows before it reaches the database; without a scope it is an error. `SYSTEM` is the
operator's scope: budgets, reports and migrations need the whole.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError

from podcastqa.errors import LedgerUnavailable
from podcastqa.file_lock import FileLock
from podcastqa.scope import SYSTEM, Scope, confine_to, no_raw_sql, said

__all__ = ["SYSTEM", "Database", "Scope", "head", "metadata", "open_database"]

metadata = MetaData()
MIGRATIONS = Path(__file__).with_name("migrations")


class _Reachable:
    """Turns what a database says when it cannot be used into a refusal; a broken constraint is none of that."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        unusable = isinstance(problem, sqlite3.DatabaseError | DatabaseError | OSError)
        if unusable and not isinstance(problem, sqlite3.IntegrityError | IntegrityError):
            raise LedgerUnavailable(
                f"The ledger at {self._path} cannot be used ({getattr(problem, 'orig', problem)}), so nothing may be "
                "spent.",
                next_step="Check that the folder exists, is writable and has room.",
            ) from problem


class Database:
    """The one door to the tables; `read` and `write` ask for a scope, `hot` is the guard's short cut.

    Each raises LedgerUnavailable if the database cannot be reached, and keeps nothing that was changed if its block
    raises.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self.path, self._name = path, str(path)
        self._engine, self._place = engine, _place(self._name)
        self._lock, self._moving = FileLock(path.with_name(path.name + ".lock")), threading.Lock()
        self._mine = threading.local()

    @property
    def kind(self) -> str:
        """The database's name and version, as reports show it."""
        return f"SQLite {sqlite3.sqlite_version}"

    @contextmanager
    def read(self, scope: Scope) -> Iterator[Connection]:
        """A connection whose statements see one consistent state, confined to the scope."""
        with self._transaction(scope=said(scope)) as connection:
            yield connection

    @contextmanager
    def write(self, scope: Scope) -> Iterator[Connection]:
        """The same for one write transaction: committed at the end, rolled back on an error."""
        scope = said(scope)
        with _Reachable(self.path), self._lock, self._transaction(scope=scope, writes=True) as connection:
            yield connection

    @contextmanager
    def hot(self) -> Iterator[sqlite3.Connection]:
        """The guard's write transaction on a driver connection of this thread (system scope)."""
        with _Reachable(self.path), self._lock:
            driver = self._driver()
            driver.execute("BEGIN IMMEDIATE")
            try:
                yield driver
                driver.execute("COMMIT")
            finally:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A driver connection of this thread whose reads see one consistent state (system scope)."""
        with _Reachable(self.path):
            driver = self._driver()
            driver.execute("BEGIN")
            try:
                yield driver
            finally:
                driver.execute("ROLLBACK")

    def driver(self) -> sqlite3.Connection:
        """The driver connection of this thread, for reads in the system scope."""
        with _Reachable(self.path):
            return self._driver()

    @contextmanager
    def _transaction(self, **options: object) -> Iterator[Connection]:
        with _Reachable(self.path):
            self._here()
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection

    def _driver(self) -> sqlite3.Connection:
        place = self._here()
        if getattr(self._mine, "place", None) != place:
            self._forget_driver()
            pooled = self._engine.raw_connection()
            self._mine.driver, self._mine.place = pooled.driver_connection, place
            pooled.detach()  # one connection a thread, for good: it must not use up the pool
        driver: sqlite3.Connection = self._mine.driver
        return driver

    def _here(self) -> tuple[int, ...]:
        """Let no connection outlive its process (a fork) or its file (deleted, replaced): it would write to nobody."""
        place = _place(self._name)
        if place != self._place:
            with self._moving:
                if place != self._place:
                    self._engine.dispose()
                    self._place = place
        return place

    def _forget_driver(self) -> None:
        if getattr(self._mine, "place", None) is not None:
            self._mine.driver.close()
            self._mine.place = None

    def close(self) -> None:
        """Close every connection of this thread and of the pool."""
        self._forget_driver()
        self._engine.dispose()


def _place(name: str) -> tuple[int, ...]:
    file = os.stat(name)
    return os.getpid(), file.st_dev, file.st_ino


def open_database(url: str) -> Database:
    """The database at a SQLAlchemy URL, its schema brought up to date on first use.

    Raises LedgerUnavailable, with the reason, where it cannot be opened.
    """
    path = Path(url.removeprefix("sqlite:///"))
    engine = create_engine(URL.create("sqlite", database=str(path)))  # not the URL: a path may hold any character
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    event.listen(engine, "before_execute", confine_to(metadata), retval=True)
    event.listen(engine, "before_cursor_execute", no_raw_sql)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)  # another process may be first: that is no fault
        database, revision = Database(engine, path), _revision(path)
        if revision is not None and revision > head():
            raise LedgerUnavailable(
                f"The database {path} was made by a newer version of this program (revision {revision}).",
                next_step="Use that version, or another PODCASTQA_HOME.",
            )
        if revision != head():
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
    for pragma in (
        *("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"),
        "recursive_triggers=ON",  # without it REPLACE deletes rows behind the back of the triggers that forbid it
    ):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

"""The books in one SQLite file: a file lock is the queue of those who write, and each commit is on the disk.

No connection outlives its process (a fork) or its file (deleted, replaced): it would write to nobody.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DatabaseError

from podcastqa.errors import LedgerUnavailable, ScopeMissing
from podcastqa.file_lock import FileLock
from podcastqa.scope import OTHERS, SYSTEM, Scope
from podcastqa.sqlite_line import Reachable, SqliteLine, next_step


class Sqlite:
    """The file and its connections."""

    integrity_errors: tuple[type[Exception], ...] = (sqlite3.IntegrityError,)
    refusals = integrity_errors
    own_tables: frozenset[str] = frozenset()
    is_cut = False

    def __init__(self, path: Path) -> None:
        self.path, self.place, self.kind = path, str(path), f"SQLite {sqlite3.sqlite_version}"
        self.engine = create_engine(URL.create("sqlite", database=str(path)))  # a path may hold any character
        event.listen(self.engine, "connect", _on_connect)
        event.listen(self.engine, "begin", _on_begin)
        self._lock, self._moving = FileLock(path.with_name(path.name + ".lock")), threading.Lock()
        self._mine = threading.local()
        self.open_again()

    def open_again(self) -> None:
        """Make the file where there is none."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.path.exists():
                self.path.touch(mode=0o600)  # another process may be first: that is no fault
            self._file = _file(self.place)
        except OSError as problem:
            raise self.cannot_be_opened(problem) from problem

    def cannot_be_opened(self, problem: Exception) -> LedgerUnavailable:
        """A sentence for whoever starts the program."""
        return LedgerUnavailable(
            f"The database {self.place} cannot be opened ({problem}).",
            next_step=next_step(problem, "Check PODCASTQA_HOME and its rights."),
        )

    def revision(self) -> str | None:
        """The schema's revision, read without loading Alembic: the usual start must not pay for it."""
        try:
            connection = sqlite3.connect(self.path)
            try:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
                return row[0] if row else None
            finally:
                connection.close()
        except sqlite3.OperationalError as problem:
            if "no such table" in str(problem):
                return None
            raise self.cannot_be_opened(problem) from problem
        except (OSError, sqlite3.Error) as problem:
            raise self.cannot_be_opened(problem) from problem

    @contextmanager
    def migrating(self) -> Iterator[tuple[Connection, str | None]]:
        """The one write transaction that changes the schema, and the revision that it begins with."""
        try:
            with self._lock, self._begun(scope=SYSTEM, writes=True) as connection:
                made = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
                asked = "SELECT version_num FROM alembic_version"
                yield connection, connection.exec_driver_sql(asked).scalar() if made.first() else None
        except (OSError, sqlite3.Error, DatabaseError) as problem:
            raise self.cannot_be_opened(problem) from problem

    @contextmanager
    def transaction(self, scope: Scope, *, writes: bool) -> Iterator[Connection]:
        """SQLAlchemy's connection in a transaction; one that writes has its turn."""
        with Reachable(self.path):
            if writes:
                with self._lock, self._begun(scope=scope, writes=True) as connection:
                    connection.info["driver"].execute(OTHERS)
                    yield connection
            else:
                with self._begun(scope=scope) as connection:
                    yield connection

    @contextmanager
    def _begun(self, **options: object) -> Iterator[Connection]:
        self.here()
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextmanager
    def hot(self) -> Iterator[sqlite3.Connection]:
        """A write transaction on a driver connection of this thread."""
        with Reachable(self.path), self._lock:
            driver = self._driver()
            driver.execute("BEGIN IMMEDIATE")
            try:
                driver.execute(OTHERS)
                yield driver
                driver.execute("COMMIT")
            finally:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A driver connection of this thread whose reads see one consistent state."""
        with Reachable(self.path):
            driver = self._driver()
            driver.execute("BEGIN")
            try:
                yield driver
            finally:
                driver.execute("ROLLBACK")

    @contextmanager
    def raw(self, scope: Scope) -> Iterator[sqlite3.Connection]:
        """Raw SQL in a scope, of which nothing stays: no wall of the file's own keeps users apart."""
        if scope != SYSTEM:
            raise ScopeMissing("SQLite cannot confine raw SQL to a user; build the statement from tables.")
        with self.snapshot() as driver:
            yield driver

    def driver(self) -> sqlite3.Connection:
        """The driver connection of this thread."""
        with Reachable(self.path):
            return self._driver()

    def line(self) -> SqliteLine:
        """A connection of its own for one writer."""
        return SqliteLine(self.path, self._lock, self.here, self.connected)

    def connected(self) -> sqlite3.Connection:
        """A new driver connection, nobody else's."""
        pooled = self.engine.raw_connection()
        driver = pooled.driver_connection
        pooled.detach()  # for good: it must not use up the pool
        assert isinstance(driver, sqlite3.Connection)  # noqa: S101 – what the engine of this class makes
        return driver

    def _driver(self) -> sqlite3.Connection:
        file = self.here()
        if getattr(self._mine, "file", None) != file:
            self._forget_driver()
            self._mine.driver, self._mine.file = self.connected(), file
        driver: sqlite3.Connection = self._mine.driver
        return driver

    def here(self) -> tuple[int, ...]:
        """Which process and file this is; the pool of another one is left behind."""
        file = _file(self.place)
        if file != self._file:
            with self._moving:
                if file != self._file:
                    self.engine.dispose()
                    self._file = file
        return file

    def _forget_driver(self) -> None:
        if getattr(self._mine, "file", None) is not None:
            self._mine.driver.close()
            self._mine.file = None

    def close(self) -> None:
        """Close every connection of this thread and of the pool."""
        self._forget_driver()
        self.engine.dispose()

    def beside(self, _name: str) -> str:
        """A file in another home is set apart already."""
        return ""

    def schema(self) -> dict[str, str]:
        """Every table, index and trigger with the SQL that made it."""
        rows = self.driver().execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {f"{kind} {name}": sql for kind, name, sql in rows}


def _file(name: str) -> tuple[int, ...]:
    found = os.stat(name)
    return os.getpid(), found.st_dev, found.st_ino


def _on_connect(connection: Any, record: Any) -> None:
    record.info["driver"] = connection
    connection.isolation_level = None  # we say BEGIN ourselves: the driver's own is deferred and comes too late
    for pragma in (
        *("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"),
        "recursive_triggers=ON",  # without it REPLACE deletes rows behind the back of the triggers that forbid it
    ):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

"""The books in PostgreSQL: one lock is the queue of those who write, and a role that owns nothing does all the work.

Who writes takes the lock first, and raises the number in `ledger_version`: the next one sees by it whether others have
written. The login only migrates; the operator's work is done as `podcastqa_app`, a user's as `podcastqa_user`, to whom
row-level security shows that user's rows and no others.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError

from podcastqa.errors import LedgerUnavailable, SettingsError
from podcastqa.postgres_driver import Postgres as Server
from podcastqa.postgres_driver import PostgresDriver, adapt
from podcastqa.postgres_schema import make_roles, make_schema, schema_of
from podcastqa.scope import APP_ROLE, SYSTEM, TURN_KEY, USER_ROLE, Scope

#: Others wait for whoever has the turn to write, so nobody may keep it while doing nothing.
_SESSION = (
    f"SET ROLE {APP_ROLE}",
    "SET idle_in_transaction_session_timeout = '60s'",
    "SET podcastqa.queues = 'yes'",  # the triggers need not raise the version: each of our writes has
)
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_TURN = f"BEGIN; SELECT pg_advisory_xact_lock({TURN_KEY}, hashtext(current_schema()))"
_VERSION = "SELECT version FROM ledger_version"
_RAISE = "UPDATE ledger_version SET version = version + 1"
#: How long a server that went away under a writer may take to come back.
_PATIENCE_SECONDS = 5.0
_LONGEST_NAME = 63


class _Reachable:
    """Turns what the server says when it cannot be used into a refusal; a broken constraint is none of that."""

    __slots__ = ("_books",)

    def __init__(self, books: Postgres) -> None:
        self._books = books

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        said = problem.orig if isinstance(problem, DBAPIError) else problem
        if not isinstance(said, psycopg.Error) or isinstance(said, errors.IntegrityError | errors.DataError):
            return
        self._books.note_cut(said)
        raise LedgerUnavailable(
            f"The ledger at {self._books.place} cannot be used ({_one_line(said)}), so nothing may be spent.",
            next_step="Check that the server runs and that its disk has room.",
        ) from problem


class _Connection(psycopg.Connection[Any]):
    """Closes itself when nobody knows it any more: its books were let go of."""

    def __del__(self, *_: Any) -> None:
        self.pgconn.finish()


class Postgres:
    """A database of a server, and our connections to it."""

    integrity_errors: tuple[type[Exception], ...] = (errors.IntegrityError,)
    refusals = (*integrity_errors, errors.InsufficientPrivilege)
    own_tables = frozenset({"ledger_version"})
    path = None

    def __init__(self, url: str) -> None:
        self._url, said = url, _parsed(url)
        schema = str(said.get("options", "")).partition("search_path=")[2]
        host = said.get("host", "localhost")
        self.place = f"{host}/{said.get('dbname', '')}" + (f" ({schema})" if schema else "")
        self._reachable, self._mine, self._pid = _Reachable(self), threading.local(), os.getpid()
        self._lines = weakref.WeakSet[PostgresLine]()
        self.engine = create_engine("postgresql+psycopg://", creator=self.connected, pool_pre_ping=True, pool_size=4)
        event.listen(self.engine, "connect", _on_connect)
        event.listen(self.engine, "begin", _on_begin)
        self.kind = "PostgreSQL"

    def revision(self) -> str | None:
        """The schema's revision; None while there is none."""
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                self.kind = f"PostgreSQL {connection.info.parameter_status('server_version')}"
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
                return row[0] if row else None
        except errors.UndefinedTable:
            return None
        except psycopg.Error as problem:
            raise self._cannot_be_opened(problem) from problem

    def _cannot_be_opened(self, problem: Exception) -> LedgerUnavailable:
        return LedgerUnavailable(
            f"The database {self.place} cannot be opened ({_one_line(problem)}).",
            next_step="Check DATABASE_URL, that the server runs, and the rights of its login.",
        )

    @contextmanager
    def migrating(self) -> Iterator[tuple[Connection, str | None]]:
        """The one write transaction that changes the schema, as the login, and the revision that it begins with."""
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(self._url))
        try:
            make_roles(self._url, self.place)
            with engine.begin() as connection:
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('podcastqa migrations'))")
                make_schema(connection)
                made = connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar()
                asked = "SELECT version_num FROM alembic_version"
                yield connection, connection.exec_driver_sql(asked).scalar() if made else None
        except (psycopg.Error, DBAPIError) as problem:
            raise self._cannot_be_opened(getattr(problem, "orig", None) or problem) from problem
        finally:
            engine.dispose()

    # ── transactions ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def transaction(self, scope: Scope, *, writes: bool) -> Iterator[Connection]:
        """SQLAlchemy's connection in a transaction; one that writes has its turn."""
        with self._reachable, self.turn(writes):
            options = {"scope": scope, "writes": writes}
            with self._engine().connect().execution_options(**options) as connection, connection.begin():
                yield connection

    @contextmanager
    def hot(self) -> Iterator[PostgresDriver]:
        """A write transaction on a driver connection."""
        with self._borrowed(SYSTEM, writes=True) as driver:
            yield driver

    @contextmanager
    def snapshot(self) -> Iterator[PostgresDriver]:
        """A driver connection whose reads see one consistent state."""
        with self._borrowed(SYSTEM) as driver:
            yield driver

    @contextmanager
    def raw(self, scope: Scope) -> Iterator[PostgresDriver]:
        """Raw SQL in a scope, of which nothing stays."""
        with self._borrowed(scope, writes=True, keeps=False) as driver:
            yield driver

    def driver(self) -> _Asking:
        """A driver that borrows a connection for each statement."""
        return _Asking(self)

    def line(self) -> PostgresLine:
        """A connection of its own for one writer."""
        line = PostgresLine(self, self._reachable)
        self._lines.add(line)
        return line

    @contextmanager
    def _borrowed(self, scope: Scope, *, writes: bool = False, keeps: bool = True) -> Iterator[PostgresDriver]:
        with self.transaction(scope, writes=writes) as connection:
            yield connection.info["driver"]
            if not keeps:
                connection.rollback()

    @contextmanager
    def turn(self, writes: bool = True) -> Iterator[None]:
        """Refuse a write inside another one of this thread: it would wait for itself."""
        if not writes:
            yield
            return
        self.take_turn()
        try:
            yield
        finally:
            self._mine.writes = False

    def take_turn(self) -> None:
        """The same, until `end_turn`."""
        if getattr(self._mine, "writes", False):
            raise RuntimeError("this thread already holds the turn to write: one write inside another would never end")
        self._mine.writes = True

    def end_turn(self) -> None:
        """This thread writes no more."""
        self._mine.writes = False

    # ── connections ───────────────────────────────────────────────────────────────────────────────────────────────

    def connected(self) -> Server:
        """A new connection, nobody else's."""
        connection = _Connection.connect(self._url, autocommit=True)  # we say BEGIN ourselves
        for sql in _SESSION:
            connection.execute(sql)
        adapt(connection)
        return connection

    def connected_again(self) -> Server:
        """The same where the server went away: it may be coming back."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return self.connected()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def _engine(self) -> Any:
        """The pool; a forked child leaves its parent's connections to its parent."""
        if self._pid != os.getpid():
            self.engine.dispose(close=False)
            self._pid = os.getpid()
        self._mine.cut = False
        return self.engine

    def note_cut(self, problem: psycopg.Error | None) -> None:
        """Remember whether the connection was lost: the server says nothing then, or that it shuts down."""
        lost = isinstance(problem, psycopg.InterfaceError | psycopg.OperationalError)
        self._mine.cut = lost and (problem.sqlstate is None or problem.sqlstate[:2] in ("08", "57", "25"))  # type: ignore[union-attr]

    @property
    def is_cut(self) -> bool:
        """Whether a connection was lost under this thread's last call."""
        return bool(getattr(self._mine, "cut", False))

    def close(self) -> None:
        """Close every connection of the pool and of the writers; whoever asks afterwards is given another."""
        for line in tuple(self._lines):
            line.hang_up()
        self.engine.dispose()

    def beside(self, name: str) -> str:
        """The same database with a schema of that name."""
        schema = re.sub("[^a-z0-9_]", "_", name.lower())
        if len(schema) > _LONGEST_NAME:  # the server would cut it, and two might become one
            schema = f"{schema[: _LONGEST_NAME - 13]}_{hashlib.sha256(schema.encode()).hexdigest()[:12]}"
        return make_conninfo(self._url, options=f"-c search_path={schema}")

    def schema(self) -> dict[str, str]:
        """Every table's columns, constraint, index, trigger, policy and right."""
        with self.snapshot() as driver:
            return schema_of(driver)


class _Asking:
    """Reads, each on a connection of its own."""

    def __init__(self, books: Postgres) -> None:
        self._books = books

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """Run one statement; its rows have come when it returns."""
        with self._books.snapshot() as driver:
            return driver.execute(sql, parameters)

    def executemany(self, sql: str, rows: Any, /) -> Any:
        """Nothing is changed here: a driver that writes comes from `hot`."""
        with self._books.snapshot() as driver:
            return driver.executemany(sql, rows)


class PostgresLine:
    """A lock of the server is the queue, and the number in `ledger_version` says whether others have written."""

    def __init__(self, books: Postgres, reachable: _Reachable) -> None:
        self._books, self._reachable = books, reachable
        self._driver: PostgresDriver | None = None
        self._pid = os.getpid()
        self._seen = -1

    @property
    def driver(self) -> PostgresDriver:
        """What the transaction's statements run on."""
        if self._driver is None:
            raise RuntimeError("a line has no connection before it begins")
        return self._driver

    def reachable(self) -> _Reachable:
        """Turns what the server says when it cannot be used into LedgerUnavailable."""
        return self._reachable

    def begins_at_once(self) -> bool:
        """A server is waited for."""
        return False

    def give_back(self) -> None:
        """There was none."""

    def begin(self) -> bool:
        """Wait for the turn; True if nobody else has written since this line last began."""
        self._books.take_turn()
        try:
            with self._reachable:
                try:
                    version = self._begun(self._connected())
                except psycopg.OperationalError:  # it was idle, and the server went away: nothing has happened yet
                    self.hang_up()
                    version = self._begun(self._connected(again=True))
        except BaseException:
            self._books.end_turn()
            raise
        still, self._seen = version == self._seen, version
        return still

    def _begun(self, driver: PostgresDriver) -> int:
        cursor = driver.connection.execute(f"{_TURN}; {_VERSION}")
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        return int(row[0]) if row else 0

    def commit(self, write: Callable[[], None]) -> None:
        """Write the last of it, make all durable, and end the turn: all is sent at once, and answered at once."""
        connection = self.driver.connection
        try:
            with self._reachable, connection.pipeline():
                write()
                connection.execute(_RAISE)
                connection.execute("COMMIT")
            self._seen += 1
            self._books.note_cut(None)
        except BaseException:
            self.hang_up()  # whether it was done is not known: this connection is asked no more
            raise
        finally:
            self._books.end_turn()

    def rollback(self) -> None:
        """Forget it, and end the turn."""
        try:
            self.driver.connection.execute("ROLLBACK")
        except BaseException:
            self.hang_up()  # the server forgets it by itself
            raise
        finally:
            self._books.end_turn()

    def _connected(self, *, again: bool = False) -> PostgresDriver:
        if self._pid != os.getpid():
            self._driver, self._pid = None, os.getpid()  # it is the parent's
        if self._driver is not None and self._driver.connection.closed:
            self._driver = None
        if self._driver is None:
            again = again or self._books.is_cut
            self._driver = PostgresDriver(self._books.connected_again() if again else self._books.connected())
            self._seen = -1
        return self._driver

    def hang_up(self) -> None:
        """Close the connection; what it did not commit has not happened."""
        driver, self._driver = self._driver, None
        if driver is not None:
            with suppress(psycopg.Error):
                driver.connection.close()


def _parsed(url: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its words may quote the password
        raise SettingsError(
            "DATABASE_URL cannot be read as the address of a PostgreSQL database.",
            next_step="Write a space in it as %20, @ as %40, / as %2F; after ? stand only parameters of libpq.",
        ) from None


def _one_line(problem: object) -> str:
    return " ".join(str(problem).split())


def _on_connect(connection: Any, record: Any) -> None:
    record.info["driver"] = PostgresDriver(connection)


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    scope: Scope = options.get("scope") or SYSTEM
    driver: PostgresDriver = connection.info["driver"]
    driver.connection.execute(f"{_TURN}; {_RAISE}" if options.get("writes") else _READ)
    if scope.user_id is not None:
        driver.connection.execute(f"SET LOCAL ROLE {USER_ROLE}; SET LOCAL podcastqa.user_id = '{int(scope.user_id)}'")

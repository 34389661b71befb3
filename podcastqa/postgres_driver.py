"""SQL past SQLAlchemy for PostgreSQL, in the words that SQLite's driver takes: `?` stands for a value.

Every whole number goes as one of 64 bits, so that one plan serves all; sums of such numbers come back as whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import count
from typing import Any

import psycopg
from psycopg.adapt import Loader
from psycopg.types.numeric import Int8Dumper

_QUOTED = re.compile(r"('(?:[^']|'')*')")
Postgres = psycopg.Connection[Any]


class _Sum(Loader):
    """A numeric: mostly the sum of 64-bit numbers."""

    def load(self, data: Any) -> int | Decimal:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else Decimal(text)


class PostgresDriver:
    """A connection; what it says of an error is the driver's own."""

    __slots__ = ("connection",)

    def __init__(self, connection: Postgres) -> None:
        self.connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> psycopg.RawCursor[Any]:
        """Run one statement."""
        cursor = psycopg.RawCursor(self.connection)
        return cursor.execute(_numbered(sql), parameters) if parameters else cursor.execute(sql)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> psycopg.RawCursor[Any]:
        """Run it for each row, all sent at once."""
        cursor = psycopg.RawCursor(self.connection)
        cursor.executemany(_numbered(sql), rows)
        return cursor


def adapt(connection: Postgres) -> None:
    """Let numbers go and come as described, for whoever asks on this connection."""
    connection.adapters.register_dumper(int, Int8Dumper)
    connection.adapters.register_loader("numeric", _Sum)


@lru_cache(maxsize=512)
def _numbered(sql: str) -> str:
    numbers = count(1)
    parts = _QUOTED.split(sql)
    parts[::2] = [re.sub(r"\?", lambda _: f"${next(numbers)}", part) for part in parts[::2]]
    return "".join(parts)

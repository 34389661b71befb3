"""Reads pages of a table as Arrow, past Python's own drivers; as a program it writes them to its output as one stream.

For SQLite it has to be a program of its own: its driver brings an SQLite of its own, and a file's locks belong to the
process. Were both in one process, the first `close` here would drop the locks that the ledger's writer holds there. It
then takes what to read (JSON) from its input, and imports nothing of podcastqa.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

#: Options of a statement that returns many rows, and of one that returns none.
_OPTIONS = {
    "adbc_driver_sqlite": ({"adbc.sqlite.query.batch_rows": "16384"}, {}),
    "adbc_driver_postgresql": (
        {"adbc.postgresql.batch_size_hint_bytes": str(4 << 20)},
        {"adbc.postgresql.use_copy": "false"},
    ),
}


def read(asked: dict[str, Any]) -> Iterator[Any]:
    """Connect, run the statements that go before, and yield the pages' record batches, one after the other."""
    import pyarrow as pa
    from adbc_driver_manager import AdbcConnection, AdbcStatement

    rows, nothing = _OPTIONS[asked["driver"]]
    with import_module(asked["driver"]).connect(asked["uri"]) as database, AdbcConnection(database) as connection:
        for sql in asked["before"]:
            with AdbcStatement(connection) as statement:
                statement.set_options(**nothing)
                statement.set_sql_query(sql)
                statement.execute_update()
        for sql in asked["pages"]:
            with AdbcStatement(connection) as statement:
                statement.set_options(**rows)
                statement.set_sql_query(sql)
                with pa.RecordBatchReader.from_stream(statement.execute_query()[0]) as page:
                    yield from page


def main(asked: dict[str, Any]) -> None:
    """Write what was asked for to the output."""
    sys.modules["numpy"] = None  # type: ignore[assignment]  # pyarrow can do without, and half of its start is numpy
    import pyarrow as pa

    written = None
    for batch in read(asked):
        written = written or pa.ipc.new_stream(sys.stdout.buffer, batch.schema)
        written.write_batch(batch)
    if written is not None:
        written.close()


if __name__ == "__main__":
    main(json.load(sys.stdin))

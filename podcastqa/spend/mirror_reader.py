"""A program of its own that reads pages of a table and writes them to its output as one Arrow stream.

It runs beside the process that asks, for a reason: its driver brings an SQLite of its own, and a file's locks belong to
the process. Were both in one process, the first `close` here would drop the locks that the ledger's writer holds
there. It takes what to read (JSON) from its input, and imports nothing of podcastqa.
"""

from __future__ import annotations

import json
import sys
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


def main(asked: dict[str, Any]) -> None:
    """Connect, run the statements that go before, and write the pages, one after the other."""
    sys.modules["numpy"] = None  # type: ignore[assignment]  # pyarrow can do without, and half of its start is numpy
    import pyarrow as pa
    from adbc_driver_manager import AdbcConnection, AdbcStatement

    rows, nothing = _OPTIONS[asked["driver"]]
    with import_module(asked["driver"]).connect(asked["uri"]) as database, AdbcConnection(database) as connection:
        for sql in asked["before"]:
            with AdbcStatement(connection) as statement:
                statement.set_options(**nothing)
                statement.set_sql_query(sql)
                statement.execute_update()
        written = None
        for sql in asked["pages"]:
            with AdbcStatement(connection) as statement:
                statement.set_options(**rows)
                statement.set_sql_query(sql)
                with pa.RecordBatchReader.from_stream(statement.execute_query()[0]) as page:
                    written = written or pa.ipc.new_stream(sys.stdout.buffer, page.schema)
                    for batch in page:
                        written.write_batch(batch)
        if written is not None:
            written.close()


if __name__ == "__main__":
    main(json.load(sys.stdin))

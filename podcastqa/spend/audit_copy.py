"""What an audit looks at: the ledger's tables as they are at one instant, copied into a DuckDB in memory.

Rules are then the same for every database, and fast. Values are taken as the column's type says; one that is of
another type (SQLite keeps whatever it is given) is noted in `misfits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from podcastqa.database import Database, Driver
from podcastqa.spend.entries import STEP
from podcastqa.spend.tables import APPEND_ONLY

_CHUNK_ROWS = 20_000
#: Each table: the column that names a row, its whole numbers, its texts.
TABLES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "entries": (
        "id",
        ("id", "user_id", "amount_pico", "day", "at_us", "expires_us"),
        ("hold_id", "kind", "source", "service", "operation", "price", "reason"),
    ),
    "open_holds": ("hold_id", ("user_id", "day", "amount_pico", "started", "expires_us"), ("hold_id", "source")),
    "counters": ("user_id", ("user_id", "day", "booked_pico", "held_pico", "bill_pico"), ("source",)),
    "service_counters": ("service", ("day", "booked_pico", "held_pico"), ("service",)),
    "carried": ("id", ("id", "through_id", "times", "others"), ()),
    "bill_days": ("source", ("day", "user_id", "gross_pico", "net_pico", "read_us"), ("source",)),
    "limits": (
        "id",
        ("id", "user_id", "amount_pico", "removed", "from_us", "set_us"),
        ("service", "window_kind", "set_by", "reason"),
    ),
    "stops": ("id", ("id", "stopped", "at_us"), ("said_by", "reason")),
    "users": ("id", ("id",), ()),
}
#: The last number that was given to a row, on SQLite and elsewhere.
_NUMBERED = {
    True: "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?",
    False: "SELECT CASE WHEN has_sequence_privilege(name, 'USAGE') THEN pg_sequence_last_value(name::regclass) END"
    " FROM (SELECT pg_get_serial_sequence(?, 'id') AS name) AS numbers",
}


def copy_ledger(database: Database, connection: Any) -> tuple[int, list[str]]:
    """Fill the DuckDB connection from one consistent state.

    Returns how many triggers and indexes guard the tables of a ledger, and what is wrong with them, each a sentence.
    """
    connection.execute("CREATE TABLE misfits (table_name VARCHAR, name VARCHAR, said VARCHAR)")
    on_sqlite = database.kind.startswith("SQLite")
    with database.snapshot() as driver:
        for table in TABLES:
            _copy(driver, connection, table)
            if on_sqlite:
                _note_misfits(driver, connection, table)
        connection.execute("CREATE TABLE numbering (name VARCHAR, last_id BIGINT, dense BOOLEAN)")
        for table in APPEND_ONLY:
            (last_id,) = driver.execute(_NUMBERED[on_sqlite], (table,)).fetchone()
            # A rollback leaves a gap in PostgreSQL's numbers.
            connection.execute("INSERT INTO numbering VALUES (?, ?, ?)", [table, last_id, on_sqlite])
        guards = (2 if on_sqlite else 3) * len(APPEND_ONLY) + 2  # SQLite knows no TRUNCATE
        return guards, _missing_on_sqlite(driver) if on_sqlite else _missing_on_postgresql(driver)


def _copy(driver: Driver, connection: Any, table: str) -> None:
    import pyarrow as pa

    _, numbers, texts = TABLES[table]
    types = [pa.int64()] * len(numbers) + [pa.string()] * len(texts)
    columns = ", ".join([f"{name} BIGINT" for name in numbers] + [f"{name} VARCHAR" for name in texts])
    connection.execute(f"CREATE TABLE {table} ({columns})")
    for rows in _chunks(driver, table):
        arrays = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), types, strict=True)]
        batch = pa.table(arrays, names=[*numbers, *texts])
        connection.register("batch", batch)
        connection.execute(f"INSERT INTO {table} SELECT * FROM batch")
        connection.unregister("batch")


def _chunks(driver: Driver, table: str) -> Iterator[list[Any]]:
    """Rows in bunches; the entries, of which there are many, a page of ids at a time."""
    _, numbers, texts = TABLES[table]
    casts = [f"CAST({name} AS BIGINT)" for name in numbers] + [f"CAST({name} AS TEXT)" for name in texts]
    sql = f"SELECT {', '.join(casts)} FROM {table}"
    if table != "entries":
        cursor = driver.execute(sql)
        while rows := cursor.fetchmany(_CHUNK_ROWS):
            yield rows
        return
    from tqdm import tqdm

    (total,) = driver.execute("SELECT count(*) FROM entries").fetchone()
    last, page = -(2**63), f"{sql} WHERE id > ? ORDER BY entries.id LIMIT {_CHUNK_ROWS}"
    with tqdm(total=total, desc="reading the ledger", unit=" rows", delay=1, disable=None, leave=False) as progress:
        while rows := driver.execute(page, (last,)).fetchall():
            yield rows
            last = rows[-1][0]
            progress.update(len(rows))


def _note_misfits(driver: Driver, connection: Any, table: str) -> None:
    """What stands in a column of whole numbers and is none, or in one of texts and is none."""
    name, numbers, texts = TABLES[table]
    wrong = [f"typeof({one}) <> 'integer'" for one in numbers] + [f"typeof({one}) <> 'text'" for one in texts]
    types = " || ', ' || ".join(f"'{one} is ' || typeof({one})" for one in (*numbers, *texts))
    found = driver.execute(f"SELECT '{table}', CAST({name} AS TEXT), {types} FROM {table} WHERE {' OR '.join(wrong)}")
    while rows := found.fetchmany(_CHUNK_ROWS):
        connection.executemany("INSERT INTO misfits VALUES (?, ?, ?)", rows)


#: What pg_trigger's type says of an action.
_BITS = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}
#: Table → what a trigger refuses there.
_REFUSED = dict.fromkeys(APPEND_ONLY, ("UPDATE", "DELETE"))
_NO_RESERVE, _TWICE = "entries: INSERT without a reserve", "entries: INSERT of a hold's step a second time"


#: What a trigger of ours does, and its words to the last.
_TRIGGERS = {
    f"{table}: {action}": f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table}"
    f" BEGIN SELECT RAISE(ABORT, '{table} only grows: {action} is refused'); END"
    for table, all_ in _REFUSED.items()
    for action in all_
} | {
    _NO_RESERVE: "CREATE TRIGGER entries_need_reserve AFTER INSERT ON entries WHEN NEW.kind <> 'reserve' AND NOT EXISTS"
    " (SELECT 1 FROM entries WHERE hold_id = NEW.hold_id AND kind = 'reserve')"
    " BEGIN SELECT RAISE(ABORT, 'an entry needs the reserve of its hold'); END"
}


def _missing_on_sqlite(driver: Driver) -> list[str]:
    """Triggers that let tables grow only, and the index of a hold's steps; one that does something else is none, and
    one that is not ours may keep any change from being made."""
    rows = driver.execute("SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    found = {" ".join(str(sql).split()) for *_, sql in rows}
    missing = [what for what, words in _TRIGGERS.items() if words not in found]
    steps = f"CREATE UNIQUE INDEX uq_entries_step ON entries (hold_id, ({STEP}))"
    indexes = driver.execute("SELECT sql FROM sqlite_master WHERE type = 'index'").fetchall()
    missing += [_TWICE] * ((steps,) not in indexes)
    ours = {words.split()[2] for words in _TRIGGERS.values()}
    strange = [(table, name) for table, name, _ in rows if table in TABLES and name not in ours]
    return _not_refused(missing) + [
        f"{table}: the trigger {name} is none of ours, and may change or drop what is written"
        for table, name in strange
    ]


def _not_refused(missing: Sequence[str]) -> list[str]:
    return [f"{what} is not refused: its trigger or index is gone or does something else" for what in missing]


def _missing_on_postgresql(driver: Driver) -> list[str]:
    """The same by what pg_trigger says: enabled, before the change, for that action, and its function raises."""
    rows = driver.execute(
        "SELECT c.relname, t.tgtype FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()"
        " JOIN pg_proc p ON p.oid = t.tgfoid AND position('RAISE EXCEPTION' IN p.prosrc) > 0"
        " WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')"
    ).fetchall()
    before = {(table, action) for table, kind in rows for action, bit in _BITS.items() if kind & 2 and kind & bit}
    wanted = [(table, action) for table, all_ in _REFUSED.items() for action in (*all_, "TRUNCATE")]
    missing = [f"{table}: {action}" for table, action in wanted if (table, action) not in before]
    missing += [_NO_RESERVE] * (("entries", "INSERT") not in before)
    steps = driver.execute(
        "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid AND c.relname = 'entries'"
        " JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()"
        " WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 2"
        " AND pg_get_indexdef(i.indexrelid) LIKE '%(hold_id, (%CASE kind%'"
    ).fetchall()
    return _not_refused(missing + [_TWICE] * (not steps))

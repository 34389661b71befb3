"""Every constraint is broken once on purpose, in a database of its own: what refuses nothing protects nothing."""

from __future__ import annotations

import warnings

from podcastqa.database import SYSTEM, Database, Driver, metadata
from podcastqa.wiring import Parts, drill_parts

_ENTRY = (
    "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us, reason)"
    " VALUES ({hold}, {kind}, {user}, 's', 's', 'o', {amount}, 1, 1, {reason})"
)
_VALIDATION = (
    "INSERT INTO validations (run_id, step, verdict, criteria_version, fingerprint, rehearsal, started_us, finished_us,"
    " cost_pico, components, criteria, parameters)"
    " VALUES ('r', 's', {verdict}, 1, 'f', 1, 1, 1, 1, '{{}}', '[]', '{{}}')"
)
_MAIL = (
    "INSERT INTO outbox (user_id, window_kind, window_start, threshold, spent_pico, limit_pico, detail, created_us)"
    " VALUES (0, {window}, 1, {threshold}, 1, 1, '', 1)"
)


def _entry(hold: str = "'h'", kind: str = "'reserve'", user: str = "1", amount: str = "1", reason: str = "''") -> str:
    return _ENTRY.format(hold=hold, kind=kind, user=user, amount=amount, reason=reason)


def _limit(
    window: str = "'day'",
    amount: str = "1",
    by: str = "'a'",
    *,
    user: str = "0",
    service: str = "''",
    removed: str = "0",
    begins: str = "1",
) -> str:
    return (
        "INSERT INTO limits (user_id, service, window_kind, amount_pico, removed, from_us, set_us, set_by, reason)"
        f" VALUES ({user}, {service}, {window}, {amount}, {removed}, {begins}, 1, {by}, 'r')"
    )


def _held(started: str = "0") -> str:
    return f"INSERT INTO open_holds VALUES ('x', 1, 's', 1, 1, {started}, 1)"


_READ = (
    "INSERT INTO bill_reads (source, account, asked, began_us, ended_us, again_us, problem, answer, sha256, pages)"
    " VALUES ('s', 'a', '', 1, 1, 1, '', {answer}, '', {pages})"
)
_FILE = (
    "INSERT INTO bill_files (import_id, sha256, name, format, rows, bad_rows)"
    " VALUES ({imported}, {digest}, 'f', 'FOCUS 1.2', 1, '[]')"
)
_LINE = (
    "INSERT INTO bill_lines (import_id, sha256, line, source, account, period, day, user_tag, resource_id, service,"
    " category, amount_text, amount_pico, effective_pico)"
    " VALUES ({imported}, '', 1, 's', 'a', 1, 1, '', '', '', 'Usage', '1', {amount}, 1)"
)

_LISTEN = (
    "INSERT INTO listening (user_id, source, ended_us, precision_us, episode, played_ms, nth, digest)"
    " VALUES ({user}, {source}, 1, {precision}, {episode}, 1, 1, {digest})"
)
_SAVED = "INSERT INTO library (user_id, source, show, added_us, digest) VALUES ({user}, {source}, {show}, 1, {digest})"


_CONNECTED = (
    "INSERT INTO connections (user_id, provider, account, state, key_id, sealed, consented_us)"
    " VALUES ({user}, {provider}, 'a', {state}, 'k', {sealed}, 1)"
)
_EPISODE = (
    "INSERT INTO episodes (user_id, source, uri, duration_ms, position_ms, fetched_us)"
    " VALUES ({user}, 's', {uri}, 1, {position}, 1)"
)


def _connected(user: int = 1, provider: str = "'n'", state: str = "'connected'", sealed: str = "'x'") -> str:
    return _CONNECTED.format(user=user, provider=provider, state=state, sealed=sealed)


def _episode(user: int = 1, uri: str = "'n'", position: int = 1) -> str:
    return _EPISODE.format(user=user, uri=uri, position=position)


def _listen(user: int = 1, source: str = "'s'", precision: int = 1, episode: str = "'e'", digest: str = "'n'") -> str:
    return _LISTEN.format(user=user, source=source, precision=precision, episode=episode, digest=digest)


def _saved(user: int = 1, source: str = "'s'", show: str = "'s'", digest: str = "'n'") -> str:
    return _SAVED.format(user=user, source=source, show=show, digest=digest)


_SETUP = (
    "INSERT INTO users (id, name, created_us) VALUES (1, 'one', 1)",
    _entry(),
    _entry(kind="'start'"),
    _entry(kind="'settle'"),
    _limit(),
    "INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (0, 1, 'a', 'r')",
    _MAIL.format(window="'day'", threshold="'50'"),
    _VALIDATION.format(verdict="'PASS'"),
    "INSERT INTO bill_days VALUES ('s', 1, 0, 1, 1, 1)",
    "INSERT INTO counters (user_id, day, source) VALUES (0, 1, 's')",
    "INSERT INTO service_counters (service, day) VALUES ('s', 1)",
    "INSERT INTO bill_imports (id, path, imported_us) VALUES (1, 'p', 1)",
    _FILE.format(imported=1, digest=f"'{'a' * 64}'"),
    _listen(digest="'d'"),
    _saved(digest="'d'"),
    _connected(provider="'p'"),
    _episode(uri="'u'"),
)
#: What each constraint must refuse; the test of the schema asks that every named constraint stands here.
ATTEMPTS: tuple[tuple[str, str], ...] = (
    ("users.name unique", "INSERT INTO users (name, created_us) VALUES ('one', 1)"),
    ("ck_users_name", "INSERT INTO users (name, created_us) VALUES (NULL, 1)"),
    ("uq_entries_step", _entry()),
    ("uq_entries_step", _entry(kind="'start'")),
    ("uq_entries_step", _entry(kind="'void'")),
    ("ck_entries_kind", _entry(kind="'refund'", hold="'h'")),
    ("ck_entries_amount", _entry(hold="'n'", amount="-1")),
    ("ck_entries_amount", _entry(hold="'n'", amount="4000000000000000001")),
    ("ck_entries_hold", _entry(hold="''")),
    ("ck_entries_reason", _entry(kind="'correct'")),
    ("entries.user_id known", _entry(hold="'n'", user="99")),
    ("entries.amount_pico not null", _entry(hold="'n'", amount="NULL")),
    ("entries_need_reserve", _entry(hold="'n'", kind="'settle'")),
    ("entries_no_update", "UPDATE entries SET amount_pico = 0"),
    ("entries_no_delete", "DELETE FROM entries"),
    ("ck_open_holds_started", _held(started="2")),
    ("counters primary key", "INSERT INTO counters (user_id, day, source) VALUES (0, 1, 's')"),
    ("ck_counters_held", "UPDATE counters SET held_pico = -1"),
    ("ck_carried_one", "INSERT INTO carried VALUES (2, 0, 0, 0)"),
    ("ck_carried_through", "UPDATE carried SET through_id = -1"),
    ("service_counters primary key", "INSERT INTO service_counters (service, day) VALUES ('s', 1)"),
    ("ck_service_counters_held", "UPDATE service_counters SET held_pico = -1"),
    ("bill_days primary key", "INSERT INTO bill_days VALUES ('s', 1, 0, 2, 2, 2)"),
    ("ck_limits_window", _limit(window="'year'")),
    ("ck_limits_amount", _limit(amount="-1")),
    ("ck_limits_who", _limit(by="''")),
    ("ck_limits_service", _limit(user="1", service="'s'")),
    ("ck_limits_removed", _limit(removed="1", amount="1")),
    ("ck_limits_removed", _limit(removed="2", amount="0")),
    ("ck_limits_from", _limit(begins="0")),
    ("limits_no_update", "UPDATE limits SET amount_pico = 0"),
    ("limits_no_delete", "DELETE FROM limits"),
    ("ck_stops_stopped", "INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (2, 1, 'a', 'r')"),
    ("ck_stops_who", "INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (1, 1, '', 'r')"),
    ("stops_no_update", "UPDATE stops SET stopped = 1"),
    ("stops_no_delete", "DELETE FROM stops"),
    ("uq_outbox_once", _MAIL.format(window="'day'", threshold="'50'")),
    ("ck_outbox_threshold", _MAIL.format(window="'day'", threshold="''")),
    ("ck_outbox_window", _MAIL.format(window="'year'", threshold="'80'")),
    ("ck_bill_reads_answer", _READ.format(answer="'[]'", pages=0)),
    ("bill_files primary key", _FILE.format(imported=1, digest=f"'{'a' * 64}'")),
    ("bill_files.import_id known", _FILE.format(imported=2, digest=f"'{'b' * 64}'")),
    ("ck_bill_files_sha256", _FILE.format(imported=1, digest="'abc'")),
    ("bill_lines.import_id known", _LINE.format(imported=2, amount=1)),
    ("bill_lines.amount_pico not null", _LINE.format(imported=1, amount="NULL")),
    ("uq_listening_once", _listen(digest="'d'")),
    ("listening.user_id known", _listen(user=99)),
    ("ck_listening_source", _listen(source="''")),
    ("ck_listening_numbers", _listen(precision=0)),
    ("ck_listening_episode", _listen(episode="''")),
    ("uq_library_once", _saved(digest="'d'")),
    ("library.user_id known", _saved(user=99)),
    ("ck_library_source", _saved(source="''")),
    ("ck_library_something", _saved(show="''")),
    ("uq_connections_once", _connected(provider="'p'")),
    ("connections.user_id known", _connected(user=99)),
    ("ck_connections_state", _connected(state="'maybe'")),
    ("ck_connections_sealed", _connected(sealed="''")),
    ("uq_episodes_once", _episode(uri="'u'")),
    ("episodes.user_id known", _episode(user=99)),
    ("ck_episodes_uri", _episode(uri="''")),
    ("ck_episodes_numbers", _episode(position=-2)),
    ("uq_validations_run", _VALIDATION.format(verdict="'PASS'")),
    ("ck_validations_verdict", _VALIDATION.format(verdict="'MAYBE'")),
)


def try_constraints(parts: Parts, run_id: str) -> list[tuple[str, str]]:
    """Break each constraint, in a database of its own: (constraint, what the database said; empty if it took it)."""
    drill = drill_parts(parts, f"{run_id}-constraints")
    with drill.database.hot() as driver:
        for statement in _SETUP:
            driver.execute(statement)
        refusals = drill.database.refusals
        return [(name, _refused(driver, statement, refusals)) for name, statement in ATTEMPTS]


def _refused(driver: Driver, statement: str, refusals: tuple[type[Exception], ...]) -> str:
    driver.execute("SAVEPOINT attempt")
    try:
        driver.execute(statement)
    except refusals as refusal:
        return str(refusal)
    finally:
        driver.execute("ROLLBACK TO attempt")
    return ""


def by_its_own_name(name: str, refusal: str) -> bool:
    """Whether it was this constraint that refused: a check says its name, the other kinds say what they guard."""
    return name in refusal if name.startswith("ck_") else bool(refusal)


def schema_differences(parts: Parts, run_id: str) -> list[str]:
    """Where the schema in use differs from the declared tables, or from what the migrations make of an empty file.

    The second look sees what the first cannot: a trigger that was dropped, a check that was loosened.
    """
    drill = drill_parts(parts, f"{run_id}-constraints")
    used, made = parts.database.schema(), drill.database.schema()
    unlike = sorted(name for name in {*used, *made} if used.get(name) != made.get(name))
    differences = declared_differences(parts.database)
    return [*map(str, differences), *(f"{name} is not as the migrations make it" for name in unlike)]


def declared_differences(database: Database) -> list[object]:
    """Where the schema in use differs from the declared tables, in Alembic's words.

    An index on an expression cannot be read back from SQLite, and comes back in other words from PostgreSQL.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import Column

    indexes = (index for table in metadata.tables.values() for index in table.indexes)
    unread = {index.name for index in indexes if not all(isinstance(one, Column) for one in index.expressions)}
    own = database.own_tables
    look_at = {
        "include_name": lambda name, kind, _parents: kind != "table" or name not in own,
        "include_object": lambda _object, name, kind, *_: kind != "index" or name not in unread,
    }
    with database.read(SYSTEM) as connection, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* expression-based index")
        return list(compare_metadata(MigrationContext.configure(connection, opts=look_at), metadata))


def named_constraints() -> set[str]:
    """Every constraint with a name that the program declares: each must be among the attempts."""
    declared = {str(c.name) for table in metadata.tables.values() for c in table.constraints if c.name}
    unique = {str(index.name) for table in metadata.tables.values() for index in table.indexes if index.unique}
    return declared | unique

"""What PostgreSQL does in its own way: roles, the second wall between users, a lost connection, other people's SQL."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import errors

from podcastqa.alerts.outbox import outbox
from podcastqa.clock import SystemClock, WindowKind, day_number
from podcastqa.database import SYSTEM, Scope, head, metadata, open_database
from podcastqa.errors import EmergencyStopped, LedgerUnavailable, OverLimit, SettingsError
from podcastqa.money import ZERO, Usd
from podcastqa.podcasts.catalog import Heard
from podcastqa.podcasts.connections import Login
from podcastqa.podcasts.found import Saved
from podcastqa.podcasts.listens import Told
from podcastqa.podcasts.tables import connections, episodes, library, listening
from podcastqa.scope import APP_ROLE, USER_ROLE
from podcastqa.spend.books import Books
from podcastqa.spend.changes import _CARRY_HOLDS, TAIL
from podcastqa.spend.entries import EntryKind
from podcastqa.spend.job import Doing, Job
from podcastqa.spend.ledger import Spent
from podcastqa.spend.lives import _IN_TAIL
from podcastqa.users import User
from podcastqa.wiring import Parts, build, drill_parts
from podcastqa.workbook.constraints import schema_differences, try_constraints
from tests.conftest import ON_A_SERVER, Process, SetClock, in_a_fork, operation, race, settings_in
from tests.postgres_server import Server

pytestmark = [pytest.mark.step1, pytest.mark.postgresql]

DAY = WindowKind.DAY
CENT = Usd("0.01")
OWNED = sorted(table.name for table in metadata.tables.values() if table.info.get("owner") == "user_id")
assert {one.name for one in (outbox, listening, library, episodes, connections)} <= {
    *OWNED
}  # a table is known once its file is loaded


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    made = server.new()
    yield made
    server.drop(made)


@pytest.fixture
def folder(tmp_path: Path, url: str) -> Iterator[Path]:
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    ON_A_SERVER[str(made)] = {"DATABASE_URL": url}
    yield made
    del ON_A_SERVER[str(made)]


@pytest.fixture
def parts(folder: Path, clock: SetClock) -> Iterator[Parts]:
    made = build(settings_in(folder), clock=clock)
    yield made
    made.database.close()


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada", "ada@example.org")


@pytest.fixture
def two(parts: Parts, ada: User) -> tuple[User, User]:
    """Ada and Grace, each with rows in every table that belongs to users."""
    grace = parts.users.add("grace", "grace@example.org")
    for user in (ada, grace):
        parts.budget.set_limit(user.id, DAY, Usd("2.00"), by="me", reason="a test")
        parts.treasury.call("service", "o", Usd("1.60"), user.name)  # 80 % of 2.00: mails
        parts.budget.reserve(operation(user.id), CENT)
        parts.catalog.add_library(user, [Saved("a source", "A show")])
        parts.catalog.add_episodes(user, "a source", [Heard("A show", "One", "u", "2024", 1, 0, 1)])
        parts.connections.keep(user, "an account", Login("access", "refresh", 1))
        parts.catalog.add_listening(user, [Told("a source", 1, 1, "A show", "One", "", 1)])
        with parts.database.hot() as driver:
            driver.execute("INSERT INTO bill_days VALUES ('s', 1, ?, 5, 5, 1)", (user.id,))
    parts.ledger.carry()
    return ada, grace


def login(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """Whoever has DATABASE_URL and a prompt."""
    return psycopg.connect(url, autocommit=True)


# ── the second wall ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("table", [*OWNED, "users"])
def test_raw_sql_in_a_users_scope_returns_no_row_of_another(parts: Parts, two: tuple[User, User], table: str) -> None:
    ada, grace = two
    column = "id" if table == "users" else "user_id"
    for one in (ada, grace):
        with parts.database.raw(Scope(one.id)) as driver:
            seen = {row[0] for row in driver.execute(f"SELECT {column} FROM {table}").fetchall()}
        assert seen == {one.id}
    with parts.database.raw(SYSTEM) as driver:
        seen = {row[0] for row in driver.execute(f"SELECT {column} FROM {table}").fetchall()}
    assert {ada.id, grace.id} <= seen


@pytest.mark.parametrize("trick", ["OR 1 = 1", "UNION SELECT id, user_id FROM outbox", "OR user_id = {other}"])
def test_no_condition_of_a_query_gets_past_the_wall(parts: Parts, two: tuple[User, User], trick: str) -> None:
    ada, grace = two
    sql = f"SELECT id, user_id FROM outbox WHERE user_id = {ada.id} {trick.format(other=grace.id)}"
    with parts.database.raw(Scope(ada.id)) as driver:
        assert {row[1] for row in driver.execute(sql).fetchall()} == {ada.id}


def test_a_session_of_a_user_whom_nobody_named_sees_nothing(parts: Parts, two: tuple[User, User]) -> None:
    with login(parts.settings.database) as bare:
        bare.execute(f"SET ROLE {USER_ROLE}")  # type: ignore[call-overload]
        assert [bare.execute(f"SELECT count(*) FROM {t}").fetchone() for t in OWNED] == [(0,)] * len(OWNED)  # type: ignore[call-overload]


def test_a_user_writes_for_nobody_else_and_what_is_anothers_stays(parts: Parts, two: tuple[User, User]) -> None:
    ada, grace = two
    with parts.database.raw(Scope(ada.id)) as driver:
        assert driver.execute("UPDATE outbox SET detail = 'mine'").rowcount == len(
            [notice for notice in (*parts.outbox.sent(), *parts.outbox.pending()) if notice.alert.user_id == ada.id]
        )
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            driver.execute("UPDATE outbox SET user_id = ?", (grace.id,))
    for sql in (
        (
            "INSERT INTO limits (user_id, window_kind, amount_pico, set_us, from_us, set_by, reason)"
            f" VALUES ({ada.id}, 'day', 1, 1, 1, 'a', 'r')"
        ),
        f"DELETE FROM entries WHERE user_id = {ada.id}",
        "UPDATE users SET name = 'root'",
        "SELECT * FROM bill_lines",
        "SELECT * FROM service_counters",
        "CREATE TABLE mine (id int)",
        "DROP TABLE entries",
        "ALTER TABLE entries DISABLE ROW LEVEL SECURITY",
        "UPDATE ledger_version SET version = 0",
    ):
        with parts.database.raw(Scope(ada.id)) as driver, pytest.raises(errors.InsufficientPrivilege):
            driver.execute(sql)


def test_the_operators_role_owns_nothing_and_changes_no_fact(parts: Parts, two: tuple[User, User]) -> None:
    with parts.database.raw(SYSTEM) as driver:
        assert driver.execute("SELECT current_user").fetchone() == (APP_ROLE,)
        owners = {row[0] for row in driver.execute("SELECT tableowner FROM pg_tables WHERE schemaname = 'public'")}
    assert not owners & {APP_ROLE, USER_ROLE}
    for table in ("entries", "limits", "stops"):
        for sql in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE", f"UPDATE {table} SET id = id"):
            with parts.database.raw(SYSTEM) as driver, pytest.raises(errors.InsufficientPrivilege):
                driver.execute(sql)


@pytest.mark.parametrize("table", ["entries", "limits", "stops"])
def test_not_even_the_owner_of_the_tables_changes_a_fact(parts: Parts, two: tuple[User, User], table: str) -> None:
    parts.treasury.stop(by="ada", reason="drill")
    with login(parts.settings.database) as owner:
        for sql in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE", f"UPDATE {table} SET id = id"):
            with pytest.raises(errors.IntegrityError, match="only grows"):
                owner.execute(sql)  # type: ignore[call-overload]


def test_every_table_with_users_rows_is_behind_the_wall(parts: Parts) -> None:
    with parts.database.snapshot() as driver:
        walled = {
            row[0]
            for row in driver.execute("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity")
        }
    assert walled == {*OWNED, "users"}


# ── the schema ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_constraint_refuses_here_too_and_the_schema_is_the_declared_one(parts: Parts) -> None:
    tried = try_constraints(parts, "step1-20240228T120000Z-test")
    assert [name for name, refusal in tried if not refusal] == []
    assert schema_differences(parts, "step1-20240228T120000Z-test") == []
    assert parts.database.kind.startswith("PostgreSQL ")


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TRIGGER entries_no_delete ON entries",
        "ALTER TABLE entries DISABLE ROW LEVEL SECURITY",
        "DROP POLICY own_rows ON outbox",
        f"GRANT DELETE ON entries TO {APP_ROLE}",
        "ALTER TABLE counters DROP CONSTRAINT ck_counters_held",
        "CREATE OR REPLACE FUNCTION only_grows() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    ],
)
def test_a_schema_that_somebody_loosened_is_noticed(parts: Parts, damage: str) -> None:
    with login(parts.settings.database) as owner:
        owner.execute(damage)  # type: ignore[call-overload]
    assert schema_differences(parts, "step1-20240228T120000Z-test") != []


def test_a_drill_has_a_schema_of_its_own_and_those_of_days_ago_go(parts: Parts, ada: User) -> None:
    drill = drill_parts(parts, "step1-20240228T120000Z-1a2b3c4d-constraints-that-have-a-very-long-name-indeed")
    drill.budget.reserve(operation(drill.users.add("eve").id), CENT)
    assert (len(list(drill.ledger.entries())), len(list(parts.ledger.entries()))) == (1, 0)
    drill.database.close()
    drill_parts(parts, "step1-20991231T235959Z-1a2b3c4d-later").database.close()
    with login(parts.settings.database) as owner:
        left = owner.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'podcastqa_drill%'").fetchall()
    assert [row[0] for row in left] == ["podcastqa_drill_step1_20991231t235959z_1a2b3c4d_later"]


def test_processes_that_open_an_empty_database_at_once_migrate_it_once(
    server: Server, tmp_path: Path, process: Callable[..., Process]
) -> None:
    url = server.empty()
    lines = "ready()\nmade = opened()\nprint(made.users.ensure('ada').id)"
    said = race([process(lines, DATABASE_URL=url) for _ in range(6)])
    assert set(said) == {said[0]}
    with login(url) as owner:
        assert owner.execute("SELECT version_num FROM alembic_version").fetchall() == [(head(),)]
    server.drop(url)


def test_a_database_of_a_newer_version_is_left_alone(url: str) -> None:
    with login(url) as owner:
        owner.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerUnavailable, match="newer version"):
        open_database(url)


@pytest.mark.parametrize(
    ("change", "said"),
    [("/nowhere", "does not exist"), ("", "cannot be opened")],
)
def test_a_server_that_cannot_be_used_is_a_sentence_without_the_password(url: str, change: str, said: str) -> None:
    wrong = urlsplit(url)._replace(path=change).geturl() if change else "postgresql://u:hunter22@127.0.0.1:9/x"
    with pytest.raises(LedgerUnavailable, match=said) as refused:
        open_database(wrong)
    assert "hunter22" not in str(refused.value)
    assert "DATABASE_URL" in str(refused.value)


@pytest.mark.parametrize("said", ["u:hunter 22@127.0.0.1/x", "u:hunter22@127.0.0.1/x?nothing=1"])
def test_an_address_that_cannot_be_read_is_a_sentence_without_the_password(said: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL cannot be read") as refused:
        open_database(f"postgresql://{said}")
    assert "hunter" not in f"{refused.value} {refused.value.__cause__}"


def test_a_login_without_the_roles_is_told_what_an_administrator_runs(server: Server, url: str) -> None:
    who = f"stranger_{os.getpid()}"
    server.run(f"CREATE ROLE {who} LOGIN PASSWORD 'a stranger'")
    wrong = urlsplit(server.empty())
    try:
        host = wrong.netloc.rpartition("@")[2]
        stranger = wrong._replace(netloc=f"{who}:a%20stranger@{host}").geturl()
        with pytest.raises(LedgerUnavailable, match=f'GRANT {APP_ROLE}, {USER_ROLE} TO "{who}"'):
            open_database(stranger)
    finally:
        server.drop(wrong.geturl())
        server.run(f"DROP ROLE {who}")


# ── other people's SQL, and a lost connection ────────────────────────────────────────────────────────────────────


def test_what_somebody_types_is_seen_by_the_very_next_call(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), CENT)
    with login(parts.settings.database) as prompt:
        prompt.execute("INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (1, 1, 'bob', 'typed')")
    with pytest.raises(EmergencyStopped, match="bob: typed"):
        parts.budget.reserve(operation(ada.id), CENT)


#: Who has the turn to write in this database, and who waits for it; others may use the same server.
_TURNS = """SELECT 1 FROM pg_locks WHERE locktype = 'advisory'
 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
_WAITS = f"{_TURNS} AND NOT granted"
#: The main thread waits for the turn, or has just been given it, and is interrupted; the turn is then free for anybody.
_INTERRUPTED = """
import os, signal, threading, psycopg
from pathlib import Path
from podcastqa.clock import SystemClock
from podcastqa.money import Usd
from podcastqa.postgres_line import TURN, PostgresLine
from podcastqa.wiring import build
from tests.conftest import operation, settings_in
parts = build(settings_in(Path({home!r}), DATABASE_URL={url!r}), clock=SystemClock())
budget, ada = parts.budget, parts.users.get("ada")
budget.reserve(operation(ada.id), Usd("0.01"))
interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)
if {where!r} == "waiting":
    other = psycopg.connect({url!r})
    other.execute(TURN)
    def watch():
        with psycopg.connect({url!r}, autocommit=True) as looks:
            while not looks.execute({waits!r}).fetchone():
                pass
        interrupt()
        other.rollback()
    threading.Thread(target=watch).start()
else:
    begun = PostgresLine._begun
    def answered(self, driver):
        PostgresLine._begun = begun
        begun(self, driver)
        interrupt()
        raise AssertionError("not interrupted")
    PostgresLine._begun = answered
try:
    budget.reserve(operation(ada.id), Usd("0.01"))
except KeyboardInterrupt:
    print("interrupted")
with psycopg.connect({url!r}, options="-c lock_timeout=20s") as free:
    free.execute(TURN)
budget.reserve(operation(ada.id), Usd("0.01"))
print(len([*parts.ledger.entries()]))
"""


def cut(url: str) -> None:
    """The server ends every connection of this database, as at a restart."""
    with login(url) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = session_user"
        )


def test_a_connection_that_was_lost_is_made_anew_and_nothing_is_missing(parts: Parts, ada: User) -> None:
    first = parts.budget.reserve(operation(ada.id), CENT)
    cut(parts.settings.database)
    second = parts.budget.reserve(operation(ada.id), CENT)
    cut(parts.settings.database)
    parts.budget.settle(first.hold_id, CENT)
    parts.budget.settle(second.hold_id, CENT)
    assert parts.budget.standing(ada.id)[ada.id, DAY] == Spent(Usd("0.02"), ZERO)
    assert parts.auditor.run().holds is True


async def beside_a_cut(parts: Parts, job: Job[Any], *, tries: int = 2) -> Any:
    """The job's answer, from a batch under whose first try the connection ends before the commit."""
    writer, tried = parts.budget.writer, list[int]()

    def cut_once(_: Books) -> None:
        tried.append(1)
        if len(tried) == 1:
            cut(parts.settings.database)

    try:
        _, answer = await asyncio.gather(writer.ask(Doing(cut_once)), writer.ask(job))
    finally:
        assert len(tried) == tries
    return answer


def test_a_commit_whose_answer_was_lost_is_neither_lost_nor_done_twice(parts: Parts, ada: User) -> None:
    """The connection ends between what is written and the commit: the writer does it again, once."""
    hold = asyncio.run(beside_a_cut(parts, parts.budget.reserving(operation(ada.id), CENT)))
    assert [entry.kind for entry in parts.ledger.entries()] == [EntryKind.RESERVE]
    parts.budget.settle(hold.hold_id, CENT)
    assert parts.budget.standing(ada.id)[ada.id, DAY] == Spent(CENT, ZERO)


def test_a_correction_whose_commit_was_cut_is_told_and_not_tried_again(parts: Parts, ada: User) -> None:
    budget = parts.budget
    budget.book(operation(ada.id), CENT, "h")
    with pytest.raises(LedgerUnavailable):
        asyncio.run(beside_a_cut(parts, budget.correcting("h", CENT, "why"), tries=1))
    assert parts.budget.standing(ada.id)[ada.id, DAY] == Spent(CENT, ZERO)


def test_what_is_refused_leaves_no_trace_on_the_server(parts: Parts, ada: User) -> None:
    parts.budget.stop(by="ada", reason="drill")
    with login(parts.settings.database) as admin:
        sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text, version FROM ledger_version"
        before = admin.execute(sql).fetchone()
        with pytest.raises(EmergencyStopped):
            parts.budget.reserve(operation(ada.id), CENT)
        assert admin.execute(sql).fetchone() == before


def test_a_writer_notices_what_a_transaction_older_than_its_own_wrote(parts: Parts, ada: User, clock: SetClock) -> None:
    for kind in WindowKind:
        parts.budget.set_limit(ada.id, kind, Usd("0.04"), by="ada", reason="a test")
    with psycopg.connect(parts.settings.database) as other:
        other.execute("CREATE TABLE note (said text)")  # its number is taken before any of ours
        for _ in range(2):  # after the first there is a number between; none is after the second
            parts.budget.book(operation(ada.id), CENT)
        other.execute(
            "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us)"
            " VALUES ('theirs', 'reserve', %s, 'bench', 'service', 'o', %s, %s, 1)",
            (ada.id, CENT.pico, day_number(clock.now().date())),
        )
        other.commit()
    parts.budget.book(operation(ada.id), CENT)
    with pytest.raises(OverLimit):  # ours 3 times, theirs once: 0.04 of 0.04
        parts.budget.book(operation(ada.id), CENT)


@pytest.mark.parametrize("is_analysed", [False, True])
def test_what_follows_from_the_newest_entries_is_written_without_reading_all_of_them(
    parts: Parts, ada: User, is_analysed: bool
) -> None:
    with login(parts.settings.database) as owner:
        owner.execute(
            "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us)"
            " SELECT 'h' || i, 'reserve', %s, 's', 's', 'o', 1, 1, 1 FROM generate_series(1, 20000) AS i",
            (ada.id,),
        )
        if is_analysed:
            owner.execute("ANALYZE")
        parts.ledger.carry()
        for number in range(10):
            parts.budget.book(operation(ada.id), CENT, f"newest {number}")
        tail = owner.execute(TAIL).fetchone()
        assert tail is not None
        assert tail[1] - tail[0] == 20  # a reserve and a settle each
        for sql in (*_CARRY_HOLDS, f"SELECT * FROM entries e WHERE {_IN_TAIL}"):
            plan = owner.execute(f"EXPLAIN {sql.replace('?', '{}').format(*tail)}").fetchall()
            assert not [line for (line,) in plan if "Seq Scan on entries" in line], plan


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_who_waits_for_the_turn_sees_what_was_written_meanwhile_whatever_the_database_prefers(
    parts: Parts, ada: User, clock: SetClock, level: str
) -> None:
    for kind in WindowKind:
        parts.budget.set_limit(ada.id, kind, CENT, by="ada", reason="a test")
    with login(parts.settings.database) as owner, psycopg.connect(parts.settings.database) as other:
        owner.execute(f"ALTER DATABASE \"{owner.info.dbname}\" SET default_transaction_isolation = '{level}'")
        parts.database.close()
        typed = day_number(clock.now().date())
        other.execute(
            "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us)"
            f" VALUES ('theirs', 'reserve', {ada.id}, 'bench', 'service', 'o', {CENT.pico}, {typed}, 1)"
        )  # it has the turn now
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(parts.budget.reserve, operation(ada.id), CENT)
            while not owner.execute(_WAITS).fetchone():
                assert not asked.done()
            other.commit()
            with pytest.raises(OverLimit):
                asked.result(timeout=60)


def test_a_turn_that_could_not_begin_is_not_kept(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), CENT)
    with login(parts.settings.database) as owner:
        owner.execute(f"REVOKE SELECT ON ledger_version FROM {APP_ROLE}")
        with pytest.raises(LedgerUnavailable):
            parts.budget.reserve(operation(ada.id), CENT)
        while owner.execute(f"{_TURNS} AND granted").fetchone():  # the server learns of it at once, but not in no time
            pass
        owner.execute(f"GRANT SELECT ON ledger_version TO {APP_ROLE}")
    parts.budget.reserve(operation(ada.id), CENT)
    assert parts.budget.standing(ada.id)[ada.id, DAY] == Spent(ZERO, Usd("0.02"))


@pytest.mark.parametrize("where", ["waiting", "answered"])
def test_an_interrupt_while_the_turn_is_waited_for_leaves_it_free(parts: Parts, where: str) -> None:
    parts.users.add("ada")
    code = _INTERRUPTED.format(home=str(parts.settings.home), url=parts.settings.database, where=where, waits=_WAITS)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (told.returncode, told.stdout.split()) == (0, ["interrupted", "2"]), told.stderr


def test_tables_stand_in_the_schema_that_is_named_like_the_login(server: Server, tmp_path: Path) -> None:
    url = server.empty()
    with login(url) as owner:
        owner.execute("CREATE SCHEMA AUTHORIZATION current_user")
    ON_A_SERVER[str(tmp_path)] = {"DATABASE_URL": url}
    made = build(settings_in(tmp_path), clock=SystemClock())
    ada = made.users.add("ada")
    made.budget.book(operation(ada.id), CENT)
    assert made.budget.standing(ada.id)[ada.id, DAY] == Spent(CENT, ZERO)
    with login(url) as owner:
        assert owner.execute("SELECT to_regclass('public.entries')").fetchone() == (None,)
    made.database.close()
    del ON_A_SERVER[str(tmp_path)]
    server.drop(url)


def test_a_forked_child_leaves_its_parents_connection_open(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), CENT)
    session = parts.budget.writer.line.driver.connection.info.backend_pid  # type: ignore[attr-defined]
    assert in_a_fork(lambda: gc.collect() >= 0)
    parts.budget.reserve(operation(ada.id), CENT)
    assert parts.budget.writer.line.driver.connection.info.backend_pid == session  # type: ignore[attr-defined]


def test_a_forked_child_uses_no_connection_of_its_parent(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), CENT, "parent's")

    def work() -> bool:
        parts.budget.reserve(operation(ada.id), CENT, "child's")
        return parts.users.get("ada") == ada

    assert in_a_fork(work)
    parts.budget.reserve(operation(ada.id), CENT, "parent's again")
    assert [entry.hold_id for entry in parts.ledger.entries()] == ["parent's", "child's", "parent's again"]


def test_a_write_inside_another_is_told_at_once_instead_of_waiting_for_ever(parts: Parts, ada: User) -> None:
    with parts.ledger.writing(), pytest.raises(RuntimeError, match="already holds"):
        parts.users.add("bob")
    with parts.database.write(SYSTEM), pytest.raises(RuntimeError, match="already holds"):
        parts.budget.reserve(operation(ada.id), CENT)
    parts.users.add("bob")


def test_the_password_is_in_nothing_that_is_shown(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, DATABASE_URL="postgresql://login:s%2Fcret-word@db.example.org/books")
    assert "s/cret-word" in settings.secrets
    assert "cret-word" not in repr(settings)


def test_the_program_runs_with_nothing_but_the_url(folder: Path) -> None:
    code = """
from podcastqa.cli import main
sys.argv = ["podcastqa", "users", "add", "grace"]
main()
"""
    one = Process(folder, code)
    status, out, err = one.ended()
    assert (status, err) == (0, ""), out + err
    made = build(settings_in(folder), clock=SystemClock())
    assert [user.name for user in made.users.list().users] == ["grace"]
    with made.database.read(SYSTEM) as connection:
        assert connection.execute(outbox.select()).all() == []
    assert not (folder / "podcastqa.sqlite").exists()
    made.database.close()

"""The one door to the tables: a scope that cannot be forgotten, writes that queue, a file that must be there."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as upsert

from podcastqa.alerts.outbox import outbox
from podcastqa.bills.tables import bill_lines
from podcastqa.database import SYSTEM, Database, Scope, head, metadata, open_database
from podcastqa.errors import CrossUserRefused, LedgerUnavailable, ScopeMissing
from podcastqa.file_lock import FileLock
from podcastqa.money import Usd
from podcastqa.spend.tables import APPEND_ONLY, bill_days, entries, stops
from podcastqa.treasury import Treasury
from podcastqa.users import User, users_table
from podcastqa.wiring import Parts, build
from podcastqa.workbook.constraints import declared_differences
from tests.conftest import Process, SetClock, in_a_fork, operation, settings_in

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

NAME, EMAIL = users_table.c.name, users_table.c.email
OTHER = users_table.alias("x")
ADA, BOB = User(1, "ada", "ada@example.org"), User(2, "bob", "bob@example.org")  # the first two of a fresh database
MAIL = {
    "window_kind": "day",
    "window_start": 1,
    "threshold": "50",
    "spent_pico": 1,
    "limit_pico": 1,
    "detail": "",
    "created_us": 1,
}


@pytest.fixture
def two(parts: Parts) -> tuple[User, User]:
    """Ada and Bob: each has an address, one paid operation, a mail."""
    both = parts.users.add("ada", "ada@example.org"), parts.users.add("bob", "bob@example.org")
    for user in both:
        parts.budget.book(operation(user.id), Usd("0.50"))
        with parts.database.write(SYSTEM) as connection:
            connection.execute(outbox.insert().values(MAIL | {"user_id": user.id}))
    return both


def all_of(parts: Parts) -> list[Any]:
    """Everything that a user owns, as the operator sees it."""
    with parts.database.read(SYSTEM) as connection:
        return [connection.execute(sa.select(t).order_by(*t.primary_key)).all() for t in (users_table, outbox, entries)]


# ── reading in a user's scope ────────────────────────────────────────────────────────────────────────────────────


READS: dict[str, Callable[[], Any]] = {
    "a table": lambda: sa.select(NAME),
    "an alias": lambda: sa.select(OTHER.c.name),
    "an alias of an alias": lambda: sa.select(OTHER.alias("y").c.name),
    "a join with itself": lambda: sa.select(OTHER.c.name).select_from(users_table).join(OTHER, sa.true()),
    "a join": lambda: sa.select(NAME).join_from(entries, users_table, sa.true()),
    "a join along its foreign key": lambda: sa.select(NAME).join_from(users_table, entries),
    "an outer join": lambda: sa.select(NAME).select_from(entries.outerjoin(users_table, sa.true())),
    "two tables side by side": lambda: sa.select(NAME).where(entries.c.user_id == users_table.c.id),
    "a subquery": lambda: sa.select(sa.select(NAME).subquery().c.name),
    "a query with a name": lambda: sa.select(sa.select(NAME).cte().c.name),
    "an alias in a query with a name": lambda: sa.select(sa.select(OTHER.c.name).cte().c.name),
    "a scalar": lambda: sa.select(sa.select(sa.func.max(NAME)).scalar_subquery()),
    "a sum": lambda: sa.select(sa.func.max(NAME)),
    "a union": lambda: sa.union_all(sa.select(NAME), sa.select(OTHER.c.name)),
    "a union inside": lambda: sa.select(sa.union(sa.select(NAME), sa.select(NAME)).subquery()),
    "a window": lambda: sa.select(sa.func.first_value(NAME).over(order_by=NAME.desc())),
    "an ordering": lambda: sa.select(NAME).order_by(NAME.desc(), EMAIL),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_in_a_users_scope_a_query_sees_that_users_rows_only(
    parts: Parts, two: tuple[User, User], read: Callable[[], Any]
) -> None:
    ada, bob = two
    for user in (ada, bob):
        with parts.database.read(Scope(user.id)) as connection:
            assert {row[0] for row in connection.execute(read())} == {user.name}


def test_counts_and_existence_are_confined_too(parts: Parts, two: tuple[User, User]) -> None:
    ada, bob = two
    with parts.database.read(Scope(ada.id)) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(users_table)).scalar() == 1
        assert connection.execute(sa.select(sa.func.count()).select_from(OTHER)).scalar() == 1
        assert connection.execute(sa.select(sa.exists().where(bob.name == NAME))).scalar() is False
        assert connection.execute(sa.select(sa.exists().where(OTHER.c.name == "bob"))).scalar() is False
        assert connection.execute(sa.select(NAME).where(users_table.c.id == bob.id)).all() == []
        theirs = sa.select(entries.c.id).where(entries.c.user_id.in_(sa.select(OTHER.c.id)))
        assert len(connection.execute(theirs).all()) == 2  # reserve and settle of one operation: Ada's own
    with parts.database.read(SYSTEM) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(users_table)).scalar() == 3  # and the system


TEXTS: dict[str, Callable[[], Any]] = {
    "text": lambda: sa.text("SELECT name FROM users"),
    "text with columns": lambda: sa.text("SELECT name FROM users").columns(sa.column("name")),
    "text as a column": lambda: sa.select(sa.text("name FROM users")),
    "text as a condition": lambda: sa.select(NAME).where(sa.text("1) UNION SELECT name FROM users WHERE (1")),
    "a literal column": lambda: sa.select(sa.literal_column("(SELECT group_concat(name) FROM users)")),
    "a table by its mere name": lambda: sa.select(sa.column("name")).select_from(sa.table("users")),
    "a table declared elsewhere": lambda: sa.select(sa.Table("users", sa.MetaData(), sa.Column("name", sa.Text))),
    "a prefix": lambda: sa.select(NAME).prefix_with("(SELECT group_concat(name) FROM users),"),
    "a suffix": lambda: sa.select(NAME).suffix_with("UNION SELECT name FROM users"),
    "a hint": lambda: sa.select(NAME).with_statement_hint("UNION SELECT name FROM users"),
    "an operator of one's own": lambda: sa.select(users_table.c.id.op("+ (SELECT count(*) FROM users) +")(0)),
    "a deletion that returns": lambda: sa.select(sa.delete(outbox).returning(outbox.c.user_id).cte().c.user_id),
    "a definition": lambda: sa.schema.DropTable(outbox),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_sql_as_text_is_refused_in_a_users_scope(parts: Parts, two: tuple[User, User], text: Callable[[], Any]) -> None:
    before = all_of(parts)
    with pytest.raises(ScopeMissing), parts.database.write(Scope(two[0].id)) as connection:
        connection.execute(text())
    assert all_of(parts) == before


def test_a_string_of_sql_runs_in_the_system_scope_only(parts: Parts, two: tuple[User, User]) -> None:
    with pytest.raises(ScopeMissing), parts.database.read(Scope(two[0].id)) as connection:
        connection.exec_driver_sql("SELECT name FROM users")
    with parts.database.read(SYSTEM) as connection:
        assert connection.exec_driver_sql("SELECT name FROM users WHERE id > 0").all() == [("ada",), ("bob",)]


def test_asking_without_a_scope_is_an_error_and_not_all_rows(parts: Parts) -> None:
    for nobody in (None, 1, "ada", 0, True):
        with pytest.raises(ScopeMissing), parts.database.read(nobody):  # type: ignore[arg-type]
            pass
        with pytest.raises(ScopeMissing), parts.database.write(nobody):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize(
    "statement",
    [
        sa.select(NAME),
        sa.select(OTHER.c.name),
        sa.select(sa.select(NAME).subquery()),
        sa.delete(outbox),
        sa.update(users_table).values(email=""),
        outbox.insert().values(MAIL | {"user_id": 1}),
        sa.update(stops).where(stops.c.id == entries.c.id).values(reason="x"),
    ],
    ids=str,
)
def test_a_connection_that_came_round_the_door_cannot_touch_an_owned_table(parts: Parts, statement: Any) -> None:
    with parts.database._engine.connect() as connection, pytest.raises(ScopeMissing):
        connection.execute(statement)


# ── writing in a user's scope ────────────────────────────────────────────────────────────────────────────────────


def mail(user: User, threshold: str = "80") -> dict[str, object]:
    return MAIL | {"user_id": user.id, "threshold": threshold}


def test_a_user_writes_changes_and_deletes_rows_of_their_own_only(parts: Parts, two: tuple[User, User]) -> None:
    ada, bob = two
    with parts.database.write(Scope(ada.id)) as connection:
        connection.execute(outbox.insert().values(mail(ada)))
        connection.execute(outbox.insert(), [mail(ada, "90"), mail(ada, "100")])
        assert connection.execute(sa.update(outbox).values(detail="seen")).rowcount == 4  # 50, 80, 90, 100: all Ada's
        assert (
            connection.execute(sa.update(users_table).where(users_table.c.id == bob.id).values(email="")).rowcount == 0
        )
        assert connection.execute(sa.delete(outbox).where(outbox.c.user_id == bob.id)).rowcount == 0
        assert connection.execute(sa.delete(outbox)).rowcount == 4
    with parts.database.read(Scope(bob.id)) as connection:
        assert connection.execute(sa.select(outbox.c.threshold, outbox.c.detail)).all() == [("50", "")]
        assert connection.execute(sa.select(EMAIL)).scalar() == "bob@example.org"


def _columns(row: dict[str, object], query: Any) -> Any:
    return outbox.insert().from_select(list(row), query)


WRITES: dict[str, Callable[[], tuple[Any, ...]]] = {
    "another's row": lambda: (outbox.insert().values(mail(BOB)),),
    "another's row among one's own": lambda: (outbox.insert(), [mail(ADA), mail(BOB)]),
    "one's own name, another's number": lambda: (outbox.insert().values(user_id=ADA.id), mail(BOB)),
    "a row of nobody": lambda: (outbox.insert().values(MAIL | {"threshold": "80"}),),
    "a number that is worked out": lambda: (outbox.insert().values(mail(ADA) | {"user_id": OTHER.c.id}),),
    "several at once": lambda: (outbox.insert().values([mail(ADA), mail(BOB, "90")]),),
    "another's rows copied": lambda: (
        _columns(
            mail(ADA),
            sa.select(
                *(sa.literal(value) if name != "detail" else EMAIL for name, value in mail(ADA).items()),
            ).where(users_table.c.id == sa.bindparam("user_id", ADA.id)),
        ),
    ),
    "another's address in one's own row": lambda: (
        outbox.insert().values(mail(ADA) | {"detail": sa.select(EMAIL).where(NAME == "bob").scalar_subquery()}),
    ),
    "over another's row": lambda: (
        upsert(users_table)
        .values(id=ADA.id, name="bob", created_us=1)
        .on_conflict_do_update(index_elements=["name"], set_={"email": "eve@example.org"}),
    ),
    "or replace": lambda: (users_table.insert().prefix_with("OR REPLACE").values(id=ADA.id, name="bob"),),
    "giving away": lambda: (sa.update(outbox).values(user_id=BOB.id),),
    "giving away, said late": lambda: (sa.update(outbox), {"user_id": BOB.id}),
    "giving away, worked out": lambda: (sa.update(outbox).values(user_id=outbox.c.user_id + 1),),
    "another's address": lambda: (
        sa.update(users_table).values(email=sa.select(EMAIL).where(OTHER.c.id == BOB.id).scalar_subquery()),
    ),
    "a question in a condition": lambda: (
        sa.update(outbox).where(sa.exists().where(users_table.c.id == BOB.id)).values(detail="Bob exists"),
    ),
    "beside another table": lambda: (
        sa.update(outbox).where(outbox.c.user_id != entries.c.user_id).values(detail="there are others"),
    ),
    "a deletion beside another table": lambda: (sa.delete(outbox).where(OTHER.c.name == "bob"),),
    "a condition as text": lambda: (sa.delete(outbox).where(sa.text("1) OR (1")),),
    "what belongs to the whole": lambda: (stops.insert().values(stopped=0, at_us=1, said_by="ada", reason="I can"),),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_that_could_reach_another_user_is_refused_and_changes_nothing(
    parts: Parts, two: tuple[User, User], write: Callable[[], tuple[Any, ...]]
) -> None:
    assert two == (ADA, BOB)
    before = all_of(parts)
    with (
        pytest.raises((CrossUserRefused, ScopeMissing)),
        parts.database.write(Scope(two[0].id)) as connection,
    ):
        connection.execute(*write())
    assert all_of(parts) == before


# ── the schema ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_migrations_make_exactly_the_tables_that_the_program_declares(parts: Parts) -> None:
    assert declared_differences(parts.database) == []
    with parts.database.read(SYSTEM) as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == head()


def test_every_table_with_a_user_id_says_that_it_belongs_to_users() -> None:
    owned = {table.name for table in metadata.tables.values() if "user_id" in table.c}
    assert owned == {table.name for table in metadata.tables.values() if table.info.get("owner") == "user_id"}
    assert {"entries", "outbox", "counters", "open_holds", "limits", "bill_days"} <= owned


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_facts_are_neither_changed_nor_deleted_by_anybody(parts: Parts, two: tuple[User, User], table: str) -> None:
    parts.treasury.stop(by="ada", reason="drill")
    parts.treasury.set_limit(next(iter(parts.budget.limits(0)))[1], Usd("1"), by="ada", reason="drill")
    column = {"entries": "amount_pico", "limits": "amount_pico", "stops": "stopped"}[table]
    driver = parts.database.driver()
    before = driver.execute(f"SELECT * FROM {table}").fetchall()
    assert before
    for sql in (f"UPDATE {table} SET {column} = 0", f"DELETE FROM {table}", f"DELETE FROM {table} WHERE id = 1"):
        refusal = pytest.raises(parts.database.refusals, match=f"{table} only grows|permission denied")
        with parts.database.raw(SYSTEM) as trying, refusal:
            trying.execute(sql)
    assert driver.execute(f"SELECT * FROM {table}").fetchall() == before


@pytest.mark.only_sqlite
def test_every_connection_keeps_foreign_keys_and_waits_for_the_disk(parts: Parts) -> None:
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
    }  # 2: FULL, each commit is on disk
    assert {name: parts.database.driver().execute(f"PRAGMA {name}").fetchone()[0] for name in wanted} == wanted
    with parts.database.read(SYSTEM) as connection:
        assert {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted} == wanted


# ── transactions ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_write_that_fails_leaves_nothing_of_it_behind(parts: Parts, two: tuple[User, User]) -> None:
    before = all_of(parts)

    def half_a_write() -> None:
        with parts.database.write(SYSTEM) as connection:
            assert connection.execute(sa.delete(outbox)).rowcount == 2
            raise RuntimeError("half way")

    def half_of_the_guards() -> None:
        with parts.database.hot() as driver:
            assert driver.execute("DELETE FROM outbox").rowcount == 2
            raise RuntimeError("half way")

    for half in (half_a_write, half_of_the_guards):
        with pytest.raises(RuntimeError, match="half way"):
            half()
    assert all_of(parts) == before
    parts.users.add("cleo")  # and the door is open again


def test_one_write_inside_another_is_told_at_once_instead_of_waiting_for_itself(
    parts: Parts, two: tuple[User, User]
) -> None:
    def guard() -> None:
        parts.budget.reserve(operation(two[0].id), Usd("0.01"))

    def table() -> None:
        parts.users.add("cleo")

    began = datetime.now(UTC)
    for inner in (guard, table):
        with pytest.raises(RuntimeError, match="already holds"), parts.database.write(SYSTEM):
            inner()
        with pytest.raises(RuntimeError, match="already holds"), parts.database.hot():
            inner()
    assert (datetime.now(UTC) - began).total_seconds() < 2  # SQLite's own patience is 5 seconds each
    guard()
    table()


def test_a_read_inside_a_write_is_no_deadlock(parts: Parts, two: tuple[User, User]) -> None:
    with parts.database.hot(), parts.database.read(Scope(two[0].id)) as connection:
        assert connection.execute(sa.select(NAME)).scalar() == "ada"


def test_a_read_sees_one_state_while_others_write(parts: Parts, two: tuple[User, User]) -> None:
    count = sa.select(sa.func.count()).select_from(users_table)
    with parts.database.read(SYSTEM) as connection:
        before = connection.execute(count).scalar()
        writer = threading.Thread(target=parts.users.add, args=("cleo",))
        writer.start()
        writer.join()
        assert connection.execute(count).scalar() == before == 3
    assert parts.users.count() == 3


def test_writers_in_many_threads_queue_and_none_is_lost(parts: Parts) -> None:
    together = threading.Barrier(8)

    def add(number: int) -> None:
        together.wait()
        for i in range(5):
            parts.users.add(f"user-{number}-{i}")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parts.users.count() == 8 * 5


def test_a_thread_that_ended_leaves_no_open_file(parts: Parts, two: tuple[User, User]) -> None:
    def reserve() -> None:
        parts.budget.reserve(operation(two[0].id), Usd("0.001"))

    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    def twenty_threads() -> None:
        for _ in range(20):
            thread = threading.Thread(target=reserve)
            thread.start()
            thread.join()

    reserve()
    twenty_threads()
    after_twenty = open_files()  # SQLite keeps a closed file for the next connection while another holds a lock
    twenty_threads()
    twenty_threads()
    assert open_files() <= after_twenty + 3


def test_a_lock_that_cannot_be_opened_holds_nothing(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "gone" / "lock")
    with pytest.raises(FileNotFoundError), lock:
        pass
    (tmp_path / "gone").mkdir()
    with lock:
        pass


@pytest.mark.only_sqlite
def test_a_closed_database_opens_again_when_it_is_asked(parts: Parts) -> None:
    parts.database.driver()
    parts.database.close()
    parts.database.close()
    assert parts.users.count() == 0
    assert parts.database.driver().execute("SELECT 1").fetchone() == (1,)
    assert parts.database.kind == f"SQLite {sqlite3.sqlite_version}"


@pytest.mark.only_sqlite
def test_a_forked_child_uses_no_connection_of_its_parent(parts: Parts, two: tuple[User, User]) -> None:
    ours = parts.database.driver()
    with parts.database.read(SYSTEM) as connection:
        pooled = connection.connection.driver_connection

    def work() -> bool:
        with parts.database.read(SYSTEM) as connection:
            other = connection.connection.driver_connection is not pooled
        parts.budget.reserve(operation(two[0].id), Usd("0.25"), "from the child")
        return other and parts.database.driver() is not ours

    assert in_a_fork(work)
    assert parts.database.driver() is ours
    parts.budget.settle("from the child", Usd("0.25"))  # and the parent sees what it wrote
    assert parts.database.driver().execute("PRAGMA integrity_check").fetchone() == ("ok",)


# ── a database that cannot be reached ────────────────────────────────────────────────────────────────────────────


def refuses(parts: Parts, user: User) -> None:
    """Every door says so, each as a refusal."""
    for asked in (
        lambda: parts.budget.reserve(operation(user.id), Usd("0.01")),
        lambda: parts.budget.stop(by="ada", reason="drill"),
        lambda: parts.budget.standing(user.id),
        parts.users.list,
        lambda: parts.users.add("cleo"),
    ):
        with pytest.raises(LedgerUnavailable, match="so nothing may be spent"):
            asked()


def taken_away(parts: Parts) -> None:
    for name in ("", "-wal", "-shm"):
        parts.database.path.with_name(parts.database.path.name + name).unlink(missing_ok=True)


def a_directory(path: Path) -> None:
    path.mkdir()


def nothing(path: Path) -> None:
    assert not path.exists()


def rubbish(path: Path) -> None:
    path.write_bytes(b"This is not a database. " * 400)


def an_empty_file(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture(params=[a_directory, nothing, rubbish, an_empty_file])
def replaced(request: pytest.FixtureRequest, parts: Parts, two: tuple[User, User]) -> Parts:
    """A program in the middle of its work, whose database was taken from under it."""
    taken_away(parts)
    request.param(parts.database.path)
    return parts


@pytest.mark.only_sqlite
def test_a_ledger_that_was_taken_away_refuses_instead_of_writing_to_a_file_that_nobody_sees(
    replaced: Parts, two: tuple[User, User]
) -> None:
    refuses(replaced, two[0])


@pytest.mark.only_sqlite
def test_a_ledger_that_was_put_back_is_used_from_then_on(parts: Parts, two: tuple[User, User], migrated: Path) -> None:
    taken_away(parts)
    parts.database.path.write_bytes(migrated.read_bytes())
    assert parts.users.count() == 0  # it is another ledger
    cleo = parts.users.add("cleo")
    assert parts.budget.reserve(operation(cleo.id), Usd("0.01")).operation.user_id == cleo.id


@pytest.mark.only_sqlite
@pytest.mark.parametrize("make", [a_directory, rubbish], ids=["a directory", "no database"])
def test_what_is_no_database_is_not_opened(home: Path, make: Callable[[Path], None]) -> None:
    (home / "podcastqa.sqlite").unlink()
    make(home / "podcastqa.sqlite")
    with pytest.raises(LedgerUnavailable, match="cannot be opened") as refused:
        open_database(f"sqlite:///{home / 'podcastqa.sqlite'}")
    assert ("is damaged" in str(refused.value)) is (make is rubbish)  # rights mend no content


@pytest.mark.only_sqlite
@pytest.mark.parametrize(
    ("table", "ask"), [("counters", lambda asked: asked.status()), ("stops", lambda asked: asked.decisions())]
)
def test_a_ledger_without_one_of_its_tables_asks_for_a_copy_and_not_for_room_on_the_disk(
    parts: Parts, table: str, ask: Callable[[Treasury], object]
) -> None:
    with parts.database.hot() as driver:
        driver.execute(f"DROP TABLE {table}")
    with pytest.raises(LedgerUnavailable, match=rf"no such table: {table}.*put a copy of it back"):
        ask(parts.treasury)


def test_a_home_that_is_a_file_is_not_opened(tmp_path: Path, clock: SetClock) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(LedgerUnavailable, match="cannot be opened"):
        build(settings_in(tmp_path / "home"), clock=clock)


@pytest.mark.only_sqlite
def test_a_database_of_a_newer_version_is_left_alone(home: Path) -> None:
    path = home / "podcastqa.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(LedgerUnavailable, match="newer version"):
        open_database(f"sqlite:///{path}")


@pytest.mark.parametrize("before", ["", "CREATE TABLE alembic_version (version_num TEXT)"])
def test_an_empty_database_is_migrated_on_first_use(tmp_path: Path, before: str) -> None:
    path = tmp_path / "new %41 folder" / "podcastqa.sqlite"  # a name that a template or a URL might take apart
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(before)
    connection.close()
    database = open_database(f"sqlite:///{path}")
    assert declared_differences(database) == []
    database.close()


def test_nobody_else_may_look_into_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "home" / "podcastqa.sqlite"
    open_database(f"sqlite:///{path}").close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


UNWRITABLE = """
made = opened()
user = made.users.add("ada")
made.database.close()
os.chmod(home, 0o500)
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write anywhere
try:
    made.budget.reserve(Operation(user.id, "s", "o", "s"), Usd("0.01"))
except LedgerUnavailable as refusal:
    print("refused:", refusal.message)
"""


def test_a_folder_that_became_unwritable_refuses(process: Callable[..., Process]) -> None:
    status, out, err = process(UNWRITABLE).ended()
    assert (status, out.startswith("refused:")) == (0, True), err


FULL = """
import resource
made = opened()
user = made.users.add("ada")
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))  # to the kernel, every file is as long as it may be
for number in range(3):
    try:
        made.budget.reserve(Operation(user.id, "s", "o", "s"), Usd("0.01"))
    except LedgerUnavailable as refusal:
        print("refused:", refusal.message)
"""


@pytest.mark.only_sqlite
def test_a_disk_without_room_refuses_and_leaves_the_books_whole(
    process: Callable[..., Process], home: Path, clock: SetClock
) -> None:
    status, out, err = process(FULL).ended()
    assert (status, out.count("refused:")) == (0, 3), err
    again = build(settings_in(home), clock=clock)
    assert list(again.ledger.entries()) == []
    assert again.database.driver().execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.database.close()


def test_the_constraints_of_a_bill_hold(parts: Parts, two: tuple[User, User]) -> None:
    row = {"source": "s", "day": 1, "user_id": 99, "gross_pico": 1, "net_pico": 1, "read_us": 1}
    with pytest.raises(sa.exc.IntegrityError), parts.database.write(SYSTEM) as connection:
        connection.execute(bill_days.insert().values(row))
    assert isinstance(parts.database, Database)


def test_what_names_everybody_is_the_operators_and_no_user_may_read_it_under_any_name(parts: Parts) -> None:
    ada = parts.users.add("ada")
    for asked in (
        sa.select(bill_lines),
        sa.select(bill_lines.alias("mine").c.user_tag),
        sa.select(sa.func.count()).select_from(bill_lines),
        sa.select(users_table.c.id).where(sa.exists(sa.select(bill_lines.c.id))),
    ):
        with parts.database.read(SYSTEM) as connection:
            connection.execute(asked)
        with pytest.raises(CrossUserRefused, match="bill_lines"), parts.database.read(Scope(ada.id)) as connection:
            connection.execute(asked)

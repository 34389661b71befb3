"""The mirror affects speed, never meaning: delete it, tear it, hold it, change the ledger under it; the sums stay."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podcastqa.clock import day_number, microseconds
from podcastqa.database import Database, open_database
from podcastqa.errors import LedgerUnavailable
from podcastqa.money import ZERO, Usd
from podcastqa.spend import mirror_copy
from podcastqa.spend.ledger import Ledger
from podcastqa.spend.mirror import Mirror
from podcastqa.users import User
from podcastqa.wiring import Parts
from tests.conftest import A_WEDNESDAY, Process, SetClock, operation, race

pytestmark = pytest.mark.step1

TODAY = day_number(A_WEDNESDAY.date())
SUMS = "SELECT kind, user_id, source, day, count(*), sum(amount_pico) FROM entries GROUP BY ALL ORDER BY ALL"
BILLS = "SELECT source, day, user_id, gross_pico, net_pico, read_us FROM bill_days ORDER BY ALL"


@pytest.fixture
def ada(parts: Parts) -> User:
    """Ada, with three paid operations and one that runs: 3 × 2 + 2 = 8 entries."""
    user = parts.users.add("ada")
    for number in range(3):
        parts.budget.book(operation(user.id), Usd.from_pico(number + 1), f"h{number}")
    parts.budget.reserve(operation(user.id), Usd.from_pico(40), "running")
    parts.budget.start("running")
    return user


def in_the_ledger(database: Database) -> list[Any]:
    sql = SUMS.replace("GROUP BY ALL ORDER BY ALL", "GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4")
    return database.driver().execute(sql).fetchall()


def equals_the_ledger(parts: Parts) -> bool:
    """Every row, not only the sums."""
    rows = parts.database.driver().execute("SELECT * FROM entries ORDER BY id").fetchall()
    bills = parts.database.driver().execute(BILLS.replace("ALL", "1, 2, 3")).fetchall()
    lines = parts.database.driver().execute("SELECT * FROM bill_lines ORDER BY id").fetchall()
    mirrored = parts.mirror.query("SELECT * FROM entries ORDER BY id")
    mirrored_lines = parts.mirror.query("SELECT * FROM bill_lines ORDER BY id")
    return rows == mirrored and bills == parts.mirror.query(BILLS) and lines == mirrored_lines


def imported(parts: Parts, folder: Path, *costs: str) -> None:
    """A month's bill with these charges, imported."""
    header = "BilledCost,EffectiveCost,BillingCurrency,ChargeCategory,ChargePeriodStart,ServiceName,ProviderName"
    rows = [f"{cost},{cost},USD,Usage,2024-02-20 10:00:00,s,AWS" for cost in costs]
    path = folder / "bill.csv"
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    parts.archive.add(str(path))


def test_a_sync_copies_what_is_new_and_only_that(parts: Parts, clock: SetClock, ada: User) -> None:
    first = parts.mirror.sync()
    assert (first.last_id, first.new_rows, first.on_disk) == (8, 8, True)
    assert first.synced_us == microseconds(A_WEDNESDAY)
    clock.forward(minutes=1)
    again = parts.mirror.sync()
    assert (again.last_id, again.new_rows, again.synced_us) == (8, 0, microseconds(clock.instant))
    parts.budget.settle("running", Usd.from_pico(50))
    parts.budget.correct("running", Usd.from_pico(-1), "was wrong")
    third = parts.mirror.sync()
    assert (third.last_id, third.new_rows) == (10, 2)
    assert equals_the_ledger(parts)


def test_an_empty_ledger_is_mirrored_as_nothing(parts: Parts) -> None:
    mark = parts.mirror.sync()
    assert (mark.last_id, mark.new_rows, mark.on_disk) == (0, 0, True)
    assert parts.mirror.query("SELECT count(*), sum(amount_pico) FROM entries") == [(0, None)]
    assert parts.mirror.sync().new_rows == 0


def test_rebuilt_it_equals_the_ledger_to_the_last_unit(parts: Parts, ada: User) -> None:
    parts.ledger.put_bill("s", [(TODAY, 0, Usd("3"), Usd("2")), (TODAY, ada.id, Usd("1"), ZERO)], A_WEDNESDAY)
    before = parts.mirror.query(SUMS)
    mark = parts.mirror.rebuild()
    assert (mark.last_id, mark.new_rows) == (8, 8)
    assert parts.mirror.query(SUMS) == before == in_the_ledger(parts.database)
    assert equals_the_ledger(parts)


@given(
    amounts=st.lists(st.lists(st.integers(0, 4 * 10**18), max_size=5), min_size=1, max_size=4),
    forget=st.sets(st.integers(0, 3)),
)
@settings(max_examples=4, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck))
def test_whatever_was_booked_between_syncs_the_sums_are_the_ledgers(
    parts: Parts, amounts: list[list[int]], forget: set[int]
) -> None:
    user = parts.users.ensure("ada")
    for number, batch in enumerate(amounts):
        for pico in batch:
            hold = parts.budget.reserve(operation(user.id), ZERO)
            # The guard would not admit so much in a day; to book what a call did cost, nobody is asked.
            parts.clock.forward(days=40)  # type: ignore[attr-defined]
            parts.budget.settle(hold.hold_id, Usd.from_pico(pico))
        if number in forget:
            parts.mirror.path.unlink(missing_ok=True)
        total = sum(entry.amount.pico for entry in parts.ledger.entries())
        assert parts.mirror.query("SELECT coalesce(sum(amount_pico), 0) FROM entries") == [(total,)]
        booked = sum(entry.amount.pico for entry in parts.ledger.entries() if entry.kind == "settle")
        assert parts.mirror.query("SELECT coalesce(sum(booked_pico), 0) FROM day_sums") == [(booked,)]
    assert equals_the_ledger(parts)


def test_lines_of_imported_bills_are_copied_once_and_what_stands_is_summed_exactly(
    parts: Parts, ada: User, tmp_path: Path
) -> None:
    imported(parts, tmp_path, "0.1", "0.000000000002")
    assert (parts.mirror.sync().new_bill_lines, parts.mirror.sync().new_bill_lines) == (2, 0)
    assert parts.mirror.query("SELECT sum(amount_usd) FROM bill_lines_usd") == [(Decimal("0.100000000002"),)]
    imported(parts, tmp_path, "0.2", "0.3", "1E-12")  # the same month, delivered again
    mark = parts.mirror.sync()
    assert (mark.last_id, mark.new_rows, mark.new_bill_lines) == (8, 0, 3)
    found = parts.mirror.query("SELECT sum(amount_usd), sum(effective_usd), sum(amount_pico) FROM bill_lines_usd")
    assert found == [(Decimal("0.500000000001"), Decimal("0.500000000001"), 500_000_000_001)]
    assert equals_the_ledger(parts)
    mark = parts.mirror.rebuild()
    assert (mark.new_rows, mark.new_bill_lines) == (8, 5)
    assert equals_the_ledger(parts)


def test_bills_of_other_books_at_the_same_place_are_read_anew(
    parts: Parts, ada: User, tmp_path: Path, migrated: Path
) -> None:
    parts.database.driver().execute("VACUUM INTO ?", (str(tmp_path / "other.sqlite"),))
    other = open_database(f"sqlite:///{tmp_path / 'other.sqlite'}")
    imported(parts, tmp_path, "1", "2")
    assert parts.mirror.sync().new_bill_lines == 2
    mirror = Mirror(parts.mirror.path, other, parts.clock)
    assert mirror.query("SELECT count(*) FROM bill_lines_usd") == [(0,)]  # the same ledger, and no bill
    mark = parts.mirror.sync()
    assert (mark.new_rows, mark.new_bill_lines) == (0, 2)
    other.close()


def test_a_mirror_of_another_version_is_made_anew(parts: Parts, ada: User, tmp_path: Path) -> None:
    parts.budget.book(operation(ada.id), Usd("1"))
    parts.mirror.sync()
    with duckdb.connect(str(parts.mirror.path)) as connection:
        connection.execute("DROP VIEW bill_lines_usd; DROP TABLE bill_lines")
        connection.execute("UPDATE read_to SET last_row = 'an older shape' WHERE what = 'shape'")
    imported(parts, tmp_path, "1")
    mark = parts.mirror.sync()
    assert (mark.new_rows, mark.new_bill_lines, mark.on_disk) == (10, 1, True)  # 8 of Ada's and 2 of this one


@pytest.mark.both_databases
@pytest.mark.parametrize("reader", ["beside", "that cannot be started"])
def test_many_rows_are_read_by_a_process_beside_this_one_and_without_it_they_are_the_same(
    parts: Parts, ada: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    if reader != "beside":
        monkeypatch.setenv("PYTHONHOME", str(tmp_path))  # a Python that begins now finds no library of its own
    with parts.database.hot() as driver:
        driver.executemany(
            "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us)"
            " VALUES (?, 'reserve', ?, 's', 's', ?, ?, 1, 1)",
            [(f"many-{n}", ada.id, "ü'\"\\ \n" * (1 + n % 3), 10**9 + n) for n in range(mirror_copy.MANY_ROWS)],
        )
    assert parts.mirror.sync().new_rows == 50_008  # 8 of Ada's
    columns = ", ".join(mirror_copy.TABLES["entries"])
    wanted = parts.database.driver().execute(f"SELECT {columns} FROM entries ORDER BY id").fetchall()
    assert parts.mirror.query(f"SELECT {columns} FROM entries ORDER BY id") == [tuple(row) for row in wanted]
    parts.budget.book(operation(ada.id), Usd("1"))
    assert parts.mirror.sync().new_rows == 2


def test_sums_beyond_64_bits_do_not_overflow(parts: Parts, clock: SetClock) -> None:
    user = parts.users.add("ada")
    for _ in range(5):
        hold = parts.budget.reserve(operation(user.id), ZERO)
        parts.budget.settle(hold.hold_id, Usd("4000000"))
        clock.forward(days=40)  # another month has room again
    [(total,)] = parts.mirror.query("SELECT sum(amount_pico) FROM entries")
    assert total == 5 * 4 * 10**18 > 2**64
    [(dollars,)] = parts.mirror.query("SELECT sum(amount_usd) FROM entries_usd")
    assert dollars == Decimal("20000000.000000000000")


def test_dollars_in_the_mirror_are_exact_decimals(parts: Parts, ada: User) -> None:
    found = parts.mirror.query("SELECT amount_pico, amount_usd FROM entries_usd")
    assert all(dollars == Usd.from_pico(pico).decimal and isinstance(dollars, Decimal) for pico, dollars in found)


def test_what_stays_of_it_nobody_else_on_the_machine_can_read(parts: Parts, ada: User) -> None:
    parts.mirror.sync()
    kept = list(parts.mirror.path.parent.glob(f"{parts.mirror.path.name}*"))
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in kept} == {
        "mirror.duckdb": 0o600,
        "mirror.duckdb.lock": 0o600,
    }


def test_a_query_takes_parameters(parts: Parts, ada: User) -> None:
    found = parts.mirror.query("SELECT count(*) FROM entries WHERE kind = ? AND day = ?", ["settle", TODAY])
    assert found == [(3,)]


# ── lost, torn, not ours ─────────────────────────────────────────────────────────────────────────────────────────


def deleted(path: Path) -> None:
    path.unlink()


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    path.write_bytes(b"This is no database. " * 1000)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_shape(path: Path) -> None:
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE entries (nothing INTEGER)")


def with_rows_of_its_own(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM read_to; INSERT INTO entries SELECT * FROM entries")


@pytest.mark.parametrize("damage", [deleted, torn, overwritten, emptied, of_another_shape, with_rows_of_its_own])
def test_a_mirror_that_was_damaged_comes_back_the_same(
    parts: Parts, ada: User, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "blocks"  # its path holds the word "lock", as DuckDB's message does when a file is held
    mirror = Mirror(folder / "copy.duckdb", parts.database, parts.clock)
    before = mirror.query(SUMS)
    damage(mirror.path)
    assert mirror.query(SUMS) == before == in_the_ledger(parts.database)
    mark = mirror.sync()
    assert (mark.new_rows, mark.on_disk) == (0, True)  # it is on disk again


def test_what_cannot_be_put_away_is_answered_from_memory(parts: Parts, ada: User, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "copy.duckdb", parts.database, parts.clock)
    mirror.path.mkdir()  # a folder where the file should be
    mark = mirror.sync()
    assert (mark.new_rows, mark.on_disk) == (8, False)


FULL = """
import resource
made = opened()
made.mirror.path = home / "lockers" / "copy.duckdb"
made.mirror.path.parent.mkdir()
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
print(made.mirror.sync())
"""


def test_on_a_full_disk_the_answer_comes_from_memory(parts: Parts, ada: User, process: Callable[..., Process]) -> None:
    status, out, err = process(FULL).ended()
    assert (status, "last_id=8" in out, "on_disk=False" in out) == (0, True, True), err


def test_a_ledger_that_was_replaced_is_read_anew(parts: Parts, ada: User, tmp_path: Path, migrated: Path) -> None:
    assert parts.mirror.sync().last_id == 8
    other = tmp_path / "other.sqlite"
    other.write_bytes(migrated.read_bytes())
    database = open_database(f"sqlite:///{other}")
    mirror = Mirror(parts.mirror.path, database, parts.clock)
    mark = mirror.sync()  # emptier than what was mirrored
    assert (mark.last_id, mark.new_rows, mirror.query(SUMS)) == (0, 0, [])
    assert parts.mirror.sync().new_rows == 8  # and back
    with database.hot() as driver:  # now as long as the first, and of the same holds, but for one amount
        driver.execute("INSERT INTO users (id, name, created_us) VALUES (1, 'ada', 1)")
        for entry in parts.ledger.entries():
            driver.execute(
                "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us)"
                " VALUES (?, ?, 1, 's', 'service', 'o', ?, ?, ?)",
                (entry.hold_id, entry.kind.value, entry.amount.pico + 1, entry.day, microseconds(entry.at)),
            )
    assert mirror.sync().new_rows == 8
    assert mirror.query(SUMS) == in_the_ledger(database) != in_the_ledger(parts.database)
    database.close()


def test_a_backup_that_went_another_way_is_noticed_even_at_the_same_hold(
    parts: Parts, ada: User, clock: SetClock, tmp_path: Path
) -> None:
    parts.database.driver().execute("VACUUM INTO ?", (str(tmp_path / "backup.sqlite"),))
    parts.budget.settle("running", Usd.from_pico(40))  # entry 9 here …
    assert parts.mirror.sync().last_id == 9
    backup = open_database(f"sqlite:///{tmp_path / 'backup.sqlite'}")
    books, hold = Ledger(backup, clock), None
    with books.writing() as writing:
        hold = writing.get("running")
        writing.close(
            type(next(books.entries()).kind)("void"), hold, ZERO, clock.instant, "it never ran"
        )  # … and there
    mirror = Mirror(parts.mirror.path, backup, clock)
    assert mirror.sync().new_rows == 9
    assert mirror.query(SUMS) == in_the_ledger(backup)
    backup.close()


def test_a_mirror_of_a_ledger_that_is_gone_gives_no_answer(parts: Parts, ada: User) -> None:
    parts.mirror.sync()
    parts.database.path.unlink()
    with pytest.raises(LedgerUnavailable):
        parts.mirror.sync()
    assert parts.mirror.path.exists()


# ── others ───────────────────────────────────────────────────────────────────────────────────────────────────────


HOLDS = """
import duckdb
connection = duckdb.connect(str(home / "mirror.duckdb"))
print("held", flush=True)
sys.stdin.readline()
"""


def test_while_another_program_holds_the_file_the_answer_comes_from_memory_and_says_so(
    parts: Parts, ada: User, process: Callable[..., Process]
) -> None:
    before = parts.mirror.query(SUMS)
    other = process(HOLDS)
    assert other.said() == "held"
    parts.budget.settle("running", Usd.from_pico(50))
    with parts.mirror.opened() as (connection, mark):
        assert (mark.last_id, mark.new_rows, mark.on_disk) == (9, 9, False)
        assert connection.execute(SUMS).fetchall() == in_the_ledger(parts.database) != before
    other.go()
    assert other.ended()[0] == 0
    mark = parts.mirror.sync()
    assert (mark.last_id, mark.new_rows, mark.on_disk) == (9, 1, True)  # what was on disk was not touched
    assert equals_the_ledger(parts)


ASKS = """
made = opened()
ready()
for _ in range(3):
    print(made.mirror.query("SELECT count(*), sum(amount_pico) FROM entries"), made.mirror.sync().on_disk)
"""


def test_processes_that_ask_at_once_wait_for_each_other_and_agree(
    parts: Parts, ada: User, process: Callable[..., Process]
) -> None:
    said = race([process(ASKS) for _ in range(2)])
    total = sum(entry.amount.pico for entry in parts.ledger.entries())
    assert {line for out in said for line in out.splitlines()} == {f"[(8, {total})] True"}


def test_threads_that_ask_at_once_wait_for_each_other(parts: Parts, ada: User) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(parts.mirror.sync())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(mark.new_rows for mark in found) == [0, 0, 0, 8]
    assert all(mark.on_disk for mark in found)


def test_a_question_that_fails_leaves_the_mirror_usable(parts: Parts, ada: User) -> None:
    with pytest.raises(duckdb.Error):
        parts.mirror.query("SELECT nonsense FROM nowhere")
    assert parts.mirror.query("SELECT count(*) FROM entries") == [(8,)]


def test_the_watermark_says_how_old_an_answer_is(parts: Parts, clock: SetClock, ada: User) -> None:
    parts.mirror.sync()
    clock.forward(hours=2)
    summary = parts.treasury.by_user(days=1)
    assert summary.span.as_of == A_WEDNESDAY + timedelta(hours=2)

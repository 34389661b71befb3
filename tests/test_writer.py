"""One writer a process: whoever asks in whichever way, the answer is durable, exact, and in the order of arrival."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from podcastqa.clock import WindowKind
from podcastqa.database import open_database
from podcastqa.errors import EmergencyStopped, HoldUnknown, LedgerUnavailable, OverLimit, UnknownUser
from podcastqa.money import ZERO, Usd
from podcastqa.spend.books import Books
from podcastqa.spend.entries import EntryKind, Hold
from podcastqa.spend.job import Doing
from podcastqa.spend.ledger import Spent
from podcastqa.sqlite_line import SqliteLine
from podcastqa.users import User
from podcastqa.wiring import Parts
from tests.conftest import Process, in_a_fork, operation

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

DAY = WindowKind.DAY
CENT = Usd("0.01")


@pytest.fixture(autouse=True, params=[60.0, 0.0], ids=["led at once", "led by a thread"])
def quick_seconds(request: pytest.FixtureRequest, parts: Parts) -> float:
    """Either way in which tasks are led on SQLite, whatever this machine's disk makes of it."""
    seconds: float = request.param
    if isinstance(parts.budget.writer.line, SqliteLine):
        parts.budget.writer.line.quick_seconds = seconds
    return seconds


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada")


def limit(parts: Parts, user: User, amount: str) -> None:
    for kind in WindowKind:
        parts.budget.set_limit(user.id, kind, Usd(amount), by="ada", reason="a test")


def commits(parts: Parts) -> Callable[[], int]:
    """Counts the turns in which somebody wrote entries: by SQLite's own number for another connection's commits, or
    by the transactions that PostgreSQL notes of each row."""
    on_sqlite, seen = parts.database.path is not None, parts.database.driver()
    sql = "PRAGMA data_version" if on_sqlite else "SELECT count(DISTINCT xmin::text) FROM entries"
    start = seen.execute(sql).fetchone()[0]
    return lambda: int(seen.execute(sql).fetchone()[0]) - start


def test_tasks_that_ask_together_are_admitted_in_the_order_they_came(parts: Parts, ada: User) -> None:
    limit(parts, ada, "0.10")

    async def ask(number: int) -> int | None:
        try:
            await parts.budget.writer.ask(parts.budget.reserving(operation(ada.id), CENT))
        except OverLimit:
            return None
        return number

    async def all_of_them() -> list[int | None]:
        return await asyncio.gather(*(ask(number) for number in range(40)))

    assert asyncio.run(all_of_them()) == [*range(10), *[None] * 30]  # 0.10 ÷ 0.01 = 10, and then no more
    assert parts.budget.standing(ada.id)[ada.id, DAY] == Spent(ZERO, Usd("0.10"))


def test_tasks_that_ask_together_share_one_commit(parts: Parts, ada: User) -> None:
    budget, others = parts.budget, commits(parts)
    parts.database.driver().execute("SELECT count(*) FROM entries").fetchone()

    async def together() -> list[Hold]:
        return await asyncio.gather(*(budget.writer.ask(budget.reserving(operation(ada.id), CENT)) for _ in range(32)))

    before = others()
    holds = asyncio.run(together())
    assert len({hold.hold_id for hold in holds}) == 32
    assert others() - before == 1


def test_threads_and_tasks_on_one_budget_take_exactly_what_there_is(parts: Parts, ada: User) -> None:
    limit(parts, ada, "0.60")
    budget = parts.budget

    def thread(_: int) -> int:
        taken = 0
        while True:
            try:
                budget.book(operation(ada.id), CENT)
            except OverLimit:
                return taken
            taken += 1

    async def task() -> int:
        taken = 0
        while True:
            try:
                await budget.writer.ask(budget.booking(operation(ada.id), CENT))
            except OverLimit:
                return taken
            taken += 1

    async def tasks() -> int:
        return sum(await asyncio.gather(*(task() for _ in range(8))))

    with ThreadPoolExecutor(6) as threads:
        started = [threads.submit(thread, number) for number in range(4)]
        loops = [threads.submit(asyncio.run, tasks()) for _ in range(2)]
        taken = sum(one.result() for one in (*started, *loops))
    assert taken == 60
    assert budget.standing(ada.id)[ada.id, DAY] == Spent(Usd("0.60"), ZERO)
    parts.ledger.carry()
    kept = parts.database.driver().execute("SELECT * FROM counters ORDER BY user_id").fetchall()
    parts.ledger.rebuild()
    assert parts.database.driver().execute("SELECT * FROM counters ORDER BY user_id").fetchall() == kept


def test_what_is_refused_writes_nothing(parts: Parts, ada: User) -> None:
    limit(parts, ada, "0.01")
    parts.budget.reserve(operation(ada.id), CENT)
    others, last = commits(parts), parts.ledger.last_id()
    for _ in range(5):
        with pytest.raises(OverLimit):
            parts.budget.reserve(operation(ada.id), CENT)
    with pytest.raises(HoldUnknown):
        parts.budget.settle("nobody's", CENT)
    assert (others(), parts.ledger.last_id()) == (0, last)


def test_one_callers_mistake_is_nobody_elses(parts: Parts, ada: User) -> None:
    budget = parts.budget

    def mistaken(books: Books) -> None:
        hold = budget.reserving(operation(ada.id), CENT, "half").do(books)
        raise ZeroDivisionError(f"a bug, after {hold.hold_id} was written")

    async def together() -> list[object]:
        asks = [budget.writer.ask(budget.reserving(operation(ada.id), CENT, f"good {n}")) for n in range(3)]
        asks.insert(1, budget.writer.ask(Doing(mistaken, "half", ada.id)))  # type: ignore[arg-type]
        asks.append(budget.writer.ask(budget.reserving(operation(99), CENT)))
        return await asyncio.gather(*asks, return_exceptions=True)

    first, bug, second, third, stranger = asyncio.run(together())
    assert isinstance(bug, ZeroDivisionError)
    assert isinstance(stranger, UnknownUser)
    assert [one.hold_id for one in (first, second, third) if isinstance(one, Hold)] == ["good 0", "good 1", "good 2"]
    # Each of the good ones once, and of the bad one nothing.
    assert sorted(entry.hold_id for entry in parts.ledger.entries()) == ["good 0", "good 1", "good 2"]
    assert budget.standing(ada.id)[ada.id, DAY] == Spent(ZERO, Usd("0.03"))


def test_what_one_batch_asks_twice_is_done_once_and_at_the_first_try(parts: Parts, ada: User) -> None:
    budget, tries = parts.budget, list[int]()
    budget.reserve(operation(ada.id), CENT, "h")

    async def together() -> tuple[object, ...]:
        return await asyncio.gather(
            budget.writer.ask(budget.settling("h", CENT)),
            budget.writer.ask(budget.reserving(operation(ada.id), CENT, "h")),
            budget.writer.ask(budget.settling("h", CENT)),
            budget.writer.ask(budget.booking(operation(ada.id), CENT, "b")),
            budget.writer.ask(budget.booking(operation(ada.id), CENT, "b")),
            budget.writer.ask(Doing(lambda _: tries.append(1))),
        )

    _, hold, _, booked, again, _ = asyncio.run(together())
    assert (hold.hold_id, booked) == ("h", again)  # type: ignore[attr-defined]
    told = [(entry.hold_id, entry.kind.value) for entry in parts.ledger.entries()]
    assert told == [("h", "reserve"), ("h", "settle"), ("b", "reserve"), ("b", "settle")]
    assert budget.standing(ada.id)[ada.id, DAY] == Spent(Usd("0.02"), ZERO)
    assert tries == [1]  # not one by one after all together had failed


def test_a_task_that_was_cancelled_leaves_no_doubt_what_was_written(parts: Parts, ada: User) -> None:
    budget = parts.budget

    async def given_up() -> Hold:
        return await budget.writer.ask(budget.reserving(operation(ada.id), CENT, "given up"))

    async def cancelled() -> None:
        task = asyncio.create_task(given_up())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await budget.writer.ask(budget.reserving(operation(ada.id), CENT, "after it"))

    asyncio.run(cancelled())
    assert [entry.hold_id for entry in parts.ledger.entries()] == ["given up", "after it"]
    assert budget.standing(ada.id)[ada.id, DAY] == Spent(ZERO, Usd("0.02"))


def test_an_event_loop_does_not_wait_for_the_turn_to_write(parts: Parts, ada: User) -> None:
    has_it, let_go = threading.Event(), threading.Event()

    def hold_the_turn() -> None:
        with parts.database.hot():
            has_it.set()
            let_go.wait(30)

    async def meanwhile() -> str:
        thread = asyncio.get_running_loop().run_in_executor(None, hold_the_turn)
        await asyncio.to_thread(has_it.wait)
        asked = parts.budget.writer.ask(parts.budget.reserving(operation(ada.id), CENT, "h"))
        for _ in range(100):
            await asyncio.sleep(0)  # the loop goes round
        assert not asked.done()
        let_go.set()
        await thread
        return (await asked).hold_id

    assert asyncio.run(meanwhile()) == "h"


def test_tasks_are_led_on_their_own_loop_only_where_commits_are_quick(
    parts: Parts, ada: User, quick_seconds: float
) -> None:
    async def led_by() -> str:
        return await parts.budget.writer.ask(Doing(lambda _: threading.current_thread().name))

    on_server = parts.database.path is None
    by_thread = asyncio.run(led_by()).startswith("podcastqa-writer")
    assert by_thread is (on_server or quick_seconds == 0)


def test_what_others_write_is_seen_by_the_very_next_batch(parts: Parts, ada: User) -> None:
    other = open_database(parts.settings.database)
    parts.budget.reserve(operation(ada.id), CENT)
    with other.hot() as driver:
        driver.execute("INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (1, 1, 'bob', 'raw SQL')")
    with pytest.raises(EmergencyStopped, match="bob: raw SQL"):
        parts.budget.reserve(operation(ada.id), CENT)
    with other.hot() as driver:
        driver.execute("INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (0, 2, 'bob', 'over')")
        driver.execute("UPDATE users SET name = NULL, deleted_us = 1 WHERE id = ?", (ada.id,))
    with pytest.raises(UnknownUser):
        parts.budget.reserve(operation(ada.id), CENT)
    other.close()


def test_one_job_inside_another_is_told_at_once(parts: Parts, ada: User) -> None:
    with parts.ledger.writing(), pytest.raises(RuntimeError, match="already holds"):
        parts.budget.reserve(operation(ada.id), CENT)
    parts.budget.reserve(operation(ada.id), CENT)


def test_a_forked_child_has_a_writer_of_its_own(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), CENT, "parent's")
    assert in_a_fork(lambda: bool(parts.budget.reserve(operation(ada.id), CENT, "child's")))
    parts.budget.settle("child's", CENT)
    assert parts.budget.standing(ada.id)[ada.id, DAY] == Spent(CENT, CENT)


@pytest.mark.only_sqlite
def test_everybody_who_waits_is_told_when_the_ledger_cannot_be_written(parts: Parts, ada: User) -> None:
    parts.budget.reserve(operation(ada.id), CENT)
    line = parts.budget.writer.line.driver
    pages = line.execute("PRAGMA page_count").fetchone()[0]
    line.execute(f"PRAGMA max_page_count = {pages}")  # the disk is full
    what = operation(ada.id, name="o" * 200)

    async def together() -> list[object]:
        asks = [parts.budget.writer.ask(parts.budget.reserving(what, CENT)) for _ in range(64)]
        return await asyncio.gather(*asks, return_exceptions=True)

    assert {type(one) for one in asyncio.run(together())} == {LedgerUnavailable}
    line.execute("PRAGMA max_page_count = 1073741823")
    parts.budget.reserve(what, CENT)
    kinds = [entry.kind for entry in parts.ledger.entries()]
    assert kinds == [EntryKind.RESERVE] * 2  # the first and the last: nothing of what was not said
    assert parts.budget.standing(ada.id)[ada.id, DAY] == Spent(ZERO, Usd("0.02"))


MIXED = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
made = opened()
what = Operation(1, "service", "o", "s")
def thread():
    taken = 0
    while True:
        try:
            made.budget.book(what, Usd("0.01"))
        except OverLimit:
            return taken
        taken += 1
async def task():
    taken = 0
    while True:
        try:
            await made.budget.writer.ask(made.budget.booking(what, Usd("0.01")))
        except OverLimit:
            return taken
        taken += 1
async def tasks():
    return sum(await asyncio.gather(*(task() for _ in range(8))))
ready()
with ThreadPoolExecutor(4) as pool:
    asked = [pool.submit(thread), pool.submit(thread), pool.submit(asyncio.run, tasks())]
    print(sum(one.result() for one in asked))
"""


def test_processes_threads_and_tasks_on_one_budget_take_exactly_what_there_is(
    parts: Parts, ada: User, process: Callable[..., Process]
) -> None:
    from podcastqa.clock import SystemClock
    from podcastqa.wiring import build
    from tests.conftest import ROOMY, race

    real = build(parts.settings, clock=SystemClock())
    limit(real, ada, "2.00")
    taken = [int(out) for out in race([process(MIXED, **ROOMY) for _ in range(3)])]
    assert sum(taken) == 200
    spent = max(real.budget.standing(ada.id).values(), key=lambda one: one.total)
    assert spent == Spent(Usd("2.00"), ZERO)

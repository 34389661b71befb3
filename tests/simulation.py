"""A long life of the guard from one seed, told to the model too: after every step both say the same.

    python -m tests.simulation SEED STEPS [URL of an empty PostgreSQL database]

does it again, step by step, and stops where they differ. The database stands in memory-backed storage where the machine
has some: what is compared is what the books say, not how fast a disk is.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from podcastqa.clock import WindowKind, day_number
from podcastqa.database import open_database
from podcastqa.errors import LedgerUnavailable, OverLimit, PodcastQAError
from podcastqa.money import ZERO, Usd
from podcastqa.spend.budget import Budget
from podcastqa.spend.entries import Operation
from podcastqa.spend.job import Doing, Job
from podcastqa.spend.ledger import NOTHING, Ledger
from podcastqa.users import Users
from tests.model import HOLD_FOR, Model, Scope

USERS, SERVICES, SOURCES = 3, ("search", "speech"), ("s", "t")
SYSTEM = dict(zip(WindowKind, (400, 900, 1500), strict=True))
USER = dict(zip(WindowKind, (200, 400, 700), strict=True))
#: The last instant of a day, a week, a month, a leap day, a year, a year whose last week is the next year's.
EDGES = tuple(
    datetime(*day, 23, 59, 59, 999_999, tzinfo=UTC)
    for day in (
        (2024, 2, 28),
        (2024, 2, 29),
        (2024, 3, 3),
        (2024, 12, 29),
        (2024, 12, 31),
        (2023, 2, 28),
        (2020, 12, 31),
    )
)
JUMPS = (
    *(timedelta(microseconds=1), timedelta(minutes=1), HOLD_FOR - timedelta(microseconds=1), HOLD_FOR),
    *(timedelta(hours=5), timedelta(hours=13), timedelta(days=1), timedelta(days=2), timedelta(days=9)),
    *(-timedelta(microseconds=1), -timedelta(minutes=14), -timedelta(days=1)),
)
Outcome = str


class Differs(AssertionError):
    """The guard and the model do not say the same."""


class SetClock:
    def __init__(self) -> None:
        self.instant = datetime(2024, 2, 28, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant


@dataclass
class Life:
    """The real guard, the model, and what happens to them."""

    seed: int
    folder: Path
    url: str = ""
    """An empty database of a server; without one, a file in the folder."""
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random, self.clock, self.made = random.Random(self.seed), SetClock(), 0
        usual: dict[tuple[Scope, WindowKind], int] = {(0, kind): pico for kind, pico in SYSTEM.items()}
        self.model = Model(usual | {(-1, kind): pico for kind, pico in USER.items()})
        self.recent: list[str] = []
        self.writer = 0
        self._open()
        self.users = [Users(self.database, self.clock).add(f"user-{n}").id for n in range(USERS)]

    def _open(self) -> None:
        self.database = open_database(self.url or f"sqlite:///{self.folder}/books.sqlite")
        self.ledgers = [Ledger(self.database, self.clock) for _ in range(2)]
        limits = [{kind: Usd.from_pico(pico) for kind, pico in usual.items()} for usual in (SYSTEM, USER)]
        self.budgets = [
            Budget(
                *(self.database, ledger, self.clock), system_limits=limits[0], user_limits=limits[1], hold_for=HOLD_FOR
            )
            for ledger in self.ledgers
        ]

    @property
    def ledger(self) -> Ledger:
        """One of the two who write the same books, each on a connection of its own: they follow each other."""
        return self.ledgers[self.writer]

    @property
    def budget(self) -> Budget:
        return self.budgets[self.writer]

    # ── what may happen ───────────────────────────────────────────────────────────────────────────────────────────

    def step(self) -> None:
        names = ("spend", "batch", "jump", "edge", "limit", "stop", "bill", "restart", "full", "carry")
        self.writer = self.random.choice((self.writer, self.writer, 0, 1))
        people_decide = (4, 2) if self.done["limit"] < 500 else (0.01, 0.1)  # as rarely as people do, in a long life
        name = self.random.choices(names, (70, 8, 10, 1, *people_decide, 3, 1, 1, 2))[0]
        getattr(self, f"_{name}")()
        self.done[name] += 1
        self.compare()
        if name == "carry" and self.done[name] <= 100:  # making all anew takes longer the longer the life
            self.compare_derived()

    def _spend(self) -> None:
        job, model = self._anything()
        real = self._said(lambda: self.budget.writer.run(job))
        self._same(real, model())

    def _batch(self) -> None:
        """Several at once: admitted in the order they came, in one commit."""
        asked = [self._anything() for _ in range(self.random.randint(2, 8))]

        async def together() -> list[Any]:
            return await asyncio.gather(*(self.budget.writer.ask(job) for job, _ in asked), return_exceptions=True)

        for answer, (_, model) in zip(asyncio.run(together()), asked, strict=True):
            self._same(_named(answer), model())

    def _full(self) -> None:
        """The disk is full: what is refused for it never was; what needed no room was done."""
        if self.url:
            self._cut()
            return
        with self.ledger.writing() as books:  # the connection that the writer has
            driver = books.driver
        driver.execute(f"PRAGMA max_page_count = {driver.execute('PRAGMA page_count').fetchone()[0]}")
        for _ in range(60):  # until a page is full
            job, model = self._anything()
            real = self._said(lambda job=job: self.budget.writer.run(job))  # type: ignore[misc]
            if real == LedgerUnavailable.__name__:
                self.done["refused by a full disk"] += 1
            else:
                self._same(real, model())
        driver.execute("PRAGMA max_page_count = 1073741823")

    def _cut(self) -> None:
        """The server ends every connection: the very next call makes another, and nothing is missing."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as login:
            login.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = session_user"
            )
        self.done["connection cut"] += 1
        self._spend()

    def _restart(self) -> None:
        for budget in self.budgets:
            budget.writer.close()
        self.database.close()
        self._open()

    def _carry(self) -> None:
        """Counters and open holds are brought up to the newest entry, by one writer and then by the other."""
        for writer in (self.writer, 1 - self.writer):
            self.writer = writer
            self._spend()
            self.ledger.carry()
            self._batch()

    def _jump(self) -> None:
        self.clock.instant += self.random.choice(JUMPS)

    def _edge(self) -> None:
        self.clock.instant = self.random.choice(EDGES)

    def _limit(self) -> None:
        scope: Scope = self.random.choice([0, *self.users, *SERVICES])
        kind, now = self.random.choice(list(WindowKind)), self.clock.instant
        begins = now + self.random.choice(JUMPS[:9]) if self.random.random() < 0.3 else None
        pico = self.random.choice([None, 0, self.random.randint(0, 1500), self.random.randint(0, 1500)])
        who, service = (0, scope) if isinstance(scope, str) else (scope, "")
        words: dict[str, Any] = {"by": "ada", "reason": "a life", "service": service, "valid_from": begins}
        if pico is None:
            self.budget.remove_limit(who, kind, **words)
        else:
            self.budget.set_limit(who, kind, Usd.from_pico(pico), **words)
        self.model.say_limit(scope, kind, pico, now, begins)

    def _stop(self) -> None:
        self.model.stopped = not self.model.stopped
        (self.budget.stop if self.model.stopped else self.budget.release)(by="ada", reason="a life")
        if self.model.stopped:  # it is seen at once, and not for long
            self._spend()
            self._stop()

    def _bill(self) -> None:
        source, model, today = self.random.choice(SOURCES), self.model, self.clock.instant.date()
        for key in [key for key in model.bills if key[2] == source]:
            del model.bills[key]
        for _ in range(self.random.randint(0, 3)):
            day, user = today - timedelta(days=self.random.randint(0, 3)), self.random.choice(self.users)
            for scope in (0, user):
                model.bills[scope, day, source] = model.bills.get((scope, day, source), 0) + self.random.randint(0, 60)
        rows = [
            (day_number(day), scope, Usd.from_pico(pico), ZERO)
            for (scope, day, of), pico in model.bills.items()
            if of == source
        ]
        self.ledger.put_bill(source, rows, self.clock.instant)

    def _anything(self) -> tuple[Job[Any], Callable[[], Outcome]]:
        """One of the guard's verbs as a job, and what the model says to it."""
        budget, model, now = self.budget, self.model, self.clock.instant
        name = self.random.choice(
            ["reserve", "reserve", "begin", "begin", "book", "start", "settle", "settle", "void", "correct"]
        )
        if name in ("reserve", "begin", "book"):
            what = Operation(
                self.random.choice(self.users), self.random.choice(SERVICES), "o", self.random.choice(SOURCES)
            )
            pico, hold_id = self.random.randint(0, 60), self._new_id() if self.random.random() < 0.9 else self._old_id()
            job = {"reserve": budget.reserving, "begin": budget.beginning, "book": budget.booking}[name]
            return job(what, Usd.from_pico(pico), hold_id), lambda: getattr(model, name)(hold_id, what, pico, now)
        hold_id, pico = self._old_id(), self.random.randint(0, 80)
        if name == "start":
            return Doing(lambda books: budget._start(books, hold_id), hold_id), lambda: model.start(hold_id, now)
        if name == "settle":
            return budget.settling(hold_id, Usd.from_pico(pico)), lambda: model.settle(hold_id, pico)
        if name == "void":
            return Doing(lambda books: budget._void(books, hold_id, "not charged"), hold_id), lambda: model.void(
                hold_id
            )
        delta = Usd.from_pico(pico - 40)
        return (
            Doing(lambda books: books.correct(books.get(hold_id), delta, now, "was wrong"), hold_id, again=False),
            lambda: model.correct(hold_id, pico - 40),
        )

    def _new_id(self) -> str:
        self.made += 1
        self.recent = [*self.recent[-11:], f"hold {self.made}"]
        return self.recent[-1]

    def _old_id(self) -> str:
        return self.random.choice(self.recent or ["nobody's"])

    @staticmethod
    def _said(call: Callable[[], object]) -> Outcome:
        try:
            call()
        except PodcastQAError as refusal:
            return _named(refusal)
        return ""

    # ── comparing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _same(self, real: object, model: object) -> None:
        if real != model:
            raise Differs(f"the guard says {real!r}, the model {model!r}")

    def compare(self) -> None:
        """One user's windows and limits."""
        user, now = self.random.choice(self.users), self.clock.instant
        standing, limits = self.budget.standing(user), self.budget.limits(user)
        for scope in (0, user):
            for kind in WindowKind:
                spent = standing.get((scope, kind), NOTHING)
                self._same(
                    (scope, kind, spent.real.pico, spent.held.pico), (scope, kind, *self.model.spent(scope, kind, now))
                )
                self._same(limits[scope, kind].pico, self.model.limit(scope, kind, now))

    def compare_all(self) -> None:
        """Every hold's fate, and everything that is derived from the entries."""
        ends: dict[str, tuple[int, int, int]] = dict.fromkeys(self.model.holds, (0, 0, 0))
        for entry in self.ledger.entries():
            reserved, ended, booked = ends[entry.hold_id]
            kind, pico = str(entry.kind), entry.amount.pico
            booked += pico if kind in ("settle", "correct") else 0
            ends[entry.hold_id] = reserved + (kind == "reserve"), ended + (kind in ("settle", "void", "expire")), booked
        for hold_id, hold in self.model.holds.items():
            must = (1, int(bool(hold.ended)), (hold.settled or 0) + hold.corrected)
            self._same((hold_id, *ends[hold_id]), (hold_id, *must))
        self.compare_derived()

    def compare_derived(self) -> None:
        kept = self._derived()
        self.ledger.rebuild()
        self._same(self._derived(), kept)

    def _derived(self) -> list[Any]:
        self.ledger.carry()
        driver = self.database.driver()
        some = "booked_pico <> 0 OR held_pico <> 0"
        return [
            driver.execute(sql).fetchall()
            for sql in (
                "SELECT * FROM open_holds ORDER BY hold_id",
                f"SELECT * FROM counters WHERE {some} OR bill_pico <> 0 ORDER BY user_id, day, source",
                f"SELECT * FROM service_counters WHERE {some} ORDER BY service, day",
            )
        ]


def _named(answer: object) -> Outcome:
    if isinstance(answer, OverLimit):
        return f"OverLimit {answer.scope} {answer.window}"
    if isinstance(answer, BaseException) and not isinstance(answer, PodcastQAError):
        raise answer
    return type(answer).__name__ if isinstance(answer, PodcastQAError) else ""


def live(
    seed: int,
    steps: int,
    url: str = "",
    progress: Callable[[int], object] = lambda _: None,
    spoil: Callable[[Life], object] = lambda _: None,
) -> Counter[str]:
    """One life; raises Differs with the command that repeats it. Returns how often each kind of step was done."""
    memory = Path("/dev/shm")  # noqa: S108 – a place that a disk's speed does not touch
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        life = Life(seed, Path(folder), url)
        number = 0
        spoil(life)
        try:
            for number in range(1, steps + 1):
                life.step()
                if number % 1000 == 0:
                    progress(number)
                if number % max(steps // 10, 1000) == 0 or number == steps:
                    life.compare_all()
        except Exception as problem:
            raise Differs(
                f"step {number} of seed {seed}: {problem}. Again: python -m tests.simulation {seed} {number}"
            ) from problem
        finally:
            life.budget.writer.close()
            life.database.close()
        return life.done


if __name__ == "__main__":
    print(live(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))  # noqa: T201

"""One writer a process: callers queue, one commit admits them in the order they came, and nobody is answered before it.

A caller who finds nobody writing leads: it takes the turn to write, and then everyone who is waiting by then. So a
lone caller writes directly, and many share the cost of one durable commit. Threads wait for the turn. Tasks are led on
their event loop where the turn is free and commits are quicker than a change of threads is worth, else by one thread
of the writer's own: no event loop waits for another writer, a server or a slow disk. The turn (a file lock, or a lock
of the server) is taken before the queue is emptied: while it is waited for, the batch grows.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from podcastqa.clock import Clock
from podcastqa.database import Database, Line
from podcastqa.errors import LedgerUnavailable, PodcastQAError
from podcastqa.spend.books import Books
from podcastqa.spend.job import Job

T = TypeVar("T")
_INTERRUPTED = "The program was interrupted while it wrote the ledger: whether it was written is not known."


class Writer:
    """Runs jobs on the books, many in one commit."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._begin_anew()
        _writers.add(self)

    def _begin_anew(self) -> None:
        """A forked child has none of its parent's threads, callers or connections."""
        self._turn, self._leader = threading.Lock(), 0
        self._waiting: deque[Job[Any]] = deque()
        self._calling: asyncio.AbstractEventLoop | None = None  # the last loop that is about to call our thread
        self.line: Line = self._database.line()
        self._books: Books | None = None
        self._still = False  # whether nobody else has written since our last turn
        self._tasks: ThreadPoolExecutor | None = None

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, job: Job[T]) -> T:
        """Do the job; returns when it is durable. Raises what the job raises, or LedgerUnavailable."""
        self._here()
        self._waiting.append(job)
        with self._turn:
            if not job.done:
                self._round()
        if job.problem is not None:
            raise job.problem
        answer: T = job.answer
        return answer

    def ask(self, job: Job[T]) -> asyncio.Future[T]:
        """The same for a task: the job is queued at once, and what is returned is to be awaited."""
        loop = asyncio.get_running_loop()
        job.future = future = loop.create_future()
        self._waiting.append(job)
        if self._calling is not loop:
            self._calling = loop
            loop.call_soon(self._call, loop)  # soon, not now: tasks that are ready too come into the same batch
        return future

    def post(self, job: Job[Any]) -> None:
        """Have the job done after those who wait, without waiting for it; nobody is told of a problem."""
        self._here()
        self._waiting.append(job)
        self._have_led()

    @contextmanager
    def alone(self) -> Iterator[Books]:
        """One write transaction by itself, durable when the block ends; nothing of it stays if the block raises."""
        self._here()
        with self._turn:
            try:
                books = self._begin()
                with self.line.reachable():
                    books.follow(self._still)
                    yield books
                    self._commit(books)
            except BaseException:
                self._back()
                raise
            finally:
                self._leader = 0

    def close(self) -> None:
        """End the writer's thread."""
        if self._tasks is not None:
            self._tasks.shutdown()
        self._begin_anew()

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _here(self) -> None:
        if self._leader == threading.get_ident():
            raise RuntimeError("this thread already holds the turn to write: one write inside another would never end")

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        """Lead those who wait, if nothing has to be waited for; else have the writer's thread lead them."""
        if self._calling is loop:
            self._calling = None  # whoever comes from now on calls again
        if not self._led_at_once(loop):
            self._have_led()

    def _led_at_once(self, loop: asyncio.AbstractEventLoop) -> bool:
        if not self._turn.acquire(blocking=False):
            return False
        try:
            if self._waiting:
                if not self.line.begins_at_once():
                    return False
                self._round(loop)
            return True
        finally:
            self.line.give_back()
            self._turn.release()

    def _have_led(self) -> None:
        if self._tasks is None:
            self._tasks = ThreadPoolExecutor(1, thread_name_prefix="podcastqa-writer")
        self._tasks.submit(self._lead)

    def _lead(self) -> None:
        """Write for the tasks that wait."""
        with self._turn:
            self._round()

    def _round(self, here: asyncio.AbstractEventLoop | None = None) -> None:
        """Take the turn to write, then everyone who waits, and answer them; `here`: the loop on which this happens."""
        if not self._waiting:
            return  # somebody else has led them
        batch: list[Job[Any]] = []
        try:
            self._try(batch, self._waiting)
        except BaseException as problem:
            batch += self._waiting  # nobody may wait for ever
            self._waiting.clear()
            told = problem if isinstance(problem, Exception) else LedgerUnavailable(_INTERRUPTED)
            for job in batch:
                job.problem = told
            if told is not problem:
                raise
        finally:
            _answer(batch, here)

    def _try(self, batch: list[Job[Any]], waiting: deque[Job[Any]]) -> None:
        """All in one commit; where a connection was cut once more, and where one spoils it for all one by one."""
        try:
            self._commit_all(batch, waiting)
        except LedgerUnavailable:
            if not batch or not self._database.is_cut or not all(job.again for job in batch):
                raise
            self._commit_all(batch, deque())
        except Exception as problem:  # whatever it is, it is one caller's, and the others go on
            if not batch:
                raise
            if len(batch) == 1:
                batch[0].problem = problem
                return
            for job in batch:
                try:
                    self._try([job], deque())
                except LedgerUnavailable as unusable:  # those before it are written
                    job.problem = unusable

    def _commit_all(self, batch: list[Job[Any]], waiting: deque[Job[Any]]) -> None:
        try:
            books = self._begin()
            while waiting:
                batch.append(waiting.popleft())
            with self.line.reachable():
                books.follow(self._still)
                self._prepare(books, batch)
                for job in batch:
                    try:
                        job.answer, job.problem = job.do(books), None
                    except LedgerUnavailable:
                        raise
                    except PodcastQAError as refusal:  # it is an answer
                        job.problem = refusal
                self._commit(books)
        except BaseException:
            self._back()
            raise
        finally:
            self._leader = 0

    def _prepare(self, books: Books, batch: list[Job[Any]]) -> None:
        """Read what the batch asks for, in as few questions as can be."""
        asked = books.look_up([job.hold_id for job in batch if job.hold_id])
        users = {job.user_id for job in batch if job.user_id} | books.payers(asked)
        if not users <= books.users:
            books.prepare(users)

    def _begin(self) -> Books:
        line = self.line
        self._still = line.begin(self._look_ahead)
        self._leader = threading.get_ident()
        now = self._clock.now()  # in its turn: what is written later never happened before
        if self._books is None or self._books.driver is not line.driver:
            self._books = Books(line.driver, now)
        else:
            self._books.at(now)
        return self._books

    def _look_ahead(self) -> None:
        """Follow the others already: what is left to follow in our turn is little."""
        if self._books is not None and self._books.driver is self.line.driver:
            self._books.follow()  # where it is interrupted `_back` forgets the half that was taken in

    def _commit(self, books: Books) -> None:
        if books.is_changed:
            self.line.commit(books.write)
        else:
            self.line.rollback()  # what is refused writes nothing

    def _back(self) -> None:
        """Nothing of it happened."""
        if self._books is not None:
            self._books.forget()
        with suppress(Exception):  # what went wrong is being said already
            self.line.rollback()


_writers = weakref.WeakSet[Writer]()


def _begin_anew() -> None:
    for writer in tuple(_writers):
        writer._begin_anew()


os.register_at_fork(after_in_child=_begin_anew)


def _answer(batch: list[Job[Any]], here: asyncio.AbstractEventLoop | None) -> None:
    """Tell everyone, tasks on the loop on which they wait."""
    for loop, jobs in _tell(batch, here).items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, jobs, loop)


def _tell(
    batch: list[Job[Any]], here: asyncio.AbstractEventLoop | None
) -> dict[asyncio.AbstractEventLoop, list[Job[Any]]]:
    """Tell the threads, and the tasks of the loop that runs here; returns the jobs of other loops' tasks."""
    elsewhere: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = defaultdict(list)
    for job in batch:
        future = job.future
        if future is None:
            job.done = True  # a thread looks at it when it gets the turn
        elif (loop := future.get_loop()) is not here:
            elsewhere[loop].append(job)
        elif future.done():
            continue  # cancelled meanwhile: what was written stands
        elif job.problem is None:
            future.set_result(job.answer)
        else:
            future.set_exception(job.problem)
    return elsewhere

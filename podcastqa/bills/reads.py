"""A paid answer is asked for by one process at a time, kept as the provider wrote it, and used until it is too old.

To ask, a process claims the question in one transaction. A claim runs out after a minute, so that a crash delays the
next answer little. A failure that may have cost money is not repeated at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, RowMapping, select, update

from podcastqa.bills.tables import bill_reads
from podcastqa.clock import Clock, from_microseconds, microseconds
from podcastqa.database import SYSTEM, Database

#: How long a claim keeps others away: longer than the nine pages of an answer may take.
_CLAIM = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a provider: two that are equal share their answer. `account` keeps accounts apart."""

    source: str
    account: str


@dataclass(frozen=True, slots=True)
class PaidAnswer:
    """A whole answer: its pages as the provider wrote them, and when it came."""

    id: int
    request: dict[str, object]
    pages: tuple[str, ...]
    sha256: str
    read_at: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the newest attempt gave no answer; it is not to be repeated before `again_at`."""

    problem: str
    at: datetime
    again_at: datetime


class BillReads:
    """Every reading of a provider's bill, in the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def newest(self, question: Question) -> PaidAnswer | None:
        """The newest whole answer; None if there is none."""
        with self._database.read(SYSTEM) as connection:
            row = _newest(connection, question, answered=True)
            row = None if row is None else _with_answer(connection, row["id"])
        if row is None:
            return None
        pages = tuple(json.loads(row["answer"]))
        return PaidAnswer(row["id"], json.loads(row["asked"]), pages, row["sha256"], from_microseconds(row["ended_us"]))

    def newest_at(self, question: Question) -> datetime | None:
        """When the newest whole answer came; None if none did. Cheap."""
        with self._database.read(SYSTEM) as connection:
            row = _newest(connection, question, answered=True)
        return None if row is None else from_microseconds(row["ended_us"])

    def failure(self, question: Question) -> Failure | None:
        """How the newest attempt failed; None where it was answered, is going on, or there was none."""
        with self._database.read(SYSTEM) as connection:
            row = _newest(connection, question, answered=False)
        if row is None or not row["problem"]:
            return None
        return Failure(row["problem"], from_microseconds(row["ended_us"]), from_microseconds(row["again_us"]))

    def is_due(self, question: Question, older_than: timedelta) -> bool:
        """Whether somebody should ask now; cheap, and `claim` decides."""
        with self._database.read(SYSTEM) as connection:
            return _is_due(_newest(connection, question, answered=False), self._clock.now(), older_than)

    def claim(self, question: Question, request: dict[str, object], older_than: timedelta) -> int | None:
        """The number of a new reading; None where the newest is young enough, going on, or not to be repeated yet."""
        with self._database.write(SYSTEM) as connection:
            now = self._clock.now()
            if not _is_due(_newest(connection, question, answered=False), now, older_than):
                return None
            values = {"source": question.source, "account": question.account, "asked": json.dumps(request)}
            times = {"began_us": microseconds(now), "ended_us": 0, "again_us": 0}
            nothing = {"problem": "", "answer": "", "sha256": "", "pages": 0}
            done = connection.execute(bill_reads.insert().values(values | times | nothing))
            return int(done.inserted_primary_key[0]) if done.inserted_primary_key else None

    def answered(self, reading: int, pages: Sequence[str]) -> None:
        """Keep a whole answer."""
        text = json.dumps(list(pages))
        digest = hashlib.sha256("\n".join(pages).encode()).hexdigest()
        self._end(reading, answer=text, sha256=digest, pages=len(pages), again_us=0)

    def failed(self, reading: int, problem: str, wait: timedelta) -> None:
        """Keep why there is no answer, and for how long nobody should try again."""
        self._end(reading, problem=problem or "no answer", again_us=microseconds(self._clock.now() + wait))

    def _end(self, reading: int, **values: object) -> None:
        ended = {"ended_us": microseconds(self._clock.now())} | values
        with self._database.write(SYSTEM) as connection:
            connection.execute(update(bill_reads).where(bill_reads.c.id == reading).values(ended))


def _newest(connection: Connection, question: Question, *, answered: bool) -> RowMapping | None:
    columns = bill_reads.c
    wanted = [columns.source == question.source, columns.account == question.account]
    wanted += [columns.pages > 0] if answered else []
    light = [column for column in columns if column.name not in ("asked", "answer")]
    rows = connection.execute(select(*light).where(*wanted).order_by(columns.id.desc()).limit(1))
    return rows.mappings().first()


def _with_answer(connection: Connection, reading: int) -> RowMapping:
    return connection.execute(select(bill_reads).where(bill_reads.c.id == reading)).mappings().one()


def _is_due(newest: RowMapping | None, now: datetime, older_than: timedelta) -> bool:
    if newest is None:
        return True
    if newest["pages"]:
        age = now - from_microseconds(newest["ended_us"])
        return age >= older_than or age < -older_than  # from the future: the clock was set back
    if newest["ended_us"]:
        return bool(microseconds(now) >= newest["again_us"])
    return abs(now - from_microseconds(newest["began_us"])) >= _CLAIM

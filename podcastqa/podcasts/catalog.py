"""Each user's podcasts, in the database: what a source told is kept once, and shown to nobody else.

Rows are kept a few thousand at a time, so that the guard never waits long for its turn; whatever stops halfway is
brought in again, and only what was missing is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby, islice
from typing import Any

from sqlalchemy import select

from podcastqa.clock import Clock, from_microseconds, microseconds
from podcastqa.database import Database, Scope
from podcastqa.display import Table, Tabular
from podcastqa.errors import UnknownUser
from podcastqa.podcasts.found import Saved
from podcastqa.podcasts.listens import Listen, Told, listens
from podcastqa.podcasts.tables import library, listening
from podcastqa.users import User

_CHUNK_ROWS = 5_000
_INSERT = "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (user_id, digest) DO NOTHING"
_LISTENING = ("source", "ended_us", "precision_us", "show", "episode", "uri", "played_ms", "nth")
_LIBRARY = ("source", "show", "episode", "publisher", "uri", "feed_url")


@dataclass(frozen=True, slots=True)
class History(Tabular):
    """What a user heard: every listen, the oldest first."""

    user: str
    listens: tuple[Listen, ...]

    def table(self) -> Table:
        """One row a UTC day and show."""
        rows = []
        for (day, show), of_show in groupby(sorted(self.listens, key=_day_and_show), key=_day_and_show):
            heard = list(of_show)
            sources = sorted({source for one in heard for source in one.sources})
            minutes = round(sum(one.played_ms for one in heard) / 60_000, 1)
            rows.append((day, show or "no show is named", len(heard), minutes, ", ".join(sources)))
        notes = (
            f"{len(self.listens)} listens, {sum(one.played_ms for one in self.listens) / 3_600_000:.1f} h together.",
        )
        columns = ("day", "show", "listens", "minutes", "told by")
        return Table(f"Listening of {self.user}", columns, tuple(rows), notes if rows else (_NOTHING_HEARD,))


@dataclass(frozen=True, slots=True)
class Library(Tabular):
    """What a user follows and saved, as each source told it."""

    user: str
    saved: tuple[Saved, ...]

    def table(self) -> Table:
        """One row a show or an episode and source."""
        rows = tuple((one.show, one.episode, one.feed_url or one.uri, one.source) for one in self.saved)
        shows = sum(not one.episode for one in self.saved)
        notes = (f"{shows} shows and {len(rows) - shows} episodes.",) if rows else (_NOTHING_SAVED,)
        return Table(f"Library of {self.user}", ("show", "episode", "address", "source"), rows, notes)


class Catalog:
    """Keeps and shows."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def add_listening(self, user: User, told: Sequence[Told]) -> int:
        """Keep what is new; returns how much that is. Raises UnknownUser where the user was deleted meanwhile."""
        rows = ((user.id, *one, _digest(one)) for one in told)
        return self._add(user, "listening", _LISTENING, rows)

    def add_library(self, user: User, saved: Sequence[Saved]) -> int:
        """The same for shows and episodes."""
        now_us = microseconds(self._clock.now())
        rows = ((user.id, *one, now_us, _digest(one)) for one in saved)
        return self._add(user, "library", (*_LIBRARY, "added_us"), rows)

    def history(self, user: User) -> History:
        """Every listen of the user, each once."""
        return History(user.name, tuple(listens(self.told(user))))

    def told(self, user: User) -> list[Told]:
        """What the sources told of the user's listening, row by row."""
        columns = [listening.c[name] for name in _LISTENING]
        with self._database.read(Scope(user.id)) as connection:
            return [Told(*row) for row in connection.execute(select(*columns).order_by(listening.c.ended_us))]

    def library(self, user: User) -> Library:
        """What the user follows and saved."""
        columns = [library.c[name] for name in _LIBRARY]
        with self._database.read(Scope(user.id)) as connection:
            rows = connection.execute(select(*columns).order_by(library.c.show, library.c.episode, library.c.id))
            return Library(user.name, tuple(Saved(*row) for row in rows))

    def shows(self, user: User) -> set[str]:
        """The names of all shows that the user is known to follow or to have heard."""
        with self._database.read(Scope(user.id)) as connection:
            followed = connection.execute(select(library.c.show).distinct())
            heard = connection.execute(select(listening.c.show).distinct())
            return {row[0] for row in (*followed, *heard)} - {""}

    def _add(self, user: User, table: str, columns: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> int:
        names = ("user_id", *columns, "digest")
        sql, added = _INSERT.format(table, ", ".join(names), ", ".join("?" * len(names))), 0
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            with self._database.hot() as driver:
                known = driver.execute("SELECT 1 FROM users WHERE id = ? AND name IS NOT NULL", (user.id,))
                if known.fetchone() is None:
                    raise UnknownUser(f"The user {user.name} was deleted meanwhile.")
                added += driver.executemany(sql, chunk).rowcount
        return added


def _digest(told: Sequence[object]) -> str:
    return blake2b(repr(tuple(told)).encode(errors="backslashreplace"), digest_size=16).hexdigest()


def _day_and_show(listen: Listen) -> tuple[str, str]:
    return str(from_microseconds(listen.ended_us).date()), listen.show


_NOTHING_HEARD = "Nothing was heard, as far as is known: podcastqa import USER FILE brings in an account's export."
_NOTHING_SAVED = "Nothing is followed, as far as is known: podcastqa import USER FILE brings in an OPML file."

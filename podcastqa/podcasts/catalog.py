"""Each user's podcasts, in the database: what a source told is kept once, and shown to nobody else.

Rows are kept a few thousand at a time, so that the guard never waits long for its turn; whatever stops halfway is
brought in again, and only what was missing is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby, islice
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select

from podcastqa.clock import Clock, from_microseconds, microseconds
from podcastqa.database import Database, Driver, Scope
from podcastqa.display import Table, Tabular
from podcastqa.errors import UnknownUser
from podcastqa.podcasts.found import Saved
from podcastqa.podcasts.listens import PLAYING, POSITION, Listen, Seen, Told, listens
from podcastqa.podcasts.tables import episodes, library, listening
from podcastqa.users import User

_CHUNK_ROWS = 5_000
_ONCE = "ON CONFLICT (user_id, digest) DO NOTHING"
_AS_IT_IS_NOW = """ON CONFLICT (user_id, source, uri) DO UPDATE SET position_ms = excluded.position_ms,
 fetched_us = excluded.fetched_us, show = excluded.show, episode = excluded.episode"""
_POSITIONS = "SELECT uri, position_ms, fetched_us FROM episodes WHERE user_id = ? AND source = ?"
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


class Heard(NamedTuple):
    """An episode that a source lists, and how far the user has heard it (-1: not told), as fetched at an instant."""

    show: str
    episode: str
    uri: str
    released: str
    duration_ms: int
    position_ms: int
    fetched_us: int


class Catalog:
    """Keeps and shows."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def add_listening(self, user: User, told: Sequence[Told]) -> int:
        """Keep what is new; returns how much that is. Raises UnknownUser where the user was deleted meanwhile."""
        rows = ((user.id, *one, _digest(one)) for one in told)
        return self._add(user, "listening", _LISTENING, rows)

    def keep_seen(self, user: User, seen: Sequence[Seen]) -> None:
        """Keep each listen as far as it was seen: what was kept of it before is replaced."""
        rows = [(user.id, *one.told, _digest((one.told.source, one.told.uri, one.began_us))) for one in seen]
        with self._writing(user) as driver:
            driver.executemany(
                "DELETE FROM listening WHERE user_id = ? AND digest = ?", [(*row[:1], row[-1]) for row in rows]
            )
            _insert(driver, "listening", ("user_id", *_LISTENING, "digest"), rows)

    def add_library(self, user: User, saved: Sequence[Saved]) -> int:
        """The same for shows and episodes."""
        now_us = microseconds(self._clock.now())
        rows = ((user.id, *one, now_us, _digest(one)) for one in saved)
        return self._add(user, "library", (*_LIBRARY, "added_us"), rows)

    def replace_library(self, user: User, source: str, saved: Sequence[Saved]) -> int:
        """Keep what that source says now and forget what it no longer says; returns how much is new."""
        added = self.add_library(user, saved)
        still = {_digest(one) for one in saved}
        with self._database.write(Scope(user.id)) as connection:
            of_source = connection.execute(select(library.c.id, library.c.digest).where(library.c.source == source))
            for row_id, digest in of_source.all():
                if digest not in still:
                    connection.execute(delete(library).where(library.c.id == row_id))
        return added

    def add_episodes(self, user: User, source: str, heard: Sequence[Heard]) -> tuple[int, int]:
        """Keep each episode as it is now; returns how many are new, and of how many more was heard than before."""
        names = ("user_id", "source", *Heard._fields)
        now = {one.uri: one for one in heard}
        with self._writing(user) as driver:
            rows = driver.execute(_POSITIONS, (user.id, source)).fetchall()
            known = {uri: (position_ms, at_us) for uri, position_ms, at_us in rows}
            told = [
                Told(f"{source}{POSITION}", at_us, one.fetched_us - at_us, *one[:3], one.position_ms - position_ms)
                for one in now.values()
                for position_ms, at_us in (known.get(one.uri, (-1, 0)),)
                if 0 <= position_ms < one.position_ms and at_us < one.fetched_us
            ]
            _insert(driver, "episodes", names, [(user.id, source, *one) for one in now.values()], _AS_IT_IS_NOW)
            listened = ("user_id", *_LISTENING, "digest")
            _insert(driver, "listening", listened, [(user.id, *one, _digest(one)) for one in told])
        return len(now.keys() - known.keys()), len(told)

    def forget_source(self, user: User, source: str) -> None:
        """Delete everything that was fetched from a source."""
        with self._database.write(Scope(user.id)) as connection:
            for table in (library, episodes):
                connection.execute(delete(table).where(table.c.source == source))
            seen = [f"{source}{end}" for end in (PLAYING, POSITION)]
            connection.execute(delete(listening).where(listening.c.source.in_(seen)))

    def history(self, user: User) -> History:
        """Every listen of the user, each once."""
        return History(user.name, tuple(listens(self.told(user))))

    def episodes(self, user: User) -> list[tuple[str, Heard]]:
        """Source and episode, of all that sources list for the user, the newest first."""
        columns = [episodes.c[name] for name in ("source", *Heard._fields)]
        with self._database.read(Scope(user.id)) as connection:
            rows = connection.execute(select(*columns).order_by(episodes.c.released.desc(), episodes.c.id))
            return [(row[0], Heard(*row[1:])) for row in rows]

    def fetched(self, user: User, source: str) -> dict[str, int]:
        """When the episodes of each show were last fetched from that source, in microseconds."""
        columns = (episodes.c.show, func.max(episodes.c.fetched_us))
        with self._database.read(Scope(user.id)) as connection:
            asked = select(*columns).where(episodes.c.source == source).group_by(episodes.c.show)
            return {row[0]: row[1] for row in connection.execute(asked)}

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
        added = 0
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            with self._writing(user) as driver:
                added += _insert(driver, table, ("user_id", *columns, "digest"), chunk)
        return added

    @contextmanager
    def _writing(self, user: User) -> Iterator[Driver]:
        """One short write transaction for a user who is still there."""
        with self._database.hot() as driver:
            if driver.execute("SELECT 1 FROM users WHERE id = ? AND name IS NOT NULL", (user.id,)).fetchone() is None:
                raise UnknownUser(f"The user {user.name} was deleted meanwhile.")
            yield driver


def _insert(
    driver: Driver, table: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]], or_else: str = _ONCE
) -> int:
    if not rows:
        return 0
    sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) {or_else}"
    return driver.executemany(sql, rows).rowcount


def _digest(told: Sequence[object]) -> str:
    return blake2b(repr(tuple(told)).encode(errors="backslashreplace"), digest_size=16).hexdigest()


def _day_and_show(listen: Listen) -> tuple[str, str]:
    return str(from_microseconds(listen.ended_us).date()), listen.show


_NOTHING_HEARD = "Nothing was heard, as far as is known: podcastqa import USER FILE brings in an account's export."
_NOTHING_SAVED = "Nothing is followed, as far as is known: podcastqa import USER FILE brings in an OPML file."

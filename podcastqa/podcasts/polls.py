"""What somebody hears is asked for now and then, and between two looks the progress says how much was heard.

Spotify's list of what was played holds no podcasts: this is the one way to see a listen as it happens. A look that
finds another episode, or none, ends the listen; a jump is no listening. What was seen so far is told after every look,
so that it stays if nobody looks again.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from podcastqa.clock import microseconds
from podcastqa.errors import Misuse, ProviderError
from podcastqa.podcasts.catalog import Catalog
from podcastqa.podcasts.found import shortened
from podcastqa.podcasts.listens import PLAYING, Seen, Told
from podcastqa.podcasts.spotify import PROVIDER, Spotify, show_of
from podcastqa.users import User

#: Podcasts are played at up to three and a half times their speed.
_FASTEST = 3.5
_SLACK_MS = 2_000


class Look(NamedTuple):
    """What was playing at an instant (microseconds); without an address nothing was, or it was no episode."""

    at_us: int
    uri: str = ""
    show: str = ""
    episode: str = ""
    progress_ms: int = 0


@dataclass(slots=True)
class Listening:
    """One listen as it goes on: fed with looks, it tells of the one that ended and of the one that goes on."""

    source: str
    first: Look | None = None
    last: Look | None = None
    heard_ms: int = 0

    def see(self, now: Look) -> list[Seen]:
        """Take another look."""
        before = self.last
        if before is not None and now.uri == before.uri and now.at_us > before.at_us:
            self.heard_ms += heard_between(before, now)
            self.last = now
            # Should nobody look again, it ended about as long after this look as this one is after the last.
            return self._seen(now.at_us + (now.at_us - before.at_us), is_over=False)
        ended = self.end(now.at_us)
        if now.uri:
            self.first = self.last = now
        return ended

    def end(self, at_us: int) -> list[Seen]:
        """The listen is over; it ended between the last look that saw it and this instant."""
        ended = self._seen(at_us, is_over=True)
        self.first, self.last, self.heard_ms = None, None, 0
        return ended

    def _seen(self, until_us: int, *, is_over: bool) -> list[Seen]:
        first, last = self.first, self.last
        if first is None or last is None or self.heard_ms <= 0:
            return []
        names = last.show, last.episode, last.uri
        stretch_us = max(until_us - last.at_us, 1)
        told = Told(f"{self.source}{PLAYING}", last.at_us, stretch_us, *names, self.heard_ms)
        return [Seen(first.at_us, told, is_over)]


def heard_between(before: Look, now: Look) -> int:
    """Milliseconds heard from one look to the next: none if it was paused, or moved by hand."""
    moved_ms, passed_ms = now.progress_ms - before.progress_ms, (now.at_us - before.at_us) // 1000
    return moved_ms if 0 < moved_ms <= passed_ms * _FASTEST + _SLACK_MS else 0


def listen(
    spotify: Spotify,
    catalog: Catalog,
    user: User,
    every_seconds: float,
    until: float,
    turns: Path,
    say: Callable[[str], None],
) -> int:
    """Look what the user hears, again and again until that monotonic time; returns how many listens were kept.

    What is heard is kept after every look, whatever ends this. A fault that passes is said, and it looks again.
    `turns` is a file by which programs know of each other. Raises ProviderError and Refused where looking again would
    not help, Misuse where another program listens for the user.
    """
    clock, going, kept = spotify.gate.clock, Listening(PROVIDER), 0

    def keep(seen: list[Seen]) -> None:
        nonlocal kept
        if seen:
            catalog.keep_seen(user, seen)
        for one in seen:
            if one.is_over:
                kept += 1
                say(f"{one.told.show}: {one.told.episode}, {one.told.played_ms / 60_000:.1f} minutes")

    with _alone(turns, user):
        try:
            while True:
                look = _look(spotify, user, say)
                keep(going.see(look) if look else [])
                pause = max(every_seconds, spotify.gate.seconds())
                if time.monotonic() + pause >= until:
                    break
                time.sleep(pause)
        finally:
            keep(going.end(microseconds(clock.now())))
    return kept


def _look(spotify: Spotify, user: User, say: Callable[[str], None]) -> Look | None:
    """What the user hears; None where that cannot be seen now."""
    try:
        playing = spotify.playing(user)
    except ProviderError as problem:
        if not problem.again and problem.kind not in ("throttled", "unreadable"):
            raise
        say(problem.message)
        return None
    item, at_us = playing.item, microseconds(spotify.gate.clock.now())
    if item is None or not playing.is_playing or playing.currently_playing_type != "episode":
        return Look(at_us)
    return Look(at_us, item.uri, show_of(item), shortened(item.name), playing.progress_ms)


@contextmanager
def _alone(turns: Path, user: User) -> Iterator[None]:
    """One program at a time listens for a user, or each would count the listen: a user is a byte of the file.

    POSIX locks end with the process that holds them.
    """
    with turns.open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, user.id)
        except OSError:
            raise Misuse(
                f"Another program listens for {user.name} already.", next_step="End that one, or let it go on."
            ) from None
        yield

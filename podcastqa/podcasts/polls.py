"""What somebody hears is asked for now and then, and between two looks the progress says how much was heard.

Spotify's list of what was played holds no podcasts: this is the one way to see a listen as it happens. A look that
finds another episode, or none, ends the listen; a jump is no listening.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from podcastqa.podcasts.listens import PLAYING, Told

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
    """One listen as it goes on: fed with looks, it tells of the listens that have ended."""

    source: str
    first: Look | None = None
    last: Look | None = None
    heard_ms: int = 0

    def see(self, now: Look) -> list[Told]:
        """Take another look; returns the listen that has ended by it, if one has."""
        before = self.last
        if before is not None and now.uri == before.uri and now.at_us > before.at_us:
            self.heard_ms += heard_between(before, now)
            self.last = now
            return []
        ended = self.end(now.at_us)
        if now.uri:
            self.first = self.last = now
        return ended

    def end(self, at_us: int) -> list[Told]:
        """The listen is over; it ended between the last look that saw it and this instant."""
        last, heard_ms = self.last, self.heard_ms
        self.first, self.last, self.heard_ms = None, None, 0
        if last is None or heard_ms <= 0:
            return []
        names = last.show, last.episode, last.uri
        return [Told(f"{self.source}{PLAYING}", last.at_us, max(at_us - last.at_us, 1), *names, heard_ms)]


def heard_between(before: Look, now: Look) -> int:
    """Milliseconds heard from one look to the next: none if it was paused, or moved by hand."""
    moved_ms, passed_ms = now.progress_ms - before.progress_ms, (now.at_us - before.at_us) // 1000
    return moved_ms if 0 < moved_ms <= passed_ms * _FASTEST + _SLACK_MS else 0

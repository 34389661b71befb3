"""What a file or a service says of one person's podcasts, before it is kept: shows and episodes saved, listens told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from podcastqa.podcasts.listens import Told

#: Nothing is played longer in one go, and no episode is as long: a week.
MOST_MS = 7 * 86_400_000
#: A title or an address is no longer.
_MOST_LETTERS = 1_000
#: What steers a terminal or turns a line round, and halves of letters, which no database takes.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


class Saved(NamedTuple):
    """A show that somebody follows, or an episode that somebody saved; empty where the source does not say."""

    source: str
    show: str = ""
    episode: str = ""
    publisher: str = ""
    uri: str = ""
    feed_url: str = ""


@dataclass(slots=True)
class Found:
    """What one file says."""

    name: str
    layout: str
    rows: int = 0
    """Rows in the file, of whatever kind."""
    told: list[Told] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Where something could not be used, and why."""
    unknown: int = 0
    """Rows that may be music or a podcast: nothing says which."""


def shortened(text: str) -> str:
    """The text without what nobody sees, cut where no title is as long."""
    return _UNSEEN.sub(" ", text[: 2 * _MOST_LETTERS].replace("\x00", "")).strip()[:_MOST_LETTERS].strip()

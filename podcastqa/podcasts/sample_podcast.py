"""The sample podcast comes with the program: something real to work on without an account, and nobody's listening.

Its feed and files are the package's own; see `sample/README.md`.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.resources import files

from podcastqa.clock import Clock, microseconds
from podcastqa.podcasts.catalog import Catalog, Heard
from podcastqa.podcasts.found import Saved
from podcastqa.users import User

SOURCE = "sample podcast"
_ITUNES = "{http://www.itunes.com/dtds/podcast-1.0.dtd}"


@dataclass(frozen=True, slots=True)
class Sample:
    """The show, its episodes (the newest first), and the feed that they were read from."""

    show: Saved
    episodes: tuple[Heard, ...]
    sha256: str


def read_sample(clock: Clock) -> Sample:
    """The bundled feed, as read now."""
    content = files("podcastqa.podcasts").joinpath("sample/feed.xml").read_bytes()
    channel = ET.fromstring(content).find("channel")  # noqa: S314 – the package's own file
    assert channel is not None  # noqa: S101 – a test reads it
    title, now_us = channel.findtext("title", ""), microseconds(clock.now())
    at = next(link.get("href", "") for link in channel if link.tag.endswith("}link"))
    episodes = tuple(_episode(item, title, now_us) for item in channel.iter("item"))
    return Sample(Saved(SOURCE, show=title, feed_url=at), episodes, hashlib.sha256(content).hexdigest())


def bring_sample(catalog: Catalog, user: User, clock: Clock) -> int:
    """Keep the sample for a user; returns how much of it is new."""
    found = read_sample(clock)
    new, _ = catalog.add_episodes(user, SOURCE, found.episodes)
    return new + catalog.add_library(user, [found.show])


def _episode(item: ET.Element, show: str, now_us: int) -> Heard:
    released = parsedate_to_datetime(item.findtext("pubDate", "")).date().isoformat()
    duration_ms = int(item.findtext(f"{_ITUNES}duration", "0")) * 1000
    names = show, item.findtext("title", ""), item.findtext("guid", ""), released
    return Heard(*names, duration_ms, -1, now_us)  # fetched, and heard by nobody

"""One listen may be told by several sources, and two listens may look alike: each is counted once, and none is lost.

A source tells when a listen ended, to the minute or to the second, and how long it was played. Two tellings are of one
listen only if they must be: the finer one ended in the coarser one's stretch of time with the same time played, or both
could not have happened, because one person hears one thing at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: Sources that saw part of a listen, or several as one: how a source's name ends, the finer one first.
PLAYING, POSITION = " currently playing", " playback position"
_INEXACT = (PLAYING, POSITION)


class Told(NamedTuple):
    """A row of a source: it ended at `ended_us` (microseconds since 1970, UTC) or less than `precision_us` later."""

    source: str
    ended_us: int
    precision_us: int
    show: str
    episode: str
    uri: str
    played_ms: int
    nth: int = 1
    """Of the rows in one file that say the same, the first, the second and so on."""


class Seen(NamedTuple):
    """A listen as far as it was seen: begun at that instant (microseconds), and over or still going on."""

    began_us: int
    told: Told
    is_over: bool


_LAST = 2**63


class Listen(NamedTuple):
    """Somebody heard part of an episode; the finest telling gives the time, any of them what the others lack."""

    ended_us: int
    precision_us: int
    show: str
    episode: str
    uri: str
    played_ms: int
    sources: tuple[str, ...]


def listens(told: Iterable[Told]) -> list[Listen]:
    """The listens that the rows tell of, the oldest first."""
    rows = list(told)
    names = {row.uri: (row.show, row.episode) for row in rows if row.uri and row.show and row.episode}
    uris = _only_uris(names)
    by_episode: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for row in rows:
        by_episode[_episode(row, names)].append(row)
    found = [listen for of_one in by_episode.values() for listen in _of_one_episode(of_one)]
    return sorted(_completed(listen, names, uris) for listen in found)


def _only_uris(names: dict[str, tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The address of each pair of names; names that belong to two addresses say neither."""
    found: dict[tuple[str, str], str] = {}
    for uri, (show, episode) in names.items():
        key = _folded(show, episode)
        found[key] = uri if found.get(key, uri) == uri else ""
    return found


def _episode(row: Told, names: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """What makes two rows speak of one episode: both names, else the address."""
    show, episode = (row.show, row.episode) if row.show and row.episode else names.get(row.uri, (row.show, row.episode))
    return _folded(show, episode) if show and episode else ("", row.uri or folded(episode))


def folded(name: str) -> str:
    """The name as names are compared: whatever its case and spaces."""
    return " ".join(name.casefold().split())


def _folded(show: str, episode: str) -> tuple[str, str]:
    return folded(show), folded(episode)


def _of_one_episode(rows: Sequence[Told]) -> list[Listen]:
    """From the finest source to the coarsest, each row is matched with one listen that no row of its source told."""
    by_source: dict[tuple[int, str], list[Told]] = defaultdict(list)
    for row in rows:
        by_source[_rank(row), row.source].append(row)
    found: list[Listen] = []
    for (rank, source), told in sorted(by_source.items()):
        if source.endswith(_INEXACT):
            found += _only_told_here(told, found)
            continue
        precision_us = rank
        free: dict[tuple[int, int], list[int]] = defaultdict(list)
        for known, listen in enumerate(found):
            free[listen.ended_us // precision_us, listen.played_ms].append(known)
        for row in sorted(told):
            if row.nth > 1 and row.played_ms * 1000 > precision_us:
                continue  # it ended in the same stretch of time as its like, and is longer than that stretch
            place = _matched(row, found, free)
            if place is None:
                found.append(Listen(*row[1:7], sources=(row.source,)))
            else:
                one = found[place]
                found[place] = one._replace(sources=(*one.sources, row.source), uri=one.uri or row.uri)
    return found


def _rank(row: Told) -> int:
    """The finest first; what is inexact last, whatever stretch it names."""
    return next((_LAST + n for n, end in enumerate(_INEXACT) if row.source.endswith(end)), row.precision_us)


def _only_told_here(told: Sequence[Told], found: Sequence[Listen]) -> list[Listen]:
    """Differences in whose stretch of time no other source knows a listen: it would be part of the difference."""
    return [
        Listen(*row[1:7], sources=(row.source,))
        for row in sorted(told)
        if not any(row.ended_us - one.precision_us < one.ended_us <= row.ended_us + row.precision_us for one in found)
    ]


def _matched(row: Told, found: Sequence[Listen], free: dict[tuple[int, int], list[int]]) -> int | None:
    """The place of a listen that must be the row's: taken, so that no other row of its source matches it."""
    first = row.ended_us // row.precision_us
    for stretch in (first, first + 1):  # the row's own stretch need not begin on a whole one
        places = free.get((stretch, row.played_ms), [])
        for place in places:
            listen = found[place]
            in_time = row.ended_us <= listen.ended_us < row.ended_us + row.precision_us
            if in_time and not (row.uri and listen.uri and row.uri != listen.uri):
                places.remove(place)
                return place
    return None


def _completed(listen: Listen, names: dict[str, tuple[str, str]], uris: dict[tuple[str, str], str]) -> Listen:
    show, episode = names.get(listen.uri, ("", ""))
    show, episode = listen.show or show, listen.episode or episode
    return listen._replace(show=show, episode=episode, uri=listen.uri or uris.get(_folded(show, episode), ""))

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
    rows = sorted(told, key=lambda row: (row.ended_us, row))
    names = {row.uri: (row.show, row.episode) for row in rows if row.uri and row.show and row.episode}
    uris = _only_uris(names)
    by_source: dict[tuple[int, str], list[Told]] = defaultdict(list)
    for row in rows:
        by_source[_rank(row), row.source].append(row)
    found: list[Listen] = []
    for (_, source), of_source in sorted(by_source.items()):
        if not source.endswith(_INEXACT):
            _match(of_source, found)
    found = [_completed(listen, names, uris) for listen in found]
    for (_, source), of_source in sorted(by_source.items()):
        if source.endswith(_INEXACT):
            found += [_completed(listen, names, uris) for listen in _only_told_here(of_source, found, names)]
    return sorted(found)


def _only_uris(names: dict[str, tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The address of each pair of names; names that belong to two addresses say neither."""
    found: dict[tuple[str, str], str] = {}
    for uri, (show, episode) in names.items():
        key = folded(show), folded(episode)
        found[key] = uri if found.get(key, uri) == uri else ""
    return found


def folded(name: str) -> str:
    """The name as names are compared: whatever its case and spaces."""
    return " ".join(name.casefold().split())


def _rank(row: Told) -> int:
    """The finest first; what is inexact last, whatever stretch it names."""
    return next((_LAST + n for n, end in enumerate(_INEXACT) if row.source.endswith(end)), row.precision_us)


def _match(told: Sequence[Told], found: list[Listen]) -> None:
    """Add what one source tells: each row to one listen that no row of its source told, or as a listen of its own."""
    precision_us = told[0].precision_us
    free: dict[tuple[int, int], list[int]] = defaultdict(list)
    for known, listen in enumerate(found):
        free[listen.ended_us // precision_us, listen.played_ms].append(known)
    mine: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in sorted(told, key=lambda row: (_unnamed(row), row)):  # who says more is matched first
        own = mine[row.ended_us, row.played_ms]
        same = [one for one in own if _is_too_long(row) and _may_be(row, found[one])]
        place = same[0] if same else _matched(row, found, free)
        if place is None:
            place = len(found)
            found.append(Listen(*row[1:7], sources=()))
        if not same:
            own.append(place)
        found[place] = _merged(found[place], row)


def _unnamed(row: Told) -> int:
    return sum(not one for one in (row.show, row.episode, row.uri))


def _is_too_long(row: Told) -> bool:
    """Longer than the stretch of time in which it ended: two such cannot both have ended there."""
    return row.played_ms * 1000 > row.precision_us


def _matched(row: Told, found: Sequence[Listen], free: dict[tuple[int, int], list[int]]) -> int | None:
    """The place of a listen that must be the row's: taken, so that no other row of its source matches it."""
    first = row.ended_us // row.precision_us
    for stretch in (first, first + 1):  # the row's own stretch need not begin on a whole one
        places = free.get((stretch, row.played_ms), [])
        for place in places:
            in_time = row.ended_us <= found[place].ended_us < row.ended_us + row.precision_us
            if in_time and _may_be(row, found[place]):
                places.remove(place)
                return place
    return None


def _may_be(row: Told, listen: Listen) -> bool:
    """Whether a row that ended when the listen did, and was as long, speaks of its episode.

    The address decides; else no name may differ, and one has to be the same, unless both could not have happened.
    """
    if row.uri and listen.uri:
        return row.uri == listen.uri
    pairs = [(folded(a), folded(b)) for a, b in ((row.show, listen.show), (row.episode, listen.episode))]
    if any(one and other and one != other for one, other in pairs):
        return False
    return all(pairs[1]) or _is_too_long(row)


def _merged(listen: Listen, row: Told) -> Listen:
    sources = listen.sources if row.source in listen.sources else (*listen.sources, row.source)
    show, episode, uri = listen.show or row.show, listen.episode or row.episode, listen.uri or row.uri
    return listen._replace(show=show, episode=episode, uri=uri, sources=sources)


def _only_told_here(told: Sequence[Told], found: Sequence[Listen], names: dict[str, tuple[str, str]]) -> list[Listen]:
    """What no other source knows: what was seen while a listen that is known went on is part of it."""
    known: dict[tuple[str, str], list[Listen]] = defaultdict(list)
    for one in found:
        known[_episode(one, names)].append(one)
    return [
        Listen(*row[1:7], sources=(row.source,))
        for row in told
        if not any(_is_part(row, one) for one in known[_episode(row, names)])
    ]


def _is_part(row: Told, known: Listen) -> bool:
    """Whether the listen that is known ended while the row's did, or went on meanwhile.

    A listen that was seen had gone on for as long as it was played; a position grew between two fetches.
    """
    until_us = row.ended_us + row.precision_us
    if row.ended_us - known.precision_us < known.ended_us <= until_us:
        return True
    if row.source.endswith(POSITION):
        began_us = row.ended_us
    else:
        began_us, until_us = row.ended_us - row.played_ms * 1000, row.ended_us
    known_until_us = known.ended_us + known.precision_us
    both_us = min(until_us, known_until_us) - max(began_us, known.ended_us - known.played_ms * 1000)
    return both_us > known.precision_us


def _episode(row: Told | Listen, names: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """What makes two rows speak of one episode: both names, else the address."""
    show, episode = (row.show, row.episode) if row.show and row.episode else names.get(row.uri, (row.show, row.episode))
    return (folded(show), folded(episode)) if show and episode else ("", row.uri or folded(episode))


def _completed(listen: Listen, names: dict[str, tuple[str, str]], uris: dict[tuple[str, str], str]) -> Listen:
    show, episode = names.get(listen.uri, ("", ""))
    show, episode = listen.show or show, listen.episode or episode
    uri = listen.uri or uris.get((folded(show), folded(episode)), "")
    return listen._replace(show=show, episode=episode, uri=uri)

"""A person's own export of a Spotify account, in every layout since 2020; of a row only what is named here is read.

Addresses, devices, names and payments are never decoded: the fields below are all that is taken out of a row, and files
with other names are not opened. Music is left out; where a layout mixes it with podcasts and says no more than a name,
a row is a podcast if its show is one that the person follows or has heard as a podcast.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from podcastqa.clock import microseconds
from podcastqa.errors import Misuse
from podcastqa.podcasts.found import MOST_MS, Found, Saved, shortened
from podcastqa.podcasts.listens import Told

ACCOUNT, EXTENDED = "Spotify account data", "Spotify extended history"
_MINUTE_US, _SECOND_US = 60_000_000, 1_000_000
#: A file of an export has some ten thousand rows of two dozen fields; commas stand in titles too.
_MOST_ROWS, _MOST_FIELDS = 500_000, 100
_FIRST_YEAR, _LAST_YEAR = 2006, 2100
_MOST_PROBLEMS = 20


class _Row(msgspec.Struct):
    """Account data: the minute in which it ended, and names; before 2023 podcasts stood among the music."""

    endTime: str  # noqa: N815 – Spotify's name
    msPlayed: int | float  # noqa: N815
    podcastName: str | None = None  # noqa: N815
    episodeName: str | None = None  # noqa: N815
    artistName: str | None = None  # noqa: N815
    trackName: str | None = None  # noqa: N815


class _ExtendedRow(msgspec.Struct):
    """Extended history: the second in which it ended, and the episode's address."""

    ts: str
    ms_played: int | float
    episode_name: str | None = None
    episode_show_name: str | None = None
    spotify_episode_uri: str | None = None


class _Named(msgspec.Struct):
    name: str | None = None
    show: str | None = None
    publisher: str | None = None
    uri: str | None = None


class _Library(msgspec.Struct):
    shows: list[msgspec.Raw] | None = None
    episodes: list[msgspec.Raw] | None = None


#: A file's name → its layout. Browsers add " (1)" to a second download.
LAYOUTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"StreamingHistory_podcast_?\d*\b.*\.json", re.I), "account data, podcasts"),
    (re.compile(r"StreamingHistory\d*\b(?!_).*\.json", re.I), "account data, mixed"),
    (re.compile(r"Streaming_History_(Audio|Video)_.*\.json", re.I), "extended history"),
    (re.compile(r"endsong_\d+\b.*\.json", re.I), "extended history"),
    (re.compile(r"YourLibrary\b.*\.json", re.I), "library"),
)


def layout_of(name: str) -> str:
    """The layout that a file's name stands for; empty if none."""
    return next((layout for pattern, layout in LAYOUTS if pattern.fullmatch(name)), "")


def read_export(name: str, layout: str, content: bytes, is_show: Callable[[str], bool], seen: Counter[Any]) -> Found:
    """What one file of an export says; `seen` counts the rows of the whole export that say the same.

    Raises Misuse where the file is none; a row that cannot be used is named in `problems`, and the others stand.
    """
    found, content = Found(name, layout), _as_utf8(content)
    _refuse_heaped(name, content)
    if layout == "library":
        _read_library(found, content)
    elif layout == "extended history":
        _collect(found, content, _ExtendedRow, _extended, seen)
    else:
        _collect(found, content, _Row, lambda row: _short(row, found, is_show), seen)
    return found


def _refuse_heaped(name: str, content: bytes) -> None:
    """A few bytes each, and many of them: what unfolds to that was made to fill the memory."""
    rows = content.count(b"{")
    if rows > _MOST_ROWS or content.count(b",") > _MOST_FIELDS * (rows + 16):
        raise Misuse(f"{name} holds more than an export's file does ({_MOST_ROWS:,} rows), so none of it is read.")


def _as_utf8(content: bytes) -> bytes:
    """Without a byte order mark; where a letter was saved in another encoding or by half, a question mark stands."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        content.decode()
    except UnicodeDecodeError:
        content = content.decode(errors="replace").encode()
    return _ESCAPED.sub(_whole, content) if _HALF.search(content) else content


#: JSON's escapes; of those that write a letter in two halves, both together.
_ESCAPED = re.compile(rb"\\(u[dD][89abAB]..\\u[dD][c-fC-F]..|u....|.)", re.S)
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def _whole(escape: re.Match[bytes]) -> bytes:
    said = escape.group()
    return rb"\ufffd" if len(said) == 6 and _HALF.match(said) else said


def _collect(
    found: Found, content: bytes, kind: type[Any], told: Callable[[Any], Told | None], seen: Counter[Any]
) -> None:
    for number, row in _rows(found, content, kind):
        found.rows += 1
        try:
            one = told(row)
        except ValueError as problem:
            _note(found, f"row {number}: {problem}")
            continue
        if one is not None:
            seen[one] += 1
            nth = seen[one]
            found.told.append(one if nth == 1 else one._replace(nth=nth))


def _rows(found: Found, content: bytes, kind: type[Any]) -> Iterable[tuple[int, Any]]:
    """Each row with its number; all in one go, and where one of them is not as it should be, one by one."""
    try:
        return enumerate(msgspec.json.decode(content, type=list[kind]), 1)  # type: ignore[valid-type]
    except msgspec.ValidationError:
        return _row_by_row(found, content, kind)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise _no_export(found, problem) from problem


def _row_by_row(found: Found, content: bytes, kind: type[Any]) -> Iterable[tuple[int, Any]]:
    try:
        raw = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as problem:
        raise _no_export(found, problem) from problem
    decoder = msgspec.json.Decoder(kind)
    for number, one in enumerate(raw, 1):
        try:
            yield number, decoder.decode(one)
        except (msgspec.DecodeError, RecursionError) as problem:
            found.rows += 1
            _note(found, f"row {number}: {problem}")


def _no_export(found: Found, problem: Exception) -> Misuse:
    return Misuse(
        f"{found.name} is not a file of a Spotify export ({problem}).", next_step="Unpack the download again."
    )


def _note(found: Found, problem: str) -> None:
    if len(found.problems) < _MOST_PROBLEMS:
        found.problems.append(f"{found.name}, {problem}; it is left out")
    elif len(found.problems) == _MOST_PROBLEMS:
        found.problems.append(f"{found.name}: further rows could not be used")


def _short(row: _Row, found: Found, is_show: Callable[[str], bool]) -> Told | None:
    show, episode = row.podcastName, row.episodeName
    if show is None and episode is None:
        show, episode = row.artistName, row.trackName
        if not (show and is_show(show)):
            found.unknown += 1
            return None
    names = shortened(show or ""), shortened(episode or "")
    if not names[1]:
        raise ValueError("no episode is named")
    ended_us = _instant(f"{row.endTime}:00Z" if len(row.endTime) == 16 else row.endTime)
    return Told(ACCOUNT, ended_us, _MINUTE_US, *names, "", _played(row.msPlayed))


def _extended(row: _ExtendedRow) -> Told | None:
    names = shortened(row.episode_show_name or ""), shortened(row.episode_name or "")
    uri = shortened(row.spotify_episode_uri or "")
    if not (names[1] or uri):
        return None  # music, an audiobook, or nothing that has a name
    return Told(EXTENDED, _instant(row.ts), _SECOND_US, *names, uri, _played(row.ms_played))


def _instant(text: str) -> int:
    """Microseconds of a time written like 2024-08-17T15:38:22Z; raises ValueError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no time") from None
    if not _FIRST_YEAR <= found.year <= _LAST_YEAR:
        raise ValueError(f"nobody heard anything on Spotify in the year {found.year}")
    return microseconds(found if found.tzinfo else found.replace(tzinfo=UTC))


def _played(ms: float) -> int:
    if not 0 <= ms <= MOST_MS:
        raise ValueError(f"{ms} ms cannot have been played in one go")
    return int(ms)


def _read_library(found: Found, content: bytes) -> None:
    try:
        held = msgspec.json.decode(content, type=_Library)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise _no_export(found, problem) from problem
    shows = [
        Saved(ACCOUNT, _said(one.name), "", _said(one.publisher), _said(one.uri))
        for one in _named(found, "show", held.shows or [])
    ]
    episodes = [
        Saved(ACCOUNT, _said(one.show), _said(one.name), "", _said(one.uri))
        for one in _named(found, "episode", held.episodes or [])
    ]
    found.saved = [one for one in (*shows, *episodes) if one.show or one.episode or one.uri]


def _named(found: Found, what: str, rows: list[msgspec.Raw]) -> Iterable[_Named]:
    for number, raw in enumerate(rows, 1):
        found.rows += 1
        try:
            yield msgspec.json.decode(raw, type=_Named)
        except (msgspec.DecodeError, RecursionError) as problem:
            _note(found, f"{what} {number}: {problem}")


def _said(text: str | None) -> str:
    return shortened(text or "")

"""People bring their own files: an account's export, packed or not, and their subscriptions; each says what it gave.

A file that cannot be used is refused by itself, with the reason; what the others say is kept. Nothing counts twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podcastqa.display import Table, Tabular
from podcastqa.errors import Misuse, UnknownUser
from podcastqa.podcasts.catalog import Catalog
from podcastqa.podcasts.found import Found
from podcastqa.podcasts.listens import folded
from podcastqa.podcasts.opml import read_opml
from podcastqa.podcasts.spotify_export import layout_of, read_export
from podcastqa.podcasts.zipped import MOST_BYTES, members
from podcastqa.users import User

_KNOWN = (
    "Give my_spotify_data.zip or its files (StreamingHistory_podcast_0.json, Streaming_History_Audio_….json, "
    "YourLibrary.json), or an .opml file."
)


@dataclass(frozen=True, slots=True)
class FileResult:
    """What one file gave: rows in it, podcast listens and saved shows or episodes told, and what of that is new."""

    name: str
    layout: str
    rows: int
    told: int
    saved: int
    new: int
    unknown: int


@dataclass(frozen=True, slots=True)
class BroughtIn(Tabular):
    """What files gave."""

    user: str
    files: tuple[FileResult, ...]
    problems: tuple[str, ...]
    refused: int
    """Files that could not be used at all."""

    @property
    def new(self) -> int:
        """Rows that nobody had told before."""
        return sum(one.new for one in self.files)

    def table(self) -> Table:
        """One row a file."""
        rows = tuple((one.name, one.layout, one.rows, one.told, one.saved, one.new) for one in self.files)
        notes = [f"{self.new} new."]
        if unknown := sum(one.unknown for one in self.files):
            notes.append(
                f"{unknown} rows are music, or of shows that are not known to be podcasts: import YourLibrary.json or "
                "an OPML file that names those shows, then this file again."
            )
        columns = ("file", "layout", "rows", "listens told", "shows and episodes", "new")
        return Table(f"Brought in for {self.user}", columns, rows, (*notes, *self.problems))


def bring_in(
    catalog: Catalog, user: User, paths: Sequence[Path], each: Callable[[str], None] = lambda _: None
) -> BroughtIn:
    """Read the files and keep what is new of this user; `each` is told the name of the file that is being read.

    Raises Misuse where no file can be used, UnknownUser where the user was deleted meanwhile.
    """
    done: list[FileResult] = []
    problems: list[str] = []
    refused = 0
    shows = {folded(show) for show in catalog.shows(user)}

    def is_show(name: str) -> bool:
        return folded(name) in shows

    for path in sorted(paths, key=lambda one: _first_libraries(one.name)):
        seen = Counter[Any]()  # of one export: its files continue each other
        try:
            for name, content in _contents(path):
                each(name)
                found = _read(name, content, is_show, seen)
                shows.update(folded(one.show) for one in found.saved)
                shows.update(folded(show) for show in {one.show for one in found.told})
                done.append(_kept(catalog, user, found))
                problems += found.problems
        except UnknownUser:
            raise
        except Misuse as problem:  # the file's fault: the others go on
            refused += 1
            problems.append(problem.message if not problem.next_step else f"{problem.message} {problem.next_step}")
    if not done:
        raise Misuse(" ".join(problems) or "No file was given.", next_step=_KNOWN)
    return BroughtIn(user.name, tuple(done), tuple(problems), refused)


def _first_libraries(name: str) -> tuple[int, str]:
    """What names shows comes first: it tells podcasts from music."""
    return {"library": 0, "": 0, "account data, podcasts": 1, "extended history": 1}.get(layout_of(name), 2), name


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        raise Misuse(f"{path.name} is a folder.", next_step="Name its files.")
    if path.suffix.lower() == ".zip":
        yield from _unpacked(path)
        return
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as problem:
        raise Misuse(f"{path.name} cannot be read ({problem.strerror}).") from problem
    if len(content) > MOST_BYTES:
        raise Misuse(f"{path.name} is larger than {MOST_BYTES:,} bytes; no export's file is.")
    yield path.name, content


def _unpacked(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of an export in a zip, one in memory at a time."""
    found = False
    for rank in (0, 1, 2):
        for one in members(path, lambda name, rank=rank: bool(layout_of(name)) and _first_libraries(name)[0] == rank):  # type: ignore[misc]
            found = True
            yield one
    if not found:
        raise Misuse(f"{path.name} holds no file of a Spotify export that speaks of podcasts.")


def _read(name: str, content: bytes, is_show: Callable[[str], bool], seen: Counter[Any]) -> Found:
    layout = layout_of(Path(name).name)
    if layout:
        return read_export(name, layout, content, is_show, seen)
    if Path(name).suffix.lower() in (".opml", ".xml"):
        saved, problems = read_opml(name, content)
        return Found(name, "OPML", len(saved) + len(problems), [], saved, problems)
    raise Misuse(f"{name} is no file that is known.", next_step=_KNOWN)


def _kept(catalog: Catalog, user: User, found: Found) -> FileResult:
    new = catalog.add_library(user, found.saved) + catalog.add_listening(user, found.told)
    counts = found.rows, len(found.told), len(found.saved), new, found.unknown
    return FileResult(found.name, found.layout, *counts)

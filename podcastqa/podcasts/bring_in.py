"""People bring their own files: an account's export, packed or not, and their subscriptions; each says what it gave.

A file that cannot be used is refused by itself, with the reason; what the others say is kept. Nothing counts twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from podcastqa.display import Table, Tabular, one_line
from podcastqa.errors import Misuse, UnknownUser
from podcastqa.podcasts.catalog import Catalog
from podcastqa.podcasts.found import Found
from podcastqa.podcasts.listens import folded
from podcastqa.podcasts.opml import read_opml
from podcastqa.podcasts.spotify_export import layout_of, read_export
from podcastqa.podcasts.zipped import MOST_BYTES, members, unpacked
from podcastqa.users import User

_KNOWN = (
    "Give my_spotify_data.zip or its files (StreamingHistory_podcast_0.json, Streaming_History_Audio_….json, "
    "YourLibrary.json), or an .opml file."
)


@dataclass(frozen=True, slots=True)
class FileResult:
    """What one file gave: rows in it, podcast listens and saved shows or episodes told, and what of that is new."""

    name: str
    given: Path
    """The file itself, or the zip that it is in."""
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
    files: list[_File] = []
    problems: list[str] = []
    refusals: list[Misuse] = []
    shows = {folded(show) for show in catalog.shows(user)}
    for path in sorted(set(paths)):
        with _noting(refusals):
            files += _files_of(path)
    for one in sorted(files, key=lambda one: _rank(one.name)):  # whatever they are packed in
        each(one.name)
        with _noting(refusals):
            found = _read(one, lambda name: folded(name) in shows)
            shows.update(folded(saved.show) for saved in found.saved)
            shows.update(folded(show) for show in {told.show for told in found.told})
            done.append(_kept(catalog, user, one, found))
            problems += found.problems
    problems += [f"{one.message} {one.next_step}".strip() for one in refusals]
    if not done:
        said = " ".join(problems) or "No file was given."
        raise Misuse(said, next_step="" if _KNOWN in said else _KNOWN)
    return BroughtIn(user.name, tuple(done), tuple(problems), len(refusals))


@contextmanager
def _noting(refusals: list[Misuse]) -> Iterator[None]:
    """What is one file's fault is noted, and the others go on."""
    try:
        yield
    except UnknownUser:
        raise
    except Misuse as problem:
        refusals.append(problem)


def _rank(name: str) -> int:
    """What names shows is read first: it tells podcasts from music."""
    return {"library": 0, "": 0, "account data, podcasts": 1, "extended history": 1}.get(_layout(name), 2)


@dataclass(slots=True)
class _Export:
    """What the files of one export have in common: rows that say the same, and files that are there twice."""

    rows: Counter[Any] = field(default_factory=Counter)
    files: set[tuple[str, bytes]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was given, or one out of a zip."""

    name: str
    given: Path
    read: Callable[[], bytes]
    export: _Export


def _files_of(path: Path) -> list[_File]:
    """The file, or what of a zip is of use, a file each."""
    if path.is_dir():
        raise Misuse(f"{path.name} is a folder.", next_step="Name its files.")
    if path.suffix.lower() != ".zip":
        return [_File(one_line(path.name), path, partial(_content, path), _Export())]
    export = _Export()
    found = [
        _File(one_line(one.filename), path, partial(unpacked, path, one), export)
        for one in members(path, lambda name: bool(layout_of(name)))
    ]
    if not found:
        raise Misuse(f"{path.name} holds no file of a Spotify export that speaks of podcasts.")
    return found


def _layout(name: str) -> str:
    return layout_of(Path(name.replace("\\", "/")).name)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as problem:
        raise Misuse(f"{path.name} cannot be read ({problem.strerror}).") from problem
    if len(content) > MOST_BYTES:
        raise Misuse(f"{path.name} is larger than {MOST_BYTES:,} bytes; no export's file is.")
    return content


def _read(file: _File, is_show: Callable[[str], bool]) -> Found:
    name, content, layout = file.name, file.read(), _layout(file.name)
    same = Path(name).name, blake2b(content).digest()
    if same in file.export.files:
        return Found(name, layout, problems=[f"{name} is there twice; the second is left out"])
    file.export.files.add(same)
    if layout:
        return read_export(name, layout, content, is_show, file.export.rows)
    if Path(name).suffix.lower() in (".opml", ".xml"):
        saved, problems = read_opml(name, content)
        return Found(name, "OPML", len(saved) + len(problems), [], saved, problems)
    raise Misuse(f"{name} is no file that is known.", next_step=_KNOWN)


def _kept(catalog: Catalog, user: User, file: _File, found: Found) -> FileResult:
    new = catalog.add_library(user, found.saved) + catalog.add_listening(user, found.told)
    counts = found.rows, len(found.told), len(found.saved), new, found.unknown
    return FileResult(found.name, file.given, found.layout, *counts)

"""A zip is somebody else's: only members with a known name are opened, in memory, and never more than fits there.

Nothing is written to a path that the zip names, so that none of it can lead out of a folder; a zip that tries is not
read at all.
"""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from podcastqa.errors import Misuse

#: A lifetime's export has some forty files of 12 MB.
_MOST_MEMBERS = 2_000
MOST_BYTES = 256 * 2**20
_MOST_BYTES_TOGETHER = 2**30
#: JSON shrinks to a tenth, seldom to a fiftieth; what shrinks more was made to burst.
_MOST_RATIO = 200


def members(path: Path, wanted: Callable[[str], bool]) -> list[zipfile.ZipInfo]:
    """Each wanted member, in the order of their names; raises Misuse where the zip is not safe."""
    with _opened(path) as archive:
        all_ = archive.infolist()
        _refuse_unsafe(path, all_)
        chosen = sorted((one for one in all_ if wanted(_last(one.filename))), key=lambda one: one.filename)
        _refuse_large(path, chosen)
        return chosen


def unpacked(path: Path, member: zipfile.ZipInfo) -> bytes:
    """What is in one of the `members`; raises Misuse where it is damaged."""
    with _opened(path, f"{member.filename!r} in ") as archive, archive.open(member) as file:
        return file.read(member.file_size)


@contextmanager
def _opened(path: Path, what: str = "") -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError, ValueError) as problem:
        raise Misuse(
            f"{what}{path.name} cannot be read as a zip ({problem}).",
            next_step="Download it again, or unpack it yourself.",
        ) from problem


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _refuse_unsafe(path: Path, all_: list[zipfile.ZipInfo]) -> None:
    if len(all_) > _MOST_MEMBERS:
        raise Misuse(f"{path.name} holds {len(all_):,} files; an account's export holds some forty.")
    for one in all_:
        parts = one.filename.replace("\\", "/").split("/")
        if ".." in parts or one.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise Misuse(f"{path.name} holds a path that leads out of it ({one.filename!r}), so none of it is read.")
        if stat.S_ISLNK(one.external_attr >> 16):
            raise Misuse(f"{path.name} holds a link ({one.filename!r}), so none of it is read.")


def _refuse_large(path: Path, chosen: list[zipfile.ZipInfo]) -> None:
    for one in chosen:
        if one.flag_bits & 1:
            raise Misuse(f"{path.name} is locked with a password.", next_step="Unpack it, and import the files.")
        burst = one.file_size > _MOST_RATIO * max(one.compress_size, 1) and one.file_size > 2**20
        if burst or one.file_size > MOST_BYTES:
            raise Misuse(
                f"{one.filename!r} in {path.name} would unfold from {one.compress_size:,} to {one.file_size:,} bytes, "
                "so none of it is read."
            )
    if sum(one.file_size for one in chosen) > _MOST_BYTES_TOGETHER:
        raise Misuse(f"{path.name} would unfold to more than {_MOST_BYTES_TOGETHER:,} bytes, so none of it is read.")

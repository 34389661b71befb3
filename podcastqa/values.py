"""What a command's words mean: each becomes a value, or a sentence says what it should look like."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from podcastqa.errors import BadEstimate, Misuse

if TYPE_CHECKING:
    from datetime import date, datetime

    from podcastqa.clock import WindowKind
    from podcastqa.money import Usd


def text(said: str) -> str:
    """Words that can be kept: what is no UTF-8 is replaced, for who pulls the emergency stop may type in any encoding.

    The name of a file is left as it is.
    """
    return said.encode(errors="surrogateescape").decode(errors="replace")


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def word(text: str) -> str:
        if text not in words:
            near = get_close_matches(text, words, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(words)}{hint}")
        return text

    return word


def days(text: str) -> int:
    """A number of days."""
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= 3660):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to 3660")
    return int(text)


def seconds(text: str) -> int:
    """A pause between two looks."""
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 10 <= int(text) <= 600):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 10 to 600")
    return int(text)


def minutes(text: str) -> int:
    """How long something goes on."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 10_080):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes from 1 to 10080")
    return int(text)


def amount(text: str) -> Usd:
    """An amount of US dollars."""
    from podcastqa.money import ZERO, Usd

    try:
        found = Usd(text)
    except BadEstimate as error:
        raise argparse.ArgumentTypeError(f"{error.message.rstrip('.')}; write it like 5.00") from None
    if found < ZERO:
        raise argparse.ArgumentTypeError(f"{text!r} is below zero; write it like 5.00")
    return found


def difference(text: str) -> Usd:
    """An amount of US dollars that may be below zero."""
    from podcastqa.money import Usd

    try:
        return Usd(text)
    except BadEstimate as error:
        raise argparse.ArgumentTypeError(f"{error.message.rstrip('.')}; write it like 0.02 or -0.02") from None


def window(text: str) -> WindowKind:
    """A day, a week or a month."""
    from podcastqa.clock import WindowKind

    return WindowKind(one_of(*WindowKind)(text))


def month(text: str) -> date:
    """The first day of a month written like 2026-10."""
    from datetime import date

    year, _, number = text.partition("-")
    digits = text.isascii() and year.isdigit() and number.isdigit()
    if not (digits and (len(year), len(number)) == (4, 2) and year[0] == "2" and 1 <= int(number) <= 12):
        raise argparse.ArgumentTypeError(f"{text!r} is not a month; write it like 2026-10")
    return date(int(year), int(number), 1)


def moment(text: str) -> datetime:
    """The first instant (UTC) of a day written like 2026-10-31, or of a minute like 2026-10-31T18:30."""
    from datetime import UTC, datetime

    for written in ("%Y-%m-%d", "%Y-%m-%dT%H:%M"):
        try:
            found = datetime.strptime(text, written).replace(tzinfo=UTC)
        except ValueError:
            continue
        if text.isascii() and len(text) == len(found.strftime(written)):
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is no day or minute; write it like 2026-10-31 or 2026-10-31T18:30")


def service(said: str) -> str:
    """A service's name, as operations say it."""
    if not said.strip():
        raise argparse.ArgumentTypeError("a service has a name")
    return text(said)


def existing(text: str) -> str:
    """A file, a folder, or a glob that finds something."""
    import os
    from glob import iglob

    path = os.path.expanduser(text)  # a quoted ~ comes as it was typed
    if not os.path.exists(path) and next(iglob(path, recursive=True), None) is None:
        raise argparse.ArgumentTypeError(f"{text!r} finds no file and no folder")
    return path


def existing_file(text: str) -> str:
    """A file."""
    import os

    path = os.path.expanduser(text)
    if not os.path.isfile(path):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file")
    return path


def named_values(pairs: Iterable[Sequence[str]]) -> dict[str, str]:
    """The parameters of `-p NAME VALUE`, each given once."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise Misuse(f"The parameter {name} is given twice.")
        found[name] = value
    return found


def decider(said: str | None) -> str:
    """Who says so: the name given (an empty one is refused where it is recorded), else the operating system's name."""
    import getpass

    try:
        return getpass.getuser() if said is None else said
    except (KeyError, OSError):  # a container's user without a name
        raise Misuse("This machine has no name for you.", next_step="Say who decides: --by NAME") from None

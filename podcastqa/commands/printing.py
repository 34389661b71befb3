"""What a command found goes to stdout, as a table or as JSON; what is said about it goes to stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from podcastqa.words import Given, takes

if TYPE_CHECKING:
    from podcastqa.display import HasTable
    from podcastqa.settings import Settings
    from podcastqa.wiring import Parts

JSON = takes("--json", action="store_true", help="the same as JSON, for a program")


def parts_of(settings: Settings) -> Parts:
    """Everything that is in use; loaded when a command needs it, and not before."""
    from podcastqa.wiring import parts

    return parts(settings)


def show(result: HasTable, given: Given) -> int:
    """Print a result; returns the exit status of what is done."""
    table = result.table()
    if given.json:
        print_json({"title": table.title, "rows": table.records(), "notes": list(table.notes)})
    else:
        out(table.text())
    return 0


def print_json(record: object) -> None:
    """For a program."""
    import json

    out(json.dumps(record, indent=2))


def out(*lines: object) -> None:
    """What was asked for."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def say(*lines: str) -> None:
    """To the person, beside what was asked for."""
    sys.stderr.write("".join(f"{line}\n" for line in lines if line))

"""The shell's door: parse, call, print. No rule lives here, and nothing heavy is loaded before a command needs it."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from podcastqa import __version__
from podcastqa.commands import bills, budget, ledger, money, people, podcasts, workbook
from podcastqa.commands.printing import say
from podcastqa.errors import PodcastQAError
from podcastqa.words import Command, chosen, help_page

#: Where a command has several actions, the first of them is meant when none is said.
COMMANDS: dict[str, Command] = {
    name: command
    for subject in (workbook, money, budget, bills, ledger, podcasts, people)
    for name, command in subject.COMMANDS.items()
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show "×" is no reason to fall
    if words[0] == "--version":
        print(f"podcastqa {__version__}")
        return 0
    if words[0] == "help" or {"-h", "--help"} & set(words):
        print(help_page(words, COMMANDS), end="")
        return 0
    try:
        status = _obey(words)
        sys.stdout.flush()
    except PodcastQAError as error:
        say(f"podcastqa: {error.message}", error.next_step)
        return error.exit_status
    except KeyboardInterrupt:
        say("podcastqa: stopped by you. What had started is booked or held; `podcastqa status` shows it.")
        return 130
    except BrokenPipeError:
        return _reader_left()
    return status


def _obey(words: list[str]) -> int:
    from podcastqa.redaction import Redactor
    from podcastqa.settings import Settings

    settings = Settings.load()
    # From here on whatever is printed, a traceback too, passes the redactor.
    redactor = Redactor(settings.secrets)
    sys.stdout, sys.stderr = redactor.stream(sys.stdout), redactor.stream(sys.stderr)
    name, rest = chosen(words, COMMANDS)
    return COMMANDS[name].run(COMMANDS[name].parser(name).read(rest), settings)


def _reader_left() -> int:
    """`podcastqa spend | head -1`: nobody reads on, so nothing is said; the status is the shell's for it."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141


if __name__ == "__main__":
    sys.exit(main())

"""How the shell's words are read: the front page, a command's shape, and a sentence for a word that does not exist."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from podcastqa.errors import BadEstimate, Misuse

if TYPE_CHECKING:
    from datetime import date, datetime

    from podcastqa.clock import WindowKind
    from podcastqa.money import Usd
    from podcastqa.settings import Settings

PAGE = """\
podcastqa: ask questions of your own podcasts, with every cent counted before it is spent.

Prove it, step by step
  podcastqa validate                    run step 1 on real data and write its report
  podcastqa validate step1 -p users 5   with another value for one of its parameters
  podcastqa validate step2              a later step; it opens when the one before has passed
  podcastqa validate all                every step in order, up to the first that does not pass
  podcastqa report list                 every run: verdict, date, cost
  podcastqa report open                 the newest report, in the browser
  podcastqa lab                         the notebooks, in JupyterLab

Watch the money
  podcastqa status                      spent, held and left of each limit; whether the stop is on
  podcastqa spend                       what the last 7 days cost (--days 30 for more)
  podcastqa spend --by user             ... by user, by service, by day
  podcastqa spend --variance            ... each operation: estimate, actual, difference
  podcastqa spend --projection          ... what this month will have cost at its end
  podcastqa spend --focus OUT.parquet   ... the whole ledger as a file, in FOCUS 1.2

Put it beside the bills
  podcastqa bills import PATH           keep a FOCUS, CUR or console export: file, folder or 'glob'
  podcastqa bills list                  what was imported, and what of it stands
  podcastqa bills reconcile             ledger beside bill, by day (--month 2026-10, --by-service)
  podcastqa bills compare FILE          Cost Explorer beside its console's CSV
  podcastqa bills report [FILE]         explore bills in a notebook, and write its report

Keep it in bounds
  podcastqa budget show                 the limits in force, and those that begin later
  podcastqa budget set day 5.00         a new limit for a day, week or month (--reason WHY; --user, --service NAME)
  podcastqa budget set day 9 --from DAY ... that begins by itself on that day (UTC)
  podcastqa budget remove day           take back what somebody set (--reason WHY)
  podcastqa budget history              who set which limit or pulled the stop, when and why
  podcastqa budget stop --reason WHY    refuse every operation from now on, in every process
  podcastqa budget release --reason WHY let operations run again

Prove the books
  podcastqa audit                       prove every rule of the ledger, or name the first row that breaks it
  podcastqa holds list                  money set aside: who, what, how long, what is in doubt
  podcastqa holds settle ID AMOUNT      say what an operation that vanished really cost (--reason WHY)
  podcastqa holds void ID               ... or that nothing can have been charged (--reason WHY)
  podcastqa holds correct ID DELTA      mend by a difference what was booked (--reason WHY)

Bring in your podcasts
  podcastqa import NAME FILE ...        a user's Spotify export (zip or files) or OPML; twice changes nothing
  podcastqa connect spotify             consent in the browser; tokens are kept sealed (--user NAME)
  podcastqa fetch --user NAME           what Spotify knows: shows, saved and recent episodes, positions
  podcastqa listen --user NAME          look now and then what is playing, and keep each listen
  podcastqa disconnect spotify          delete the tokens and all that was fetched (--user NAME)
  podcastqa history --user NAME         what was heard, by day and show
  podcastqa library --user NAME         the shows followed and the episodes saved

People
  podcastqa users list                  who may ask and spend
  podcastqa users add NAME              (--email ADDRESS: where this user's alerts go)
  podcastqa users delete NAME --yes

Every listing takes --json. Every command takes --help.
No account and no config.env is needed to begin; config.env.example says what can be set.
Exit status: 0 passed or done · 1 failed or refused · 2 a word not understood · 3 incomplete.
"""

Given = argparse.Namespace
Argument = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what its help says, the words it takes, and what it calls; `run` gives the exit status."""

    about: str
    run: Callable[[Given, Settings], int]
    takes: tuple[Argument, ...] = ()

    def parser(self, name: str) -> Parser:
        """What reads its words and writes its help."""
        parser = Parser(
            prog=f"podcastqa {name}",
            description=self.about,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for flags, how in self.takes:
            parser.add_argument(*flags, **how)
        return parser


class Parser(argparse.ArgumentParser):
    """Says what is wrong in a sentence with the next step, where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """A word that is not understood."""
        raise Misuse(f"{self.prog}: {message}.", next_step=f"`{self.prog} --help` shows how it is called.")

    def read(self, words: Sequence[str]) -> Given:
        """The words as values; an unknown one is answered with the nearest that exists.

        What is no UTF-8 is replaced, not refused: whoever pulls the emergency stop may type in any encoding.
        """
        given, extra = self.parse_known_args(words)
        if extra:
            raise unknown(extra[0], self._option_string_actions, self.prog, "does not take")
        for action in self._actions:
            value = getattr(given, action.dest, None)
            if type(value) is str and action.type not in (existing, existing_file):  # a file's name is what it is
                setattr(given, action.dest, value.encode(errors="surrogateescape").decode(errors="replace"))
        return given


def chosen(words: Sequence[str], commands: Iterable[str]) -> tuple[str, list[str]]:
    """The command that the first one or two words name, and the words after it.

    Of a command with several actions (bills, budget, users, report) the first listed is meant where none is said.
    """
    first, rest = words[0], list(words[1:])
    known = list(commands)
    if first in known:
        return first, rest
    actions = [name.removeprefix(f"{first} ") for name in known if name.startswith(f"{first} ")]
    if not actions:
        raise unknown(first, {name.split()[0] for name in known}, "podcastqa", "has no command")
    if not rest or rest[0].startswith("-"):
        return f"{first} {actions[0]}", rest
    if rest[0] not in actions:
        raise unknown(rest[0], actions, f"podcastqa {first}", "has no command")
    return f"{first} {rest[0]}", rest[1:]


def unknown(said: str, known: Iterable[str], prog: str, verb: str) -> Misuse:
    """The sentence for a word that does not exist, with the nearest that does."""
    near = get_close_matches(said, list(known), n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    return Misuse(f"{prog} {verb} {said!r}.", next_step=f"{hint}`{prog} --help` shows what there is.")


def help_page(words: Sequence[str], commands: Mapping[str, Command]) -> str:
    """What `--help` shows: one command, one command's actions, or the front page."""
    name = " ".join(word for word in words[:2] if not word.startswith("-"))
    exact = name if name in commands else name.split()[0] if name else ""
    if exact in commands:
        return commands[exact].parser(exact).format_help()
    actions = [known for known in commands if exact and known.startswith(f"{exact} ")]
    return "\n".join(commands[action].parser(action).format_help() for action in actions) or PAGE


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


def service(text: str) -> str:
    """A service's name, as operations say it."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a service has a name")
    return text


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


def takes(*flags: str, **how: Any) -> Argument:
    """One word or option of a command, as argparse's `add_argument` takes it."""
    return flags, how

"""How the shell's words are read: the front page, a command's shape, and a sentence for a word that does not exist."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from podcastqa.errors import Misuse
from podcastqa.values import text

if TYPE_CHECKING:
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
        parser.register("type", None, text)  # what every word is of which nothing else is said
        for flags, how in self.takes:
            parser.add_argument(*flags, **how)
        return parser


class Parser(argparse.ArgumentParser):
    """Says what is wrong in a sentence with the next step, where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """A word that is not understood."""
        raise Misuse(f"{self.prog}: {message}.", next_step=f"`{self.prog} --help` shows how it is called.")

    def read(self, words: Sequence[str]) -> Given:
        """The words as values; an unknown one is answered with the nearest that exists."""
        given, extra = self.parse_known_args(words)
        if extra:
            raise unknown(extra[0], self._option_string_actions, self.prog, "does not take")
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


def takes(*flags: str, **how: Any) -> Argument:
    """One word or option of a command, as argparse's `add_argument` takes it."""
    return flags, how

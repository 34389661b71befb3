"""Commands that say what may be spent: limits and the emergency stop, each recorded with who and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from podcastqa.commands.printing import JSON, out, parts_of, show
from podcastqa.errors import Misuse
from podcastqa.values import amount, decider, moment, service, window
from podcastqa.words import Command, Given, takes

if TYPE_CHECKING:
    from podcastqa.settings import Settings


def _show(given: Given, settings: Settings) -> int:
    return show(parts_of(settings).treasury.limits(), given)


def _history(given: Given, settings: Settings) -> int:
    return show(parts_of(settings).treasury.decisions(), given)


def _set(given: Given, settings: Settings) -> int:
    name, treasury = _limited(given), parts_of(settings).treasury
    treasury.set_limit(
        *(given.window, given.amount),
        user=given.user,
        service=given.service or "",
        valid_from=given.valid_from,
        by=decider(given.by),
        reason=given.reason,
    )
    out(*treasury.limits().said_of(name, given.window))
    return 0


def _remove(given: Given, settings: Settings) -> int:
    from podcastqa.spend.status import limit_of

    name, treasury = _limited(given), parts_of(settings).treasury
    if not treasury.decisions().speaks_of(name, given.window):
        raise Misuse(
            f"Nobody has set the {limit_of(name, given.window)}.",
            next_step="`podcastqa budget history` shows what was set.",
        )
    treasury.remove_limit(
        given.window,
        user=given.user,
        service=given.service or "",
        valid_from=given.valid_from,
        by=decider(given.by),
        reason=given.reason,
    )
    out(*treasury.limits().said_of(name, given.window))
    return 0


def _limited(given: Given) -> str:
    """What the limit is for, as every table calls it."""
    from podcastqa.spend.status import SYSTEM_NAME, service_name

    if given.user and given.service:
        raise Misuse(
            "podcastqa budget: --user and --service do not go together.",
            next_step="A service's limit is for all users together.",
        )
    return service_name(given.service) if given.service else given.user or SYSTEM_NAME


def _stop(given: Given, settings: Settings) -> int:
    parts_of(settings).treasury.stop(by=decider(given.by), reason=given.reason)
    out("The emergency stop is on: every operation is refused, in every process.")
    out("Release it: podcastqa budget release --reason WHY")
    return 0


def _release(given: Given, settings: Settings) -> int:
    parts_of(settings).treasury.release(by=decider(given.by), reason=given.reason)
    out("The emergency stop is off: operations run again, within their limits.")
    return 0


_REASON = takes("--reason", required=True, metavar="WHY", help="kept with the decision")
_BY = takes("--by", metavar="WHO", help="who decides; you, unless said")
_WINDOW = takes("window", type=window, metavar="WINDOW", help="day, week or month")
_USER = takes("--user", metavar="NAME", help="for this user; the whole system, unless said")
_SERVICE = takes("--service", type=service, metavar="NAME", help="for what all users together spend on this service")
_FROM = takes(
    *("--from",),
    dest="valid_from",
    type=moment,
    metavar="WHEN",
    help="begins by itself, on a day or minute like 2026-10-31 or 2026-10-31T18:30 (UTC); now, unless said",
)

COMMANDS = {
    "budget show": Command("The limits in force, and those that begin later.", _show, (JSON,)),
    "budget set": Command(
        "A new limit for a window. The old one stays in the books, with who changed it and why. Below what is\n"
        "spent already it closes the door until the window ends. One that begins later is changed by another\n"
        "that begins at the same time.",
        _set,
        (
            _WINDOW,
            takes("amount", type=amount, metavar="AMOUNT", help="in US dollars, like 5.00"),
            *(_USER, _SERVICE, _FROM, _BY, _REASON),
        ),
    ),
    "budget remove": Command(
        "Take back the limit that somebody set for a window. For the whole system and for a user the limit of\n"
        "config.env holds again, or its default; a service then has none.",
        _remove,
        (_WINDOW, _USER, _SERVICE, _FROM, _BY, _REASON),
    ),
    "budget history": Command(
        "Every decision on limits and on the emergency stop: who said it, when and why, from when it holds, and\n"
        "what has become of it.",
        _history,
        (JSON,),
    ),
    "budget stop": Command(
        "The emergency stop: every operation is refused, in every process, until it is released.",
        _stop,
        (_REASON, _BY),
    ),
    "budget release": Command(
        "End the emergency stop; operations run again, within their limits.", _release, (_REASON, _BY)
    ),
}

"""Commands that show what is spent and set what may be; every figure is the treasury's, nothing is computed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from podcastqa.commands.printing import JSON, out, parts_of, show
from podcastqa.errors import Misuse
from podcastqa.words import Command, Given, amount, days, decider, one_of, takes, window

if TYPE_CHECKING:
    from podcastqa.settings import Settings

#: What `spend` looks back on, unless said.
_DAYS = 7
#: Answers about other days than `--days` says, or about none: nothing else goes with them.
_ALONE = ("projection", "focus")


def _status(given: Given, settings: Settings) -> int:
    return show(parts_of(settings).treasury.status(), given)


def _spend(given: Given, settings: Settings) -> int:
    _check_alone(given)
    parts = parts_of(settings)
    if given.projection:
        return show(parts.bookkeeper.projection(), given)
    if given.focus is not None:
        from pathlib import Path

        return show(parts.bookkeeper.write_focus(Path(given.focus)), given)
    back = given.days or _DAYS
    if given.variance:
        return show(parts.treasury.variance(back), given)
    treasury = parts.treasury
    views = {"user": treasury.by_user, "service": treasury.by_service, "day": treasury.by_day}
    return show(views.get(given.by, treasury.summary)(back), given)


def _check_alone(given: Given) -> None:
    said = [name for name in (*_ALONE, "days", "by", "variance") if getattr(given, name) not in (None, False)]
    if len(said) > 1 and said[0] in _ALONE:
        raise Misuse(
            f"podcastqa spend: --{said[0]} and --{said[1]} do not go together.",
            next_step=f"Ask for one of them: podcastqa spend --{said[0]}{' OUT.parquet' * (said[0] == 'focus')}",
        )


def _budget_show(given: Given, settings: Settings) -> int:
    return show(parts_of(settings).treasury.limits(), given)


def _budget_set(given: Given, settings: Settings) -> int:
    treasury = parts_of(settings).treasury
    treasury.set_limit(given.window, given.amount, user=given.user, by=decider(given.by), reason=given.reason)
    whose = f"user {given.user}" if given.user else "the whole system"
    out(f"The {given.window.adjective} limit of {whose} is now {given.amount.shown()}.")
    return 0


def _budget_stop(given: Given, settings: Settings) -> int:
    parts_of(settings).treasury.stop(by=decider(given.by), reason=given.reason)
    out("The emergency stop is on: every operation is refused, in every process.")
    out("Release it: podcastqa budget release --reason WHY")
    return 0


def _budget_release(given: Given, settings: Settings) -> int:
    parts_of(settings).treasury.release(by=decider(given.by), reason=given.reason)
    out("The emergency stop is off: operations run again, within their limits.")
    return 0


_REASON = takes("--reason", required=True, metavar="WHY", help="kept with the decision")
_BY = takes("--by", metavar="WHO", help="who decides; you, unless said")

COMMANDS = {
    "status": Command(
        "What is spent, held and left of each limit today, this week and this month (UTC), for the whole\n"
        "system and for each user, and whether the emergency stop is on.",
        _status,
        (JSON,),
    ),
    "spend": Command(
        "What was spent. Every figure is exact to 1e-12 USD; the parts sum to the whole.",
        _spend,
        (
            takes("--days", type=days, metavar="N", help="how many days back, today included; 7"),
            takes("--by", type=one_of("user", "service", "day"), help="user, service or day", metavar="WHAT"),
            takes("--variance", action="store_true", help="each operation: estimate, actual, difference"),
            takes("--projection", action="store_true", help="what this month will have cost, if it goes on like this"),
            takes("--focus", metavar="OUT.parquet", help="write the whole ledger to a file, as FOCUS 1.2"),
            JSON,
        ),
    ),
    "budget show": Command("The limits in force, and the emergency stop.", _budget_show, (JSON,)),
    "budget set": Command(
        "A new limit for a window. The old one stays in the books, with who changed it and why.",
        _budget_set,
        (
            takes("window", type=window, metavar="WINDOW", help="day, week or month"),
            takes("amount", type=amount, metavar="AMOUNT", help="in US dollars, like 5.00"),
            takes("--user", metavar="NAME", help="for this user; the whole system, unless said"),
            _BY,
            takes("--reason", default="podcastqa budget set", metavar="WHY", help="kept with the decision"),
        ),
    ),
    "budget stop": Command(
        "The emergency stop: every operation is refused, in every process, until it is released.",
        _budget_stop,
        (_REASON, _BY),
    ),
    "budget release": Command(
        "End the emergency stop; operations run again, within their limits.", _budget_release, (_REASON, _BY)
    ),
}

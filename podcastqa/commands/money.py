"""Commands that show what is spent; every figure is the treasury's, nothing is computed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from podcastqa.commands.printing import JSON, parts_of, show
from podcastqa.errors import Misuse
from podcastqa.values import days, one_of
from podcastqa.words import Command, Given, takes

if TYPE_CHECKING:
    from podcastqa.settings import Settings

#: What `spend` looks back on, unless said.
_DAYS = 7
#: Answers about other days than `--days` says, or about none: nothing else goes with them.
_ALONE = ("projection", "focus")


def _status(given: Given, settings: Settings) -> int:
    parts = parts_of(settings)
    parts.mail_consents()
    return show(parts.treasury.status(), given)


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
}

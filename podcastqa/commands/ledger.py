"""Commands that prove the books, and that let a person say what came of money whose operation vanished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from podcastqa.commands.printing import JSON, out, parts_of, show
from podcastqa.errors import HoldResolved, Misuse
from podcastqa.values import amount, difference
from podcastqa.words import Command, Given, takes

if TYPE_CHECKING:
    from podcastqa.settings import Settings
    from podcastqa.spend.holds import OpenHold
    from podcastqa.wiring import Parts

#: The exit status of an audit: every rule holds, one is broken, one could not be checked.
_STATUS = {True: 0, False: 1, None: 3}


def _audit(given: Given, settings: Settings) -> int:
    found = parts_of(settings).auditor.run()
    show(found, given)
    return _STATUS[found.holds]


def _holds_list(given: Given, settings: Settings) -> int:
    from podcastqa.spend.holds import open_holds

    parts = parts_of(settings)
    return show(open_holds(parts.database, parts.users.names(), parts.clock.now()), given)


def _holds_settle(given: Given, settings: Settings) -> int:
    parts, one = _found(given, settings)
    parts.treasury.settle(one.hold, given.amount, _reason(given, parts))
    out(f"The hold {given.hold} is settled at {given.amount.shown()}; {one.hold.estimate.shown()} had been set aside.")
    return 0


def _holds_void(given: Given, settings: Settings) -> int:
    parts, one = _found(given, settings)
    parts.budget.void(given.hold, _reason(given, parts))
    out(f"The hold {given.hold} is void: {one.hold.estimate.shown()} is given back.")
    return 0


def _holds_correct(given: Given, settings: Settings) -> int:
    parts, one = _found(given, settings)
    if one.started is not None:
        raise HoldResolved(
            f"The hold {given.hold} is open: nothing is booked for it that could be corrected.",
            next_step=f"Settle it: podcastqa holds settle {given.hold} AMOUNT --reason WHY",
        )
    parts.budget.correct(given.hold, given.delta, _reason(given, parts))
    parts.treasury.watch.mail_due(one.hold.operation.user_id)
    out(f"What is booked for the hold {given.hold} is corrected by {given.delta.shown()}.")
    return 0


def _found(given: Given, settings: Settings) -> tuple[Parts, OpenHold]:
    from podcastqa.spend.holds import find_hold

    parts = parts_of(settings)
    return parts, find_hold(parts.database, given.hold)


def _reason(given: Given, parts: Parts) -> str:
    """Why, and who says so: an entry has one place for both."""
    if not given.reason.strip():
        raise Misuse("This is recorded: say why.", next_step='For example --reason "the provider says it never ran".')
    return parts.redactor.text(f"{given.reason.strip()} (said by {parts.settings.user})")


_HOLD = takes("hold", metavar="ID", help="as `podcastqa holds list` shows it")
_REASON = takes("--reason", required=True, metavar="WHY", help="kept with the entry, and who said so")

COMMANDS = {
    "audit": Command(
        "Prove the ledger: every hold reserved once and resolved at most once, counters and mirror equal to the\n"
        "entries, no admission past a limit. Reads, and changes nothing. Exit status: 0 every rule holds,\n"
        "1 one is broken (its first row is named), 3 one could not be checked.",
        _audit,
        (JSON,),
    ),
    "holds list": Command(
        "Money set aside and not resolved yet: who, what, how long; what started and vanished is in doubt.",
        _holds_list,
        (JSON,),
    ),
    "holds settle": Command(
        "Say what an operation really cost. The whole amount is booked, past the hold too.",
        _holds_settle,
        (_HOLD, takes("amount", type=amount, metavar="AMOUNT", help="in US dollars, like 0.02"), _REASON),
    ),
    "holds void": Command(
        "Give a hold back: only when nothing can have been charged.",
        _holds_void,
        (_HOLD, _REASON),
    ),
    "holds correct": Command(
        "Mend what a resolved hold booked, by a difference; both entries stay.",
        _holds_correct,
        (_HOLD, takes("delta", type=difference, metavar="DELTA", help="in US dollars, like 0.02 or -0.02"), _REASON),
    ),
}

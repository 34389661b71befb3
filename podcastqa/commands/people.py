"""Commands about who may ask and spend; a user is forgotten only by somebody who says so twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from podcastqa.commands.printing import JSON, out, parts_of, show
from podcastqa.errors import Misuse
from podcastqa.words import Command, Given, takes

if TYPE_CHECKING:
    from podcastqa.settings import Settings


def _users_list(given: Given, settings: Settings) -> int:
    return show(parts_of(settings).users.list(), given)


def _users_add(given: Given, settings: Settings) -> int:
    user = parts_of(settings).users.add(given.name, given.email)
    out(f"User {user.name} is added.")
    return 0


def _users_delete(given: Given, settings: Settings) -> int:
    from podcastqa.workbook import gates, history

    parts = parts_of(settings)
    users = parts.users
    user = users.get(given.name)
    if not given.yes:
        raise Misuse(
            f"Deleting {user.name} forgets the name, the address and all podcasts brought in; what was spent, and who "
            "decided on limits and why, stays under a number.",
            next_step=f"Really: podcastqa users delete {user.name} --yes",
        )
    users.delete(user.name)
    gates.forget(parts.database, user.name)
    reports = history.forget(settings.reports, user.name)
    out(f"User {user.name} is deleted." + (f" So are {reports} reports on that user's podcasts." if reports else ""))
    return 0


_NAME = takes("name", metavar="NAME", help="lower-case letters, digits, dots and dashes")

COMMANDS = {
    "users list": Command("Everybody who may ask and spend.", _users_list, (JSON,)),
    "users add": Command(
        "A new user, with the limits that hold for every user.",
        _users_add,
        (_NAME, takes("--email", default="", metavar="ADDRESS", help="where alerts about this user go")),
    ),
    "users delete": Command(
        "Forget a user: name, address, every podcast and listen brought in, reports on them. What was spent, and who\n"
        "decided on limits and why, stays in the books under a number.",
        _users_delete,
        (_NAME, takes("--yes", action="store_true", help="really")),
    ),
}

"""Commands about a user's own podcasts: what the user's files say goes in once, and comes out for that user only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from podcastqa.commands.printing import JSON, out, parts_of, say, show
from podcastqa.values import existing_file, minutes, one_of, seconds
from podcastqa.words import Command, Given, takes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from podcastqa.money import Usd
    from podcastqa.settings import Settings
    from podcastqa.users import User
    from podcastqa.wiring import Parts


def _import(given: Given, settings: Settings) -> int:
    from pathlib import Path

    from tqdm import tqdm

    from podcastqa.podcasts.bring_in import bring_in
    from podcastqa.treasury import LOCAL

    parts = parts_of(settings)
    user = _user(parts, given.name)
    paths = [Path(file) for file in given.files]
    with (
        parts.treasury.spending(user.name, LOCAL, "import", _estimate(paths)),
        tqdm(desc="files", unit=" files", disable=None, leave=False) as bar,
    ):

        def each(name: str) -> None:
            bar.set_description(name)
            bar.update()

        found = bring_in(parts.catalog, user, paths, each)
    show(found, given)
    return int(bool(found.refused))


def _connect(given: Given, settings: Settings) -> int:
    from podcastqa.podcasts.fetch import connect

    parts = parts_of(settings)
    made = connect(parts.spotify, _user(parts, given.user), say)
    return show(made, given)


def _disconnect(given: Given, settings: Settings) -> int:
    from podcastqa.podcasts.spotify import PROVIDER

    parts = parts_of(settings)
    user = _user(parts, given.user)
    was_connected = parts.connections.forget(user)
    parts.catalog.forget_source(user, PROVIDER)
    done = f"is disconnected from {PROVIDER}: the login and all that was fetched with it are deleted"
    said = done if was_connected else f"was not connected with {PROVIDER}"
    out(f"{user.name} {said}. To take a consent back at {PROVIDER} too: www.spotify.com/account/apps")
    return 0


def _fetch(given: Given, settings: Settings) -> int:
    from tqdm import tqdm

    from podcastqa.podcasts.fetch import fetch

    parts = parts_of(settings)
    user = _user(parts, given.user)
    with tqdm(desc="Spotify", unit=" lists", disable=None, leave=False) as bar:

        def each(name: str) -> None:
            bar.set_description(name[:40])
            bar.update()

        found = fetch(parts.spotify, parts.catalog, user, each)
    return show(found, given)


def _listen(given: Given, settings: Settings) -> int:
    import time

    from podcastqa.podcasts.polls import listen

    parts = parts_of(settings)
    user = _user(parts, given.user)
    say(f"Looking every {given.every} s what {user.name} hears, for {given.minutes} minutes; Ctrl-C ends it.")
    until, turns = time.monotonic() + 60 * given.minutes, settings.home / "listens.lock"
    kept = listen(parts.spotify, parts.catalog, user, given.every, until, turns, out)
    out(f"{kept} listens are kept.")
    return 0


def _history(given: Given, settings: Settings) -> int:
    parts = parts_of(settings)
    return show(parts.catalog.history(_user(parts, given.user)), given)


def _library(given: Given, settings: Settings) -> int:
    parts = parts_of(settings)
    return show(parts.catalog.library(_user(parts, given.user)), given)


def _estimate(paths: Sequence[Path]) -> Usd:
    """Reading takes about two seconds of CPU a megabyte at most, five where it is packed; some for the start."""
    from podcastqa.money import Usd

    return Usd("0.0001") + Usd("0.00006") * (sum(path.stat().st_size for path in paths) // 2**20 + 1)


def _user(parts: Parts, name: str | None) -> User:
    """Whose podcasts; the person whose machine this is need not be added first. Whose consent ends soon hears of it."""
    parts.mail_consents()
    return parts.users.meant(name, parts.settings.user)


_USER = takes("--user", metavar="NAME", help="whose; without it yours (PODCASTQA_USER)")

_SPOTIFY = takes("provider", type=one_of("spotify"), metavar="spotify", help="the one there is")

COMMANDS = {
    "import": Command(
        "Bring in a user's own files: a Spotify account's export as it was downloaded (my_spotify_data.zip) or its\n"
        "files, of any year; subscriptions from any podcast app (OPML). Only podcasts are read: no music, no\n"
        "address, device, name or payment. Importing twice changes nothing.",
        _import,
        (
            takes("name", metavar="NAME", help="whose podcasts they are"),
            takes("files", nargs="+", type=existing_file, metavar="FILE", help="a .zip, .json or .opml file"),
            JSON,
        ),
    ),
    "connect": Command(
        "Connect a Spotify account: consent in the browser. The login is kept sealed, for this user only.",
        _connect,
        (_SPOTIFY, _USER, JSON),
    ),
    "disconnect": Command(
        "Delete a user's login with Spotify and everything that was fetched with it.", _disconnect, (_SPOTIFY, _USER)
    ),
    "fetch": Command(
        "Fetch what Spotify knows of a user's podcasts: shows, saved and recent episodes, how far each was heard.",
        _fetch,
        (_USER, JSON),
    ),
    "listen": Command(
        "Look now and then what a user hears on Spotify, and keep each listen: its list of what was played has no\n"
        "podcasts. Each look is a request; the guard counts it (its price is 0).",
        _listen,
        (
            _USER,
            takes("--every", type=seconds, default=30, metavar="SECONDS", help="10 to 600; 30 unless said"),
            takes("--minutes", type=minutes, default=60, metavar="MINUTES", help="how long; 60 unless said"),
        ),
    ),
    "history": Command("What was heard, by UTC day and show, and who told it.", _history, (_USER, JSON)),
    "library": Command("The shows followed and the episodes saved, and who told it.", _library, (_USER, JSON)),
}

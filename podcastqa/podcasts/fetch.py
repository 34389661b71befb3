"""A connected account's library comes in page by page; what was kept stays, whatever stops the rest.

Shows and episodes that the person no longer follows go, once all of the new list is here. How far an episode was heard
grows between two looks: the difference is a listen that ended somewhere in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from podcastqa.clock import microseconds
from podcastqa.display import Table, Tabular
from podcastqa.podcasts.catalog import Catalog, Heard
from podcastqa.podcasts.connections import Connection
from podcastqa.podcasts.found import MOST_MS, Saved, shortened
from podcastqa.podcasts.spotify import PROVIDER, Episode, Spotify, show_of
from podcastqa.users import User


@dataclass(frozen=True, slots=True)
class Fetched(Tabular):
    """What an account gave: shows followed, episodes saved, episodes seen, and what of all that is new."""

    user: str
    shows: int
    saved: int
    episodes: int
    new: int
    listens: int
    warning: str = ""

    def table(self) -> Table:
        """One row."""
        columns = ("shows followed", "episodes saved", "episodes seen", "new", "listens seen")
        row = self.shows, self.saved, self.episodes, self.new, self.listens
        return Table(
            f"Fetched for {self.user} from {PROVIDER}", columns, (row,), (self.warning,) if self.warning else ()
        )


def connect(spotify: Spotify, user: User, say: Callable[[str], None]) -> Connection:
    """Let the person consent, and keep the login under the account that it belongs to.

    Raises ProviderError where nobody consented, Misuse where the user is connected with another account.
    """
    spotify.gate.check()  # before the person is asked for something that cannot be used
    login = spotify.logins.consent(say)
    return spotify.connections.keep(user, spotify.account(user, login), login)


def fetch(spotify: Spotify, catalog: Catalog, user: User, each: Callable[[str], None] = lambda _: None) -> Fetched:
    """Fetch all that is kept of the user's account; `each` is told what is fetched next, or waited for.

    Raises ProviderError where Spotify says no or nothing, Refused where the guard does.
    """
    spotify = replace(spotify, say=each)
    each("shows")
    shows = list(spotify.shows(user))
    followed = [Saved(PROVIDER, show=shortened(show.name), uri=show.uri) for show in shows]
    each("saved episodes")
    marked = list(spotify.saved_episodes(user))
    kept = [Saved(PROVIDER, show_of(one), shortened(one.name), uri=one.uri) for one in marked]
    new = catalog.replace_library(user, PROVIDER, [*followed, *kept])
    seen = listens = 0
    fetched_us = catalog.fetched(user, PROVIDER)
    for show in sorted(shows, key=lambda one: fetched_us.get(shortened(one.name), 0)):  # where the last run stopped
        each(shortened(show.name))
        now_us = microseconds(spotify.gate.clock.now())
        episodes = [_heard(one, show.name, now_us) for one in spotify.newest_episodes(user, show)]
        added, told = catalog.add_episodes(user, PROVIDER, episodes)
        seen, new, listens = seen + len(episodes), new + added, listens + told
    now = spotify.gate.clock.now()
    warning = spotify.connections.find(user).warning(now)
    return Fetched(user.name, len(shows), len(marked), seen, new, listens, warning)


def _heard(episode: Episode, show: str, now_us: int) -> Heard:
    point = episode.resume_point
    heard_ms = -1  # the consent does not cover it
    if point is not None:
        heard_ms = _ms(episode.duration_ms if point.fully_played else point.resume_position_ms, -1)
    released = shortened(episode.release_date)[:10]
    names = shortened(show), shortened(episode.name), episode.uri, released
    return Heard(*names, _ms(episode.duration_ms, 0), heard_ms, now_us)


def _ms(said: int, otherwise: int) -> int:
    """What is no length counts as not told."""
    return said if 0 <= said <= MOST_MS else otherwise

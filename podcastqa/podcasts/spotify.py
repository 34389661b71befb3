"""Spotify is asked one thing at a time, in a person's name, each request booked at the guard; it gives pointers only.

Titles, addresses, dates and lengths are kept; nothing of Spotify's own ever goes to a model (Developer Policy, III.14).
A bearer token goes to the configured host and nowhere else: pages are counted, no address in an answer is followed.
What is missing in an answer, null in a list or of another type than usual is left out, and the rest is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import msgspec

from podcastqa.clock import microseconds
from podcastqa.errors import ProviderError
from podcastqa.file_lock import FileLock
from podcastqa.money import ZERO
from podcastqa.podcasts.connections import Connections, Login, reauth
from podcastqa.podcasts.found import shortened
from podcastqa.podcasts.lenient import Unreadable, item, items, whole
from podcastqa.podcasts.rate_gate import RateGate
from podcastqa.podcasts.spotify_login import SpotifyLogin
from podcastqa.spend.entries import Operation
from podcastqa.spend.paid import Payer
from podcastqa.users import User

PROVIDER = "Spotify"
_PAGE = 50
_MOST_PAGES = 400
_MOST_BYTES = 8 * 2**20
#: A request waits for the gate so long and so often; a longer wait is for whoever runs the program.
_SHORT_WAIT_SECONDS, _MOST_WAITS = 60.0, 3
#: A token that ends sooner is not used for another request.
_SPARE_US = 30_000_000
T = TypeVar("T")


class Show(msgspec.Struct):
    """A show; Spotify says no publisher to most apps."""

    uri: str = ""
    id: str = ""
    name: str = ""


class Position(msgspec.Struct):
    """How far somebody has heard an episode."""

    fully_played: bool = False
    resume_position_ms: int = 0


class Episode(msgspec.Struct):
    """An episode; the position is missing without its scope."""

    uri: str = ""
    name: str = ""
    release_date: str = ""
    duration_ms: int = 0
    resume_point: Position | None = None
    show: Show | None = None


def show_of(episode: Episode) -> str:
    """The name of an episode's show, as it is kept."""
    return shortened(episode.show.name) if episode.show else ""


class SavedShow(msgspec.Struct):
    """A show that somebody follows."""

    show: Show | None = None


class SavedEpisode(msgspec.Struct):
    """An episode that somebody saved."""

    episode: Episode | None = None


class _Page(msgspec.Struct):
    """Without items it is none: what is not said must not look like nothing."""

    items: list[msgspec.Raw]
    total: int | None = None


class Playing(msgspec.Struct):
    """What somebody hears now; the item is missing where it is neither a song nor an episode."""

    currently_playing_type: str = ""
    is_playing: bool = False
    progress_ms: int = 0
    item: Episode | None = None


class _Me(msgspec.Struct):
    account_id: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Spotify:
    """The Web API, for those who have connected it."""

    connections: Connections
    logins: SpotifyLogin
    api_url: str
    payer: Payer
    gate: RateGate
    lock: FileLock
    """One process at a time refreshes a login: where refresh tokens rotate, the second use of one ends the consent."""
    say: Callable[[str], None] = lambda _: None
    """Told when a request waits."""

    def account(self, user: User, login: Login) -> str:
        """The account that a fresh login belongs to: its lasting number where there is one."""
        with _readable():
            me = item(self._sent(user, "GET /me", "/me", {}, login) or b"{}", _Me) or _Me()
        if not (me.account_id or me.id):
            raise ProviderError("Spotify does not say whose account it is.", next_step="Connect again in some minutes.")
        return shortened(me.account_id or me.id)

    def shows(self, user: User) -> Iterator[Show]:
        """The shows that the user follows."""
        for one in self._pages(user, "GET /me/shows", "/me/shows", SavedShow):
            if one.show is not None and one.show.uri:
                yield one.show

    def saved_episodes(self, user: User) -> Iterator[Episode]:
        """The episodes that the user saved."""
        for one in self._pages(user, "GET /me/episodes", "/me/episodes", SavedEpisode):
            if one.episode is not None and one.episode.uri:
                yield one.episode

    def newest_episodes(self, user: User, show: Show) -> list[Episode]:
        """The newest fifty episodes of a show, with how far the user has heard them; none where the show is gone."""
        path = f"/shows/{quote(show.id, safe='')}/episodes"
        try:
            page = self._page(user, "GET /shows/{id}/episodes", path, 0)
        except ProviderError as problem:
            if problem.kind != "gone":
                raise
            return []
        return [one for one in _items(page, Episode) if one.uri]

    def playing(self, user: User) -> Playing:
        """What the user hears now."""
        path = "/me/player/currently-playing"
        body = self._get(user, f"GET {path}", path, {"additional_types": "episode"})
        with _readable():
            return item(body or b"{}", Playing) or Playing()

    def _pages(self, user: User, name: str, path: str, kind: type[T]) -> Iterator[T]:
        for number in range(_MOST_PAGES):
            page = self._page(user, name, path, number * _PAGE)
            yield from _items(page, kind)
            if not page.items or (
                len(page.items) < _PAGE if page.total is None else (number + 1) * _PAGE >= page.total
            ):
                return

    def _page(self, user: User, name: str, path: str, offset: int) -> _Page:
        return _decoded(self._get(user, name, path, {"limit": str(_PAGE), "offset": str(offset)}), _Page)

    def _get(self, user: User, name: str, path: str, query: dict[str, str]) -> bytes:
        login = self._login(user)
        try:
            return self._sent(user, name, path, query, login)
        except ProviderError as problem:
            if problem.kind != "expired":
                raise
        return self._sent(user, name, path, query, self._login(user, not_this=login.access_token))

    def _login(self, user: User, not_this: str = "") -> Login:
        """A login whose access token lives, and is another than the one that was refused."""
        with self.lock:
            login = self.connections.login(user)
            lives = login.expires_us > microseconds(self.gate.clock.now()) + _SPARE_US
            if lives and login.access_token != not_this:
                return login
            try:
                login = self.logins.refresh(login)
            except ProviderError as problem:
                if problem.kind != "reauth":
                    raise
                self.connections.ended(user)
                raise reauth(user, PROVIDER) from None
            self.connections.refreshed(user, login)
            return login

    def _sent(self, user: User, name: str, path: str, query: dict[str, str], login: Login) -> bytes:
        def send(seconds: float) -> bytes:
            self.gate.check()
            return self._answer(path, query, login, seconds)

        def ask() -> bytes:
            self.gate.check()  # nothing is booked for what is not sent
            return self.payer.pay(Operation(user.id, "spotify", name, "spotify"), ZERO, send)

        return self._patiently(ask)

    def _patiently(self, ask: Callable[[], bytes]) -> bytes:
        """What it answers; where Spotify says to wait a short time, after that."""
        for _ in range(_MOST_WAITS):
            try:
                return ask()
            except ProviderError as problem:
                if problem.kind != "throttled" or not self.gate.wait(_SHORT_WAIT_SECONDS, self.say):
                    raise
        return ask()

    def _answer(self, path: str, query: dict[str, str], login: Login, seconds: float) -> bytes:
        import httpx2

        headers = {"Authorization": f"Bearer {login.access_token}", "User-Agent": "podcastqa/0.1"}
        try:
            with (
                httpx2.Client(timeout=seconds, trust_env=False, follow_redirects=False) as client,
                client.stream("GET", f"{self.api_url}{path}", params=query, headers=headers) as answer,
            ):
                body = b""
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise ProviderError(f"Spotify's answer is larger than {_MOST_BYTES:,} bytes.")
                status, retry_after = answer.status_code, answer.headers.get("Retry-After", "")
        except httpx2.HTTPError as problem:
            raise ProviderError(
                f"Spotify gives no answer ({type(problem).__name__}).",
                next_step="Try again in some minutes.",
                kind="no-answer",
                again=True,
            ) from None  # the request holds the token
        if status == 429:
            raise self.gate.close(retry_after)
        if status not in (200, 204):
            raise _refused(status)
        return body


def _refused(status: int) -> ProviderError:
    said, step, kind = _BY_STATUS.get(status, (f"Spotify refuses the request (status {status})", "", "refused"))
    if status >= 500:
        said, step, kind = f"Spotify has a fault of its own (status {status})", "Try again in some minutes.", "fault"
    return ProviderError(f"{said}.", next_step=step, kind=kind, again=status >= 500)


_BY_STATUS = {
    401: ("Spotify does not take the login", "Connect again: podcastqa connect spotify", "expired"),
    403: (
        "Spotify does not let this app ask for this user",
        "Add the user in the app's dashboard (five at most), and see that its owner has Premium; then connect again.",
        "denied",
    ),
    404: ("Spotify does not have that any more", "", "gone"),
}


def _decoded(body: bytes, kind: type[T]) -> T:
    with _readable():
        return whole(body, kind)


def _items(page: _Page, kind: type[T]) -> list[T]:
    with _readable():
        return items(page.items, kind)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except Unreadable as problem:
        raise ProviderError(f"Spotify's answer cannot be read ({problem}).", kind="unreadable") from None

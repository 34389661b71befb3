"""A person consents in the browser, and we get a login: authorization code with PKCE, and no secret of our own.

RFC 7636 (S256), RFC 8252: Spotify sends the browser back to a loopback address, by number, never by name. Whoever comes
there without the state that was sent is not that browser.
"""

from __future__ import annotations

import re
import secrets
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import parse_qs, urlsplit

from podcastqa.clock import Clock, microseconds
from podcastqa.errors import ProviderError
from podcastqa.podcasts.connections import Login

SCOPES = "user-library-read user-read-playback-position user-read-currently-playing"
_CONSENT_SECONDS = 300.0
_TOKEN_SECONDS = 5.0
#: How long an access token lives where nothing is said, and at most.
_USUAL_SECONDS, _MOST_SECONDS = 3_600, 86_400


@dataclass(frozen=True, slots=True)
class SpotifyLogin:
    """Spotify's accounts service, as one registered app."""

    client_id: str
    accounts_url: str
    port: int
    """Of the loopback address; 0: any that is free."""
    clock: Clock

    def consent(self, say: Callable[[str], None], seconds: float = _CONSENT_SECONDS) -> Login:
        """Open the consent page, wait for the browser to come back, and fetch the login; raises ProviderError."""
        with _loopback(self.port) as server, self._client(server.redirect_uri) as client:
            state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(64)
            url, _ = client.create_authorization_url(
                f"{self.accounts_url}/authorize", state=state, code_verifier=verifier
            )
            say(f"Consent in the browser; if none opens, open this: {url}")
            webbrowser.open(url)
            code = _code(server.wait(seconds), state)
            return self._asked(
                lambda: client.fetch_token(self._token_url, code=code, code_verifier=verifier),
                "The consent was used before, or took too long",
            )

    def refresh(self, login: Login) -> Login:
        """A new access token; raises ProviderError, kind `reauth` where the consent has ended."""
        with self._client("") as client:
            return self._asked(
                lambda: client.refresh_token(self._token_url, refresh_token=login.refresh_token),
                "The consent has ended or was taken back",
                login.refresh_token,
            )

    @property
    def _token_url(self) -> str:
        return f"{self.accounts_url}/api/token"

    @contextmanager
    def _client(self, redirect_uri: str) -> Iterator[Any]:
        from authlib.integrations.httpx_client import OAuth2Client

        with OAuth2Client(
            self.client_id,
            scope=SCOPES,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            token_endpoint_auth_method="none",  # noqa: S106 – a public client has no secret
            timeout=_TOKEN_SECONDS,
            trust_env=False,
        ) as client:
            yield client

    def _asked(self, ask: Callable[[], dict[str, Any]], ended: str, refresh_token: str = "") -> Login:
        import httpx2
        from authlib.integrations.base_client.errors import OAuthError

        began_us = microseconds(self.clock.now())
        try:
            return granted(ask(), began_us, refresh_token)
        except OAuthError as problem:
            over = problem.error == "invalid_grant"
            said = ended if over else f"Spotify refuses the login ({_reason(problem.error)})"
            step = "Connect again." if over else "Check SPOTIFY_CLIENT_ID, and the app's redirect address."
            raise ProviderError(f"{said}.", next_step=step, kind="reauth" if over else "refused") from None
        except (httpx2.HTTPError, ValueError, TypeError, AttributeError) as problem:
            raise ProviderError(
                f"Spotify's login page gives no answer that can be used ({type(problem).__name__}).",
                next_step="Try again in some minutes.",
                again=True,
            ) from None  # what was sent and received holds tokens


def _reason(said: object) -> str:
    """An error code as RFC 6749, 5.2, has them; whatever else is said may hold anything."""
    return said if isinstance(said, str) and re.fullmatch("[a-z_]{1,40}", said) else "for no reason that is known"


def granted(token: dict[str, Any], began_us: int, refresh_token: str) -> Login:
    """What an answer grants; usually no refresh token comes with a refresh, and the old one goes on.

    Raises ValueError where it grants nothing that can be sent in a header.
    """
    said = token.get("access_token"), token.get("refresh_token") or refresh_token
    if not all(isinstance(one, str) and one.isascii() and one.isprintable() and one for one in said):
        raise ValueError("no token")  # and nothing of it is said
    seconds = min(max(int(token.get("expires_in") or _USUAL_SECONDS), 0), _MOST_SECONDS)
    return Login(str(said[0]), str(said[1]), began_us + seconds * 1_000_000)


def _code(answer: dict[str, list[str]] | None, state: str) -> str:
    """The authorization code of what the browser came back with."""
    if answer is None:
        raise ProviderError("Nobody consented in time.", next_step="Run it again, and answer in the browser.")
    if not secrets.compare_digest(answer.get("state", [""])[0].encode(), state.encode()):
        raise ProviderError(
            "Something else than the consent page called back (its state is wrong), so nothing was taken from it.",
            next_step="Run it again.",
        )
    if answer.get("error", [""])[0] == "access_denied":
        raise ProviderError("The consent was declined: nothing is connected.", next_step="Run it again to consent.")
    if "code" not in answer:
        raise ProviderError(f"Spotify sent no consent ({_reason(answer.get('error', [''])[0])}).")
    return answer["code"][0]


class _Loopback(ThreadingHTTPServer):
    """Takes the first call at /callback; beside the thread that opens the browser, for some wait until it is closed."""

    daemon_threads = True

    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        self.answers: SimpleQueue[dict[str, list[str]]] = SimpleQueue()

    @property
    def redirect_uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/callback"

    def wait(self, seconds: float) -> dict[str, list[str]] | None:
        """What the browser came back with; None if it did not."""
        try:
            return self.answers.get(timeout=seconds)
        except Empty:
            return None

    def handle_error(self, *_: object) -> None:
        """A browser that hangs up is no fault."""


class _Page(BaseHTTPRequestHandler):
    server: _Loopback
    timeout = 5

    def do_GET(self) -> None:
        """The browser comes back."""
        at = urlsplit(self.path)
        called = at.path == "/callback"
        if called:
            self.server.answers.put(parse_qs(at.query))
        body = b"You can close this page and go back to the program."
        self.send_response(200 if called else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the address holds the code."""


@contextmanager
def _loopback(port: int) -> Iterator[_Loopback]:
    try:
        server = _Loopback(("127.0.0.1", port), _Page)
    except OSError as problem:
        raise ProviderError(
            f"The port {port} on 127.0.0.1 is taken ({problem.strerror}).",
            next_step="End what uses it, or set another SPOTIFY_PORT.",
        ) from problem
    listener = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    listener.start()
    try:
        yield server
    finally:
        server.shutdown()
        listener.join()
        server.server_close()

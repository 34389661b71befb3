"""The live suite: Spotify itself, with the app, home and browser of whoever runs it.

`pytest -m spotify tests/test_real_spotify.py -v -s` opens the consent page for a user of its own, whom it deletes in
the end. Without an app it skips and says what is missing. With an override in the environment it checks the contract
only, in books of its own, and proves nothing about Spotify.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from podcastqa.clock import SystemClock
from podcastqa.errors import Misuse
from podcastqa.podcasts.fetch import Fetched, connect, fetch
from podcastqa.settings import Settings
from podcastqa.users import User
from podcastqa.wiring import Parts, build
from podcastqa.workbook.library_checks import rows_of, try_login
from tests.conftest import THEIRS

pytestmark = pytest.mark.spotify


@pytest.fixture(scope="module")
def live() -> Iterator[tuple[Parts, User]]:
    """The parts in use, and a user who has consented."""
    settings = Settings.load({"PATH": os.environ.get("PATH", ""), **THEIRS})
    if not settings.spotify_client_id:
        pytest.skip("SPOTIFY_CLIENT_ID is not set: register an app, see README, Your podcasts")
    parts = build(settings, clock=SystemClock())
    user = parts.users.add(f"live-{secrets.token_hex(4)}")
    try:
        connect(parts.spotify, user, print)
        yield parts, user
    finally:
        parts.users.delete(user.name)
        assert sum(rows_of(parts, user).values()) == 0
        parts.database.close()


class TestRealSpotify:
    """Everything that step 2 promises of Spotify."""

    def test_the_consent_is_of_one_account_and_lasts_half_a_year(self, live: tuple[Parts, User]) -> None:
        parts, user = live
        made = parts.connections.find(user)
        assert made.account
        assert 179 <= (made.ends_at - parts.clock.now()).days <= 180

    def test_tokens_are_sealed_and_of_one_user(self, live: tuple[Parts, User]) -> None:
        parts, user = live
        found = try_login(parts, f"live-{secrets.token_hex(4)}", parts.connections.login(user))
        assert [name for name, holds in found if not holds] == []

    def test_the_library_comes_in_once_and_each_request_is_counted(self, live: tuple[Parts, User]) -> None:
        parts, user = live
        before = parts.ledger.last_id()
        first: Fetched = fetch(parts.spotify, parts.catalog, user)
        assert fetch(parts.spotify, parts.catalog, user).new == 0
        asked = [one for one in parts.ledger.entries(after_id=before) if one.operation.service == "spotify"]
        assert len({one.hold_id for one in asked}) >= 2 * (2 + first.shows)

    def test_what_is_playing_can_be_asked(self, live: tuple[Parts, User]) -> None:
        parts, user = live
        assert parts.spotify.playing(user) is not None

    def test_a_refresh_gives_another_access_token(self, live: tuple[Parts, User]) -> None:
        parts, user = live
        before = parts.connections.login(user)
        after = parts.spotify.logins.refresh(before)
        parts.connections.refreshed(user, after)
        assert after.access_token != before.access_token
        assert after.refresh_token

    def test_disconnecting_leaves_nothing(self, live: tuple[Parts, User]) -> None:
        parts, user = live
        parts.connections.forget(user)
        parts.catalog.forget_source(user, "Spotify")
        with pytest.raises(Misuse, match="has not connected"):
            parts.connections.login(user)
        assert sum(rows_of(parts, user).values()) == 0

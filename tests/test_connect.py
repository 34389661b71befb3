"""A login is kept sealed for one user, and what goes wrong on the way to it is a sentence."""

from __future__ import annotations

import base64
import os
import socket
import stat
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from podcastqa.alerts.alert import Alert, compose
from podcastqa.clock import SystemClock, WindowKind
from podcastqa.database import SYSTEM
from podcastqa.errors import Misuse, ProviderError, SettingsError
from podcastqa.money import ZERO
from podcastqa.podcasts import lenient
from podcastqa.podcasts.catalog import Heard
from podcastqa.podcasts.connections import Connections, Login
from podcastqa.podcasts.consents import mail_ending
from podcastqa.podcasts.rate_gate import RateGate
from podcastqa.podcasts.spotify_login import granted
from podcastqa.podcasts.tables import connections
from podcastqa.podcasts.vault import Sealed, Vault, key_id, vault_of
from podcastqa.users import User
from podcastqa.wiring import Parts
from tests.conftest import SetClock
from tests.shell import Shell

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
SECRET = "AQDq-a-refresh-token-8Zk1"  # noqa: S105 – made up here
LOGIN = Login("BQ-an-access-token-5tGh", SECRET, 1)


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada")


# ── the vault ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.text(max_size=300), st.integers(1, 10**9))
def test_what_is_sealed_opens_for_its_user_and_provider_alone(secret: str, user_id: int) -> None:
    vault = Vault((NEW,))
    sealed = vault.seal(user_id, "Spotify", secret)
    assert vault.open(user_id, "Spotify", sealed) == secret
    for whose in ((user_id + 1, "Spotify"), (user_id, "Another")):
        with pytest.raises(ProviderError, match="does not open"):
            vault.open(*whose, sealed)
    assert vault.seal(user_id, "Spotify", secret) != sealed  # a nonce of its own each time


def test_a_sealed_login_is_aes_gcm_as_another_library_reads_it() -> None:
    sealed = Vault((NEW,)).seal(7, "Spotify", SECRET)
    raw = base64.b64decode(sealed.text)
    said = f"podcastqa|7|Spotify|{key_id(NEW)}".encode()
    assert AESGCM(NEW).decrypt(raw[:12], raw[12:], said).decode() == SECRET


def test_a_changed_byte_does_not_open() -> None:
    sealed = Vault((NEW,)).seal(7, "Spotify", SECRET)
    raw = bytearray(base64.b64decode(sealed.text))
    raw[-1] ^= 1
    with pytest.raises(ProviderError, match="does not open"):
        Vault((NEW,)).open(7, "Spotify", Sealed(sealed.key_id, base64.b64encode(raw).decode()))


def test_keys_change_and_what_the_old_one_sealed_still_opens() -> None:
    sealed = Vault((OLD,)).seal(7, "Spotify", SECRET)
    both = Vault((NEW, OLD))
    assert both.open(7, "Spotify", sealed) == SECRET
    assert both.seal(7, "Spotify", SECRET).key_id == key_id(NEW) != sealed.key_id
    with pytest.raises(ProviderError, match=f"The key {key_id(OLD)} .* is not there"):
        Vault((NEW,)).open(7, "Spotify", sealed)


def test_a_key_file_is_made_for_its_owner_alone_and_refused_when_others_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    made = vault_of("", file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert vault_of("", file).keys == made.keys
    file.chmod(0o640)
    with pytest.raises(SettingsError, match="Others may read the key file"):
        vault_of("", file)


def test_a_key_file_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.mkdir(mode=0o700)
    with pytest.raises(SettingsError, match="cannot be read"):
        vault_of("", file)
    file.rmdir()
    file.write_bytes(os.urandom(40) + b"\xff")
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="holds something that is no key"):
        vault_of("", file)


@pytest.mark.parametrize("said", ["short", "AAAA", "é" * 44, base64.b64encode(OLD).decode() + ",nothing"])
def test_what_is_no_key_is_refused_without_saying_it(tmp_path: Path, said: str) -> None:
    with pytest.raises(SettingsError, match="PODCASTQA_KEYS holds something that is no key") as refusal:
        vault_of(said, tmp_path / "key")
    assert said not in str(refusal.value)


def test_the_keys_of_the_setting_win_over_the_file(tmp_path: Path) -> None:
    said = ", ".join(base64.b64encode(key).decode() for key in (NEW, OLD))
    assert vault_of(said, tmp_path / "key").keys == (NEW, OLD)
    assert not (tmp_path / "key").exists()


# ── connections ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.both_databases
def test_a_login_moved_to_another_user_does_not_open(parts: Parts, ada: User) -> None:
    grace = parts.users.add("grace")
    parts.connections.keep(ada, "an account", LOGIN)
    with parts.database.write(SYSTEM) as connection:
        connection.execute(update(connections).values(user_id=grace.id))
    with pytest.raises(ProviderError, match="sealed for another user"):
        parts.connections.login(grace)
    with pytest.raises(Misuse, match="ada has not connected Spotify"):
        parts.connections.login(ada)


@pytest.mark.both_databases
def test_no_token_stands_in_the_database_or_in_what_is_shown(parts: Parts, ada: User) -> None:
    made = parts.connections.keep(ada, "an account", LOGIN)
    assert parts.connections.login(ada) == LOGIN
    with parts.database.read(SYSTEM) as connection:
        kept = str(connection.execute(select(connections)).all())
    for shown in (kept, str(made), repr(made), repr(LOGIN), repr(parts.connections)):
        assert not any(token in shown for token in (LOGIN.access_token, LOGIN.refresh_token))


@pytest.mark.both_databases
def test_another_account_needs_a_disconnect_first_and_the_same_one_only_a_new_consent(parts: Parts, ada: User) -> None:
    parts.connections.keep(ada, "one", LOGIN)
    with pytest.raises(Misuse, match="connected with another Spotify account"):
        parts.connections.keep(ada, "two", LOGIN)
    parts.connections.ended(ada)
    with pytest.raises(ProviderError, match="no longer takes ada's login"):
        parts.connections.login(ada)
    again = Login("new", "new", 2)
    parts.connections.keep(ada, "one", again)
    assert parts.connections.login(ada) == again
    parts.connections.forget(ada)
    assert parts.connections.keep(ada, "two", LOGIN).account == "two"


def test_the_end_of_a_consent_is_said_thirty_and_seven_days_before(parts: Parts, ada: User) -> None:
    made = parts.connections.keep(ada, "one", LOGIN)
    assert made.ends_at - made.consented_at == timedelta(days=180)

    def said(days_left: float) -> str:
        return made.warning(made.ends_at - timedelta(days=days_left))

    assert said(30.5) == ""
    assert said(29.5).startswith("Spotify asks for consent again in 29 days")
    assert said(6.5).startswith("In the last week: Spotify asks for consent again in 6 days")
    assert "connect spotify --user ada" in said(1)


@pytest.mark.both_databases
def test_the_end_of_a_consent_is_mailed_thirty_and_seven_days_before_each_once(parts: Parts, ada: User) -> None:
    made = parts.connections.keep(ada, "one", LOGIN)
    parts.connections.keep(parts.users.add("grace", "grace@example.org"), "two", LOGIN)
    for days_left in (31, 29.5, 20, 7.5, 6.5, 1, -3):
        now = made.ends_at - timedelta(days=days_left)
        mail_ending(parts.database, parts.users, parts.treasury.watch, now)
    sent = [(one.alert.scope, one.alert.threshold, one.recipient) for one in parts.outbox.sent()]
    operator = parts.settings.cost_alert_email or "operator@localhost"
    mine = [("ada", "consent 30", operator), ("ada", "consent 7", operator)]
    hers = [("grace", "consent 30", "grace@example.org"), ("grace", "consent 7", "grace@example.org")]
    assert sorted(sent) == sorted(mine + hers)


def test_a_mail_about_a_consent_says_until_when_and_how_and_nothing_of_money() -> None:
    alert = Alert("ada", 7, WindowKind.DAY, date(2027, 5, 22), "consent 30", ZERO, ZERO, "29 days are left")
    text = compose(alert, recipient="a@example.org", sender="b@example.org", at=datetime(2027, 4, 23, tzinfo=UTC))
    body = text.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert text["Subject"] == "podcastqa: a connected account asks for consent again within 30 days (ada)"
    assert "2027-05-22" in body
    assert "podcastqa connect spotify --user ada" in body
    assert "$" not in body


def test_a_refresh_seals_with_the_key_in_use(parts: Parts, ada: User) -> None:
    old = Connections(parts.database, Vault((OLD,)), SystemClock(), "Spotify")
    old.keep(ada, "one", LOGIN)
    both = Connections(parts.database, Vault((NEW, OLD)), SystemClock(), "Spotify")
    both.refreshed(ada, both.login(ada))
    assert Connections(parts.database, Vault((NEW,)), SystemClock(), "Spotify").login(ada) == LOGIN


@pytest.mark.both_databases
def test_deleting_a_user_leaves_no_login(parts: Parts, ada: User) -> None:
    parts.connections.keep(ada, "one", LOGIN)
    parts.users.delete("ada")
    with parts.database.read(SYSTEM) as connection:
        assert connection.execute(select(connections)).all() == []


# ── the gate ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("2", 2),
        ("79892", 79_892),  # seen in the wild
        ("Fri, 15 Mar 2024 10:00:30 GMT", 30),
        ("Fri, 15 Mar 2024 09:00:00 GMT", 0),
        ("", 30),
        ("soon", 30),
        ("-5", 30),
        ("9" * 5_000, 10 * 365 * 86_400),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", 30),
    ],
)
def test_the_gate_stays_closed_as_long_as_was_said_in_every_process(
    tmp_path: Path, clock: SetClock, said: str, seconds: int
) -> None:
    clock.instant = datetime(2024, 3, 15, 10, tzinfo=UTC)
    gate = RateGate("Spotify", tmp_path / "wait", clock)
    gate.check()
    problem = gate.close(said)
    assert problem.kind == "throttled"
    other = RateGate("Spotify", tmp_path / "wait", clock)  # as another process has it
    if seconds:
        clock.forward(seconds=seconds - 0.001)
        with pytest.raises(ProviderError, match="no requests before 20"):
            other.check()
        clock.forward(seconds=0.001)
    other.check()


def test_a_shorter_wait_that_is_told_later_does_not_open_the_gate(tmp_path: Path, clock: SetClock) -> None:
    gate = RateGate("Spotify", tmp_path / "wait", clock)
    gate.close("600")
    gate.close("1")
    clock.forward(seconds=599)
    with pytest.raises(ProviderError):
        gate.check()


def test_a_short_wait_is_waited_for_and_a_long_one_is_left_to_the_person(tmp_path: Path) -> None:
    said: list[str] = []
    gate = RateGate("Spotify", tmp_path / "wait", SystemClock())
    assert gate.wait(0, said.append)  # open
    gate.close("1")
    assert gate.wait(60, said.append)
    gate.check()
    gate.close("61")
    assert not gate.wait(60, said.append)
    assert [one.endswith("UTC: waiting") for one in said] == [True]


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Leaf(msgspec.Struct):
    """An object in another."""

    word: str = ""
    number: int = 0


class Branch(msgspec.Struct):
    """An object that may hold another."""

    word: str = ""
    leaf: Leaf | None = None


@pytest.mark.parametrize(
    ("said", "used"),
    [
        (b'{"word": "a", "leaf": {"word": "b", "number": 3}}', Branch("a", Leaf("b", 3))),
        (b'{"word": null, "leaf": {"word": "b", "number": "three", "other": [1]}}', Branch("", Leaf("b", 0))),
        (b'{"word": "a", "leaf": 5}', Branch("a", None)),
        (b'{"leaf": null}', Branch("", None)),
        (b"null", None),
        (b"[1]", None),
    ],
)
def test_of_what_is_said_everything_as_declared_is_used_and_the_rest_counts_as_not_said(
    said: bytes, used: Branch | None
) -> None:
    assert lenient.item(said, Branch) == used


@pytest.mark.parametrize("said", [b"{", b"", b"<html>", b'{"a":' * 200_000, b"[" * 100_000])
def test_what_is_no_json_is_unreadable_and_no_traceback(said: bytes) -> None:
    with pytest.raises(lenient.Unreadable):
        lenient.item(said, Branch)


@pytest.mark.both_databases
def test_a_position_that_grew_is_a_listen_and_one_that_did_not_is_none(parts: Parts, ada: User) -> None:
    def seen(at_us: int, *positions_ms: int) -> tuple[int, int]:
        rows = [
            Heard("A show", f"Episode {n}", f"u{n}", "2024", 60_000, position, at_us)
            for n, position in enumerate(positions_ms)
        ]
        return parts.catalog.add_episodes(ada, "Spotify", rows)

    assert seen(1_000, 0, 10, -1, 30) == (4, 0)
    assert seen(1_000, 0, 10, -1, 30) == (0, 0)
    assert seen(5_000, 0, 15, 9, 20) == (
        0,
        1,
    )  # the second grew by 5; the third was not told before; the last went back
    assert seen(9_000, 7, 15, 9, 20) == (0, 1)
    assert [one[:6] for one in parts.catalog.history(ada).listens] == [
        (1_000, 4_000, "A show", "Episode 1", "u1", 5),
        (5_000, 4_000, "A show", "Episode 0", "u0", 7),
    ]
    parts.catalog.forget_source(ada, "Spotify")
    assert parts.catalog.history(ada).listens == ()


@pytest.mark.both_databases
def test_the_shows_that_a_stopped_fetch_left_out_come_first_the_next_time(parts: Parts, ada: User) -> None:
    for show, at_us in (("B", 5), ("A", 7), ("B", 9)):
        parts.catalog.add_episodes(ada, "Spotify", [Heard(show, "One", f"{show}{at_us}", "", 1, 0, at_us)])
    parts.catalog.add_episodes(parts.users.add("grace"), "Spotify", [Heard("C", "One", "u", "", 1, 0, 1)])
    assert parts.catalog.fetched(ada, "Spotify") == {"A": 7, "B": 9}


@pytest.mark.parametrize("access", [None, "", 7, {"a": 1}, "line\nbreak", "Zwölf"])
def test_what_cannot_be_sent_in_a_header_is_no_token(access: object) -> None:
    assert granted({"access_token": "a", "expires_in": 60}, 5, "old") == Login("a", "old", 60_000_005)
    with pytest.raises(ValueError, match="no token"):
        granted({"access_token": access}, 5, "old")


# ── the browser ───────────────────────────────────────────────────────────────────────────────────────────────────────

# What the person does in the browser, as a program that the standard library's `webbrowser` starts.
_PERSON = """
import sys, urllib.error, urllib.parse, urllib.request
asked = urllib.parse.parse_qs(urllib.parse.urlsplit(sys.argv[1]).query)
assert asked["code_challenge_method"] == ["S256"] and asked["redirect_uri"][0].startswith("http://127.0.0.1:")
answer = {ANSWER}
if answer is not None:
    urllib.request.urlopen(asked["redirect_uri"][0] + "?" + urllib.parse.urlencode(answer)).read()
"""
_SHORT = """
import sys
from podcastqa.cli import main
from podcastqa.podcasts import spotify_login
spotify_login._CONSENT_SECONDS = 0.5
spotify_login.SpotifyLogin.consent.__defaults__ = (0.5,)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"error": "access_denied", "state": asked["state"][0]}', "The consent was declined: nothing is connected."),
        ('{"code": "x", "state": "guessed"}', "Something else than the consent page called back"),
        ('{"code": "x"}', "Something else than the consent page called back"),
        ('{"state": asked["state"][0]}', "Spotify sent no consent"),
        ("None", "Nobody consented in time."),
    ],
    ids=["cancelled", "wrong state", "no state", "no code", "too late"],
)
def test_what_comes_back_from_the_browser_without_a_consent_is_a_sentence(
    tmp_path: Path, answer: str, said: str
) -> None:
    shell, person = Shell(tmp_path), tmp_path / "person.py"
    person.write_text(_PERSON.replace("{ANSWER}", answer))
    shell("users", "add", "ada")
    browser = {"BROWSER": f"{sys.executable} {person} %s", "SPOTIFY_CLIENT_ID": "an-app"}
    done = shell("connect", "spotify", "--user", "ada", code=_SHORT, **browser)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_and_an_app_that_is_not_set_are_sentences(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    assert "SPOTIFY_CLIENT_ID is not set" in shell("connect", "spotify").stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shell("connect", "spotify", SPOTIFY_CLIENT_ID="an-app", SPOTIFY_PORT=str(port))
    assert (done.returncode, f"The port {port} on 127.0.0.1 is taken" in done.stderr) == (1, True)


def test_disconnecting_says_what_else_there_is_to_do_and_fetching_says_to_connect(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    said = shell("disconnect", "spotify").stdout
    assert "was not connected" in said
    assert "www.spotify.com/account/apps" in said
    done = shell("fetch", SPOTIFY_CLIENT_ID="an-app")
    assert (done.returncode, "has not connected Spotify" in done.stderr) == (2, True)

"""How AWS is asked, and what becomes of silence: real sockets that close, wait or answer something else.

What AWS itself answers is for tests/test_real_cost_tracking.py; no test here says what AWS would.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from podcastqa.aws import Aws
from tests.conftest import Process, settings_in

pytestmark = pytest.mark.step1
pytest.importorskip("boto3", reason="not in use: AWS (pip install 'podcastqa[aws]')")

ASK = """
from podcastqa.aws import Aws, asking
from podcastqa.bills.cost_explorer import request
aws = Aws("AKIAIOSFODNN7EXAMPLE", "not-a-secret", "", "us-east-1", overridden=len(sys.argv) > 2)
try:
    with asking("ce:GetCostAndUsage"):
        aws.client("ce", 1.0).get_cost_and_usage(**request(*[datetime(2024, 2, day).date() for day in (1, 2)]))
except ProviderError as problem:
    print(problem.kind, "in doubt" if problem.in_doubt else "nothing charged", problem.again, sep=", ")
    print(problem.message, problem.next_step)
"""
Ask = Callable[[str], list[str]]


@pytest.fixture
def ask(process: Callable[..., Process], tmp_path: Path) -> Ask:
    """Ask for costs at that address, in a process of its own; what it says of the answer."""

    def asked(address: str) -> list[str]:
        environ = {
            "AWS_ENDPOINT_URL": address,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        status, out, err = process(ASK, "overridden", **environ).ended()
        assert (status, err) == (0, "")
        return out.splitlines()

    return asked


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


def address_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_where_nobody_listens_nothing_was_charged(ask: Ask, listening: socket.socket) -> None:
    address = address_of(listening)
    listening.close()
    first, sentence = ask(address)
    assert first == "unreachable, nothing charged, True"
    assert sentence.startswith("AWS could not be reached for ce:GetCostAndUsage. Check the network")


def test_a_connection_that_is_dropped_leaves_the_call_in_doubt(ask: Ask, listening: socket.socket) -> None:
    def hang_up() -> None:
        connection, _ = listening.accept()
        connection.recv(100)
        connection.close()

    threading.Thread(target=hang_up, daemon=True).start()
    assert ask(address_of(listening))[0] == "no-answer, in doubt, True"


def test_a_peer_that_never_answers_leaves_the_call_in_doubt_when_the_time_is_up(
    ask: Ask, listening: socket.socket
) -> None:
    assert ask(address_of(listening))[0] == "no-answer, in doubt, True"  # it connects, and nobody accepts


def test_a_server_that_knows_no_such_call_is_a_fault_and_no_answer(ask: Ask) -> None:
    class Files(SimpleHTTPRequestHandler):  # a real file server: to it, POST is not implemented (501)
        def log_message(self, *_: object) -> None:
            """Say nothing on stderr."""

    with HTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        first, sentence = ask(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert first == "server, nothing charged, True"
    assert "AWS had a fault of its own (ce:GetCostAndUsage: " in sentence


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ("[default]\nendpoint_url = http://127.0.0.1:1\n", "endpoint"),
        ("[profile other]\nregion = eu-west-1\n", "credentials"),
    ],
)
def test_an_aws_configuration_file_cannot_lead_the_call_elsewhere(
    process: Callable[..., Process], tmp_path: Path, config: str, kind: str
) -> None:
    file = tmp_path / "config"
    file.write_text(config, encoding="utf-8")
    environ = {"AWS_CONFIG_FILE": str(file), "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    environ |= {"AWS_PROFILE": "missing"} if kind == "credentials" else {}
    status, out, err = process(ASK, **environ).ended()
    assert (status, err) == (0, "")
    assert out.startswith(f"{kind}, nothing charged, ")


def test_neither_the_secret_nor_the_token_is_in_what_it_prints_of_itself() -> None:
    aws = Aws("AKIAIOSFODNN7EXAMPLE", "a-secret-key", "a-token", "us-east-1")
    assert "a-secret-key" not in repr(aws)
    assert "a-token" not in repr(aws)


def test_credentials_pick_aws_and_a_word_in_the_settings_leaves_it_alone(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    from podcastqa.clock import SystemClock
    from podcastqa.errors import SettingsError
    from podcastqa.wiring import build

    def picked(**said: str) -> dict[str, str]:
        return build(settings_in(tmp_path, **said), clock=SystemClock()).components

    aws = picked(**keys, AWS_ACCOUNT_ID="210987654321", COST_ALERT_EMAIL="ada@example.org")
    assert aws["billing source"] == "AWS Cost Explorer (account 210987654321)"
    assert aws["mail"].startswith("Amazon SES")
    alone = picked(**keys, BILLING_SOURCE="local", MAILER="maildir")
    assert (alone["billing source"], alone["mail"]) == ("local meter", "Maildir")
    assert picked(**keys)["mail"] == "Maildir"  # nobody said who gets the mail
    assert picked(SMTP_HOST="mail.example.org", COST_ALERT_EMAIL="ada@example.org")["mail"].startswith("SMTP")
    with pytest.raises(SettingsError, match="AWS credentials not found or invalid"):
        picked(BILLING_SOURCE="aws")
    with pytest.raises(SettingsError, match="SMTP_HOST"):
        picked(MAILER="smtp", COST_ALERT_EMAIL="ada@example.org")

"""Mail by SMTP: a real server takes it once, over TLS or not at all, and what it left unanswered is in doubt."""

from __future__ import annotations

import mailbox
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import AuthResult, LoginPassword

from podcastqa.alerts.alert import compose, wire_bytes
from podcastqa.alerts.outbox import CLAIM, Delivery, Outbox
from podcastqa.alerts.smtp import SmtpMailer
from podcastqa.clock import SystemClock
from podcastqa.database import Database, open_database
from podcastqa.errors import ProviderError, SettingsError
from tests.conftest import Process, race
from tests.test_alerts import AT, HOSTILE, ClockAhead, an_alert, parsed, part

step1 = pytest.mark.step1
SENDER, TO = "alerts@example.com", "ada@example.org"
USER, PASSWORD = "robot", "pa55-w0rd+/="
pytestmark = [
    pytest.mark.filterwarnings("ignore:Session.login_data is deprecated:DeprecationWarning"),  # the server's own affair
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),  # meant: it is loopback
]


def a_message(name: str = "ada") -> EmailMessage:
    return compose(an_alert(scope=name, user_id=7, detail=name), recipient=TO, sender=SENDER, at=AT)


def knows_the_login(_server: object, _session: object, _envelope: object, _how: str, said: LoginPassword) -> AuthResult:
    right = (said.login, said.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=right, handled=False)  # not handled: the server says 535 itself


class Keeps(Mailbox):
    """aiosmtpd's own handler: each mail goes to a Maildir."""


class Greylists(Keeps):
    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:  # noqa: N802
        if not hasattr(self, "seen"):
            self.seen = True
            return "451 4.7.1 Greylisted, come back in a moment"
        envelope.rcpt_tos.append(address)
        return "250 OK"


class Refuses(Keeps):
    """Takes mail from nobody called mallory, and for nobody called nobody."""

    async def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:  # noqa: N802
        if address.startswith("mallory"):
            return f"553 5.7.1 Not yours to send from, and {PASSWORD} is no secret here"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:  # noqa: N802
        if address.startswith("nobody"):
            return "550 5.1.1 No such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"


class HangsUpAfterTaking(Keeps):
    """Keeps the mail and, the first time, breaks the connection before it can say so."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        said = await super().handle_DATA(server, session, envelope)
        if not hasattr(self, "done"):
            self.done = True
            server.transport.abort()
        return said


class Server:
    """A real mail server on loopback, and the Maildir that it keeps what it took in."""

    def __init__(self, folder: Path, handler: type[Keeps] = Keeps, **how: Any) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.controller = Controller(handler(folder), hostname="127.0.0.1", port=self.port, **how)

    def __enter__(self) -> Server:
        self.controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.controller.stop()

    def mailer(self, security: str = "none", *, user: str = "", password: str = "", **how: Any) -> SmtpMailer:
        return SmtpMailer("127.0.0.1", self.port, security, user, password, SENDER, **how)

    @property
    def mails(self) -> list[EmailMessage]:
        return [parsed(file) for file in (self.folder / "new").glob("*")]

    @property
    def ids(self) -> list[str]:
        return [str(mail["Message-ID"]) for mail in self.mails]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers; none outlives the test."""
    with ExitStack() as running:
        yield lambda *how, **more: running.enter_context(
            Server(tmp_path / f"mail-{len(list(tmp_path.iterdir()))}", *how, **more)
        )


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def shown(ca: trustme.CA) -> ssl.SSLContext:
    """What a server shows that this CA vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trust(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Outbox]:
    database = open_database(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield Outbox(database, SystemClock())
    database.close()


def problem_of(mailer: SmtpMailer, message: EmailMessage | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        mailer.send(message or a_message())
    assert caught.value.next_step
    assert PASSWORD not in str(caught.value)
    return caught.value


# ── what arrives ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["ada", "Ünï cödé 名前 🎧", ".\n..\r\n.", *HOSTILE])
def test_a_mail_arrives_as_it_was_written_whatever_stands_in_it(serve, name):
    server, message = serve(), a_message(name)
    receipt = server.mailer().send(message)
    (arrived,) = server.mails
    assert (arrived["X-MailFrom"], arrived["X-RcptTo"]) == (SENDER, TO)
    assert {key: arrived[key] for key in message if key != "Content-Type"} == {
        key: message[key] for key in message if key != "Content-Type"
    }
    assert part(arrived, "plain").rstrip() == part(message, "plain").rstrip()
    assert part(arrived, "html").rstrip() == part(message, "html").rstrip()
    assert (receipt.message_id, receipt.where) == (message["Message-ID"], f"127.0.0.1:{server.port}")


@pytest.mark.parametrize("name", ["ada", *HOSTILE])
def test_on_the_wire_a_mail_is_ascii_in_lines_that_every_server_takes(name):
    raw = wire_bytes(a_message(name))
    assert raw.isascii()
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert max(map(len, raw.split(b"\r\n"))) <= 998


def test_starttls_and_login_come_before_the_mail(serve, shown, trust):
    server = serve(tls_context=shown, require_starttls=True, authenticator=knows_the_login, auth_required=True)
    mailer = server.mailer("starttls", user=USER, password=PASSWORD, context=trust)
    assert mailer.send(a_message()).where == f"{USER}@127.0.0.1:{server.port}" == mailer.account
    assert len(server.mails) == 1


def test_tls_from_the_first_byte_takes_a_login_too(serve, shown, trust):
    # aiosmtpd counts only STARTTLS as TLS
    server = serve(ssl_context=shown, authenticator=knows_the_login, auth_required=True, auth_require_tls=False)
    server.mailer("ssl", user=USER, password=PASSWORD, context=trust).send(a_message())
    assert len(server.mails) == 1


def test_this_machine_may_be_logged_into_without_tls_and_each_of_its_addresses_is_tried(serve):
    server = serve(authenticator=knows_the_login, auth_required=True, auth_require_tls=False)
    SmtpMailer("localhost", server.port, "none", USER, PASSWORD, SENDER).send(a_message())
    assert len(server.mails) == 1


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_login_is_never_sent_over_the_network_in_plain_text():
    with pytest.raises(SettingsError, match="in plain text") as caught:
        SmtpMailer("mail.example.org", 587, "none", USER, PASSWORD, SENDER)
    assert "SMTP_SECURITY=starttls" in caught.value.next_step
    assert PASSWORD not in str(caught.value)
    SmtpMailer("mail.example.org", 25, "none", "", "", SENDER)
    SmtpMailer("::1", 25, "none", USER, PASSWORD, SENDER)


def test_a_password_that_cannot_be_sent_and_a_security_that_means_nothing_are_refused_at_once():
    with pytest.raises(SettingsError, match="ASCII") as caught:
        SmtpMailer("mail.example.org", 587, "starttls", USER, "pässwörd", SENDER)
    assert "pässwörd" not in str(caught.value)
    with pytest.raises(SettingsError, match="tls"):
        SmtpMailer("mail.example.org", 587, "tls", USER, PASSWORD, SENDER)


@pytest.mark.parametrize("security", ["starttls", "ssl"])
def test_a_certificate_that_nobody_vouches_for_ends_it_before_login_and_mail(serve, shown, security):
    how = {"starttls": {"tls_context": shown}, "ssl": {"ssl_context": shown}}[security]
    server = serve(authenticator=knows_the_login, **how)
    problem = problem_of(server.mailer(security, user=USER, password=PASSWORD))
    assert (problem.kind, problem.in_doubt, problem.again) == ("certificate", False, False)
    assert "unable to get local issuer certificate" in str(problem)
    assert server.mails == []


def test_a_certificate_for_another_name_is_not_enough(serve, ca, trust):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("mail.example.org").configure_cert(context)
    problem = problem_of(serve(ssl_context=context).mailer("ssl", context=trust))
    assert problem.kind == "certificate"
    assert "127.0.0.1" in str(problem)


def test_a_server_without_starttls_gets_nothing(serve, trust):
    server = serve()
    problem = problem_of(server.mailer("starttls", context=trust))
    assert problem.kind == "tls"
    assert "SMTP_SECURITY=ssl" in problem.next_step
    assert server.mails == []


def test_a_plain_server_spoken_to_in_tls_is_named_with_the_ports_that_go_together(serve, trust):
    problem = problem_of(serve().mailer("ssl", context=trust))
    assert problem.kind == "tls"
    assert "465" in problem.next_step


def test_a_wrong_password_is_a_sentence_that_does_not_hold_it(serve, shown, trust):
    server = serve(tls_context=shown, authenticator=knows_the_login, auth_required=True)
    for user, password in ((USER, "wrong"), ("stranger", PASSWORD)):
        problem = problem_of(server.mailer("starttls", user=user, password=password, context=trust))
        assert problem.kind == "login"
        assert re.search(r"did not accept the login \(535 ", str(problem))
        assert "wrong" not in str(problem)
    assert server.mails == []


def test_a_server_that_asks_for_a_login_and_one_that_has_none_say_so(serve, shown, trust):
    asks = serve(tls_context=shown, authenticator=knows_the_login, auth_required=True)
    problem = problem_of(asks.mailer("starttls", context=trust))
    assert (problem.kind, "asks for a login" in str(problem)) == ("login", True)
    problem = problem_of(serve().mailer("none", user=USER, password=PASSWORD))
    assert (problem.kind, "does not offer one" in str(problem)) == ("login", True)


def test_a_sender_and_a_recipient_that_the_server_refuses_are_named_and_its_words_are_redacted(serve):
    server = serve(Refuses, authenticator=knows_the_login, auth_require_tls=False)
    mallory = SmtpMailer("127.0.0.1", server.port, "none", USER, PASSWORD, "mallory@example.com")
    problem = problem_of(mallory)
    assert problem.kind == "sender"
    assert "takes no mail from mallory@example.com (553 5.7.1 Not yours" in str(problem)
    assert "[redacted] is no secret" in str(problem)
    nobody = compose(an_alert(), recipient="nobody@example.org", sender=SENDER, at=AT)
    problem = problem_of(server.mailer(), nobody)
    assert problem.kind == "recipient"
    assert "takes no mail for nobody@example.org (550 5.1.1 No such user)" in str(problem)
    assert server.mails == []


def test_a_mail_that_is_too_big_is_refused_before_it_is_sent(serve):
    problem = problem_of(serve(data_size_limit=1000).mailer())
    assert (problem.kind, problem.again) == ("size", False)


def test_a_server_that_is_not_there_and_a_name_that_is_none_are_told_apart():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    problem = problem_of(SmtpMailer("127.0.0.1", port, "none", "", "", SENDER))
    assert (problem.kind, problem.again, problem.in_doubt) == ("unreachable", True, False)
    assert "refused the connection" in str(problem)
    for name in ("mail.invalid", "mail..example.org"):  # RFC 6761: .invalid never resolves
        problem = problem_of(SmtpMailer(name, 587, "starttls", "", "", SENDER))
        assert problem.kind in ("host", "unreachable")  # the latter where the resolver itself does not answer
        assert not problem.in_doubt


# ── peers that misbehave ──────────────────────────────────────────────────────────────────────────────────────────────


class Peer:
    """Something that listens on loopback and is no proper mail server."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.mailer = SmtpMailer("127.0.0.1", self._listening.getsockname()[1], "none", "", "", SENDER)
        self._behave = behave
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        connected, _ = self._listening.accept()
        with connected:
            try:
                self._behave(connected)
            except OSError:
                return  # whoever called hung up, as asked

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self._thread.join(20)


def talks_until(last: bytes, then: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    """Says yes to everything up to the line `last`, and then does something else."""

    def behave(connected: socket.socket) -> None:
        connected.sendall(b"220 here\r\n")
        with connected.makefile("rb") as lines:
            in_message = False
            for line in lines:
                if line.strip().upper().startswith(last):
                    return then(connected)
                if line.strip() == b"DATA":
                    in_message = True
                    connected.sendall(b"354 go on\r\n")
                elif not in_message:
                    connected.sendall(b"250 yes\r\n")
        return None

    return behave


def hangs_up(_connected: socket.socket) -> None:
    """The connection ends with the call."""


def says_nothing(connected: socket.socket) -> None:
    connected.recv(1)  # until the other side hangs up


def dribbles(connected: socket.socket) -> None:
    while True:
        connected.sendall(b"2")
        time.sleep(0.2)


@pytest.mark.parametrize("last", [b"EHLO", b"MAIL", b"RCPT", b"DATA"])
def test_a_server_that_hangs_up_before_the_end_of_the_message_did_not_take_it(last):
    with Peer(talks_until(last, hangs_up)) as peer:
        problem = problem_of(peer.mailer)
    assert (problem.kind, problem.in_doubt, problem.again) == ("unreachable", False, True)
    assert "broke off before the mail was sent" in str(problem)


@pytest.mark.parametrize("then", [hangs_up, lambda connected: connected.sendall(b"what?\r\n")])
def test_a_server_that_hangs_up_or_babbles_after_the_final_dot_leaves_it_in_doubt(then):
    with Peer(talks_until(b".", then)) as peer:
        problem = problem_of(peer.mailer)
    assert (problem.kind, problem.in_doubt) == ("no-answer", True)
    assert "it may have gone" in str(problem)


def test_a_mail_that_was_taken_counts_even_if_the_server_hangs_up_then():
    def takes_it(connected: socket.socket) -> None:
        connected.sendall(b"250 taken\r\n")

    with Peer(talks_until(b".", takes_it)) as peer:
        assert peer.mailer.send(a_message()).message_id == a_message()["Message-ID"]


def test_something_that_speaks_no_smtp_is_told_from_a_mail_server():
    with Peer(lambda connected: connected.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")) as peer:
        problem = problem_of(peer.mailer)
    assert (problem.kind, problem.again) == ("protocol", False)


def test_whatever_a_server_does_the_call_ends_within_five_seconds():
    behaviours = {
        "unreachable": [says_nothing, dribbles, talks_until(b"EHLO", dribbles), talks_until(b"DATA", says_nothing)],
        "no-answer": [talks_until(b".", says_nothing), talks_until(b".", dribbles)],
    }

    def kind_and_seconds(behave: Callable[[socket.socket], None]) -> tuple[str, bool, float]:
        with Peer(behave) as peer:
            began = time.monotonic()
            problem = problem_of(peer.mailer)
            return problem.kind, problem.in_doubt, time.monotonic() - began

    asked = [(kind, behave) for kind, all_of_it in behaviours.items() for behave in all_of_it]
    with ThreadPoolExecutor(len(asked)) as threads:
        found = list(threads.map(kind_and_seconds, [behave for _, behave in asked]))
    assert [(kind, in_doubt) for kind, in_doubt, _ in found] == [(kind, kind == "no-answer") for kind, _ in asked]
    assert max(seconds for *_, seconds in found) < 5


# ── with the outbox ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_greylisted_alert_waits_and_goes_with_the_next_round(serve, box):
    server = serve(Greylists)
    box.raise_alert(an_alert())
    first = box.deliver(server.mailer())
    ((_, problem),) = first.failed
    assert "takes no mail just now (451 4.7.1 Greylisted" in problem
    second = box.deliver(server.mailer())
    assert len(second.sent) == len(server.mails) == 1
    assert "by SMTP" in str(second)


@step1
def test_a_mail_that_may_have_gone_is_not_sent_again_before_its_claim_has_run_out(serve, box, tmp_path):
    server = serve(HangsUpAfterTaking)
    box.raise_alert(an_alert())
    first = box.deliver(server.mailer())
    assert (first.sent, first.failed, len(first.in_doubt)) == ((), (), 1)
    assert "in doubt: The mail server" in str(first)
    assert box.deliver(server.mailer()) == Delivery()
    assert len(server.mails) == 1  # it had gone
    database = open_database(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    later = Outbox(database, ClockAhead(CLAIM + timedelta(seconds=1)))
    assert len(later.deliver(server.mailer()).sent) == 1
    assert len(server.ids) == 2
    assert len(set(server.ids)) == 1  # the same mail, as any mail program that looks at ids can tell
    database.close()


_CHILD = """
from datetime import timedelta
from podcastqa.alerts.outbox import Outbox
from podcastqa.alerts.smtp import SmtpMailer
from podcastqa.database import open_database
from tests.test_alerts import an_alert
box = Outbox(open_database(f"sqlite:///{home / 'podcastqa.sqlite'}"), SystemClock())
mailer = SmtpMailer("127.0.0.1", int(sys.argv[2]), "none", "", "", "alerts@example.com")
"""
_RACE = """
ready()
sent = 0
for percent in range(1, 16):
    box.raise_alert(an_alert(str(percent)))
    sent += len(box.deliver(mailer).sent)
print(sent)
"""
_DIES = """
def about_to_send(user_id):
    ready()
box.raise_alert(an_alert())
box.deliver(mailer, about_to_send)
"""


@pytest.fixture
def books(home: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{home / 'podcastqa.sqlite'}")
    yield database
    database.close()


@step1
def test_eight_processes_that_race_for_the_same_alerts_send_each_exactly_once(serve, books, process):
    server = serve()
    racers: list[Process] = [process(_CHILD + _RACE, str(server.port)) for _ in range(8)]
    said = [int(out) for out in race(racers)]
    assert Outbox(books, SystemClock()).deliver(server.mailer()).sent == ()
    assert sum(said) == len(server.ids) == len(set(server.ids)) == 15


@step1
def test_a_process_killed_between_claim_and_send_is_taken_over_once(serve, books, process):
    server = serve()
    victim: Process = process(_CHILD + _DIES, str(server.port))
    assert victim.said() == "ready"
    victim.kill()
    assert Outbox(books, SystemClock()).deliver(server.mailer()) == Delivery()
    later = Outbox(books, ClockAhead(CLAIM + timedelta(seconds=1)))
    assert len(later.deliver(server.mailer()).sent) == 1
    assert later.deliver(server.mailer()) == Delivery()
    assert len(server.mails) == 1


def test_the_maildir_of_the_server_is_one_that_any_mail_program_reads(serve):
    server = serve()
    server.mailer().send(a_message())
    with_messages = mailbox.Maildir(server.folder, create=False)
    assert [message["Subject"] for message in with_messages] == [a_message()["Subject"]]

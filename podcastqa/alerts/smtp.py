"""A mail has gone when the server has said so after its last line; what it left unanswered then is in doubt.

TLS is never given up silently, and a login goes over TLS or to this machine itself. The conversation is `smtp_session`.
"""

from __future__ import annotations

import ipaddress
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from email.message import EmailMessage

from podcastqa.alerts.alert import Receipt, recipients, wire_bytes
from podcastqa.alerts.smtp_session import Session, Unanswered
from podcastqa.display import one_line
from podcastqa.errors import ProviderError, SettingsError
from podcastqa.redaction import Redactor

_LATER = "The alert waits, and the next run sends it."
_PORTS = "Check SMTP_HOST, SMTP_PORT and SMTP_SECURITY: starttls goes with port 587, ssl with 465."
#: What stands in the way of a conversation → kind, what it means, what to do, may it pass; the first that fits.
_FAULTS: tuple[tuple[type[Exception], str, str, str, bool], ...] = (
    (socket.gaierror, "host", "was not found", "Check SMTP_HOST, and the network.", True),
    (ConnectionRefusedError, "unreachable", "refused the connection", f"See that it runs. {_PORTS}", True),
    (
        ssl.SSLCertVerificationError,
        "certificate",
        "showed a certificate that is not trusted ({said})",
        "Set SMTP_HOST to the name in its certificate, or have the server show one that this machine trusts.",
        False,
    ),
    (ssl.SSLError, "tls", "did not agree on TLS ({said})", _PORTS, False),
    (TimeoutError, "unreachable", "did not answer in time", f"Run it again later. {_PORTS}", True),
    (smtplib.SMTPServerDisconnected, "unreachable", "broke off before the mail was sent", _LATER, True),
    (smtplib.SMTPException, "protocol", "cannot be spoken to ({said})", _PORTS, False),
    (OSError, "unreachable", "could not be reached ({said})", f"Check the network. {_PORTS}", True),
    (ValueError, "protocol", "answered in a way that is not SMTP", _PORTS, False),
)
#: At which point the server said no → kind, what it refused, what to do.
_REFUSALS = {
    "greeting": ("refused", "does not want to talk", "Ask whoever runs it, or name another in SMTP_HOST."),
    "tls": ("tls", "does not start TLS", "Try SMTP_SECURITY=ssl with port 465, or ask whoever runs it."),
    "login": (
        "login",
        "did not accept the login",
        "Check SMTP_USER and SMTP_PASSWORD; many providers ask for an app password here.",
    ),
    "sender": ("sender", "takes no mail from {sender}", "Set COST_ALERT_SENDER to an address that may send there."),
    "recipient": (
        "recipient",
        "takes no mail for {recipient}",
        "Check COST_ALERT_EMAIL, and the address of the user whom the alert is about.",
    ),
    "message": ("refused", "did not take the message", "See what it said."),
}
#: Codes that mean the same whenever they come.
_BY_CODE = {
    -1: ("protocol", "answered in a way that is not SMTP", _PORTS),
    530: ("login", "asks for a login", "Set SMTP_USER and SMTP_PASSWORD."),
    552: ("size", "finds the mail too big, or the mailbox full", "Name another recipient, or another SMTP_HOST."),
}
_TRY_LATER = ("later", "takes no mail just now", _LATER)


class SmtpMailer:
    """Hands mails to the server at `host` and `port`; `security` is starttls, ssl or none, an empty `user` no login.

    Raises SettingsError for a login that would go over the network in plain text or cannot be sent. `context` says
    whom to trust; without one, whom this machine trusts.
    """

    name = "SMTP"

    def __init__(
        self,
        host: str,
        port: int,
        security: str,
        user: str,
        password: str,
        sender: str,
        *,
        context: ssl.SSLContext | None = None,
    ) -> None:
        if security not in ("starttls", "ssl", "none"):
            raise SettingsError(f"SMTP_SECURITY={security} means nothing.", next_step="Write starttls, ssl or none.")
        if user and security == "none" and not _is_loopback(host):
            raise SettingsError(
                f"With SMTP_SECURITY=none the login would go to {host} in plain text.",
                next_step="Set SMTP_SECURITY=starttls (port 587) or ssl (port 465).",
            )
        if not (user + password).isascii():
            raise SettingsError("SMTP_USER and SMTP_PASSWORD can hold ASCII only.", next_step="Change the password.")
        self._host, self._port, self._security = host, port, security
        self._user, self._password, self.sender = user, password, sender
        self._context = context
        self._redact = Redactor([password]).text

    @property
    def account(self) -> str:
        """The login and the server."""
        return f"{self._user}@{self._server}" if self._user else self._server

    def send(self, message: EmailMessage) -> Receipt:
        """Return when the server has taken the mail; raises ProviderError, in doubt where it may have taken it."""
        raw = wire_bytes(message)
        with self._explained(), closing(self._session()) as session:
            self._envelope(session, recipients(message), len(raw))
            self._expect("message", *session.hand_over(raw))
            with suppress(OSError):
                session.quit()
        return Receipt(str(message["Message-ID"]), self.account)

    @property
    def _server(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def _session(self) -> Session:
        """Connected, greeted, under TLS and logged in."""
        session = Session(self._host, self._port, self._trust() if self._security == "ssl" else None)
        try:
            session.ehlo_or_helo_if_needed()
            if self._security == "starttls":
                self._start_tls(session)
            if self._user:
                self._login(session)
        except BaseException:
            session.close()
            raise
        return session

    def _trust(self) -> ssl.SSLContext:
        return self._context or ssl.create_default_context()

    def _start_tls(self, session: Session) -> None:
        if not session.has_extn("starttls"):  # somebody in between may have taken it out: never go on without
            raise self._refusal("tls", 502, b"it does not offer STARTTLS")
        try:
            session.starttls(context=self._trust())
        except smtplib.SMTPResponseException as problem:
            raise self._refusal("tls", problem.smtp_code, problem.smtp_error) from problem
        session.ehlo_or_helo_if_needed()

    def _login(self, session: Session) -> None:
        if not session.has_extn("auth"):
            raise self._refusal("login", 502, b"it does not offer one")
        try:
            session.login(self._user, self._password)
        except smtplib.SMTPAuthenticationError as problem:
            raise self._refusal("login", problem.smtp_code, problem.smtp_error) from problem

    def _envelope(self, session: Session, to: list[str], size: int) -> None:
        """Sender, recipients, and leave to send the message."""
        options = [f"SIZE={size}"] if session.has_extn("size") else []
        self._expect("sender", *session.mail(self.sender, options))
        for recipient in to:
            self._expect("recipient", *session.rcpt(recipient), recipient=recipient)
        self._expect("message", *session.docmd("DATA"), wanted=(354,))

    def _expect(
        self, point: str, code: int, said: bytes, *, recipient: str = "", wanted: tuple[int, ...] = (250, 251, 252)
    ) -> None:
        if code not in wanted:
            raise self._refusal(point, code, said, recipient)

    def _refusal(self, point: str, code: int, said: bytes | str, recipient: str = "") -> ProviderError:
        later = 400 <= code < 500
        kind, what, step = _TRY_LATER if later else _BY_CODE.get(code, _REFUSALS[point])
        words = self._quoted(f"{code} {said.decode('utf-8', 'replace') if isinstance(said, bytes) else said}")
        what = what.format(sender=self.sender, recipient=recipient)
        return ProviderError(
            f"The mail server {self._server} {what} ({words}).", next_step=step, kind=kind, again=later
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong on the way comes out as a sentence with the next step."""
        try:
            yield
        except smtplib.SMTPResponseException as problem:
            raise self._refusal("greeting", problem.smtp_code, problem.smtp_error) from problem
        except (OSError, ValueError) as problem:
            raise self._fault(problem) from problem

    def _fault(self, problem: OSError | ValueError) -> ProviderError:
        if isinstance(problem, Unanswered):
            return ProviderError(
                f"The mail server {self._server} did not say whether it took the mail; it may have gone.",
                next_step="It is sent again in a minute at the earliest, under the same Message-ID.",
                kind="no-answer",
                in_doubt=True,
            )
        # smtplib tells of every broken wait as of a server that hung up; what broke it stands behind.
        cause = problem.__context__ if isinstance(problem, smtplib.SMTPServerDisconnected) else None
        fault = cause if isinstance(cause, TimeoutError | ssl.SSLError) else problem
        _, kind, what, step, again = next(row for row in _FAULTS if isinstance(fault, row[0]))
        words = what.format(said=self._quoted(str(getattr(fault, "verify_message", "") or fault)))
        return ProviderError(f"The mail server {self._server} {words}.", next_step=step, kind=kind, again=again)

    def _quoted(self, text: str) -> str:
        return self._redact(one_line(text)).rstrip(".")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

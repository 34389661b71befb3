"""An alert says who, which window, how much of how much and what to do; nothing in it can become a header or markup.

Pure: from facts to an e-mail message. Whoever keeps alerts (`outbox`) and whoever carries them (`maildir`, `smtp`,
`ses`) meet here.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.message import EmailMessage
from email.policy import default
from email.utils import format_datetime
from html import escape
from typing import Protocol

from podcastqa.clock import Window, WindowKind, microseconds, utc, window
from podcastqa.display import one_line
from podcastqa.errors import MailError
from podcastqa.money import Usd

#: Whose alerts stand for the whole system, and what their scope is called.
SYSTEM_ID, SYSTEM_SCOPE = 0, "system"
#: Who gets the mail where nobody has said.
NOBODY_NAMED = "operator@localhost"
#: RFC 5322's limits for a line. Folding at the soft one would put a plain subject on the line after "Subject:", where
#: readers see a blank before it; encoded words need it.
_HARD, _SOFT = 998, 78
_STATUS = ("See where every budget stands", "podcastqa status")
_WHO = ("See who spent it", "podcastqa spend --by user")
_VARIANCE = ("See estimate against actual cost", "podcastqa spend --variance")
_LIMIT = ("Give this window more room", "podcastqa budget set {kind} AMOUNT{whose} --reason WHY")
_STOP = ("Refuse every operation from now on", "podcastqa budget stop --reason WHY")
_CONSENT = ("Consent again, any day until then", "podcastqa connect spotify{whose}")
_RELEASE = ("Let operations run again", "podcastqa budget release --reason WHY")
#: What happened → headline, what it means, what to do. `percent` stands for every threshold that is a number.
_WORDS: dict[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "percent": (
        "{threshold} % of the {adjective} budget is spent",
        "Operations go on until the limit is reached; then they are refused before they run.",
        (_STATUS, _WHO, _LIMIT, _STOP),
    ),
    "refused": (
        "an operation was refused by the {adjective} budget",
        "It did not run and cost nothing. Others that would exceed the limit are refused too, without another mail.",
        (_STATUS, _WHO, _LIMIT),
    ),
    "overrun": (
        "an operation cost more than was set aside for it",
        "All of it is booked. The {adjective} budget has that much less room.",
        (_VARIANCE, _STATUS, _STOP),
    ),
    "stop": (
        "the emergency stop is on",
        "Every operation is refused, in every process, until somebody releases the stop.",
        (_STATUS, _RELEASE),
    ),
    "consent": (
        "a connected account asks for consent again within {days} days",
        "After that day nothing is fetched for the user until there is a new consent. What was fetched stays.",
        (_CONSENT,),
    ),
}


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person must hear of, once for each scope (system, user or service), window and threshold.

    `threshold` is a percentage ("80") or an event: "refused", "overrun", "stop", "consent". An event that deserves a
    mail each time carries a number: "stop 7"; "consent 30" is thirty days before the window. An alert about a
    `service` is the whole system's.
    """

    scope: str
    user_id: int
    kind: WindowKind
    window_start: date
    threshold: str
    spent: Usd
    limit: Usd
    detail: str = ""
    service: str = ""

    def __post_init__(self) -> None:
        percent = self.threshold.isdecimal() and 1 <= int(self.threshold) <= 100
        if not percent and not re.fullmatch(r"(refused|overrun|stop|consent)( \d+)?", self.threshold):
            raise ValueError(
                f"{self.threshold!r} is neither a percentage from 1 to 100 nor refused, overrun, stop, consent"
            )
        if self.window.start != self.window_start:
            raise ValueError(f"no {self.kind} begins on {self.window_start}")

    @property
    def key(self) -> tuple[int, str, str, date, str]:
        """What makes it the same alert, whoever raises it."""
        return self.user_id, self.service, self.kind.value, self.window_start, self.threshold

    @property
    def window(self) -> Window:
        """The window it speaks of."""
        start = self.window_start
        return window(self.kind, datetime(start.year, start.month, start.day, tzinfo=UTC))

    @property
    def headline(self) -> str:
        """What happened, in half a sentence."""
        days = self.threshold.split()[-1]
        return _WORDS[self._event][0].format(threshold=self.threshold, adjective=self.kind.adjective, days=days)

    @property
    def meaning(self) -> str:
        """What follows from it, in a sentence or two."""
        return _WORDS[self._event][1].format(adjective=self.kind.adjective)

    @property
    def whose(self) -> str:
        """The user's name, the service's, or the whole system, on one line."""
        if self.service:
            return f"the service {one_line(self.service)}"
        return "the whole system" if self.user_id == SYSTEM_ID else one_line(self.scope)

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Who, which window, how much of how much; money where it is about money."""
        if self._event == "consent":
            return ("Who", self.whose), ("Ends", f"{self.window_start}"), ("Detail", one_line(self.detail))
        share = f" ({100 * self.spent.pico // self.limit.pico} %)" if self.limit.pico > 0 else ""
        stretch = self.window
        rows = (
            ("Who", self.whose),
            ("Window", str(stretch)),
            ("From", f"{stretch.start} 00:00 UTC"),
            ("Until", f"{stretch.end} 00:00 UTC, then the {self.kind} begins anew"),
            ("Spent", f"{self.spent.shown()} of {self.limit.shown()}{share}"),
            ("Detail", one_line(self.detail)),
        )
        return tuple((name, value) for name, value in rows if value)

    def steps(self) -> tuple[tuple[str, str], ...]:
        """What to do, each with its command."""
        steps = _WORDS[self._event][2]
        return tuple((what, command.format(kind=self.kind, whose=self._option)) for what, command in steps)

    @property
    def _option(self) -> str:
        """How a command is told whose limit it is."""
        if self.service:
            return f" --service {shlex.quote(one_line(self.service))}"
        return "" if self.user_id == SYSTEM_ID else f" --user {shlex.quote(one_line(self.scope))}"

    @property
    def _event(self) -> str:
        return "percent" if self.threshold.isdecimal() else self.threshold.split()[0]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the carrier said when it took the mail: its id there, and where it went."""

    message_id: str
    where: str


class Mailer(Protocol):
    """Carries a mail; it may be handed the same Message-ID twice.

    It raises MailError or ProviderError where it cannot (`in_doubt`: it may have gone all the same), and Refused where
    a mail costs money and the budget has no room for it.
    """

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def account(self) -> str:
        """The mailbox, server or account it delivers through."""

    @property
    def sender(self) -> str:
        """The address the mails come from."""

    def send(self, message: EmailMessage) -> Receipt:
        """Deliver, and return only when the mail is safe with the carrier."""


def due(spent: Usd, limit: Usd, thresholds: tuple[int, ...]) -> tuple[int, ...]:
    """The thresholds, in percent, that this spend has reached; exact, and none while nothing is spent."""
    if spent.pico <= 0:
        return ()
    return tuple(percent for percent in thresholds if spent.pico * 100 >= limit.pico * percent)


def compose(alert: Alert, *, recipient: str, sender: str, at: datetime, drill: bool = False) -> EmailMessage:
    """The mail, with a plain and an HTML part; raises MailError where an address cannot be one.

    `at` is when the alert was raised: with the alert's key it makes the Message-ID, so that the mail composed again
    after a crash is the same mail, while the same alert in another ledger is another.
    """
    subject = _header(f"{'[drill] ' if drill else ''}podcastqa: {alert.headline} ({alert.whose})")
    message = EmailMessage(policy=default.clone(max_line_length=_HARD if subject.isascii() else _SOFT))
    message["Subject"] = subject
    message["From"] = f"podcastqa <{_address(sender)}>"
    message["To"] = _address(recipient)
    message["Date"] = format_datetime(utc(at))
    message["Message-ID"] = f"<{_digest(alert, at)}@podcastqa.localhost>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday reply, please
    message.set_content(_text(alert, drill))
    message.add_alternative(_html(alert, drill), subtype="html")
    return message


def wire_bytes(message: EmailMessage) -> bytes:
    """The mail as a server takes it: lines end in CRLF, and all of it is ASCII, so that any server may pass it on."""
    return message.as_bytes(policy=message.policy.clone(cte_type="7bit", linesep="\r\n"))


def recipients(message: EmailMessage) -> list[str]:
    """The bare addresses that it goes to."""
    return [address.addr_spec for address in message["To"].addresses]


def _header(text: str) -> str:
    # "=?…?=" would be decoded as an encoded word, and could bring back what one_line took out.
    return one_line(text).replace("=?", "= ?")


def _address(text: str) -> str:
    if not re.fullmatch(r"[!#-'*+./0-9=?A-Z^-~-]{1,64}@[A-Za-z0-9.-]{1,255}", text) or "=?" in text:
        raise MailError(
            f"{one_line(text)!r} is not an e-mail address that mail can be sent to.",
            next_step="Write it as name@example.org; a name with other letters after the @ in its xn-- form.",
        )
    return text


def _digest(alert: Alert, at: datetime) -> str:
    service = [alert.service] if alert.service else []
    key = "|".join(
        map(str, (alert.user_id, alert.kind.value, alert.window_start, alert.threshold, microseconds(at), *service))
    )
    return hashlib.sha256(key.encode()).hexdigest()[:32]


_DRILL = "This is a drill: a validation run made this alert to see it arrive. Nothing needs to be done."


def _text(alert: Alert, drill: bool) -> str:
    facts = [f"{name + ':':<8} {value}" for name, value in alert.facts()]
    steps = [line for what, command in alert.steps() for line in (f"{what}:", f"    {command}", "")]
    opening = f"{alert.headline[0].upper()}{alert.headline[1:]} ({alert.whose})."
    drilled = [_DRILL, ""] if drill else []
    return "\n".join([*drilled, opening, "", *facts, "", alert.meaning, "", "What you can do", "", *steps])


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>{title}</title></head>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 1.5em auto; padding: 0 1em">
{drill}<h1 style="font-size: 1.3em">{title}</h1>
<table style="border-collapse: collapse">{facts}</table>
<p>{meaning}</p>
<h2 style="font-size: 1.1em">What you can do</h2>
<ul>{steps}</ul>
</body></html>
"""
_FACT = '<tr><th scope="row" style="text-align: left; padding: .2em 1.5em .2em 0">{}</th><td>{}</td></tr>'


def _html(alert: Alert, drill: bool) -> str:
    facts = "\n".join(_FACT.format(escape(name), escape(value)) for name, value in alert.facts())
    steps = "\n".join(f"<li>{escape(what)}:<br><code>{escape(command)}</code></li>" for what, command in alert.steps())
    return _PAGE.format(
        title=escape(f"{alert.headline[0].upper()}{alert.headline[1:]} ({alert.whose})"),
        drill=f"<p><strong>{escape(_DRILL)}</strong></p>\n" if drill else "",
        facts=facts,
        meaning=escape(alert.meaning),
        steps=steps,
    )

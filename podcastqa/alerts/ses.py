"""A mail by Amazon SES is a paid call under the guard, sent only while SES's own quota and rate leave room for it.

The guard is asked first, so that what it refuses never reaches the network; then SES's quota (free), then the mail.
SES has no key that would make a mail sent twice one mail: what is left without an answer is not tried again here.
API: https://docs.aws.amazon.com/ses/latest/APIReference/API_SendRawEmail.html and API_GetSendQuota.html
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage

from podcastqa.alerts.alert import Receipt, recipients, wire_bytes
from podcastqa.aws import FAQ, Aws, asking
from podcastqa.errors import PodcastQAError, ProviderError
from podcastqa.spend.entries import Operation
from podcastqa.spend.paid import Payer
from podcastqa.spend.prices import Price

SERVICE, OPERATION, SOURCE = "aws-ses", "SendRawEmail", "aws"
#: How long a quota that was read is good for.
_QUOTA_SECONDS = 60.0
#: SES answers GetSendQuota once a second.
_QUOTA_RATE = 1.0
#: With less time left than this nothing is sent: it could only end in doubt.
_LEAST_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Quota:
    """What SES lets an account send: recipients in 24 hours (-1: no end), mails a second; and what was sent."""

    a_day: float
    a_second: float
    sent: float

    @classmethod
    def told(cls, answer: Mapping[str, float]) -> Quota:
        """From GetSendQuota's answer."""
        return cls(answer["Max24HourSend"], answer["MaxSendRate"], answer["SentLast24Hours"])

    @property
    def in_sandbox(self) -> bool:
        """Whether mail goes to and from verified addresses only: SES does not say so, its smallest quota does."""
        return self.a_day == 200 and self.a_second == 1

    def has_room(self, recipients: int, since: int) -> bool:
        """Whether so many more may be sent, after `since` were sent since the quota was read."""
        return self.a_second > 0 and (self.a_day < 0 or self.sent + since + recipients <= self.a_day)


def turn(now: float, free_at: float, a_second: float) -> tuple[float, float]:
    """Seconds to wait for one's turn, and when the next one is free, at so many turns a second."""
    starts = max(now, free_at)
    return starts - now, starts + 1 / a_second


class SesMailer:
    """Hands mails to Amazon SES in the region of `aws`; each is paid by `payer_id()`'s user at `price` a recipient."""

    name = "Amazon SES"

    def __init__(self, aws: Aws, payer: Payer, price: Price, payer_id: Callable[[], int], sender: str) -> None:
        self._aws, self._payer, self._price, self._payer_id, self.sender = aws, payer, price, payer_id, sender
        self._lock = threading.Lock()
        self._quota: Quota | None = None
        self._quota_until = self._quota_free_at = self._mail_free_at = 0.0
        self._sent_since = 0

    @property
    def account(self) -> str:
        """The service and its region, and whether that is a sandbox, once it is known."""
        return f"{self.name} {self._aws.region}{' (sandbox)' if self.in_sandbox else ''}"

    @property
    def in_sandbox(self) -> bool | None:
        """Whether the account may write to verified addresses only; None before the quota was read."""
        return None if self._quota is None else self._quota.in_sandbox

    def send(self, message: EmailMessage) -> Receipt:
        """Pay for the mail and send it; raises Refused (nothing left this machine) or ProviderError."""
        raw, to, told = wire_bytes(message), recipients(message), list[str]()
        what = Operation(self._payer_id(), SERVICE, OPERATION, SOURCE, self._price.id)

        def attempt(seconds: float) -> None:
            end = time.monotonic() + seconds
            self._await_turn(len(to), end)
            told.append(self._hand_over(raw, to, end))

        try:
            self._payer.pay(what, self._price.cost(len(to)), attempt, after_doubt=False)
        except PodcastQAError:
            if not told:
                raise
            # It has gone, and only settling failed: the hold stands at its estimate, which is what it cost. Raising
            # would have it sent again.
        return Receipt(told[0], self.account)

    def _hand_over(self, raw: bytes, to: list[str], end: float) -> str:
        client = self._aws.client("ses", _left(end))
        with asking("ses:SendRawEmail"):
            answer = client.send_raw_email(Source=self.sender, Destinations=to, RawMessage={"Data": raw})
        return str(answer["MessageId"])

    def _await_turn(self, count: int, end: float) -> None:
        """Wait until SES's quota and rate let this mail go; raises ProviderError where they do not in time."""
        with self._lock:
            quota = self._fresh_quota(end)
            if not quota.has_room(count, self._sent_since):
                raise ProviderError(
                    f"{self.account} lets this account send {quota.a_day:.0f} mails in 24 hours, and they are used up.",
                    next_step=f"Wait, or ask for a higher sending quota in the SES console. {FAQ}.",
                    kind="quota",
                )
            wait, free_at = turn(time.monotonic(), self._mail_free_at, quota.a_second)
            _left(end - wait)
            self._mail_free_at = free_at
            self._sent_since += count  # refused ones too: until the quota is read anew we rather send less
        time.sleep(wait)

    def _fresh_quota(self, end: float) -> Quota:
        if self._quota is None or time.monotonic() >= self._quota_until:
            wait, self._quota_free_at = turn(time.monotonic(), self._quota_free_at, _QUOTA_RATE)
            _left(end - wait)
            time.sleep(wait)
            self._quota, self._sent_since = self._ask_quota(_left(end) / 2), 0
            self._quota_until = time.monotonic() + _QUOTA_SECONDS
        return self._quota

    def _ask_quota(self, seconds: float) -> Quota:
        client = self._aws.client("ses", seconds)
        try:
            with asking("ses:GetSendQuota"):
                return Quota.told(client.get_send_quota())
        except ProviderError as problem:
            if not problem.in_doubt:
                raise
            raise ProviderError(  # asking is free, and the mail was not sent yet: nothing is in doubt
                "Amazon SES did not answer when it was asked for the sending quota, so no mail was sent.",
                next_step=f"The alert waits, and the next run sends it. {FAQ}.",
                kind="no-answer",
                again=True,
            ) from problem


def _left(end: float) -> float:
    """Seconds until then; raises ProviderError where they are too few to send anything."""
    left = end - time.monotonic()
    if left < _LEAST_SECONDS:
        raise ProviderError(
            "Amazon SES could not be given the mail in time, so it was not sent.",
            next_step="The alert waits, and the next run sends it.",
            kind="late",
        )
    return left

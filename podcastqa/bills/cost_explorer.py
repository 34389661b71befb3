"""One paid request answers day, week, month, per user, gross and net: daily costs by user tag and record type.

From the first of the month or Monday, whichever is earlier, to tomorrow (UTC). The answer is kept until it is too old;
where a new one cannot be had the last one stands, marked stale. Each page and each attempt is paid for under the guard.
API: https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_GetCostAndUsage.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from podcastqa.aws import Aws, asking
from podcastqa.bills.bill import BadRow, Bill, BillLine, Provenance, exact_usd
from podcastqa.bills.reads import BillReads, Failure, PaidAnswer, Question
from podcastqa.clock import Clock, WindowKind, window
from podcastqa.errors import BadEstimate, BillError, PodcastQAError, ProviderError, Refused
from podcastqa.money import Usd
from podcastqa.spend.entries import Operation
from podcastqa.spend.paid import Payer
from podcastqa.spend.prices import Price

SOURCE = "aws"
SERVICE, OPERATION = "aws-cost-explorer", "GetCostAndUsage"
#: What the bill counts in; the others come in the same answer at no extra price and are kept with it.
METRIC = "UnblendedCost"
_METRICS = [METRIC, "NetUnblendedCost", "AmortizedCost"]
#: A day's figures are whole when the next day has ended too: providers deliver for about a day after.
_LATE_DAYS = 2
#: AWS, or the settings, said no: to try again changes nothing.
_REFUSALS = ("credentials", "permission", "not-enabled", "account", "endpoint", "not-installed")
#: After a failure: not again for so long in this process; in any, where the failure may have cost money.
_PAUSE_SECONDS = 600.0
_PAUSE_PAID = timedelta(minutes=15)
_PAUSE_TOO_DEAR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Terms:
    """Whose bill is read, how old an answer may be, and the most that one may cost."""

    account: str
    user_tag: str
    older_than: timedelta
    most: Usd


def budget_days(today: date) -> tuple[date, date]:
    """The days that the three windows of today touch, up to tomorrow (not in it)."""
    noon = datetime(today.year, today.month, today.day, 12, tzinfo=UTC)
    return min(window(kind, noon).start for kind in WindowKind), today + timedelta(days=1)


def request(first: date, end: date, *groups: tuple[str, str]) -> dict[str, Any]:
    """What is asked: daily costs from `first` (in it) to `end` (not in it), by at most two (type, key) groups."""
    return {
        "TimePeriod": {"Start": first.isoformat(), "End": end.isoformat()},
        "Granularity": "DAILY",
        "Metrics": _METRICS,
        "GroupBy": [{"Type": kind, "Key": key} for kind, key in groups],
    }


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer says: charges, rows that cannot be read, and the days that are not final."""

    lines: tuple[BillLine, ...]
    bad_rows: tuple[BadRow, ...]
    estimated: frozenset[date]


def parse(pages: Iterable[str], groups: Sequence[dict[str, str]]) -> Told:
    """The charges of an answer: groups are summed by whoever asks, a day is filed under its Start.

    Numbers are read as the text they were written in, so that no amount ever was a float.
    """
    lines: list[BillLine] = []
    bad: list[BadRow] = []
    estimated: set[date] = set()
    for number, page in enumerate(pages, start=1):
        for result in json.loads(page, parse_float=str, parse_int=str).get("ResultsByTime", ()):
            day = date.fromisoformat(result["TimePeriod"]["Start"][:10])
            if result.get("Estimated"):
                estimated.add(day)
            for group in result.get("Groups") or ():
                try:
                    lines.append(_line(day, group, groups))
                except (BadEstimate, KeyError, ValueError) as problem:
                    bad.append(
                        BadRow(f"page {number}, {day}, {' '.join(map(str, group.get('Keys', ())))}", str(problem))
                    )
    return Told(tuple(lines), tuple(bad), frozenset(estimated))


def _line(day: date, group: dict[str, Any], groups: Sequence[dict[str, str]]) -> BillLine:
    found = {"TAG": "", "RECORD_TYPE": "Usage", "SERVICE": ""}
    for asked, key in zip(groups, group["Keys"], strict=True):
        if asked["Type"] == "TAG":
            found["TAG"] = str(key).removeprefix(f"{asked['Key']}$")
        else:
            found[asked["Key"]] = str(key)
    metric = group["Metrics"][METRIC]
    if metric.get("Unit", "USD") != "USD":
        raise ValueError(f"the currency is {metric['Unit']}, not USD")
    return BillLine(day, found["TAG"], "", found["SERVICE"], found["RECORD_TYPE"], exact_usd(str(metric["Amount"])))


class CostExplorerBill:
    """The account's bill as Cost Explorer tells it."""

    name = SOURCE
    component = "AWS Cost Explorer"

    def __init__(
        self,
        aws: Aws,
        payer: Payer,
        price: Price,
        payer_id: Callable[[], int],
        reads: BillReads,
        clock: Clock,
        terms: Terms,
    ) -> None:
        self._aws, self._payer, self._price, self._payer_id = aws, payer, price, payer_id
        self._reads, self._clock, self.terms = reads, clock, terms
        self._quiet_until = 0.0
        self._problem = ""
        self.refused = ""
        """The kind of refusal that ended the newest attempt of this process; empty: none, or nobody answered."""
        self._parsed: tuple[int, Bill] | None = None

    @property
    def account(self) -> str:
        """The account as the settings name it."""
        return f"account {self.terms.account}" if self.terms.account else "the account of the credentials"

    def changed_since(self, read_at: datetime | None) -> bool:
        """Whether a new answer is due, or one came since."""
        if self._may_ask() and self._reads.is_due(self._question(), self.terms.older_than):
            return True
        newest = self._reads.newest_at(self._question())
        return newest is not None and (read_at is None or newest > read_at)

    def read(self) -> Bill:
        """The newest answer, asked for first where it is due; where that fails, the last one, marked stale."""
        if self._may_ask():
            first, end = budget_days(self._clock.now().date())
            groups = (("TAG", self.terms.user_tag), ("DIMENSION", "RECORD_TYPE"))
            self._problem = self._refresh(self._question(), request(first, end, *groups))
        return self._bill(self._question(), self._problem)

    def read_days(self, first: date, end: date, *, by_service: bool = False) -> Bill:
        """Other days, or by service: a question of its own, which costs a request of its own; raises BillError."""
        second = "SERVICE" if by_service else "RECORD_TYPE"
        group = ("DIMENSION", "RECORD_TYPE") if by_service else ("TAG", self.terms.user_tag)
        question = Question(f"{SOURCE} {first} {end} {second} {self.terms.user_tag}", self._cache_key)
        problem = self._refresh(question, request(first, end, group, ("DIMENSION", second)))
        if self._reads.newest(question) is None:
            busy = "Another process is asking Cost Explorer just now. Run it again soon."
            raise BillError(problem or busy)
        return self._bill(question, problem)

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _cache_key(self) -> str:
        return self.terms.account or f"of key {self._aws.key_digest}"

    def _question(self) -> Question:
        return Question(f"{SOURCE} by {self.terms.user_tag}", self._cache_key)

    def _may_ask(self) -> bool:
        return time.monotonic() >= self._quiet_until

    def _refresh(self, question: Question, asked: dict[str, Any]) -> str:
        """Ask if it is due; returns why there is no new answer, or nothing."""
        reading = self._reads.claim(question, asked, self.terms.older_than)
        if reading is None:
            failure = self._reads.failure(question)
            return _told(failure) if failure else ""
        spent = _Spent()
        try:
            self._check_account()
            pages = self._all_pages(asked, spent)
        except PodcastQAError as problem:
            self.refused = problem.kind if isinstance(problem, ProviderError) and problem.kind in _REFUSALS else ""
            self._quiet_until = time.monotonic() + _PAUSE_SECONDS
            wait = _PAUSE_TOO_DEAR if spent.too_dear else _PAUSE_PAID if spent.requests else timedelta(0)
            said = self._payer.redact(f"{problem.message} {problem.next_step}".strip())
            self._reads.failed(reading, said, wait)
            return said
        self._reads.answered(reading, pages)
        self.refused = ""
        return ""

    def _check_account(self) -> None:
        found = self._aws.account()
        if self.terms.account and found != self.terms.account:
            raise ProviderError(
                f"The AWS credentials belong to account {found}, and AWS_ACCOUNT_ID says {self.terms.account}.",
                next_step="Set AWS_ACCOUNT_ID to the account whose bill is meant, or use that account's credentials.",
                kind="account",
            )

    def _all_pages(self, asked: dict[str, Any], spent: _Spent) -> list[str]:
        pages: list[str] = []
        token = ""
        while not pages or token:
            page = self._page(asked | ({"NextPageToken": token} if token else {}), spent)
            pages.append(page)
            token = json.loads(page).get("NextPageToken") or ""
        return pages

    def _page(self, asked: dict[str, Any], spent: _Spent) -> str:
        cost = self._price.cost(1)
        if cost * (spent.requests + 1) > self.terms.most:
            spent.too_dear = True
            raise Refused(
                f"Cost Explorer's answer has more than {spent.requests} pages, and one answer may cost at most "
                f"{self.terms.most.shown()} (each page {cost.shown()}); it was left unfinished.",
                next_step="Raise BILL_REFRESH_MOST, or import an export: podcastqa bills import PATH.",
            )

        def send(seconds: float) -> str:
            try:
                return self._send(asked, seconds)
            except ProviderError as problem:
                spent.requests += problem.in_doubt
                raise

        what = Operation(self._payer_id(), SERVICE, OPERATION, SOURCE, self._price.id)
        page = self._payer.pay(what, cost, send)
        spent.requests += 1
        return page

    def _send(self, asked: dict[str, Any], seconds: float) -> str:
        """One attempt; the answer as it came over the wire."""
        client, bodies = self._aws.client("ce", seconds), []
        client.meta.events.register(
            "after-call.*.GetCostAndUsage", lambda http_response, **_: bodies.append(http_response.text)
        )
        with asking("ce:GetCostAndUsage"):
            client.get_cost_and_usage(**asked)
        return str(bodies[-1])

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _bill(self, question: Question, problem: str) -> Bill:
        newest, now = self._reads.newest(question), self._clock.now()
        if newest is None:
            remarks = (("never read", problem or "another process is asking for it just now"),)
            return Bill(SOURCE, (), (), Provenance(self.component, self.account, "", now, None, remarks), frozenset())
        if self._parsed is None or self._parsed[0] != newest.id:
            self._parsed = newest.id, self._from_answer(newest)
        return self._parsed[1].aged(now, problem)

    def _from_answer(self, answer: PaidAnswer) -> Bill:
        asked: dict[str, Any] = answer.request
        told = parse(answer.pages, asked["GroupBy"])
        first, end = (date.fromisoformat(asked["TimePeriod"][edge]) for edge in ("Start", "End"))
        complete = min(answer.read_at.date() - timedelta(days=_LATE_DAYS - 1), end)
        midnight = datetime(complete.year, complete.month, complete.day, tzinfo=UTC)
        remarks = (("metric", METRIC), ("pages", str(len(answer.pages))), ("not final", _stretch(told.estimated)))
        made = Provenance(self.component, self.account, answer.sha256, answer.read_at, midnight, remarks)
        covers = frozenset(first + timedelta(days=n) for n in range((end - first).days))
        return Bill(SOURCE, told.lines, told.bad_rows, made, covers, told.estimated)


@dataclass(slots=True)
class _Spent:
    """Requests of one answer that were charged, or may have been."""

    requests: int = 0
    too_dear: bool = False


def _told(failure: Failure) -> str:
    return f"{failure.problem} (asked at {failure.at:%H:%M} UTC; not again before {failure.again_at:%H:%M} UTC)"


def _stretch(days: frozenset[date]) -> str:
    return f"{min(days)} to {max(days)}" if days else "none"

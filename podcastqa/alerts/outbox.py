"""One alert is one row, and one row becomes one mail, however many processes race and whichever of them dies.

A row is unique by user or service, window and threshold, so raising an alert twice is raising it once. To send, a
process claims the row in one transaction, hands the mail over and marks it sent. If it dies in between, the claim runs
out after a minute and the next delivery takes over; the mail has the same Message-ID, so that a carrier keeps one.
A mail that may have gone although nobody said so keeps its claim likewise; one that surely did not go frees it at once.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    Integer,
    RowMapping,
    Table,
    Text,
    UniqueConstraint,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert  # SQLite took these words over

from podcastqa.alerts.alert import NOBODY_NAMED, SYSTEM_ID, SYSTEM_SCOPE, Alert, Mailer, Receipt, compose
from podcastqa.clock import Clock, WindowKind, day_number, day_of, from_microseconds, microseconds
from podcastqa.database import SYSTEM, Database, Scope, metadata, row_id
from podcastqa.display import Table as Shown
from podcastqa.display import Tabular, one_line
from podcastqa.errors import PodcastQAError, Refused
from podcastqa.money import Usd
from podcastqa.users import Users, owner

_KEY = ("user_id", "service", "window_kind", "window_start", "threshold")
#: How long a claim keeps others away: longer than a mail takes, short enough that a crash delays it little.
CLAIM = timedelta(seconds=60)

outbox = Table(
    "outbox",
    metadata,
    row_id(),
    owner(),  # 0: the whole system
    Column("service", Text, nullable=False, server_default=""),  # the one that an alert of the whole system is about
    Column("window_kind", Text, nullable=False),
    Column("window_start", Integer, nullable=False),
    Column("threshold", Text, nullable=False),
    Column("spent_pico", BigInteger, nullable=False),
    Column("limit_pico", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("claimed_us", BigInteger),
    Column("claimed_by", Text),
    Column("sent_us", BigInteger),
    Column("message_id", Text),
    Column("delivered_to", Text),
    UniqueConstraint(*_KEY, name="uq_outbox_once"),
    CheckConstraint("length(threshold) > 0", name="ck_outbox_threshold"),
    CheckConstraint("window_kind IN ('day', 'week', 'month')", name="ck_outbox_window"),
    info={"owner": "user_id"},
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert in the outbox, and what became of it (`sent_at` None: nothing yet)."""

    id: int
    alert: Alert
    raised_at: datetime
    sent_at: datetime | None = None
    message_id: str = ""
    recipient: str = ""


@dataclass(frozen=True, slots=True)
class Delivery(Tabular):
    """What one round of delivery did: the mails that went, and those that did not or may not have, with the problem."""

    sent: tuple[Notice, ...] = ()
    failed: tuple[tuple[Notice, str], ...] = ()
    in_doubt: tuple[tuple[Notice, str], ...] = ()
    """They may have gone; a later round sends them again under the same Message-ID."""
    by: str = field(default="", compare=False)
    """The mailer's name."""

    def said(self) -> tuple[str, ...]:
        """For people: which alerts did not go, and why; nothing where all did."""
        waiting = [*self.in_doubt, *self.failed]
        return (f"ALERTS THAT WERE NOT MAILED: {len(waiting)}. {waiting[0][1]}",) if waiting else ()

    def table(self) -> Shown:
        """One row an alert."""
        outcomes = [
            *((notice, f"sent to {notice.recipient} by {self.by}") for notice in self.sent),
            *((notice, f"in doubt: {problem}") for notice, problem in self.in_doubt),
            *((notice, f"not sent: {problem}") for notice, problem in self.failed),
        ]
        rows = tuple(
            (n.alert.whose, str(n.alert.window), n.alert.threshold, n.alert.spent, n.alert.limit, outcome)
            for n, outcome in outcomes
        )
        columns = ("who", "window", "threshold", "spent (USD)", "limit (USD)", "mail")
        return Shown("Alerts", columns, rows, () if rows else ("No alert is waiting.",))


class Outbox:
    """Keeps alerts until they are mailed; with `drill` the mails say that they are one."""

    def __init__(self, database: Database, clock: Clock, *, drill: bool = False) -> None:
        self._database, self._clock, self._drill = database, clock, drill
        self._users = Users(database, clock)

    def raise_alert(self, alert: Alert) -> bool:
        """Keep the alert; True if nobody had raised it before."""
        return bool(self.raise_all([alert]))

    def raise_all(self, alerts: Iterable[Alert]) -> tuple[Alert, ...]:
        """Keep the alerts, and return those that are new. Where none is, nothing is written and nobody waits."""
        wanted = {alert.key: alert for alert in alerts}
        known = self._known(wanted.values())
        unknown = [alert for key, alert in wanted.items() if key not in known]
        if not unknown:
            return ()
        with self._database.write(SYSTEM) as connection:
            now = microseconds(self._clock.now())
            return tuple(alert for alert in unknown if _insert(connection, alert, now))

    def pending(self, scope: Scope = SYSTEM) -> tuple[Notice, ...]:
        """What has not been sent, oldest first."""
        return self._notices(scope, outbox.c.sent_us.is_(None))

    def sent(self, scope: Scope = SYSTEM) -> tuple[Notice, ...]:
        """What has been sent, oldest first."""
        return self._notices(scope, outbox.c.sent_us.is_not(None))

    def deliver(self, mailer: Mailer, recipient_of: Callable[[int], str] | None = None) -> Delivery:
        """Send what is waiting and nobody else is sending now. A mail that fails waits for the next round.

        One that may have gone (the problem is in doubt) waits until its claim runs out. `recipient_of` names the
        address for a user's id (0: the operator); an empty one means operator@localhost.
        """
        sent: list[Notice] = []
        failed: list[tuple[Notice, str]] = []
        in_doubt: list[tuple[Notice, str]] = []
        for notice in self.pending():
            claim = self._claim(notice)
            if claim is None:
                continue
            try:
                recipient = (recipient_of(notice.alert.user_id) if recipient_of else "") or NOBODY_NAMED
                receipt = self._send(mailer, notice, recipient)
            except PodcastQAError as problem:
                if getattr(problem, "in_doubt", False):
                    in_doubt.append((notice, str(problem)))
                else:
                    self._release(notice, claim)
                    failed.append((notice, _why(problem)))
            else:
                sent += self._mark(notice, receipt, recipient)
        return Delivery(tuple(sent), tuple(failed), tuple(in_doubt), mailer.name)

    def _send(self, mailer: Mailer, notice: Notice, recipient: str) -> Receipt:
        return mailer.send(
            compose(notice.alert, recipient=recipient, sender=mailer.sender, at=notice.raised_at, drill=self._drill)
        )

    def _claim(self, notice: Notice) -> str | None:
        """This process's claim on the row; None where it is sent, or another's claim still holds."""
        claim = f"{os.getpid()}.{uuid.uuid4().hex}"
        with self._database.write(SYSTEM) as connection:
            now = self._clock.now()  # read inside the transaction, so that no claim is older than it looks
            # A claim from the future is one from before the clock was set back: it must not block for ever.
            held = outbox.c.claimed_us.between(microseconds(now - CLAIM), microseconds(now + CLAIM))
            free = outbox.c.claimed_us.is_(None) | ~held
            claimed = connection.execute(
                update(outbox)
                .where(outbox.c.id == notice.id, outbox.c.sent_us.is_(None), free)
                .values(claimed_us=microseconds(now), claimed_by=claim)
            )
            return claim if claimed.rowcount else None

    def _release(self, notice: Notice, claim: str) -> None:
        with self._database.write(SYSTEM) as connection:
            connection.execute(
                update(outbox)
                .where(outbox.c.id == notice.id, outbox.c.claimed_by == claim, outbox.c.sent_us.is_(None))
                .values(claimed_us=None, claimed_by=None)
            )

    def _mark(self, notice: Notice, receipt: Receipt, recipient: str) -> list[Notice]:
        """Mark the row sent, even where the claim has run out meanwhile: whoever took over need not send it again."""
        values = {
            "sent_us": microseconds(self._clock.now()),
            "message_id": receipt.message_id,
            "delivered_to": recipient,
        }
        with self._database.write(SYSTEM) as connection:
            row = outbox.c.id == notice.id
            marked = connection.execute(update(outbox).where(row, outbox.c.sent_us.is_(None)).values(values))
        return list(self._notices(SYSTEM, row)) if marked.rowcount else []

    def _known(self, alerts: Iterable[Alert]) -> set[tuple[object, ...]]:
        days = {day_number(alert.window_start) for alert in alerts}
        columns = [outbox.c[name] for name in _KEY]
        with self._database.read(SYSTEM) as connection:
            rows = connection.execute(select(*columns).where(outbox.c.window_start.in_(days)))
            return {(user, service, kind, day_of(day), threshold) for user, service, kind, day, threshold in rows}

    def _notices(self, scope: Scope, which: ColumnElement[bool]) -> tuple[Notice, ...]:
        with self._database.read(scope) as connection:
            rows = connection.execute(select(outbox).where(which).order_by(outbox.c.id)).mappings().all()
        # Names after rows: a user added in between has a name for every row that was read.
        names = (self._users.names() if rows else {}) | {SYSTEM_ID: SYSTEM_SCOPE}
        return tuple(_notice(row, names[row["user_id"]]) for row in rows)


def _why(problem: PodcastQAError) -> str:
    """A mail that costs money may be refused like anything that does: then nothing is wrong with the mail."""
    if isinstance(problem, Refused):
        return f"the alert waits, for the budget did not allow the mail: {problem}"
    return str(problem)


def _insert(connection: Connection, alert: Alert, now: int) -> bool:
    """Whether the row is new; only the alert's own key may be taken, every other constraint still speaks."""
    row = {
        "user_id": alert.user_id,
        "service": alert.service,
        "window_kind": alert.kind.value,
        "window_start": day_number(alert.window_start),
        "threshold": alert.threshold,
        "spent_pico": alert.spent.pico,
        "limit_pico": alert.limit.pico,
        "detail": one_line(alert.detail),
        "created_us": now,
    }
    statement = insert(outbox).values(row).on_conflict_do_nothing(index_elements=list(_KEY)).returning(outbox.c.id)
    return connection.execute(statement).first() is not None


def _notice(row: RowMapping, scope: str) -> Notice:
    return Notice(
        row["id"],
        Alert(
            scope,
            row["user_id"],
            WindowKind(row["window_kind"]),
            day_of(row["window_start"]),
            row["threshold"],
            Usd.from_pico(row["spent_pico"]),
            Usd.from_pico(row["limit_pico"]),
            row["detail"],
            row["service"],
        ),
        from_microseconds(row["created_us"]),
        None if row["sent_us"] is None else from_microseconds(row["sent_us"]),
        row["message_id"] or "",
        row["delivered_to"] or "",
    )

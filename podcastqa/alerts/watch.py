"""Who must hear of it: a threshold that is reached, a refusal, an overrun, the stop; each is kept once, and mailed.

Most settles reach nothing new: they are told apart without a question to the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from podcastqa.alerts.alert import Alert, Mailer, due
from podcastqa.alerts.outbox import Delivery, Outbox
from podcastqa.clock import Clock, WindowKind, window, windows
from podcastqa.errors import OverLimit
from podcastqa.money import ZERO, Usd
from podcastqa.spend.admission import QUIET, Settled, all_below
from podcastqa.spend.budget import Budget
from podcastqa.spend.entries import Hold, Operation
from podcastqa.spend.ledger import NOTHING
from podcastqa.spend.status import SYSTEM_NAME
from podcastqa.users import SYSTEM_ID, Users


@dataclass(frozen=True, slots=True)
class Watch:
    """What is spent beside the thresholds of each limit, and the outbox."""

    budget: Budget
    users: Users
    outbox: Outbox
    mailer: Mailer
    clock: Clock
    operator_email: str
    thresholds: tuple[int, ...]
    _mailed: set[tuple[object, ...]] = field(default_factory=set, repr=False)

    def settled(self, hold: Hold, settled: Settled) -> None:
        """Mail what is due after a settle."""
        user_id = hold.operation.user_id
        if settled.overrun:
            what = f"{hold.operation.service} {hold.operation.operation}"
            detail = f"{what} cost {settled.overrun.shown()} more than its hold"
            self.raise_all([self.alert(user_id, WindowKind.DAY, "overrun", detail)])
        if self.may_be_due(settled):
            self.mail_due(user_id)
            self._mailed.update(self._reached(settled))

    def may_be_due(self, settled: Settled) -> bool:
        """Whether a threshold is reached that this process has not mailed about: most settles need not look further."""
        if settled is QUIET:
            return False
        if settled.overrun:
            return True
        lowest = min(self.thresholds, default=101)
        for scope, real in settled.real.items():
            if not all_below(lowest, real, settled.limits[scope]):
                return not self._reached(settled) <= self._mailed
        return False

    def _reached(self, settled: Settled) -> set[tuple[object, ...]]:
        """Every threshold that is reached, as the key of its alert."""
        return {
            (scope, span.kind, span.start, percent)
            for scope, real in settled.real.items()
            for span, spent, limit in zip(windows(self.clock.now()), real, settled.limits[scope], strict=True)
            if limit is not None
            for percent in due(Usd.from_pico(spent), Usd.from_pico(limit), self.thresholds)
        }

    def mail_refusal(self, what: Operation, refusal: OverLimit) -> None:
        """Mail that a limit has no room."""
        scope = what.user_id if refusal.scope == "user" else SYSTEM_ID
        service = what.service if refusal.scope == "service" else ""
        self.raise_all([self.alert(scope, WindowKind(refusal.window), "refused", refusal.message, service=service)])

    def mail_due(self, user_id: int) -> None:
        """Mail what is due for the system, the user and the services."""
        self.raise_all([*self.due(user_id), *self.due_of_services()])

    def raise_all(self, alerts: list[Alert]) -> None:
        """Keep what is new, and mail what waits."""
        if alerts and self.outbox.raise_all(alerts):
            self.deliver()

    def due(self, user_id: int) -> list[Alert]:
        """Every alert whose threshold the system's or the user's spend has reached."""
        now, limits = self.clock.now(), self.budget.limits(user_id)
        spent = self.budget.standing(user_id, now)
        return [
            self.alert(scope, kind, str(percent), now=now)
            for (scope, kind), limit in limits.items()
            for percent in due(spent.get((scope, kind), NOTHING).real, limit, self.thresholds)
        ]

    def due_of_services(self) -> list[Alert]:
        """The same for every service that has a limit."""
        now = self.clock.now()
        return [
            self.alert(SYSTEM_ID, kind, str(percent), now=now, service=service)
            for (service, kind), limit in self.budget.service_limits(now).items()
            for percent in due(self._spent_on(service, kind, now), limit, self.thresholds)
        ]

    def alert(
        self,
        scope: int,
        kind: WindowKind,
        threshold: str,
        detail: str = "",
        now: datetime | None = None,
        service: str = "",
    ) -> Alert:
        """An alert of this instant, with what is spent."""
        now = now or self.clock.now()
        name = SYSTEM_NAME if scope == SYSTEM_ID else self.users.names()[scope]
        if service:
            spent = self._spent_on(service, kind, now)
            limit = self.budget.service_limits(now).get((service, kind), ZERO)
        else:
            spent = self.budget.standing(scope, now).get((scope, kind), NOTHING).real
            limit = self.budget.limits(scope).get((scope, kind), ZERO)
        return Alert(name, scope, kind, window(kind, now).start, threshold, spent, limit, detail, service)

    def _spent_on(self, service: str, kind: WindowKind, now: datetime) -> Usd:
        return self.budget.service_standing(service, now).get(kind, NOTHING).real

    def deliver(self) -> Delivery:
        """Mail what waits."""
        return self.outbox.deliver(self.mailer, self._recipient)

    def _recipient(self, user_id: int) -> str:
        own = next((one.email for one in self.users.list().users if one.id == user_id), "")
        return own or self.operator_email

"""The one place where real parts are picked and put together; nothing else constructs a database, a meter or a mailer.

`auto` picks a production part where its credentials are set, and says so in `choices`; this version has the embedded
parts only, and says that too, rather than falling back in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from podcastqa.clock import Clock, SystemClock, WindowKind
from podcastqa.money import Usd
from podcastqa.redaction import Redactor
from podcastqa.settings import Settings

if TYPE_CHECKING:
    from podcastqa.alerts.alert import Mailer
    from podcastqa.alerts.outbox import Outbox
    from podcastqa.bills.bill import BillingSource
    from podcastqa.cost_tracker import CostTracker
    from podcastqa.database import Database
    from podcastqa.spend.budget import Budget
    from podcastqa.spend.ledger import Ledger
    from podcastqa.spend.meter import Meter
    from podcastqa.spend.mirror import Mirror
    from podcastqa.spend.prices import PriceList
    from podcastqa.treasury import Treasury
    from podcastqa.users import Users


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that is in use, put together."""

    settings: Settings
    redactor: Redactor
    clock: Clock
    database: Database
    users: Users
    prices: PriceList
    ledger: Ledger
    budget: Budget
    meter: Meter
    bill_source: BillingSource
    mirror: Mirror
    outbox: Outbox
    mailer: Mailer
    treasury: Treasury

    @property
    def components(self) -> dict[str, str]:
        """What is in use, by kind: what a validation's PASS belongs to."""
        return {
            "database": self.database.kind.split()[0],
            "billing source": self.bill_source.component,
            "mail": self.mailer.name,
        }

    @property
    def choices(self) -> tuple[str, ...]:
        """What `auto` picked, and why, where a person might have expected something else."""
        said = []
        if self.settings.aws_access_key_id and self.settings.billing_source == "auto":
            said.append(
                "AWS credentials are set, and this version has no AWS part yet: the local meter is the billing source, "
                "and nothing is asked of AWS. AWS is not validated."
            )
        return tuple(said)


_made: dict[Path, Parts] = {}


def parts(settings: Settings | None = None, *, clock: Clock | None = None) -> Parts:
    """The parts of these settings, made once a process and home."""
    settings = settings or Settings.load()
    if clock is not None:
        return build(settings, clock=clock)
    if settings.home not in _made or _made[settings.home].settings != settings:
        _made[settings.home] = build(settings, clock=SystemClock())
    return _made[settings.home]


def get_cost_tracker(user: str | None = None) -> CostTracker:
    """The cost tracker of this machine's settings; with `user`, confined to that user."""
    from podcastqa.cost_tracker import CostTracker

    made = parts()
    if user is not None:
        made.users.ensure(user) if user == made.settings.user else made.users.get(user)
    made.treasury.deliver_alerts()  # what a crash kept from being mailed is due now
    return CostTracker(made.treasury, user)


def build(settings: Settings, *, clock: Clock, run_id: str = "", drill: bool = False) -> Parts:
    """Put the parts together; a `drill` mails as one and keeps its books in the settings' own home."""
    from podcastqa.alerts.maildir import MaildirMailer
    from podcastqa.alerts.outbox import Outbox
    from podcastqa.bills.local_meter import LocalMeterBill
    from podcastqa.database import open_database
    from podcastqa.spend.budget import Budget
    from podcastqa.spend.ledger import Ledger
    from podcastqa.spend.meter import Meter
    from podcastqa.spend.mirror import Mirror
    from podcastqa.spend.prices import PriceList
    from podcastqa.treasury import Treasury
    from podcastqa.users import Users

    redactor = Redactor(settings.secrets)
    database = open_database(settings.database)
    users, prices, ledger = Users(database, clock), PriceList.load(), Ledger(database)
    budget = Budget(
        database,
        ledger,
        clock,
        system_limits=_system_limits(settings),
        user_limits=_user_limits(settings),
        hold_for=timedelta(seconds=settings.hold_seconds),
        name_of=lambda user_id: users.names().get(user_id, str(user_id)),
    )
    bill_path = settings.home / "local-meter.focus.csv"
    meter = Meter(bill_path, prices.named(settings.local_meter_price, clock.now().date()), clock, run_id=run_id)
    bill_source = LocalMeterBill(bill_path, clock)
    mirror = Mirror(settings.home / "mirror.duckdb", database, clock)
    outbox, mailer = Outbox(database, clock, drill=drill), MaildirMailer(settings.maildir)
    treasury = Treasury(
        *(budget, ledger, meter, bill_source, mirror, prices, users, outbox, mailer, clock),
        me=settings.user,
        operator_email=settings.cost_alert_email,
        thresholds=settings.alert_thresholds,
        redact=redactor.text,
    )
    return Parts(
        *(settings, redactor, clock, database, users, prices, ledger, budget, meter, bill_source, mirror),
        *(outbox, mailer, treasury),
    )


def drill_parts(made: Parts, run_id: str, **limits: str) -> Parts:
    """Parts of the same kinds and the same mailbox, with books of their own: for limits refused and stops pressed.

    `limits` are settings such as `daily_budget_limit="0.50"`.
    """
    home = made.settings.home / "drills" / run_id
    changed = {name: Usd(Decimal(amount)) for name, amount in limits.items()}
    settings = replace(made.settings, home=home, database_url="", **changed)  # type: ignore[arg-type]
    return build(settings, clock=made.clock, run_id=run_id, drill=True)


def _system_limits(settings: Settings) -> dict[WindowKind, Usd]:
    return {
        WindowKind.DAY: settings.daily_budget_limit,
        WindowKind.WEEK: settings.weekly_budget_limit,
        WindowKind.MONTH: settings.monthly_budget_limit,
    }


def _user_limits(settings: Settings) -> dict[WindowKind, Usd]:
    return {
        WindowKind.DAY: settings.user_daily_budget_limit,
        WindowKind.WEEK: settings.user_weekly_budget_limit,
        WindowKind.MONTH: settings.user_monthly_budget_limit,
    }

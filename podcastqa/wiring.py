"""The one place where real parts are picked and put together; nothing else constructs a database, a meter or a mailer.

`auto` picks a production part where its credentials are set, and says so in `choices`. Nothing falls back in silence:
what was asked for by name and cannot be had is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
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
    from podcastqa.aws import Aws
    from podcastqa.bills.archive import BillArchive
    from podcastqa.bills.bill import BillingSource
    from podcastqa.bills.cost_explorer import CostExplorerBill
    from podcastqa.bookkeeper import Bookkeeper
    from podcastqa.cost_tracker import CostTracker
    from podcastqa.database import Database
    from podcastqa.podcasts.catalog import Catalog
    from podcastqa.podcasts.connections import Connections
    from podcastqa.podcasts.spotify import Spotify
    from podcastqa.spend.admission import Kept
    from podcastqa.spend.audit import Auditor
    from podcastqa.spend.budget import Budget
    from podcastqa.spend.ledger import Ledger
    from podcastqa.spend.meter import Meter
    from podcastqa.spend.mirror import Mirror
    from podcastqa.spend.paid import Payer
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
    archive: BillArchive
    aws: Aws | None
    cost_explorer: CostExplorerBill | None
    payer: Payer
    catalog: Catalog

    @property
    def bookkeeper(self) -> Bookkeeper:
        """Reads bills and ledger."""
        from podcastqa.bookkeeper import Bookkeeper

        return Bookkeeper(self.treasury, self.archive, self.cost_explorer)

    @property
    def connections(self) -> Connections:
        """Who has connected Spotify."""
        from podcastqa.podcasts.connections import Connections
        from podcastqa.podcasts.spotify import PROVIDER
        from podcastqa.podcasts.vault import vault_of

        vault = vault_of(self.settings.keys, self.settings.home / "key")
        return Connections(self.database, vault, self.clock, PROVIDER)

    @property
    def spotify(self) -> Spotify:
        """Spotify's Web API; raises SettingsError where no app is set."""
        from podcastqa.errors import SettingsError
        from podcastqa.file_lock import FileLock
        from podcastqa.podcasts.rate_gate import RateGate
        from podcastqa.podcasts.spotify import PROVIDER, Spotify
        from podcastqa.podcasts.spotify_login import SpotifyLogin

        said = self.settings
        if not said.spotify_client_id:
            raise SettingsError(
                "SPOTIFY_CLIENT_ID is not set, so Spotify cannot be asked.",
                next_step="Register an app (README, Your podcasts), or bring in an export: podcastqa import USER FILE",
            )
        logins = SpotifyLogin(said.spotify_client_id, said.spotify_accounts_url, said.spotify_port, self.clock)
        gate = RateGate(PROVIDER, said.home / "spotify-wait", self.clock)
        lock = FileLock(said.home / "spotify-login.lock")
        return Spotify(self.connections, logins, said.spotify_api_url, self.payer, gate, lock)

    def mail_consents(self) -> None:
        """Mail whoever has to consent again soon."""
        from podcastqa.podcasts.consents import mail_ending

        mail_ending(self.database, self.users, self.treasury.watch, self.clock.now())

    @property
    def auditor(self) -> Auditor:
        """Proves the ledger."""
        from podcastqa.spend.audit import Auditor

        limits = _system_limits(self.settings), _user_limits(self.settings)
        return Auditor(self.database, self.mirror, *limits, _kept_for_mail())

    @property
    def components(self) -> dict[str, str]:
        """What is in use, by kind: what a validation's PASS belongs to."""
        return {
            "database": self.database.kind.split()[0],
            "billing source": f"{self.bill_source.component}{self._account}",
            "mail": self.mailer.name,
        }

    @property
    def _account(self) -> str:
        """A PASS belongs to one account's bill, and says nothing of another's."""
        return f" ({self.cost_explorer.account})" if self.cost_explorer else ""

    @property
    def choices(self) -> tuple[str, ...]:
        """What `auto` picked, and why, where a person might have expected something else."""
        said = []
        if self.cost_explorer and self.settings.billing_source == "auto":
            terms = self.cost_explorer.terms
            hours = int(terms.older_than.total_seconds()) // 3600
            said.append(
                "AWS credentials are set, so the bill is Cost Explorer's: an answer costs $0.01 a page and is used for "
                f"{hours} h. BILLING_SOURCE=local leaves AWS alone."
            )
        if self.mailer.name != "Maildir" and self.settings.mailer == "auto":
            said.append(
                f"Alerts go out by {self.mailer.name}, whose settings are there. MAILER=maildir keeps them here."
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
        made.users.meant(user, made.settings.user)
    made.mail_consents()
    made.treasury.deliver_alerts()  # what a crash kept from being mailed is due now
    return CostTracker(made.treasury, user)


def build(
    settings: Settings, *, clock: Clock, run_id: str = "", drill: bool = False, mailer: Mailer | None = None
) -> Parts:
    """Put the parts together; a `drill` mails as one and keeps its books in the settings' own home."""
    from podcastqa.alerts.outbox import Outbox
    from podcastqa.alerts.watch import Watch
    from podcastqa.bills.archive import BillArchive
    from podcastqa.bills.desk import BillDesk
    from podcastqa.bills.imported import ImportedBill, WithFiles
    from podcastqa.bills.local_meter import LocalMeterBill
    from podcastqa.database import open_database
    from podcastqa.podcasts.catalog import Catalog
    from podcastqa.providers import Providers, picked_bill, picked_mailer
    from podcastqa.spend.budget import Budget
    from podcastqa.spend.ledger import Ledger
    from podcastqa.spend.meter import Meter
    from podcastqa.spend.mirror import Mirror
    from podcastqa.spend.paid import Payer
    from podcastqa.spend.plans import Plans
    from podcastqa.spend.prices import PriceList
    from podcastqa.treasury import Treasury
    from podcastqa.users import Users

    redactor = Redactor(settings.secrets)
    with suppress(OSError):  # whoever writes there says what is wrong with it
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = open_database(settings.database)
    users, prices, ledger = Users(database, clock), PriceList.load(), Ledger(database, clock)
    picked = picked_mailer(settings)
    budget = Budget(
        database,
        ledger,
        clock,
        system_limits=_system_limits(settings),
        user_limits=_user_limits(settings),
        hold_for=timedelta(seconds=settings.hold_seconds),
        name_of=lambda user_id: users.names().get(user_id, str(user_id)),
        kept=_kept_for_mail() if picked == "ses" and mailer is None else None,
        first_percent=min(settings.alert_thresholds, default=101),
    )
    bill_path = settings.home / "local-meter.focus.csv"
    meter = Meter(bill_path, prices.named(settings.local_meter_price, clock.now().date()), clock, run_id=run_id)
    archive = BillArchive(database, clock, settings.aws_user_tag, settings.aws_account_id)
    asker = Providers(settings, clock, database, users, prices, Payer(budget, redactor.text))
    explorer = asker.cost_explorer() if picked_bill(settings) == "aws" else None
    meter_bill = LocalMeterBill(bill_path, clock)
    bill_source = WithFiles(explorer, ImportedBill(archive, explorer.name, clock)) if explorer else meter_bill
    mirror = Mirror(settings.home / "mirror.duckdb", database, clock)
    outbox, mailer = Outbox(database, clock, drill=drill), mailer or asker.mailer(picked)

    def imported() -> tuple[BillingSource, ...]:
        return tuple(ImportedBill(archive, source, clock) for source in archive.sources())

    desk = BillDesk(bill_source, meter_bill, imported, ledger, users)
    watch = Watch(*(budget, users, outbox, mailer, clock, settings.cost_alert_email, settings.alert_thresholds))
    plans = Plans(prices, users, clock, settings.user, redactor.text)
    treasury = Treasury(
        *(budget, ledger, meter, desk, mirror, plans, users, watch, clock), me=settings.user, redact=redactor.text
    )
    return Parts(
        *(settings, redactor, clock, database, users, prices, ledger, budget, meter, bill_source, mirror),
        *(outbox, mailer, treasury, archive, asker.aws, explorer, asker.payer, Catalog(database, clock)),
    )


def drill_parts(
    made: Parts,
    run_id: str,
    limits: Mapping[str, str] | None = None,
    *,
    mailer: Mailer | None = None,
    in_a_file: bool = False,
) -> Parts:
    """Parts with books of their own, no cloud bill and (unless another is given) the real mailer: for limits refused.

    `limits` are settings: `{"daily_budget_limit": "0.50"}`. What the real mailer costs is paid from the real books.
    The books are of the kind that is in use, or `in_a_file`.
    """
    home = made.settings.home / "drills" / run_id
    changed = {name: Usd(Decimal(amount)) for name, amount in (limits or {}).items()}
    place = "" if in_a_file else made.database.beside(f"podcastqa_drill_{run_id}")
    settings = replace(made.settings, home=home, database_url=place, billing_source="local", **changed)  # type: ignore[arg-type]
    return build(settings, clock=made.clock, run_id=run_id, drill=True, mailer=mailer or made.mailer)


def _kept_for_mail() -> Kept:
    """What is kept of each limit for the mails about it: a hundred of them."""
    from podcastqa.spend.admission import Kept

    return Kept("aws-ses", Usd("0.01"))


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

"""Parts that ask a provider are made here, with the settings that they need and the payer that pays for them.

What is asked for by name and cannot be had is an error; `auto` is a provider only where its credentials are set.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from podcastqa.aws import Aws
from podcastqa.bills.cost_explorer import CostExplorerBill, Terms
from podcastqa.bills.reads import BillReads
from podcastqa.clock import Clock
from podcastqa.database import Database
from podcastqa.errors import SettingsError
from podcastqa.settings import Settings
from podcastqa.spend.paid import Payer
from podcastqa.spend.prices import Price, PriceList
from podcastqa.users import Users

if TYPE_CHECKING:
    from podcastqa.alerts.alert import Mailer


@dataclass(frozen=True, slots=True)
class Providers:
    """Makes the parts that ask providers, and pay for it."""

    settings: Settings
    clock: Clock
    database: Database
    users: Users
    prices: PriceList
    payer: Payer

    @property
    def aws(self) -> Aws | None:
        """AWS, where there are credentials."""
        said = self.settings
        if not (said.aws_access_key_id and said.aws_secret_access_key):
            return None
        keys = said.aws_access_key_id, said.aws_secret_access_key, said.aws_session_token
        return Aws(*keys, said.aws_region, overridden=bool(said.endpoint_overrides))

    def cost_explorer(self) -> CostExplorerBill:
        """AWS's bill; raises SettingsError without credentials."""
        said, reads = self.settings, BillReads(self.database, self.clock)
        hours = timedelta(hours=said.bill_refresh_hours)
        terms = Terms(said.aws_account_id, said.aws_user_tag, hours, said.bill_refresh_most)
        price = self._price("aws-cost-explorer-request")
        return CostExplorerBill(self._sure_aws("BILLING_SOURCE"), self.payer, price, self._me, reads, self.clock, terms)

    def mailer(self, picked: str) -> Mailer:
        """The mailer of that name; raises SettingsError where a setting is missing."""
        said = self.settings
        sender = said.cost_alert_sender or said.cost_alert_email
        if picked == "maildir":
            from podcastqa.alerts.maildir import MaildirMailer

            return MaildirMailer(said.maildir)
        if not sender:
            raise SettingsError(f"MAILER={picked} needs COST_ALERT_EMAIL.", next_step="Set it in config.env.")
        if picked == "smtp":
            from podcastqa.alerts.smtp import SmtpMailer

            return SmtpMailer(
                *(said.smtp_host, said.smtp_port, said.smtp_security, said.smtp_user, said.smtp_password, sender)
            )
        from podcastqa.alerts.ses import SesMailer

        return SesMailer(self._sure_aws("MAILER"), self.payer, self._price("aws-ses-recipient"), self._me, sender)

    def _sure_aws(self, name: str) -> Aws:
        if self.aws is None:
            raise SettingsError(
                f"AWS credentials not found or invalid: {name} asks for AWS.",
                next_step="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in config.env.",
            )
        return self.aws

    def _price(self, price_id: str) -> Price:
        return self.prices.named(price_id, self.clock.now().date())

    def _me(self) -> int:
        return self.users.ensure(self.settings.user).id


def picked_bill(settings: Settings) -> str:
    """`aws` or `local`."""
    if settings.billing_source != "auto":
        return settings.billing_source
    return "aws" if settings.aws_access_key_id and settings.aws_secret_access_key else "local"


def picked_mailer(settings: Settings) -> str:
    """A mail server that was named is meant; AWS credentials alone mean SES only where somebody gets the mail."""
    if settings.mailer == "smtp" and not settings.smtp_host:
        raise SettingsError("MAILER=smtp needs SMTP_HOST.", next_step="Name the mail server in config.env.")
    if settings.mailer != "auto":
        return settings.mailer
    if settings.smtp_host:
        return "smtp"
    has_aws = settings.aws_access_key_id and settings.aws_secret_access_key and settings.cost_alert_email
    return "ses" if has_aws else "maildir"

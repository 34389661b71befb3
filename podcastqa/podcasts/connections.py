"""Which account of a provider a user has connected; the login lies sealed, and each has a state that can be told.

A refresh token dies half a year after the person's consent, whatever is refreshed meanwhile: the day is known from the
start, and said before it comes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select, update

from podcastqa.clock import Clock, from_microseconds, microseconds
from podcastqa.database import Database, Scope
from podcastqa.display import Table, Tabular
from podcastqa.errors import Misuse, ProviderError
from podcastqa.podcasts.tables import CONNECTED, REAUTH, connections
from podcastqa.podcasts.vault import Sealed, Vault
from podcastqa.users import User

#: Six months from the consent (developer.spotify.com, "Refresh token expiration", 2026-06-18), counted short.
CONSENT_LASTS = timedelta(days=180)
#: So many days before, the person hears of it.
WARN_DAYS = (30, 7)


@dataclass(frozen=True, slots=True)
class Login:
    """What lets us ask in a person's name."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_us: int

    def record(self) -> str:
        """As it is sealed."""
        return json.dumps([self.access_token, self.refresh_token, self.expires_us])


@dataclass(frozen=True, slots=True)
class Connection(Tabular):
    """A user's account with a provider."""

    user: User
    provider: str
    account: str
    state: str
    sealed: Sealed = field(repr=False)
    consented_at: datetime

    @property
    def ends_at(self) -> datetime:
        """When the person has to consent again."""
        return self.consented_at + CONSENT_LASTS

    def warning(self, now: datetime) -> str:
        """What the person should do about it; empty while there is time."""
        again = f"podcastqa connect spotify --user {self.user.name}"
        if self.state != CONNECTED:
            return f"{self.provider} asks for consent again: {again}"
        return ends_soon(self.user, self.provider, self.ends_at, now)

    def table(self) -> Table:
        """Who, which account, until when."""
        row = self.user.name, self.provider, self.account, self.state, f"{self.ends_at:%Y-%m-%d}"
        return Table("Connection", ("user", "provider", "account", "state", "consent ends"), (row,))


class Connections:
    """Keeps, seals and opens."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, provider: str) -> None:
        self._database, self._vault, self._clock, self._provider = database, vault, clock, provider

    def find(self, user: User) -> Connection:
        """The user's connection; raises Misuse where there is none."""
        table = connections.c
        columns = (table.account, table.state, table.key_id, table.sealed, table.consented_us)
        with self._database.read(Scope(user.id)) as connection:
            row = connection.execute(select(*columns).where(table.provider == self._provider)).one_or_none()
        if row is None:
            raise Misuse(
                f"{user.name} has not connected {self._provider}.",
                next_step=f"Connect: podcastqa connect {self._provider.lower()} --user {user.name}",
            )
        sealed, at = Sealed(row[2], row[3]), from_microseconds(row[4])
        return Connection(user, self._provider, row[0], row[1], sealed, at)

    def login(self, user: User) -> Login:
        """The user's login; raises ProviderError where consent is needed again."""
        found = self.find(user)
        if found.state != CONNECTED:
            raise reauth(user, self._provider)
        return Login(*json.loads(self._vault.open(user.id, self._provider, found.sealed)))

    def keep(self, user: User, account: str, login: Login) -> Connection:
        """A fresh consent: it replaces what there was. Raises Misuse where another account is connected."""
        sealed, now = self._vault.seal(user.id, self._provider, login.record()), self._clock.now()
        with self._database.write(Scope(user.id)) as connection:
            was = connection.execute(
                select(connections.c.account).where(connections.c.provider == self._provider)
            ).scalar()
            if was is not None and was != account:
                raise Misuse(
                    f"{user.name} is connected with another {self._provider} account.",
                    next_step=f"First: podcastqa disconnect {self._provider.lower()} --user {user.name}",
                )
            connection.execute(delete(connections).where(connections.c.provider == self._provider))
            row = {"user_id": user.id, "provider": self._provider, "account": account, "state": CONNECTED}
            sealed_row = {"key_id": sealed.key_id, "sealed": sealed.text, "consented_us": microseconds(now)}
            connection.execute(insert(connections).values(row | sealed_row))
        return self.find(user)

    def refreshed(self, user: User, login: Login) -> None:
        """The same consent with new tokens, sealed with the key in use."""
        sealed = self._vault.seal(user.id, self._provider, login.record())
        self._set(user, key_id=sealed.key_id, sealed=sealed.text)

    def ended(self, user: User) -> None:
        """The consent is over: the dead login is forgotten."""
        self._set(user, state=REAUTH, sealed="")

    def forget(self, user: User) -> bool:
        """Delete the login; whether there was one."""
        with self._database.write(Scope(user.id)) as connection:
            return connection.execute(delete(connections).where(connections.c.provider == self._provider)).rowcount > 0

    def _set(self, user: User, **values: str) -> None:
        with self._database.write(Scope(user.id)) as connection:
            connection.execute(update(connections).where(connections.c.provider == self._provider).values(**values))


def ends_soon(user: User, provider: str, ends_at: datetime, now: datetime) -> str:
    """What to do about a consent's end; empty while there is time."""
    left = (ends_at - now).days
    if left >= WARN_DAYS[0]:
        return ""
    last = "In the last week: " if left < WARN_DAYS[1] else ""
    again = f"podcastqa connect {provider.lower()} --user {user.name}"
    return f"{last}{provider} asks for consent again in {max(left, 0)} days; do it now: {again}"


def reauth(user: User, provider: str) -> ProviderError:
    """Whoever consented has to do it again."""
    return ProviderError(
        f"{provider} no longer takes {user.name}'s login: the consent has ended or was taken back.",
        next_step=f"Connect again: podcastqa connect {provider.lower()} --user {user.name}",
        kind="reauth",
    )

"""A consent that ends soon is mailed to its person thirty and seven days before, each once.

A fetch says it too; but who fetches by a timer reads no output.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select

from podcastqa.alerts.alert import Alert
from podcastqa.alerts.watch import Watch
from podcastqa.clock import WindowKind, from_microseconds, microseconds
from podcastqa.database import SYSTEM, Database
from podcastqa.money import ZERO
from podcastqa.podcasts.connections import CONSENT_LASTS, WARN_DAYS, ends_soon
from podcastqa.podcasts.tables import CONNECTED, connections
from podcastqa.users import Users


def mail_ending(database: Database, users: Users, watch: Watch, now: datetime) -> None:
    """Mail whoever has to consent again soon; to the operator where a user has no address."""
    table = connections.c
    old_us = microseconds(now - CONSENT_LASTS + timedelta(days=WARN_DAYS[0]))
    with database.read(SYSTEM) as connection:
        columns = (table.user_id, table.provider, table.consented_us)
        rows = connection.execute(select(*columns).where(table.state == CONNECTED, table.consented_us < old_us)).all()
    named = {user.id: user for user in users.list().users} if rows else {}
    alerts = []
    for user_id, provider, consented_us in rows:
        ends_at = from_microseconds(consented_us) + CONSENT_LASTS
        days = warn_days(ends_at, now)
        if days is not None and user_id in named:
            detail = ends_soon(named[user_id], provider, ends_at, now)
            of = WindowKind.DAY, ends_at.date(), f"consent {days}"
            alerts.append(Alert(named[user_id].name, user_id, *of, ZERO, ZERO, detail))
    watch.raise_all(alerts)


def warn_days(ends_at: datetime, now: datetime) -> int | None:
    """Which warning is due: of those whose day has come, the last."""
    return min((days for days in WARN_DAYS if ends_at - now < timedelta(days=days)), default=None)

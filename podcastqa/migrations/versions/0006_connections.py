"""Accounts that users connect, sealed, and the episodes that are fetched in their name."""

import sqlalchemy as sa
from alembic import op

from podcastqa.migrations.row_security import grant, protect
from podcastqa.scope import APP_ROLE, USER_ROLE

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    _connections()
    _episodes()
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in ("connections", "episodes"):
        protect(table)
        grant("SELECT, INSERT, UPDATE, DELETE", table, APP_ROLE)
    grant("SELECT, INSERT, UPDATE, DELETE", "connections", USER_ROLE)
    grant("SELECT, DELETE", "episodes", USER_ROLE)
    for table in ("listening", "library"):
        grant("DELETE", table, USER_ROLE)


def _id(kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    number = kind().with_variant(sa.Integer, "sqlite")
    return sa.Column("id", number, sa.Identity(), primary_key=True, autoincrement=True)


def _owner() -> sa.Column[int]:
    return sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False)


def _said(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _connections() -> None:
    op.create_table(
        "connections",
        _id(),
        _owner(),
        *map(_said, ("provider", "account", "state", "key_id", "sealed")),
        _number("consented_us"),
        sa.CheckConstraint("state IN ('connected', 'reauth_required')", name="ck_connections_state"),
        sa.CheckConstraint("sealed <> '' OR state <> 'connected'", name="ck_connections_sealed"),
        sa.UniqueConstraint("user_id", "provider", name="uq_connections_once"),
        sqlite_autoincrement=True,
    )


def _episodes() -> None:
    op.create_table(
        "episodes",
        _id(sa.BigInteger),
        _owner(),
        _said("source"),
        _said("show", ""),
        _said("episode", ""),
        _said("uri"),
        _said("released", ""),
        *map(_number, ("duration_ms", "position_ms", "fetched_us")),
        sa.CheckConstraint("uri <> ''", name="ck_episodes_uri"),
        sa.CheckConstraint("duration_ms >= 0 AND position_ms >= -1", name="ck_episodes_numbers"),
        sa.UniqueConstraint("user_id", "source", "uri", name="uq_episodes_once"),
        sqlite_autoincrement=True,
    )

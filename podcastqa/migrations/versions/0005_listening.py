"""What users follow, save and hear, as their own files told it."""

import sqlalchemy as sa
from alembic import op

from podcastqa.migrations.row_security import grant, protect
from podcastqa.scope import APP_ROLE, USER_ROLE

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    _listening()
    _library()
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in ("listening", "library"):
        protect(table)
        grant("SELECT, INSERT, DELETE", table, APP_ROLE)
        grant("SELECT", table, USER_ROLE)


def _id(kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    number = kind().with_variant(sa.Integer, "sqlite")
    return sa.Column("id", number, sa.Identity(), primary_key=True, autoincrement=True)


def _owner() -> sa.Column[int]:
    return sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _said(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str, kind: type[sa.Integer] = sa.BigInteger) -> sa.Column[int]:
    return sa.Column(name, kind, nullable=False)


def _listening() -> None:
    op.create_table(
        "listening",
        _id(sa.BigInteger),
        _owner(),
        _said("source"),
        _number("ended_us"),
        _number("precision_us"),
        *map(_text, ("show", "episode", "uri")),
        _number("played_ms"),
        _number("nth", sa.Integer),
        _said("digest"),
        sa.CheckConstraint("source <> ''", name="ck_listening_source"),
        sa.CheckConstraint("precision_us > 0 AND played_ms >= 0 AND nth > 0", name="ck_listening_numbers"),
        sa.CheckConstraint("episode <> '' OR uri <> ''", name="ck_listening_episode"),
        sa.UniqueConstraint("user_id", "digest", name="uq_listening_once"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_listening_when", "listening", ["user_id", "ended_us"])


def _library() -> None:
    op.create_table(
        "library",
        _id(),
        _owner(),
        _said("source"),
        *map(_text, ("show", "episode", "publisher", "uri", "feed_url")),
        _number("added_us"),
        _said("digest"),
        sa.CheckConstraint("source <> ''", name="ck_library_source"),
        sa.CheckConstraint("show <> '' OR episode <> '' OR uri <> '' OR feed_url <> ''", name="ck_library_something"),
        sa.UniqueConstraint("user_id", "digest", name="uq_library_once"),
        sqlite_autoincrement=True,
    )

"""What a source told of a user stays as it was told, once; what that adds up to is worked out when somebody asks.

All tables are the user's own: they go with the user. A digest of what was told is the row's identity, so that the
same file changes nothing the second time.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, Table, Text, UniqueConstraint

from podcastqa.database import metadata, row_id
from podcastqa.users import owner

_OWNED = {"owner": "user_id"}
#: A login that can be used, and one that the person has to consent to again.
CONNECTED, REAUTH = "connected", "reauth_required"


def _text(name: str) -> Column[str]:
    """A column that may be empty, and is never NULL: not every source tells everything."""
    return Column(name, Text, nullable=False, server_default="")


listening = Table(
    "listening",
    metadata,
    row_id(BigInteger),
    owner(),
    Column("source", Text, nullable=False),
    Column("ended_us", BigInteger, nullable=False),  # it ended then or later, by less than the precision
    Column("precision_us", BigInteger, nullable=False),
    _text("show"),
    _text("episode"),
    _text("uri"),
    Column("played_ms", BigInteger, nullable=False),
    Column("nth", Integer, nullable=False),  # of the rows of one file that say the same
    Column("digest", Text, nullable=False),
    CheckConstraint("source <> ''", name="ck_listening_source"),
    CheckConstraint("precision_us > 0 AND played_ms >= 0 AND nth > 0", name="ck_listening_numbers"),
    CheckConstraint("episode <> '' OR uri <> ''", name="ck_listening_episode"),
    UniqueConstraint("user_id", "digest", name="uq_listening_once"),
    Index("ix_listening_when", "user_id", "ended_us"),
    info=_OWNED,
    sqlite_autoincrement=True,
)

episodes = Table(
    "episodes",
    metadata,
    row_id(BigInteger),
    owner(),
    Column("source", Text, nullable=False),
    _text("show"),
    _text("episode"),
    Column("uri", Text, nullable=False),
    _text("released"),  # a year, a month or a day, as the source says it
    Column("duration_ms", BigInteger, nullable=False),
    Column("position_ms", BigInteger, nullable=False),  # how far it was heard; -1: not told
    Column("fetched_us", BigInteger, nullable=False),
    CheckConstraint("uri <> ''", name="ck_episodes_uri"),
    CheckConstraint("duration_ms >= 0 AND position_ms >= -1", name="ck_episodes_numbers"),
    UniqueConstraint("user_id", "source", "uri", name="uq_episodes_once"),
    info=_OWNED,
    sqlite_autoincrement=True,
)

library = Table(
    "library",
    metadata,
    row_id(),
    owner(),
    Column("source", Text, nullable=False),
    _text("show"),
    _text("episode"),  # empty: the show itself was subscribed to
    _text("publisher"),
    _text("uri"),
    _text("feed_url"),
    Column("added_us", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    CheckConstraint("source <> ''", name="ck_library_source"),
    CheckConstraint("show <> '' OR episode <> '' OR uri <> '' OR feed_url <> ''", name="ck_library_something"),
    UniqueConstraint("user_id", "digest", name="uq_library_once"),
    info=_OWNED,
    sqlite_autoincrement=True,
)

connections = Table(
    "connections",
    metadata,
    row_id(),
    owner(),
    *(Column(name, Text, nullable=False) for name in ("provider", "account", "state", "key_id", "sealed")),
    Column("consented_us", BigInteger, nullable=False),
    CheckConstraint(f"state IN ('{CONNECTED}', '{REAUTH}')", name="ck_connections_state"),
    CheckConstraint("sealed <> '' OR state <> 'connected'", name="ck_connections_sealed"),
    UniqueConstraint("user_id", "provider", name="uq_connections_once"),
    info=_OWNED,
    sqlite_autoincrement=True,
)

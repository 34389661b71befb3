"""What a source told of a user stays as it was told, once; what that adds up to is worked out when somebody asks.

Both tables are the user's own: they go with the user. A digest of what was told is the row's identity, so that the
same file changes nothing the second time.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, Table, Text, UniqueConstraint

from podcastqa.database import metadata, row_id
from podcastqa.users import owner

_OWNED = {"owner": "user_id"}


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

"""What providers said is kept in their own words: answers that were paid for, and lines of imported files.

None of it belongs to one user (a bill names everybody's costs), so no user's scope may read it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from podcastqa.database import metadata, row_id

_OPERATORS = {"operator": True}


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _big(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


#: One reading of a provider's bill: claimed by one process, then answered or failed.
bill_reads = Table(
    "bill_reads",
    metadata,
    row_id(),
    _text("source"),
    _text("account"),
    _text("asked"),  # the request, as JSON
    _big("began_us"),
    _big("ended_us"),  # 0: going on, or its process died
    Column("again_us", BigInteger, nullable=False),  # not to be tried again before
    _text("problem"),  # why there is no answer; empty where there is one
    _text("answer"),  # every page as the provider wrote it, as JSON
    _text("sha256"),
    Column("pages", Integer, nullable=False),
    CheckConstraint("(answer = '') = (pages = 0)", name="ck_bill_reads_answer"),
    Index("ix_bill_reads_newest", "source", "account", "id"),
    info=_OPERATORS,
    sqlite_autoincrement=True,
)

#: One call of `podcastqa bills import`.
bill_imports = Table(
    "bill_imports",
    metadata,
    row_id(),
    _text("path"),
    _big("imported_us"),
    info=_OPERATORS,
    sqlite_autoincrement=True,
)

bill_files = Table(
    "bill_files",
    metadata,
    Column("import_id", Integer, ForeignKey("bill_imports.id"), nullable=False),
    _text("sha256"),
    _text("name"),
    _text("format"),  # "FOCUS 1.2", "CUR 2.0", "Cost Explorer console CSV"
    Column("rows", Integer, nullable=False),
    _text("bad_rows"),  # JSON: [[place, reason], …]
    PrimaryKeyConstraint("import_id", "sha256"),
    CheckConstraint("length(sha256) = 64", name="ck_bill_files_sha256"),
    info=_OPERATORS,
    sqlite_with_rowid=False,
)

bill_lines = Table(
    "bill_lines",
    metadata,
    row_id(BigInteger),
    Column("import_id", Integer, ForeignKey("bill_imports.id"), nullable=False),
    _text("sha256"),
    Column("line", Integer, nullable=False),
    _text("source"),
    _text("account"),
    Column("period", Integer, nullable=False),  # the first day of the billing month
    Column("day", Integer, nullable=False),
    _text("user_tag"),
    _text("resource_id"),
    _text("service"),
    _text("category"),
    _text("amount_text"),  # the provider's own spelling
    _big("amount_pico"),
    _big("effective_pico"),
    Index("ix_bill_lines_standing", "source", "account", "period", "import_id"),
    info=_OPERATORS,
    sqlite_autoincrement=True,
)

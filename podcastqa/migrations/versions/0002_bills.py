"""What providers said: answers that were paid for, and files that were imported."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _reads()
    _files()


def _id(kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    number = kind().with_variant(sa.Integer, "sqlite")
    return sa.Column("id", number, sa.Identity(), primary_key=True, autoincrement=True)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _bigs(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _ints(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer, nullable=False) for name in names]


def _import() -> sa.Column[int]:
    return sa.Column("import_id", sa.Integer, sa.ForeignKey("bill_imports.id"), nullable=False)


def _reads() -> None:
    op.create_table(
        "bill_reads",
        _id(),
        *_texts("source", "account", "asked"),
        *_bigs("began_us", "ended_us", "again_us"),
        *_texts("problem", "answer", "sha256"),
        *_ints("pages"),
        sa.CheckConstraint("(answer = '') = (pages = 0)", name="ck_bill_reads_answer"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_bill_reads_newest", "bill_reads", ["source", "account", "id"])


def _files() -> None:
    op.create_table("bill_imports", _id(), *_texts("path"), *_bigs("imported_us"), sqlite_autoincrement=True)
    op.create_table(
        "bill_files",
        _import(),
        *_texts("sha256", "name", "format"),
        *_ints("rows"),
        *_texts("bad_rows"),
        sa.PrimaryKeyConstraint("import_id", "sha256"),
        sa.CheckConstraint("length(sha256) = 64", name="ck_bill_files_sha256"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "bill_lines",
        _id(sa.BigInteger),
        _import(),
        *_texts("sha256"),
        *_ints("line"),
        *_texts("source", "account"),
        *_ints("period", "day"),
        *_texts("user_tag", "resource_id", "service", "category", "amount_text"),
        *_bigs("amount_pico", "effective_pico"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_bill_lines_standing", "bill_lines", ["source", "account", "period", "import_id"])

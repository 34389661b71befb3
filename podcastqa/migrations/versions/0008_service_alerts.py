"""An alert may speak of a service: its limits are reached, and refuse, like those of the system and of a user."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_KEY = ("user_id", "service", "window_kind", "window_start", "threshold")
_KEPT = """id, user_id, window_kind, window_start, threshold, spent_pico, limit_pico, detail, created_us, claimed_us,
 claimed_by, sent_us, message_id, delivered_to"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _make_outbox_anew()
        return
    op.add_column("outbox", _service())
    op.drop_constraint("uq_outbox_once", "outbox")
    op.create_unique_constraint("uq_outbox_once", "outbox", list(_KEY))


def _service() -> sa.Column[str]:
    return sa.Column("service", sa.Text, nullable=False, server_default="")


def _make_outbox_anew() -> None:
    """SQLite changes no constraint of a table: the rows go to a new one of the same name."""
    op.create_table(
        "outbox_anew",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        _service(),
        sa.Column("window_kind", sa.Text, nullable=False),
        sa.Column("window_start", sa.Integer, nullable=False),
        sa.Column("threshold", sa.Text, nullable=False),
        sa.Column("spent_pico", sa.BigInteger, nullable=False),
        sa.Column("limit_pico", sa.BigInteger, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("claimed_us", sa.BigInteger),
        sa.Column("claimed_by", sa.Text),
        sa.Column("sent_us", sa.BigInteger),
        sa.Column("message_id", sa.Text),
        sa.Column("delivered_to", sa.Text),
        sa.UniqueConstraint(*_KEY, name="uq_outbox_once"),
        sa.CheckConstraint("length(threshold) > 0", name="ck_outbox_threshold"),
        sa.CheckConstraint("window_kind IN ('day', 'week', 'month')", name="ck_outbox_window"),
        sqlite_autoincrement=True,
    )
    op.execute(f"INSERT INTO outbox_anew ({_KEPT}) SELECT {_KEPT} FROM outbox")
    op.drop_table("outbox")
    op.rename_table("outbox_anew", "outbox")

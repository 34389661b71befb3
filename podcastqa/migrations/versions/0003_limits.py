"""Limits begin at an instant, end by being removed, and may be a service's; what services spent is counted.

What is derived for each open hold is kept with less: its user stands in its reserve, and only un-started ones run
out of time.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

MOST_PICO = 4 * 10**18
_CHECKS = {
    "ck_limits_service": "service = '' OR user_id = 0",
    "ck_limits_removed": "removed = 0 OR (removed = 1 AND amount_pico = 0)",
    "ck_limits_from": "from_us >= set_us",
}


def upgrade() -> None:
    op.drop_index("ix_open_holds_expiry", "open_holds")
    if op.get_bind().dialect.name == "sqlite":
        _make_limits_anew()
        _make_open_holds_anew()
    else:
        _alter_limits()
        op.drop_constraint("open_holds_user_id_fkey", "open_holds")
    unstarted = sa.text("started = 0")
    op.create_index(
        "ix_open_holds_expiry", "open_holds", ["expires_us"], sqlite_where=unstarted, postgresql_where=unstarted
    )
    _services()


def _make_limits_anew() -> None:
    """SQLite adds no check to a table: the rows go to a new one of the same name, and the triggers come again."""
    op.create_table(
        "limits_anew",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("window_kind", sa.Text, nullable=False),
        sa.Column("amount_pico", sa.BigInteger, nullable=False),
        sa.Column("set_us", sa.BigInteger, nullable=False),
        sa.Column("set_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False, server_default=""),
        sa.Column("from_us", sa.BigInteger, nullable=False),
        sa.Column("removed", sa.Integer, nullable=False, server_default="0"),
        sa.CheckConstraint("window_kind IN ('day', 'week', 'month')", name="ck_limits_window"),
        sa.CheckConstraint(f"amount_pico BETWEEN 0 AND {MOST_PICO}", name="ck_limits_amount"),
        sa.CheckConstraint("length(set_by) > 0 AND length(reason) > 0", name="ck_limits_who"),
        *(sa.CheckConstraint(check, name=name) for name, check in _CHECKS.items()),
        sqlite_autoincrement=True,
    )
    op.execute(
        "INSERT INTO limits_anew (id, user_id, window_kind, amount_pico, set_us, set_by, reason, from_us) "
        "SELECT id, user_id, window_kind, amount_pico, set_us, set_by, reason, set_us FROM limits"
    )
    op.drop_table("limits")
    op.rename_table("limits_anew", "limits")
    for action in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER limits_no_{action.lower()} BEFORE {action} ON limits "
            f"BEGIN SELECT RAISE(ABORT, 'limits only grows: {action} is refused'); END"
        )


def _make_open_holds_anew() -> None:
    op.create_table(
        "open_holds_anew",
        sa.Column("hold_id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("amount_pico", sa.BigInteger, nullable=False),
        sa.Column("started", sa.Integer, nullable=False, server_default="0"),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
        sa.CheckConstraint("started IN (0, 1)", name="ck_open_holds_started"),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO open_holds_anew SELECT * FROM open_holds")
    op.drop_table("open_holds")
    op.rename_table("open_holds_anew", "open_holds")


def _alter_limits() -> None:
    """PostgreSQL computes the new column from an old one, and no trigger sees it."""
    op.add_column("limits", sa.Column("service", sa.Text, nullable=False, server_default=""))
    op.add_column("limits", sa.Column("from_us", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("limits", sa.Column("removed", sa.Integer, nullable=False, server_default="0"))
    op.execute("ALTER TABLE limits ALTER COLUMN from_us DROP DEFAULT, ALTER COLUMN from_us TYPE bigint USING set_us")
    for name, check in _CHECKS.items():
        op.create_check_constraint(name, "limits", check)


def _services() -> None:
    op.create_table(
        "service_counters",
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("booked_pico", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("held_pico", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("service", "day"),
        sa.CheckConstraint("held_pico >= 0", name="ck_service_counters_held"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO service_counters (service, day, booked_pico, held_pico) "
        "SELECT service, day, sum(booked), sum(held) FROM ("
        "SELECT service, day, CASE WHEN kind IN ('settle', 'correct') THEN amount_pico ELSE 0 END AS booked, 0 AS held "
        "FROM entries UNION ALL "
        "SELECT e.service, h.day, 0, h.amount_pico FROM open_holds h "
        "JOIN entries e ON e.hold_id = h.hold_id AND e.kind = 'reserve') AS sums GROUP BY service, day"
    )

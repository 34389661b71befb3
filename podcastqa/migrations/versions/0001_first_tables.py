"""Users, the ledger and what is derived from it, limits and stops, bills, alerts, validations."""

import sqlalchemy as sa
from alembic import op

from podcastqa.migrations.row_security import schema_in_use

revision = "0001"
down_revision = None

MOST_PICO = 4 * 10**18
APPEND_ONLY = ("entries", "limits", "stops")


def upgrade() -> None:
    _users()
    _entries()
    _derived()
    _decisions()
    _outbox()
    _validations()
    _triggers()


def _owner() -> sa.Column[int]:
    return sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False)


def _id(kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    """A number that the database gives; SQLite gives 64 bits under the name of INTEGER, and only under that."""
    number = kind().with_variant(sa.Integer, "sqlite")
    return sa.Column("id", number, sa.Identity(), primary_key=True, autoincrement=True)


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _big(name: str, default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=default)


def _users() -> None:
    op.create_table(
        "users",
        _id(),
        sa.Column("name", sa.Text, unique=True),
        _text("email", ""),
        _big("created_us"),
        sa.Column("deleted_us", sa.BigInteger),
        sa.CheckConstraint("(name IS NULL) = (deleted_us IS NOT NULL OR id = 0)", name="ck_users_name"),
        sqlite_autoincrement=True,
    )
    op.execute("INSERT INTO users (id, name, email, created_us) VALUES (0, NULL, '', 0)")


def _entries() -> None:
    op.create_table(
        "entries",
        _id(sa.BigInteger),
        _text("hold_id"),
        _text("kind"),
        _owner(),
        _text("source"),
        _text("service"),
        _text("operation"),
        _big("amount_pico"),
        sa.Column("day", sa.Integer, nullable=False),
        _big("at_us"),
        _big("expires_us", "0"),
        _text("price", ""),
        _text("reason", ""),
        # Each row is checked, so that plain comparisons, the likely one first, stand where IN and functions would do.
        sa.CheckConstraint(
            " OR ".join(f"kind = '{kind}'" for kind in ("reserve", "start", "settle", "void", "expire", "correct")),
            name="ck_entries_kind",
        ),
        sa.CheckConstraint(
            f"amount_pico BETWEEN 0 AND {MOST_PICO} OR (kind = 'correct' AND amount_pico BETWEEN -{MOST_PICO} AND 0)",
            name="ck_entries_amount",
        ),
        sa.CheckConstraint("hold_id <> '' AND length(hold_id) <= 200", name="ck_entries_hold"),
        sa.CheckConstraint("kind <> 'correct' OR reason <> ''", name="ck_entries_reason"),
        sqlite_autoincrement=True,
    )
    for name, rows in (
        ("uq_entries_reserve", "kind = 'reserve'"),
        ("uq_entries_start", "kind = 'start'"),
        ("uq_entries_end", "kind IN ('settle', 'void', 'expire')"),
    ):
        where = sa.text(rows)
        op.create_index(name, "entries", ["hold_id"], unique=True, sqlite_where=where, postgresql_where=where)


def _derived() -> None:
    op.create_table(
        "open_holds",
        sa.Column("hold_id", sa.Text, primary_key=True),
        _owner(),
        _text("source"),
        sa.Column("day", sa.Integer, nullable=False),
        _big("amount_pico"),
        sa.Column("started", sa.Integer, nullable=False, server_default="0"),
        _big("expires_us"),
        sa.CheckConstraint("started IN (0, 1)", name="ck_open_holds_started"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_open_holds_expiry", "open_holds", ["started", "expires_us"])
    op.create_table(
        "counters",
        _owner(),
        sa.Column("day", sa.Integer, nullable=False),
        _text("source"),
        _big("booked_pico", "0"),
        _big("held_pico", "0"),
        _big("bill_pico", "0"),
        sa.PrimaryKeyConstraint("user_id", "day", "source"),
        sa.CheckConstraint("held_pico >= 0", name="ck_counters_held"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "bill_days",
        _text("source"),
        sa.Column("day", sa.Integer, nullable=False),
        _owner(),
        _big("gross_pico"),
        _big("net_pico"),
        _big("read_us"),
        sa.PrimaryKeyConstraint("source", "day", "user_id"),
        sqlite_with_rowid=False,
    )


def _decisions() -> None:
    op.create_table(
        "limits",
        _id(),
        _owner(),
        _text("window_kind"),
        _big("amount_pico"),
        _big("set_us"),
        _text("set_by"),
        _text("reason"),
        sa.CheckConstraint("window_kind IN ('day', 'week', 'month')", name="ck_limits_window"),
        sa.CheckConstraint(f"amount_pico BETWEEN 0 AND {MOST_PICO}", name="ck_limits_amount"),
        sa.CheckConstraint("length(set_by) > 0 AND length(reason) > 0", name="ck_limits_who"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "stops",
        _id(),
        sa.Column("stopped", sa.Integer, nullable=False),
        _big("at_us"),
        _text("said_by"),
        _text("reason"),
        sa.CheckConstraint("stopped IN (0, 1)", name="ck_stops_stopped"),
        sa.CheckConstraint("length(said_by) > 0 AND length(reason) > 0", name="ck_stops_who"),
        sqlite_autoincrement=True,
    )


def _outbox() -> None:
    op.create_table(
        "outbox",
        _id(),
        _owner(),
        _text("window_kind"),
        sa.Column("window_start", sa.Integer, nullable=False),
        _text("threshold"),
        _big("spent_pico"),
        _big("limit_pico"),
        _text("detail"),
        _big("created_us"),
        sa.Column("claimed_us", sa.BigInteger),
        sa.Column("claimed_by", sa.Text),
        sa.Column("sent_us", sa.BigInteger),
        sa.Column("message_id", sa.Text),
        sa.Column("delivered_to", sa.Text),
        sa.UniqueConstraint("user_id", "window_kind", "window_start", "threshold", name="uq_outbox_once"),
        sa.CheckConstraint("length(threshold) > 0", name="ck_outbox_threshold"),
        sa.CheckConstraint("window_kind IN ('day', 'week', 'month')", name="ck_outbox_window"),
        sqlite_autoincrement=True,
    )


def _validations() -> None:
    op.create_table(
        "validations",
        _id(),
        sa.Column("run_id", sa.Text, nullable=False),
        _text("step"),
        _text("verdict"),
        sa.Column("criteria_version", sa.Integer, nullable=False),
        _text("fingerprint"),
        sa.Column("rehearsal", sa.Integer, nullable=False),
        _big("started_us"),
        _big("finished_us"),
        _big("cost_pico"),
        _text("components"),
        _text("criteria"),
        _text("parameters"),
        sa.UniqueConstraint("run_id", name="uq_validations_run"),
        sa.CheckConstraint("verdict IN ('PASS', 'FAIL', 'INCOMPLETE')", name="ck_validations_verdict"),
        sqlite_autoincrement=True,
    )


def _triggers() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _postgresql_triggers()
        return
    for table in APPEND_ONLY:
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} only grows: {action} is refused'); END"
            )
    op.execute(
        "CREATE TRIGGER entries_need_reserve BEFORE INSERT ON entries WHEN NEW.kind <> 'reserve' AND NOT EXISTS "
        "(SELECT 1 FROM entries WHERE hold_id = NEW.hold_id AND kind = 'reserve') "
        "BEGIN SELECT RAISE(ABORT, 'an entry needs the reserve of its hold'); END"
    )


def _postgresql_triggers() -> None:
    """The same words, from functions; the one that asks for the reserve names its schema, as no caller may."""
    schema = schema_in_use()
    op.execute(
        "CREATE FUNCTION only_grows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% only grows: % is refused', TG_TABLE_NAME, TG_OP "
        "USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for table in APPEND_ONLY:
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION only_grows()"
            )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION only_grows()"
        )
    op.execute(
        "CREATE FUNCTION needs_reserve() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NOT EXISTS (SELECT 1 FROM \"{schema}\".entries WHERE hold_id = NEW.hold_id AND kind = 'reserve') THEN "
        "RAISE EXCEPTION 'an entry needs the reserve of its hold' "
        "USING ERRCODE = 'integrity_constraint_violation'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER entries_need_reserve BEFORE INSERT ON entries FOR EACH ROW "
        "WHEN (NEW.kind <> 'reserve') EXECUTE FUNCTION needs_reserve()"
    )

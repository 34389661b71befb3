"""PostgreSQL: the number by which writers see each other, the rights of the working roles, and row-level security."""

import sqlalchemy as sa
from alembic import op

from podcastqa.migrations.row_security import grant, protect, schema_in_use
from podcastqa.scope import APP_ROLE, TURN_KEY, USER_ROLE

revision = "0004"
down_revision = "0003"

OWNED = ("entries", "open_holds", "counters", "bill_days", "limits", "outbox")
#: What a writer remembers from one transaction to the next, as long as nobody else has written.
REMEMBERED = ("users", "entries", "open_holds", "counters", "service_counters", "bill_days", "limits", "stops")
#: What the program does with each table; entries, limits and stops only grow.
APP_RIGHTS = {
    "SELECT": ("alembic_version",),
    "SELECT, INSERT": ("entries", "limits", "stops", "bill_imports", "bill_files", "bill_lines"),
    "SELECT, UPDATE": ("ledger_version",),
    "SELECT, INSERT, UPDATE": ("users", "bill_reads"),
    "SELECT, INSERT, DELETE": ("validations",),
    "SELECT, INSERT, UPDATE, DELETE": ("open_holds", "counters", "service_counters", "bill_days", "outbox"),
}
#: What it does in a user's scope: read, and keep that user's own address and mails.
USER_RIGHTS = {
    "SELECT": ("users", "stops", "validations", *OWNED),
    "INSERT, UPDATE, DELETE": ("outbox",),
    "UPDATE (email)": ("users",),
}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    schema = schema_in_use()
    _version(schema)
    for role, rights in ((APP_ROLE, APP_RIGHTS), (USER_ROLE, USER_RIGHTS)):
        op.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO {role}')
        for words, tables in rights.items():
            for table in tables:
                grant(words, table, role)
    protect("users", owner="id")
    for table in OWNED:
        protect(table)


def _version(schema: str) -> None:
    """Every transaction that writes raises it; for a statement that somebody types, a trigger does."""
    op.create_table(
        "ledger_version",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="ck_ledger_version_one"),
        postgresql_with={"fillfactor": 10},  # room for the new version of the row beside the old one
    )
    op.execute("INSERT INTO ledger_version (id, version) VALUES (1, 0)")
    op.execute(
        "CREATE FUNCTION raise_version() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f'SET search_path = "{schema}", pg_temp AS $$ BEGIN '
        f"PERFORM pg_advisory_xact_lock({TURN_KEY}, hashtext(current_schema())); "
        "UPDATE ledger_version SET version = version + 1; RETURN NULL; END $$"
    )
    for table in REMEMBERED:
        op.execute(
            f"CREATE TRIGGER {table}_raise_version BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT WHEN (current_setting('podcastqa.queues', true) IS DISTINCT FROM 'yes') "
            "EXECUTE FUNCTION raise_version()"
        )

"""Counters and open holds are carried forward from time to time: a row says up to which entry they hold everything."""

import sqlalchemy as sa
from alembic import op

from podcastqa.migrations.row_security import grant, schema_in_use
from podcastqa.scope import APP_ROLE, TURN_KEY

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "carried",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("through_id", sa.BigInteger, nullable=False),
        sa.Column("times", sa.BigInteger, nullable=False),
        sa.Column("others", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="ck_carried_one"),
        sa.CheckConstraint("through_id >= 0", name="ck_carried_through"),
        postgresql_with={"fillfactor": 10},  # room for the new version of the row beside the old one
    )
    op.execute("INSERT INTO carried SELECT 1, coalesce(max(id), 0), 0, 0 FROM entries")
    if op.get_bind().dialect.name == "postgresql":
        grant("SELECT, UPDATE", "carried", APP_ROLE)
        _raise_others(schema_in_use())


def _raise_others(schema: str) -> None:
    """A statement that somebody types may have changed anything: who remembers reads it anew."""
    op.execute(
        "CREATE OR REPLACE FUNCTION raise_version() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f'SET search_path = "{schema}", pg_temp AS $$ BEGIN '
        f"PERFORM pg_advisory_xact_lock({TURN_KEY}, hashtext(current_schema())); "
        "UPDATE ledger_version SET version = version + 1; UPDATE carried SET others = others + 1; "
        "RETURN NULL; END $$"
    )

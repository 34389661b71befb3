"""One index says that a hold is reserved, started and resolved once: three of them cost every new entry three looks."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

STEP = "CASE kind WHEN 'reserve' THEN 0 WHEN 'start' THEN 1 WHEN 'correct' THEN NULL ELSE 2 END"


def upgrade() -> None:
    for name in ("reserve", "start", "end"):
        op.drop_index(f"uq_entries_{name}", "entries")
    op.create_index("uq_entries_step", "entries", ["hold_id", sa.text(f"({STEP})")], unique=True)
    if op.get_bind().dialect.name == "sqlite":
        _look_after_the_insert()


def _look_after_the_insert() -> None:
    """A trigger that fires before an insert makes SQLite copy the row first."""
    op.execute("DROP TRIGGER entries_need_reserve")
    op.execute(
        "CREATE TRIGGER entries_need_reserve AFTER INSERT ON entries WHEN NEW.kind <> 'reserve' AND NOT EXISTS "
        "(SELECT 1 FROM entries WHERE hold_id = NEW.hold_id AND kind = 'reserve') "
        "BEGIN SELECT RAISE(ABORT, 'an entry needs the reserve of its hold'); END"
    )

"""No index of the holds that may expire: every reserve wrote it, and it is only asked where there is no room."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.drop_index("ix_open_holds_expiry", "open_holds")

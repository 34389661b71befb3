"""Row-level security on PostgreSQL: a table of users' rows shows a user that user's rows, whatever the query says.

A migration that adds a table calls `protect` for it (and `grant`, with no more than is needed). The operator's role
sees all of it; the login that migrates is a member of that role, so that a later migration still finds every row.
"""

from alembic import op

from podcastqa.scope import APP_ROLE, USER_ROLE

_MINE = "(SELECT nullif(current_setting('podcastqa.user_id', true), '')::bigint)"


def schema_in_use() -> str:
    """The schema that the tables go to, which may be as new as they are."""
    return str(op.get_bind().exec_driver_sql("SELECT current_schema()").scalar())


def protect(table: str, owner: str = "user_id") -> None:
    """Keep users' rows apart."""
    own = f"{owner} = {_MINE}"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")  # its owner too
    op.execute(f"CREATE POLICY operator ON {table} TO {APP_ROLE} USING (true) WITH CHECK (true)")
    op.execute(f"CREATE POLICY own_rows ON {table} TO {USER_ROLE} USING ({own}) WITH CHECK ({own})")


def grant(rights: str, table: str, role: str) -> None:
    """Rights that a role needs on a table."""
    op.execute(f"GRANT {rights} ON {table} TO {role}")

"""What a PostgreSQL server needs before the migrations, and what it says of the tables afterwards."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors
from sqlalchemy import Connection

from podcastqa.errors import LedgerUnavailable
from podcastqa.postgres_driver import PostgresDriver
from podcastqa.scope import APP_ROLE as APP
from podcastqa.scope import USER_ROLE as USER

_HAS_ROLES = "SELECT count(*) FROM pg_roles WHERE rolname IN (%s, %s) AND pg_has_role(oid, 'MEMBER')"

#: A drill's schema has the run's instant in its name.
_OLD_DRILLS = r"""SELECT nspname FROM pg_namespace WHERE nspname ~ '^podcastqa_drill_.*_\d{8}t\d{6}z'
 AND to_date(substring(nspname FROM '_(\d{8})t\d{6}z'), 'YYYYMMDD') < current_date - 1
 AND nspname <> current_schema()"""


def make_roles(url: str, place: str) -> None:
    """Make the two roles and let the login take them; raises LedgerUnavailable where it may not."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(_HAS_ROLES, (APP, USER)).fetchone()
        if found and found[0] == 2:
            return
        try:
            for role in (APP, USER):
                _make_role(connection, role)
        except errors.InsufficientPrivilege as problem:
            login = connection.info.user
            raise LedgerUnavailable(
                f"The database {place} has no roles {APP} and {USER} that {login} may take, and {login} may not make "
                "them.",
                next_step=f"Let an administrator run: CREATE ROLE {APP} NOLOGIN; CREATE ROLE {USER} NOLOGIN; "
                f'GRANT {APP}, {USER} TO "{login}";',
            ) from problem


def _make_role(connection: psycopg.Connection[Any], role: str) -> None:
    with suppress(errors.DuplicateObject, errors.UniqueViolation):  # another database, or another process, was first
        connection.execute(f"CREATE ROLE {role} NOLOGIN")
    connection.execute(f"GRANT {role} TO CURRENT_USER")


def make_schema(connection: Connection) -> None:
    """Make the first schema that the connection looks in, where there is none; drills of days ago go then."""
    if connection.exec_driver_sql("SELECT current_schema()").scalar() is None:
        path = str(connection.exec_driver_sql("SHOW search_path").scalar())
        connection.exec_driver_sql(f"CREATE SCHEMA {path.split(',', maxsplit=1)[0].strip()}")
        for (old,) in connection.exec_driver_sql(_OLD_DRILLS).all():
            connection.exec_driver_sql(f'DROP SCHEMA "{old}" CASCADE')


_SCHEMA = (
    (
        "SELECT 'column ' || table_name || '.' || column_name, concat_ws(' ', data_type, is_nullable, column_default,"
        " is_identity) FROM information_schema.columns WHERE table_schema = current_schema()"
    ),
    (
        "SELECT 'constraint ' || conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = current_schema()::regnamespace AND contype <> 'n'"
    ),
    "SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()",
    (
        "SELECT 'trigger ' || t.tgname, concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled, p.prosrc)"
        " FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid"
        " WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace"
    ),
    (
        "SELECT 'policy ' || tablename || '.' || policyname, concat_ws(' ', permissive, roles, cmd, qual, with_check)"
        " FROM pg_policies WHERE schemaname = current_schema()"
    ),
    (
        "SELECT 'table ' || relname, concat_ws(' ', 'rls', relrowsecurity, relforcerowsecurity, relacl::text)"
        " FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
    ),
)


def schema_of(driver: PostgresDriver) -> dict[str, str]:
    """Everything in the schema in use, each with what it is; the schema's own name is left out of it."""
    found = {name: said for sql in _SCHEMA for name, said in driver.execute(sql).fetchall()}
    (schema,) = driver.execute("SELECT current_schema()").fetchone() or ("",)
    names = (f'"{schema}".', f"{schema}.")
    for name, said in found.items():
        for own in names:
            said = said.replace(own, "")  # noqa: PLW2901 – the same text, without it
        found[name] = said
    return found

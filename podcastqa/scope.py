"""Whose rows a statement may touch, enforced on the statement itself before it reaches the database.

In a user's scope each owned table, and each alias of one, is replaced by the user's rows of it, however deep in the
statement it stands. What cannot be replaced (a piece of SQL as text, a query inside a write) is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Delete, Insert, MetaData, Select, Table, Update, select
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ColumnClause, TextClause
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import CompoundSelect, FromClauseAlias, SelectBase, TableClause, TextualSelect

from podcastqa.errors import CrossUserRefused, ScopeMissing

_WRITES = (Insert, Update, Delete)
#: Where SQLAlchemy keeps text that goes into a statement as it is.
_TEXT_IN = ("_prefixes", "_suffixes", "_hints", "_statement_hints")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows a statement may touch: one user's, or (`user_id` None) the whole system's."""

    user_id: int | None


SYSTEM = Scope(None)
#: Where the database itself keeps users apart: who does the operator's work, and who a user's. Neither owns anything.
APP_ROLE, USER_ROLE = "podcastqa_app", "podcastqa_user"
#: The server's advisory lock that those who write queue for; the schema is its second half.
TURN_KEY = 7_068_716
#: Said by every write but a ledger writer's own: those follow each other's entries, and read anew after anything else.
OTHERS = "UPDATE carried SET others = others + 1"


def said(scope: Scope) -> Scope:
    """The scope, if one was said; raises ScopeMissing."""
    if not isinstance(scope, Scope):
        raise ScopeMissing(next_step="Say whose data: Scope(user_id), or SYSTEM for the operator.")
    return scope


def owner_column(table: Any) -> Any:
    """The column that says whose a row is; a table without one has no business in a user's scope."""
    if table is None or "owner" not in table.info:
        raise CrossUserRefused("A user's scope cannot change what belongs to the whole system.")
    return table.c[table.info["owner"]]


def confine_to(metadata: MetaData) -> Callable[..., tuple[Any, Any, Any]]:
    """For SQLAlchemy's `before_execute`: refuse a statement without a scope, narrow it to the user's rows in one."""

    def confine(
        connection: Connection,
        statement: Any,
        many: list[Mapping[str, Any]],
        single: Mapping[str, Any],
        _options: Mapping[str, Any],
    ) -> tuple[Any, Any, Any]:
        elements = list(visitors.iterate(statement))
        scope = connection.get_execution_options().get("scope")
        if scope is None and any(_owned(table) is not None for table in _tables(elements)):
            raise ScopeMissing()
        if scope is None or scope.user_id is None:
            return statement, many, single
        _refuse_text(elements, metadata)
        _refuse_operators(elements)
        if isinstance(statement, _WRITES):
            statement = _own_write(statement, elements, [*many, single], scope.user_id)
        elif isinstance(statement, Select | CompoundSelect):
            statement = _own_rows(statement, elements, scope.user_id)
        else:
            raise ScopeMissing("Only statements built from tables can be confined to a user.")
        return statement, many, single

    return confine


def no_raw_sql(
    connection: Connection, _cursor: object, statement: str, _values: object, context: Any, _many: bool
) -> None:
    """For `before_cursor_execute`: a string of SQL cannot be confined, so it runs in the system scope only."""
    raw = context is None or context.compiled is None
    if raw and connection.get_execution_options().get("scope") != SYSTEM and not statement.startswith("BEGIN"):
        raise ScopeMissing("Raw SQL cannot be confined to a user; build the statement from tables.")


def _named(element: Any) -> Any:
    """What stands behind an alias."""
    while isinstance(element, FromClauseAlias):
        element = element.element
    return element


def _owned(element: Any) -> Table | None:
    """The owned table that this is, or is an alias of; None for everything else."""
    table = _named(element)
    return table if isinstance(table, Table) and "owner" in table.info else None


def _tables(elements: Sequence[Any]) -> set[Any]:
    """Every table that the elements are, or are columns of."""
    found = {element for element in elements if isinstance(element, TableClause | FromClauseAlias)}
    return found | {e.table for e in elements if isinstance(e, ColumnClause) and e.table is not None}


def _refuse_text(elements: Sequence[Any], metadata: MetaData) -> None:
    for element in elements:
        written = isinstance(element, TextClause | TextualSelect) or any(getattr(element, at, ()) for at in _TEXT_IN)
        written |= isinstance(element, ColumnClause) and element.is_literal and element.name != "*"
        written |= isinstance(getattr(element, "operator", None), custom_op)
        # A table by its mere name, or of another MetaData, says nothing of its owner.
        written |= isinstance(element, TableClause) and metadata.tables.get(element.name) is not element
        if written:
            raise ScopeMissing("Raw SQL cannot be confined to a user; build the statement from tables.")


def _refuse_operators(elements: Sequence[Any]) -> None:
    """What names everybody, such as a bill, is the operator's: there are no rows of it that are one user's."""
    for element in _tables(elements):
        table = _named(element)
        if isinstance(table, Table) and table.info.get("operator"):
            raise CrossUserRefused(f"{table.name} is the operator's: it speaks of every user.")


def _own_rows(statement: Any, elements: Sequence[Any], user_id: int) -> Any:
    if any(isinstance(element, _WRITES) for element in elements):
        raise ScopeMissing("A write inside a query cannot be confined to a user.")
    made: dict[Any, Any] = {}

    def own(whole: Any) -> Any:
        if whole not in made:
            column = whole.c[str(owner_column(_owned(whole)).name)]
            made[whole] = select(whole).where(column == user_id).subquery(whole.name)
        return made[whole]

    def replace(element: Any, **_: Any) -> Any:
        if _owned(element) is not None:
            return own(element)
        if isinstance(element, ColumnClause) and _owned(element.table) is not None:
            return own(element.table).c[element.key]
        return None

    return visitors.replacement_traverse(statement, {}, replace)


def _own_write(statement: Any, elements: Sequence[Any], rows: list[Mapping[str, Any]], user_id: int) -> Any:
    target = statement.table
    column = owner_column(target)
    if _tables(elements) != {target} or any(isinstance(element, SelectBase) for element in elements):
        raise ScopeMissing("A query inside a write cannot be confined to a user; ask first, then write.")
    if isinstance(statement, Insert):
        _only_own_rows(statement, column.name, rows, user_id)
        return statement
    given = statement.compile().params if isinstance(statement, Update) else {}
    values = getattr(statement, "_values", None) or {}
    if column.name in {*given, *(getattr(key, "name", key) for key in values), *(key for row in rows for key in row)}:
        raise CrossUserRefused("A row stays with the user it belongs to.")
    return statement.where(column == user_id)


def _only_own_rows(statement: Insert, name: str, rows: list[Mapping[str, Any]], user_id: int) -> None:
    conflict = getattr(statement, "_post_values_clause", None)
    if getattr(conflict, "__visit_name__", "") == "on_conflict_do_update":
        raise CrossUserRefused("The row in conflict may be another user's: insert, or update, but not both at once.")
    owners = [row[name] for row in rows if name in row]
    owners += [value for key, value in statement.compile().params.items() if key == name and value is not None]
    if not owners or any(value != user_id for value in owners):
        raise CrossUserRefused("A row can be written only for the user whose scope this is.")

"""One table, three readers: aligned text for a shell, escaped HTML for a notebook, records for a program.

Whatever a cell holds is written as text: a title from a feed can say `<script>` and nothing will run, and one with
letters that steer a terminal steers none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol

from podcastqa.money import Usd

#: Longest line that a text from outside may add to a mail, and longest cell of a table in a terminal.
_LONGEST_LINE, _LONGEST_CELL = 400, 200


@dataclass(frozen=True, slots=True)
class Table:
    """A title, the names of the columns (with units), the rows, and notes that stand below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Columns aligned for a terminal: words to the left, amounts and numbers to the right."""
        cells = [[one_line(show(value), _LONGEST_CELL) for value in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells, strict=True)]
        right = [all(_is_number(row[i]) for row in self.rows) and bool(self.rows) for i in range(len(widths))]
        lines = [
            one_line(self.title),
            *(_aligned(row, widths, right) for row in [list(self.columns), *cells]),
            *self.notes,
        ]
        return "\n".join(line.rstrip() for line in lines if line)

    def html(self) -> str:
        """The same as an HTML table with a caption; every cell is escaped."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.columns)
        body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in self.rows)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def records(self) -> list[dict[str, Any]]:
        """One mapping a row, money as a string of dollars with all its decimals."""
        return [dict(zip(self.columns, map(plain, row), strict=True)) for row in self.rows]


class HasTable(Protocol):
    """A result that can lay itself out."""

    def table(self) -> Table:
        """The result as a table."""


class Tabular:
    """Mixed into results: what JupyterLab shows, what pandas takes, what a shell prints."""

    __slots__ = ()

    def _repr_html_(self: HasTable) -> str:
        return self.table().html()

    def __str__(self: HasTable) -> str:
        return self.table().text()

    def to_frame(self: HasTable) -> Any:
        """The table as a pandas DataFrame; money stays exact, as Decimal objects."""
        import pandas as pd

        table = self.table()
        exact = [[v.decimal if isinstance(v, Usd) else v for v in row] for row in table.rows]
        return pd.DataFrame(exact, columns=list(table.columns))


def one_line(text: str, longest: int = _LONGEST_LINE) -> str:
    """A text from outside as one line that hides nothing: no control, direction or unassigned characters."""
    shown = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text)
    line = " ".join(shown.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def show(value: object) -> str:
    """A value for a person's eye."""
    if value is None:
        return "–"
    return value.shown() if isinstance(value, Usd) else str(value)


def plain(value: object) -> Any:
    """A value for JSON: money as an exact string, the rest as it is or as text."""
    if isinstance(value, Usd):
        return str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, Usd | int) and not isinstance(value, bool))


def _cell(value: object) -> str:
    kind = ' class="number"' if _is_number(value) else ""
    return f"<td{kind}>{escape(show(value))}</td>"


def _aligned(cells: list[str], widths: list[int], right: list[bool]) -> str:
    pairs = zip(cells, widths, right, strict=True)
    return "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in pairs)

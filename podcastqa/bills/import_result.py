"""What an import did is told whole: each file, what it came to, what it replaced, what could not be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

from podcastqa.bills.bill import BadRow
from podcastqa.bills.files import FileLine
from podcastqa.display import Table, Tabular
from podcastqa.money import ZERO, Usd

_MOST_NOTES = 20
_MONEY = ("gross in USD", "net in USD", "effective in USD")


@dataclass(frozen=True, slots=True)
class SourceTotal:
    """What the lines of one source come to, in USD, and the days that they are of."""

    source: str
    rows: int
    gross: Usd
    net: Usd
    effective: Usd
    first: date
    last: date

    def cells(self) -> tuple[object, ...]:
        """As a row of a table."""
        return (self.source, self.rows, self.gross, self.net, self.effective, self.first, self.last)


@dataclass(frozen=True, slots=True)
class SourceTotals(Tabular):
    """What stands, source by source."""

    sources: tuple[SourceTotal, ...]

    def table(self) -> Table:
        """One row a source."""
        return Table("Imported bills", _COLUMNS, tuple(total.cells() for total in self.sources))


_COLUMNS = ("source", "rows", *_MONEY, "first day", "last day")


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """One file of an import."""

    name: str
    format: str
    sha256: str
    rows: int
    """The good ones."""
    bad_rows: int
    known_since: datetime | None = None
    """When the same bytes were first imported."""
    problem: str = ""
    """Why nothing of it was taken."""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name}: left out: {self.problem}"
        known = f", known since {self.known_since:%Y-%m-%d %H:%M} UTC" if self.known_since else ""
        read = f"{self.rows} rows, {self.bad_rows} bad rows" if self.format else "not read again"
        return f"{self.name}: {self.format + ', ' if self.format else ''}{read}{known}."


@dataclass(frozen=True, slots=True)
class Replaced:
    """A month of an account that an earlier import told, and no longer tells."""

    source: str
    account: str
    month: date
    imported_at: datetime
    rows: int
    net: Usd

    def __str__(self) -> str:
        account = f" account {self.account}" if self.account else ""
        return (
            f"Replaced: {self.source}{account} {self.month:%Y-%m}, {self.rows} rows, {self.net.shown()} net, imported "
            f"{self.imported_at:%Y-%m-%d %H:%M} UTC."
        )


@dataclass(frozen=True, slots=True)
class ImportResult(Tabular):
    """One import."""

    path: str
    changed: bool
    files: tuple[ImportedFile, ...]
    sources: tuple[SourceTotal, ...]
    """What this import added."""
    replaced: tuple[Replaced, ...]
    bad_rows: tuple[BadRow, ...]
    notes: tuple[str, ...]

    def table(self) -> Table:
        """One row a source; below it the files, what was replaced, the rows that could not be read."""
        title = f"Imported from {self.path}" if self.changed else f"Nothing new in {self.path}"
        bad = [f"{row.place}: {row.reason}" for row in self.bad_rows]
        said = (*_first(map(str, self.files)), *_first(map(str, self.replaced)), *_first(self.notes), *_first(bad))
        return Table(title, _COLUMNS, tuple(total.cells() for total in self.sources), said)


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that was imported once, and how many of its rows still stand."""

    imported_at: datetime
    path: str
    name: str
    format: str
    rows: int
    bad_rows: tuple[BadRow, ...]
    standing: int

    @property
    def stands(self) -> str:
        """In words."""
        if not self.rows:
            return "left out"
        if not self.standing:
            return "no: replaced"
        return "yes" if self.standing == self.rows else f"{self.standing} of {self.rows} rows"


@dataclass(frozen=True, slots=True)
class ImportList(Tabular):
    """Every file that was ever imported, the newest first."""

    files: tuple[ListedFile, ...]

    def table(self) -> Table:
        """One row a file."""
        rows = tuple(
            (f"{f.imported_at:%Y-%m-%d %H:%M}", f.path, f.name, f.format, f.rows, len(f.bad_rows), f.stands)
            for f in self.files
        )
        notes = () if self.files else ("Nothing was imported yet: podcastqa bills import PATH",)
        return Table("Imported bills", ("UTC", "path", "file", "format", "rows", "bad rows", "stands"), rows, notes)


def totals_of(lines: Iterable[FileLine]) -> tuple[SourceTotal, ...]:
    """What lines come to, source by source."""
    by_source: dict[str, list[FileLine]] = {}
    for line in lines:
        by_source.setdefault(line.source, []).append(line)
    return tuple(_total(source, found) for source, found in sorted(by_source.items()))


def _total(source: str, lines: list[FileLine]) -> SourceTotal:
    gross = sum((one.line.amount for one in lines if one.line.is_use), ZERO)
    net, effective = sum((one.line.amount for one in lines), ZERO), sum((one.effective for one in lines), ZERO)
    days = {one.line.day for one in lines}
    return SourceTotal(source, len(lines), gross, net, effective, min(days), max(days))


def _first(said: Iterable[str]) -> tuple[str, ...]:
    every = tuple(said)
    more = (f"… and {len(every) - _MOST_NOTES} more.",) if len(every) > _MOST_NOTES else ()
    return (*every[:_MOST_NOTES], *more)

"""Cost Explorer's "Download CSV": one row a day, one column a service, read exactly and checked against its own totals.

The first column is headed by what the costs are grouped by ("Service", "Instance type") though it holds dates. The row
"Service total" and the column "Total costs($)" are the console's sums: where they differ from its figures, that is
noted, and the figures stand. An empty cell is no data, "0" is nothing spent. A download by month is refused: its rows
are dated on the first of the month and would be taken for days (a single row cannot tell, and is taken for a day).
A console's figures are net: within a service, credits are already taken off.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from podcastqa.bills.bill import NOT_USE, BadRow, BillLine, exact_usd, focus_time
from podcastqa.bills.files import BillFile, FileLine, NoBill, opened, sha256
from podcastqa.errors import BadEstimate, BillError
from podcastqa.money import ZERO, Usd

FORMAT = "Cost Explorer console CSV"
SOURCE = "aws"
_TOTAL = re.compile(r"total costs?\s*(\(\$\))?", re.IGNORECASE)
_OTHER_MONEY = re.compile(r"\((€|£|¥|₹|[A-Z]{3})\)$")
_DOLLARS = "($)"
_OF_ITS_OWN = (*NOT_USE, "Tax")


@dataclass(frozen=True, slots=True)
class ConsoleCosts:
    """What the console said: each day's total, and each service's part of it, in USD."""

    days: Mapping[date, Usd]
    lines: tuple[BillLine, ...]
    bad_rows: tuple[BadRow, ...]
    notes: tuple[str, ...]
    sha256: str


def is_console_csv(header: Sequence[str]) -> bool:
    """Whether a file of that header is such a download."""
    return len(header) > 1 and any(_TOTAL.fullmatch(name.strip()) for name in header[1:])


def read_console_csv(path: Path) -> ConsoleCosts:
    """The costs in a download; raises BillError where it is none, is by month, or is not in US dollars."""
    read = _read(path, path.name)
    days: dict[date, Usd] = dict.fromkeys(sorted(read.days), ZERO)
    for _, _, line in read.lines:
        days[line.day] += line.amount
    return ConsoleCosts(days, tuple(line for *_, line in read.lines), tuple(read.bad), tuple(read.notes), sha256(path))


def read_console_file(path: Path, name: str, account: str) -> BillFile:
    """The same as a bill's file of that account; raises the same."""
    read = _read(path, name)
    lines = tuple(
        FileLine(number, SOURCE, account, line.day.replace(day=1), line, text, line.amount)
        for number, text, line in read.lines
    )
    return BillFile(name, FORMAT, sha256(path), lines, tuple(read.bad), tuple(read.notes))


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the costs stand."""

    services: Mapping[int, str]
    total: int
    width: int


class _Download:
    """What one download holds, while it is read."""

    def __init__(self, columns: _Columns, name: str) -> None:
        self._columns, self._name = columns, name
        self._seen: set[datetime] = set()
        self._stated: tuple[str, list[str]] | None = None
        self.lines: list[tuple[int, str, BillLine]] = []
        self.bad: list[BadRow] = []
        self.notes: list[str] = []

    @property
    def days(self) -> set[date]:
        """Those that it has a row for."""
        return {instant.date() for instant in self._seen}

    def take(self, number: int, cells: list[str]) -> None:
        """One row: a day, or the console's sum of all of them."""
        try:
            if len(cells) != self._columns.width:
                raise ValueError(f"it has {len(cells)} cells and not {self._columns.width}")
            if cells[0].strip().lower().endswith(" total"):
                self._stated = cells[0].strip(), cells
            else:
                self._take_day(number, cells)
        except (ValueError, BadEstimate) as problem:
            self.bad.append(BadRow(f"{self._name} line {number}", str(problem)))

    def _take_day(self, number: int, cells: list[str]) -> None:
        instant = focus_time(cells[0])
        if instant in self._seen:
            raise ValueError(f"{cells[0]} was there before")
        found = [
            (number, cells[at].strip(), _line(instant.date(), service, cells[at]))
            for at, service in self._columns.services.items()
            if cells[at].strip()
        ]
        stated = cells[self._columns.total].strip()
        if stated:
            self._compare(f"{cells[0]}, line {number}", stated, (line for *_, line in found))
        self._seen.add(instant)
        self.lines += found

    def check(self) -> None:
        """Compare the console's sums with its days; raises BillError where the rows are months."""
        dates = sorted(self.days)
        if len(dates) > 1 and all(day.day == 1 for day in dates):
            raise BillError(
                f"{self._name} is by month, and its rows would be taken for days.",
                next_step='Choose the granularity "Daily" in Cost Explorer and download it anew.',
            )
        if self._stated is None:
            return
        label, cells = self._stated
        by_service: dict[str, list[BillLine]] = defaultdict(list)
        for *_, line in self.lines:
            by_service[line.service].append(line)
        for at, service in self._columns.services.items():
            self._compare(f"{label}, {service or 'total costs'}", cells[at].strip() or "0", by_service[service])
        if cells[self._columns.total].strip():
            self._compare(label, cells[self._columns.total], (line for *_, line in self.lines))

    def _compare(self, what: str, stated: str, lines: Iterable[BillLine]) -> None:
        try:
            difference = exact_usd(stated) - sum((line.amount for line in lines), ZERO)
        except BadEstimate:
            self.notes.append(f"{what}: the console's total {stated!r} is not an amount.")
            return
        if difference:
            self.notes.append(f"{what}: the console's total is {difference} USD more than its figures, which stand.")


def _line(day: date, service: str, text: str) -> BillLine:
    return BillLine(day, "", "", service, service if service in _OF_ITS_OWN else "Usage", exact_usd(text))


def _read(path: Path, name: str) -> _Download:
    try:
        with opened(path) as file:
            rows = _numbered(file)
            _, header = next(rows, (1, []))
            read = _Download(_columns(header, path), name)
            for number, cells in rows:
                read.take(number, cells)
    except (csv.Error, OSError) as problem:
        raise BillError(f"{path.name} cannot be read: {problem}.", next_step="Download it anew.") from problem
    read.check()
    return read


def _numbered(file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Each row, the header too, with the line that it begins on; empty lines are none."""
    reader, begins = csv.reader(file), 1
    for cells in reader:
        if cells:
            yield begins, cells
        begins = reader.line_num + 1


def _columns(header: list[str], path: Path) -> _Columns:
    names = [name.strip() for name in header]
    if not is_console_csv(names):
        raise NoBill(
            f"{path.name} is not a download of Cost Explorer's console: it has no column Total costs($).",
            next_step='Choose "Download CSV" in Cost Explorer.',
        )
    other = next((name for name in names if _OTHER_MONEY.search(name)), None)
    if other:
        raise BillError(f"{path.name} is not in US dollars: it has a column {other}.")
    total = next(at for at, name in enumerate(names) if at and _TOTAL.fullmatch(name))
    costs = {at: name for at, name in enumerate(names) if at not in (0, total)}
    if any(name.endswith(_DOLLARS) for name in costs.values()):  # then the others are amounts of use
        costs = {at: name for at, name in costs.items() if name.endswith(_DOLLARS)}
    services = {at: name.removesuffix(_DOLLARS).strip() for at, name in costs.items()}
    return _Columns(services or {total: ""}, total, len(names))

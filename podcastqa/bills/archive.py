"""The archive keeps every line that was ever imported, and answers with those that stand.

Whatever a bill is asked is asked of the months that stand (`standing`): sums are the database's own, in whole
pico-dollars. How an import becomes the newest one: `importing`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from podcastqa.bills import files
from podcastqa.bills.bill import NOT_USE, BadRow, BillLine
from podcastqa.bills.console_csv import is_console_csv, read_console_file
from podcastqa.bills.files import BillFile, NoBill
from podcastqa.bills.focus import layout_of, read_export
from podcastqa.bills.import_result import (
    ImportedFile,
    ImportList,
    ImportResult,
    ListedFile,
    SourceTotal,
    SourceTotals,
)
from podcastqa.bills.importing import Import, known_files
from podcastqa.bills.standing import OF_MONTH, imported_at, standing
from podcastqa.clock import Clock, day_number, day_of, from_microseconds
from podcastqa.database import SYSTEM, Database
from podcastqa.errors import BillError
from podcastqa.money import Usd

_DAY = timedelta(days=1)
_USE = f"category NOT IN ({', '.join(repr(category) for category in NOT_USE)})"
_SUMS = (
    f"count(*), sum(CASE WHEN {_USE} THEN amount_pico ELSE 0 END), sum(amount_pico), sum(effective_pico),"
    " min(day), max(day)"
)
_FILES = """SELECT i.imported_us, i.path, f.name, f.format, f.rows, f.bad_rows, i.id, f.sha256
 FROM bill_files f JOIN bill_imports i ON i.id = f.import_id ORDER BY i.id DESC, f.name"""


class BillArchive:
    """What was imported, and what of it stands. `account`: whose a console's download is, which does not say."""

    def __init__(self, database: Database, clock: Clock, user_tag: str, account: str) -> None:
        self._database, self._clock, self._user_tag, self._account = database, clock, user_tag, account

    def add(self, path: str, *, own: Collection[str] = ()) -> ImportResult:
        """Import a file, all bills below a folder, or what a glob finds; raises BillError, and then keeps nothing.

        `own`: sources whose files are no bills here, for the ledger has what they say.
        """
        found = files.find(path)
        digests = {file: files.sha256(file) for file in found}
        with self._database.read(SYSTEM) as connection:
            known = known_files(connection)
        if known.keys() >= set(digests.values()):
            again = (ImportedFile(name, "", digests[file], 0, 0, known[digests[file]]) for file, name in found.items())
            return ImportResult(path, False, tuple(again), (), (), (), ())
        read, left_out = self._read_all(found, digests, own)
        with self._database.write(SYSTEM) as connection:
            return Import(connection, path, self._clock.now()).keep(read, left_out)

    def sources(self) -> tuple[str, ...]:
        """Whose bills were imported."""
        return tuple(dict.fromkeys(month.source for month in standing(self._database.driver())))

    def lines(
        self, source: str | None = None, first: date | None = None, end: date | None = None
    ) -> tuple[BillLine, ...]:
        """What stands of a source (None: of all), from the day `first` (in it) to `end` (not in it)."""
        days = day_number(first or date.min), day_number(end or date.max)
        columns = "day, user_tag, resource_id, service, category, amount_pico"
        found: list[BillLine] = []
        with self._database.snapshot() as driver:
            for month in standing(driver, source):
                rows = driver.execute(
                    f"SELECT {columns} {OF_MONTH} AND day >= ? AND day < ? ORDER BY id", (*month.key, *days)
                )
                found += [
                    BillLine(day_of(day), tag, resource, service, category, Usd.from_pico(pico))
                    for day, tag, resource, service, category, pico in rows
                ]
        return tuple(found)

    def totals(self) -> SourceTotals:
        """What stands, added up by the database in whole pico-dollars."""
        by_source: dict[str, list[tuple[int, ...]]] = {}
        with self._database.snapshot() as driver:
            for month in standing(driver):
                row = driver.execute(f"SELECT {_SUMS} {OF_MONTH}", month.key).fetchone()
                by_source.setdefault(month.source, []).append(row)
        return SourceTotals(tuple(_added(source, rows) for source, rows in by_source.items()))

    def newest_at(self, source: str) -> datetime | None:
        """When the newest import that stands was made; None for none. Cheap."""
        driver = self._database.driver()
        newest = max((month.import_id for month in standing(driver, source)), default=None)
        return None if newest is None else imported_at(driver, newest)

    def complete_through(self, source: str) -> datetime | None:
        """The end of the last day that is over for the provider too; None where nothing stands.

        A file holds some of a day's costs before it holds all of them. Providers have them within a day after it: so a
        day counts as complete when it has lines and had ended a whole day before the day of the import.
        """
        ends: dict[int, int] = {}
        driver = self._database.driver()
        for month in standing(driver, source):
            [(last,)] = driver.execute(f"SELECT max(day) {OF_MONTH}", month.key)
            ends[month.import_id] = max(ends.get(month.import_id, 0), last)
        through = (min(day_of(last) + _DAY, imported_at(driver, number).date() - _DAY) for number, last in ends.items())
        last_day = max(through, default=None)
        return None if last_day is None else datetime.combine(last_day, time(), UTC)

    def _read_all(
        self, found: Mapping[Path, str], digests: Mapping[Path, str], own: Collection[str]
    ) -> tuple[list[BillFile], list[ImportedFile]]:
        """What is no bill at all is left out, beside others; what cannot be read ends the import."""
        read: dict[str, BillFile] = {}
        left_out: list[ImportedFile] = []
        for file, name in found.items():
            try:
                if digests[file] in read:
                    raise NoBill(f"It is the same as {read[digests[file]].name}.")
                read[digests[file]] = _no_own(self._read(file, name), own)
            except NoBill as problem:
                if len(found) == 1:
                    raise
                left_out.append(ImportedFile(name, "", digests[file], 0, 0, problem=problem.message))
        if not read:
            raise BillError(f"None of these {len(found)} files is a bill.", next_step=left_out[0].problem)
        return list(read.values()), left_out

    def _read(self, file: Path, name: str) -> BillFile:
        header = files.header(file)
        if layout_of(header):
            return read_export(file, name, self._user_tag)
        if is_console_csv(header):
            return read_console_file(file, name, self._account)
        raise NoBill(
            f"{name} is no bill: its columns are neither FOCUS's, nor CUR 2.0's, nor those of Cost Explorer's console.",
            next_step="Export FOCUS 1.0 to 1.2 or CUR 2.0 as CSV or Parquet, or download daily costs from the console.",
        )

    def list(self) -> ImportList:
        """Every file that was imported, and how much of it stands."""
        standing_rows: dict[tuple[int, str], int] = {}
        with self._database.snapshot() as driver:
            for month in standing(driver):
                for sha256, rows in driver.execute(f"SELECT sha256, count(*) {OF_MONTH} GROUP BY 1", month.key):
                    at = month.import_id, sha256
                    standing_rows[at] = standing_rows.get(at, 0) + rows
            found = driver.execute(_FILES).fetchall()
        return ImportList(
            tuple(
                ListedFile(
                    from_microseconds(us),
                    path,
                    name,
                    form,
                    rows,
                    _bad_rows(bad),
                    standing_rows.get((number, sha256), 0),
                )
                for us, path, name, form, rows, bad, number, sha256 in found
            )
        )


def _bad_rows(text: str) -> tuple[BadRow, ...]:
    return tuple(BadRow(place, reason) for place, reason in json.loads(text))


def _no_own(file: BillFile, own: Collection[str]) -> BillFile:
    if any(line.source in own for line in file.lines):
        raise NoBill(
            f"{file.name} was written by podcastqa itself: the ledger has what it says, and would count it twice.",
            next_step="Import what a provider exports.",
        )
    return file


def _added(source: str, rows: list[tuple[int, ...]]) -> SourceTotal:
    counts, gross, net, effective, first, last = zip(*rows, strict=True)
    sums = [Usd.from_pico(sum(column)) for column in (gross, net, effective)]
    return SourceTotal(source, sum(counts), sums[0], sums[1], sums[2], day_of(min(first)), day_of(max(last)))

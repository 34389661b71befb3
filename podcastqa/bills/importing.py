"""An import is one transaction: all of it is there, or nothing.

The files of one import are parts of one export. A file whose bytes are known brings nothing, unless a new file beside
it tells of the same month: then all of them stand together as the month's newest import. Files of several formats tell
the same costs, not parts of them: of each month the most detailed one is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import islice

from sqlalchemy import Connection, func, select

from podcastqa.bills.console_csv import FORMAT as CONSOLE
from podcastqa.bills.files import BillFile, FileLine
from podcastqa.bills.focus import FORMATS
from podcastqa.bills.import_result import ImportedFile, ImportResult, Replaced, totals_of
from podcastqa.bills.standing import OF_MONTH, Month, imported_at, standing
from podcastqa.bills.tables import bill_files, bill_imports, bill_lines
from podcastqa.clock import day_number, day_of, from_microseconds, microseconds
from podcastqa.database import Driver, driver_of
from podcastqa.money import Usd

#: The most detailed first.
_FORMATS = (*FORMATS, CONSOLE)
_CHUNK = 10_000
_Key = tuple[str, str, date]


class Import:
    """One import, inside its transaction."""

    def __init__(self, connection: Connection, path: str, now: datetime) -> None:
        self._connection, self._path, self._now = connection, path, now

    def keep(self, read: Sequence[BillFile], left_out: Sequence[ImportedFile]) -> ImportResult:
        """Add what is new in the files that were read."""
        known = known_files(self._connection)
        new = [file for file in read if file.sha256 not in known]
        touched = {_key(line) for file in new for line in file.lines}
        kept = {file.sha256: [line for line in file.lines if _key(line) in touched] for file in read}
        notes = [f"{file.name}: {note}" for file in new for note in file.notes] + _keep_most_detailed(read, kept)
        replaced = self._insert(read, kept) if touched else ()
        told = (
            ImportedFile(f.name, f.format, f.sha256, len(f.lines), len(f.bad_rows), known.get(f.sha256)) for f in read
        )
        added = totals_of(line for lines in kept.values() for line in lines)
        bad = tuple(row for file in new for row in file.bad_rows)
        return ImportResult(self._path, bool(touched), (*told, *left_out), added, replaced, bad, tuple(notes))

    def _insert(self, read: Sequence[BillFile], kept: Mapping[str, list[FileLine]]) -> tuple[Replaced, ...]:
        driver = driver_of(self._connection)
        before = set(standing(driver))
        values = {"path": self._path, "imported_us": microseconds(self._now)}
        [number] = self._connection.execute(bill_imports.insert().values(values)).inserted_primary_key or (0,)
        rows = [_file_row(number, file, len(kept[file.sha256])) for file in read if file.lines]
        self._connection.execute(bill_files.insert(), rows)
        lines = (_line_row(number, sha256, line) for sha256, lines in kept.items() for line in lines)
        while chunk := list(islice(lines, _CHUNK)):
            self._connection.execute(bill_lines.insert(), chunk)
        return tuple(_replaced(driver, month) for month in sorted(before - set(standing(driver))))


def known_files(connection: Connection) -> dict[str, datetime]:
    """Every file that was imported, by its digest, and since when it is known."""
    joined = bill_files.join(bill_imports, bill_files.c.import_id == bill_imports.c.id)
    first = func.min(bill_imports.c.imported_us)
    rows = connection.execute(select(bill_files.c.sha256, first).select_from(joined).group_by(bill_files.c.sha256))
    return {sha256: from_microseconds(at) for sha256, at in rows}


def _replaced(driver: Driver, month: Month) -> Replaced:
    [(rows, net)] = driver.execute(f"SELECT count(*), sum(amount_pico) {OF_MONTH}", month.key)
    at = imported_at(driver, month.import_id)
    return Replaced(month.source, month.account, day_of(month.period), at, rows, Usd.from_pico(net))


def _key(line: FileLine) -> _Key:
    return line.source, line.account, line.period


def _keep_most_detailed(read: Iterable[BillFile], kept: dict[str, list[FileLine]]) -> list[str]:
    """Take the rest out of `kept`, and say so."""
    best: dict[_Key, int] = {}
    for file in read:
        for key in {_key(line) for line in kept[file.sha256]}:
            best[key] = min(best.get(key, len(_FORMATS)), _FORMATS.index(file.format))
    return [note for file in read for note in _left_out(file, kept, best)]


def _left_out(file: BillFile, kept: dict[str, list[FileLine]], best: Mapping[_Key, int]) -> Iterator[str]:
    rank, lines = _FORMATS.index(file.format), kept[file.sha256]
    kept[file.sha256] = [line for line in lines if best[_key(line)] == rank]
    for key in sorted({_key(line) for line in lines if best[_key(line)] < rank}):
        yield f"{file.name}: left out for {key[0]} {key[2]:%Y-%m}, which a file of {_FORMATS[best[key]]} tells."


def _file_row(number: int, file: BillFile, rows: int) -> dict[str, object]:
    bad = json.dumps([[row.place, row.reason] for row in file.bad_rows])
    said = {"sha256": file.sha256, "name": file.name, "format": file.format, "rows": rows, "bad_rows": bad}
    return {"import_id": number} | said


def _line_row(number: int, sha256: str, found: FileLine) -> dict[str, object]:
    line = found.line
    return {
        "import_id": number,
        "sha256": sha256,
        "line": found.number,
        "source": found.source,
        "account": found.account,
        "period": day_number(found.period),
        "day": day_number(line.day),
        "user_tag": line.user_tag,
        "resource_id": line.resource_id,
        "service": line.service,
        "category": line.category,
        "amount_text": found.amount_text,
        "amount_pico": line.amount.pico,
        "effective_pico": found.effective.pico,
    }

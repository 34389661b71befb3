"""The embedded billing source: the local meter's own FOCUS file, its rows read by the rule that cloud exports go by.

The file grows while it is read, on every call of the guard. Python's own CSV reader takes it: it is there at once,
guesses nothing, and takes a torn last row for what it is.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from podcastqa.bills.bill import BadRow, Bill, BillLine, Provenance, focus_time
from podcastqa.bills.files import opened
from podcastqa.bills.focus import NEEDED, LineRule
from podcastqa.clock import Clock
from podcastqa.errors import BadEstimate, BillError
from podcastqa.spend.meter import SOURCE

_TAKEN = (*NEEDED, "ResourceId", "Tags", "ChargePeriodEnd", "ChargeClass")


class LocalMeterBill:
    """What this machine's CPU time cost, as its processes wrote it down."""

    name = SOURCE
    component = "local meter"

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self._clock = path, clock

    @property
    def account(self) -> str:
        """This machine, and its file."""
        return f"this machine ({self.path.name})"

    def read(self) -> Bill:
        """Every row so far; raises BillError.

        A file that does not exist yet, or has nothing in it yet, is an empty bill: nothing was spent.
        """
        now, name = self._clock.now(), self.path.name
        if not self.path.exists() or not self.path.stat().st_size:
            return Bill(self.name, (), (), Provenance(self.component, name, "", now, now))
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        rule, lines, bad = LineRule(), list[BillLine](), list[BadRow]()
        complete = datetime(1970, 1, 1, tzinfo=UTC)
        for number, cells in self._rows():
            try:
                ends = focus_time(cells["ChargePeriodEnd"] or cells["ChargePeriodStart"])
                lines.append(rule.bill_line(cells))
            except (ValueError, BadEstimate) as problem:
                bad.append(BadRow(f"{name} line {number}", str(problem)))
            else:
                complete = max(complete, ends)
        return Bill(self.name, tuple(lines), tuple(bad), Provenance(self.component, name, digest, now, complete))

    def changed_since(self, read_at: datetime | None) -> bool:
        """Whether rows were appended since; a file touched within the last second may yet grow unseen."""
        if not self.path.exists():
            return False
        touched = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        return read_at is None or touched + timedelta(seconds=1) > read_at

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        try:
            with opened(self.path) as file:
                reader = csv.DictReader(file)
                missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
                if missing:
                    raise BillError(f"{self.path.name} is not a FOCUS file: it has no column {', '.join(missing)}.")
                for row in reader:
                    yield reader.line_num, {name: _clean(row.get(name)) for name in _TAKEN}
        except (csv.Error, OSError) as problem:
            raise BillError(f"{self.path.name} is not a FOCUS file: {problem}.") from problem


def _clean(cell: str | None) -> str:
    return "" if cell in (None, "NULL") else str(cell)

"""Imported files are a bill like any other: what stands of one source, counted once beside an API's answer."""

from __future__ import annotations

from datetime import datetime

from podcastqa.bills.archive import BillArchive
from podcastqa.bills.bill import Bill, BillingSource, Provenance, larger_per_day
from podcastqa.clock import Clock


class ImportedBill:
    """What was imported of one source."""

    component = "imported files"

    def __init__(self, archive: BillArchive, source: str, clock: Clock) -> None:
        self._archive, self.name, self._clock = archive, source, clock

    @property
    def account(self) -> str:
        """Whose bill it is."""
        return f"imported files of {self.name}"

    def changed_since(self, read_at: datetime | None) -> bool:
        """Whether something was imported since."""
        newest = self._archive.newest_at(self.name)
        return newest is not None and (read_at is None or newest > read_at)

    def read(self) -> Bill:
        """Everything that stands."""
        complete, now = self._archive.complete_through(self.name), self._clock.now()
        provenance = Provenance(self.component, self.account, "", now, complete)
        return Bill(self.name, self._archive.lines(self.name), (), provenance)


class WithFiles:
    """A billing source and the files imported of it, as one: each day as the one that knows more tells it."""

    def __init__(self, source: BillingSource, files: ImportedBill) -> None:
        self._source, self._files = source, files
        self.name, self.component = source.name, source.component

    @property
    def account(self) -> str:
        """Whose bill it is."""
        return self._source.account

    def changed_since(self, read_at: datetime | None) -> bool:
        """Whether either of them has something new."""
        return self._source.changed_since(read_at) or self._files.changed_since(read_at)

    def read(self) -> Bill:
        """Both, no day twice; raises what the source raises."""
        told, filed = self._source.read(), self._files.read()
        return larger_per_day(told, filed.limited()) if filed.lines else told

"""The embedded billing source: the local meter's own FOCUS file, read by the reader that cloud exports use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from podcastqa.bills.bill import Bill
from podcastqa.bills.focus import read_focus
from podcastqa.clock import Clock
from podcastqa.spend.meter import SOURCE


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
        """Every row so far; raises BillError."""
        return read_focus(self.path, source=self.name, component=self.component, clock=self._clock)

    def changed_since(self, read_at: datetime | None) -> bool:
        """Whether rows were appended since; a file touched within the last second may yet grow unseen."""
        if not self.path.exists():
            return False
        touched = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        return read_at is None or touched + timedelta(seconds=1) > read_at

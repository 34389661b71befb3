"""Of each account's billing month the newest import stands, whole: what a provider delivers again never counts twice.

Lines are only ever added. What stands is a question of which import is the newest, which costs the same however many
lines there are: it is asked from month to month along the index, on every call of the guard.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from podcastqa.clock import from_microseconds
from podcastqa.database import Driver
from podcastqa.spend.mirror import STANDING

#: The three searches are one each along the index; a comparison of (source, account, period) would scan it.
_NEWEST = """WITH RECURSIVE step (id) AS (
 SELECT (SELECT id FROM bill_lines ORDER BY source, account, period LIMIT 1) UNION ALL SELECT coalesce(
  (SELECT n.id FROM bill_lines n WHERE n.source = l.source AND n.account = l.account AND n.period > l.period
   ORDER BY n.period LIMIT 1),
  (SELECT n.id FROM bill_lines n WHERE n.source = l.source AND n.account > l.account
   ORDER BY n.account, n.period LIMIT 1),
  (SELECT n.id FROM bill_lines n WHERE n.source > l.source ORDER BY n.source, n.account, n.period LIMIT 1))
 FROM step JOIN bill_lines l ON l.id = step.id),
 newest AS (SELECT l.source, l.account, l.period, (SELECT max(m.import_id) FROM bill_lines m
  WHERE m.source = l.source AND m.account = l.account AND m.period = l.period) AS import_id
  FROM step JOIN bill_lines l ON l.id = step.id)"""
_STANDING = f"{_NEWEST} {STANDING} ORDER BY 1, 2, 3"
#: The lines of one month; its four places are a `Month.key`.
OF_MONTH = "FROM bill_lines WHERE source = ? AND account = ? AND period = ? AND import_id = ?"


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month of an account, as one import tells it."""

    source: str
    account: str
    period: int
    """The day number of its first day."""
    import_id: int

    @property
    def key(self) -> tuple[str, str, int, int]:
        """For `OF_MONTH`."""
        return self.source, self.account, self.period, self.import_id


def standing(driver: Driver, source: str | None = None) -> list[Month]:
    """Every month that stands, of a source (None: of all), in order."""
    months = (Month(*row) for row in driver.execute(_STANDING))
    return [month for month in months if source in (None, month.source)]


def imported_at(driver: Driver, number: int) -> datetime:
    """When that import was made."""
    [(at,)] = driver.execute("SELECT imported_us FROM bill_imports WHERE id = ?", (number,))
    return from_microseconds(at)

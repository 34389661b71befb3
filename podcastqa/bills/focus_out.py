"""The ledger as FOCUS 1.2: one row for each entry that booked money, and their sum is the ledger's, to the last unit.

A row stands in the UTC day of its hold, where the ledger counts it, whenever it was booked; its billing period is that
day's month. A correction is `ChargeClass` Correction once the month that it mends has ended, and a plain row of its
month before (the specification's rule). What the ledger does not know is not said: an invoice, a region, a meter's
reading. The file holds nothing else, so the same ledger and the same users make the same bytes.
https://focus.finops.org/focus-specification/v1-2/
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from podcastqa.clock import Clock, WindowKind, day_of, window
from podcastqa.display import Table, Tabular
from podcastqa.errors import BillError, Misuse
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import Entry, EntryKind
from podcastqa.spend.ledger import Ledger
from podcastqa.spend.meter import USER_TAG

SUFFIX = ".parquet"
#: Who issues it, unless somebody else is said to.
ISSUER = "podcastqa"
#: FOCUS's own words for what a service is: category and subcategory; what is not listed is Other.
SERVICES = {
    "local-compute": ("Compute", "Other (Compute)"),
    "aws-bedrock": ("AI and Machine Learning", "Generative AI"),
    "aws-cost-explorer": ("Management and Governance", "Cost Management"),
    "aws-ec2": ("Compute", "Virtual Machines"),
    "aws-s3": ("Storage", "Object Storage"),
    "aws-ses": ("Business Applications", "Other (Business Applications)"),
}
_OTHER = ("Other", "Other (Other)")
_COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")  # nothing is discounted or amortized here
_TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd", "x_BookedAt")
_TEXTS = (
    *("BillingAccountId", "BillingAccountName", "BillingCurrency", "ChargeCategory", "ChargeClass"),
    *("ChargeDescription", "ChargeFrequency", "InvoiceId", "InvoiceIssuerName", "PricingUnit", "ProviderName"),
    *("PublisherName", "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuPriceId", "Tags"),
    *("x_BillingSource", "x_EntryKind", "x_HoldId", "x_Operation", "x_Reason"),
)
#: Rows in hand at once.
_CHUNK = 10_000
#: From so many entries on, a person at a terminal sees how far it is.
_MANY = 50_000


@dataclass(frozen=True, slots=True)
class FocusFile(Tabular):
    """A FOCUS file as it was written: where, how many rows, their sum, its sha256, and (month, rows, sum) by month."""

    path: Path
    rows: int
    total: Usd
    sha256: str
    months: tuple[tuple[str, int, Usd], ...]
    written_at: datetime

    def table(self) -> Table:
        """Month by month, and the whole."""
        notes = (f"{self.path}, written at {self.written_at:%Y-%m-%d %H:%M:%S} UTC", f"sha256 {self.sha256}")
        rows = (*self.months, ("total", self.rows, self.total))
        return Table("The ledger as FOCUS 1.2", ("billing period", "rows", "billed in USD"), rows, notes)


def write_focus(
    ledger: Ledger, users: Mapping[int, str] | None, path: Path, clock: Clock, *, issuer: str = ISSUER
) -> FocusFile:
    """Write what the ledger has booked to the Parquet file `path`, whole or not at all; what stood there is replaced.

    `users`: number to name of the users that are to be named; everybody else is a number. Raises Misuse where `path`
    names no such file, and BillError where it cannot be written.
    """
    rows = _Rows({} if users is None else users, issuer)
    with _whole(_checked(path)) as draft:
        _write(draft, _with_progress(ledger), rows)
        with draft.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    months = tuple((f"{month:%Y-%m}", *rows.months[month]) for month in sorted(rows.months))
    total = sum((billed for _, _, billed in months), ZERO)
    return FocusFile(path, sum(count for _, count, _ in months), total, digest, months, clock.now())


class _Rows:
    """Turns entries into rows and keeps count."""

    def __init__(self, users: Mapping[int, str], issuer: str) -> None:
        self.months: dict[date, tuple[int, Usd]] = defaultdict(lambda: (0, ZERO))
        self._users = users
        self._unsettled: set[str] = set()
        self._same = {
            "BillingAccountId": issuer,  # there is no provider's account behind a ledger: it is its own
            "BillingAccountName": f"{issuer} ledger",
            "BillingCurrency": "USD",
            "ChargeCategory": "Usage",
            "ChargeFrequency": "Usage-Based",
            # One name for all three: another issuer than provider would make every row a marketplace's, billed at 0.
            "InvoiceIssuerName": issuer,
            "ProviderName": issuer,
            "PublisherName": issuer,
            "PricingUnit": "Operations",
        }

    def booked(self, entries: Iterable[Entry]) -> Iterator[dict[str, object]]:
        """A row for each entry that booked money."""
        for entry in entries:
            if entry.kind in (EntryKind.SETTLE, EntryKind.CORRECT):
                yield self._row(entry)
            elif entry.kind in (EntryKind.VOID, EntryKind.EXPIRE):
                self._unsettled.add(entry.hold_id)

    def _row(self, entry: Entry) -> dict[str, object]:
        month = _periods(entry.day)[2].date()
        count, billed = self.months[month]
        self.months[month] = count + 1, billed + entry.amount
        user_id = entry.operation.user_id
        return {
            **self._same,
            **dict.fromkeys(_COSTS, entry.amount.decimal),
            **_when(entry),
            **_what(entry),
            **_ours(entry),
            "PricingQuantity": self._operations(entry),
            "Tags": json.dumps({USER_TAG: self._users.get(user_id, str(user_id))}),
        }

    def _operations(self, entry: Entry) -> int:
        """How many operations the row brings: a correction none, unless its hold ended unsettled and was paid late."""
        if entry.kind is EntryKind.SETTLE:
            return 1
        late = entry.hold_id in self._unsettled
        self._unsettled.discard(entry.hold_id)
        return int(late)


def _when(entry: Entry) -> dict[str, object]:
    start, end, month, month_end = _periods(entry.day)
    mends_ended = entry.kind is EntryKind.CORRECT and entry.at >= month_end
    return {
        "BillingPeriodStart": month,
        "BillingPeriodEnd": month_end,
        "ChargeClass": "Correction" if mends_ended else None,
        "ChargePeriodStart": start,
        "ChargePeriodEnd": end,
    }


def _what(entry: Entry) -> dict[str, object]:
    what, mends = entry.operation, entry.kind is EntryKind.CORRECT
    category, subcategory = SERVICES.get(what.service, _OTHER)
    return {
        "ChargeDescription": f"{'Correction: ' if mends else ''}{what.service} {what.operation}",
        "ServiceCategory": category,
        "ServiceName": what.service,
        "ServiceSubcategory": subcategory,
        "SkuId": what.price or None,
        "SkuPriceId": what.price or None,  # a price has one SKU, and is it
    }


def _ours(entry: Entry) -> dict[str, object]:
    """What FOCUS has no column for."""
    return {
        "x_BillingSource": entry.operation.source,
        "x_BookedAt": entry.at,
        "x_EntryId": entry.id,
        "x_EntryKind": entry.kind.value,
        "x_HoldId": entry.hold_id,
        "x_Operation": entry.operation.operation,
        "x_Reason": entry.reason or None,
        "x_UserId": entry.operation.user_id,
    }


@lru_cache(maxsize=512)
def _periods(day: int) -> tuple[datetime, datetime, datetime, datetime]:
    """Start and end of the UTC day, start and end of its month: half-open."""
    start = datetime.combine(day_of(day), datetime.min.time(), UTC)
    month = window(WindowKind.MONTH, start)
    return start, start + timedelta(days=1), month.starts_at, month.ends_at


def _schema() -> Any:
    import pyarrow as pa

    # 1e-12 USD exactly; 38 digits, so that no sum of them overflows.
    columns = dict.fromkeys(_COSTS, pa.decimal128(38, 12)) | dict.fromkeys(_TEXTS, pa.string())
    columns |= dict.fromkeys(_TIMES, pa.timestamp("us", tz="UTC"))
    columns |= {"PricingQuantity": pa.decimal128(38, 12), "x_EntryId": pa.int64(), "x_UserId": pa.int64()}
    return pa.schema(sorted(columns.items()))


def _write(draft: Path, entries: Iterable[Entry], rows: _Rows) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema, booked = _schema(), rows.booked(entries)
    with parquet.ParquetWriter(draft, schema, compression="zstd") as writer:
        while chunk := list(islice(booked, _CHUNK)):
            writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema))


def _with_progress(ledger: Ledger) -> Iterable[Entry]:
    from tqdm import tqdm

    newest = ledger.last_id()
    short = newest < _MANY or not sys.stderr.isatty()
    shown: Iterable[Entry] = tqdm(
        ledger.entries(), total=newest, unit=" entries", desc="FOCUS", disable=short, leave=False
    )
    return shown


def _checked(path: Path) -> Path:
    if os.path.isdir(path):  # pathlib would raise where the name is too long
        raise Misuse(f"{path} is a folder.", next_step=f"Name a file in it: {path / ('ledger' + SUFFIX)}.")
    if path.suffix.lower() != SUFFIX:  # CSV would leave it to each reader to guess what is a number and what a text
        raise Misuse(
            f"{path} does not end in {SUFFIX}, and the ledger is written as Parquet, which keeps amounts exact.",
            next_step=f"Name it {path.with_name((path.stem or 'ledger') + SUFFIX)}.",
        )
    return path


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A draft beside `path` that takes its place when the block ends, flushed to disk; nothing stays if it raises."""
    draft: Path | None = None
    try:
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(number)
        draft = Path(name)
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as problem:
        raise BillError(
            f"{path} cannot be written ({problem.strerror or problem}).",
            next_step="Name a file in a folder that exists, may be written to and has room.",
        ) from problem
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)

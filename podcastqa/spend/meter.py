"""The local meter is the bill of this machine: CPU time really used, times the price of a vCPU-hour.

Its rows come from the process's own cumulative CPU clock (the process and the children it has waited for), not from
what anybody booked. Each stretch of that clock belongs to the operations that were active in it, in proportion to the
CPU clocks of their threads; with none active, to the background operation; with none at all, to nobody: `unattributed`.
The stretches tile the clock, so the rows of a process sum to exactly what its clock cost.

Rows are FOCUS 1.2 (https://focus.finops.org/focus-specification/v1-2/), appended to a file that nothing rewrites.
"""

from __future__ import annotations

import atexit
import csv
import errno
import io
import json
import os
import resource
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from podcastqa.clock import Clock
from podcastqa.errors import Misuse
from podcastqa.file_lock import FileLock
from podcastqa.money import Usd, split
from podcastqa.spend.prices import Price

#: The billing source that these rows are the bill of.
SOURCE = "local-meter"
#: Who issues its bill.
ISSUER = "podcastqa local meter"
USER_TAG = "podcastqa:user"
RUN_TAG = "podcastqa:run"
_NANOSECONDS_PER_HOUR = 3_600 * 10**9
_LONGEST_ROW = 65_536

COLUMNS = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription"),
    *("ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit"),
    *("ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "ListUnitPrice"),
    *("PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ResourceId"),
    *("ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuPriceId", "Tags"),
    *("x_ProcessId", "x_WallSeconds"),
)


@dataclass(slots=True)
class _Use:
    """What one operation (or nobody) has used since its row was last written."""

    user_id: int | None
    since: datetime
    thread_clock: int
    thread_last: int
    pico: int = 0
    nanoseconds: int = 0
    wall_from: float = field(default_factory=time.monotonic)


def cpu_nanoseconds() -> int:
    """CPU time of this process and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time_ns() + round((children.ru_utime + children.ru_stime) * 10**9)


def cumulative_pico(nanoseconds: int, usd_per_hour: Decimal) -> int:
    """What so much CPU time costs, in whole pico-dollars, rounded down: differences of it sum to the whole."""
    return nanoseconds * Usd(usd_per_hour).pico // _NANOSECONDS_PER_HOUR


class Meter:
    """Reads this process's CPU clock and writes what it cost, operation by operation."""

    def __init__(self, path: Path, price: Price, clock: Clock, *, run_id: str = "") -> None:
        self.path, self.price, self.run_id = path, price, run_id
        self._clock, self._guard = clock, threading.RLock()
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._pid = 0
        self._active: dict[str, _Use] = {}
        self._background = ""

    def begin(self, operation_id: str, user_id: int, at: datetime | None = None, *, background: bool = False) -> None:
        """From now on this thread works for that operation; `background` takes what no other operation uses."""
        with self._guard:
            self._here()
            if operation_id in self._active or (background and self._background):
                raise Misuse(f"The meter already runs for {self._background if background else operation_id}.")
            self._mark()
            self._active[operation_id] = self._use(user_id, at)
            if background:
                self._background = operation_id

    def end(self, operation_id: str) -> Usd:
        """Stop, write the operation's row to disk and say what it cost."""
        with self._guard:
            self._here()
            if operation_id not in self._active:
                raise Misuse(f"The meter does not run for {operation_id}.")
            self._mark()
            use = self._active.pop(operation_id)
            if self._background == operation_id:
                self._background = ""
            self._write([(operation_id, use), *self._take_idle()])
            return Usd.from_pico(use.pico)

    def flush(self) -> None:
        """Write what nobody worked for since the last row; runs by itself when the process ends."""
        with self._guard:
            if self._pid == os.getpid():
                self._mark()
                self._write(self._take_idle())

    def _here(self) -> None:
        # A forked child has clocks of its own that start at zero: what its parent counted is not its.
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._active, self._background = {}, ""
            self._spent_pico = self._spent_nanoseconds = 0
            self._idle = self._use(None, None)
            atexit.register(self.flush)

    def _use(self, user_id: int | None, at: datetime | None) -> _Use:
        thread_clock = time.pthread_getcpuclockid(threading.get_ident())
        return _Use(user_id, at or self._clock.now(), thread_clock, time.clock_gettime_ns(thread_clock))

    def _mark(self) -> None:
        """Close the stretch since the last reading and give it to those who were active in it."""
        now = cpu_nanoseconds()
        pico = cumulative_pico(now, self.price.value)
        busy = [use for name, use in self._active.items() if name != self._background]
        if not busy:
            busy = [self._active[self._background]] if self._background else [self._idle]
        weights = [_thread_time(use) for use in busy]
        shares = split(pico - self._spent_pico, weights)
        clocks = split(now - self._spent_nanoseconds, weights)
        for use, share, nanoseconds in zip(busy, shares, clocks, strict=True):
            use.pico += share
            use.nanoseconds += nanoseconds
        self._spent_pico, self._spent_nanoseconds = pico, now

    def _take_idle(self) -> list[tuple[str, _Use]]:
        idle, self._idle = self._idle, self._use(None, None)
        return [(f"process/{self._pid}", idle)] if idle.pico else []

    def _write(self, uses: list[tuple[str, _Use]]) -> None:
        if not uses:
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        for operation_id, use in uses:
            writer.writerow(self._row(operation_id, use))
        with self._lock:
            _append(self.path, ",".join(COLUMNS) + "\n", text.getvalue())

    def _row(self, operation_id: str, use: _Use) -> dict[str, object]:
        ends, cost, hours = self._clock.now(), str(Usd.from_pico(use.pico)), Decimal(use.nanoseconds) / 3_600 / 10**9
        month = use.since.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        after = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
        tags = {USER_TAG: str(use.user_id)} if use.user_id is not None else {}
        tags |= {RUN_TAG: self.run_id} if self.run_id else {}
        return {
            **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), cost),
            **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), ISSUER),
            "BillingAccountId": "this-machine",
            "BillingAccountName": "This machine",
            "BillingCurrency": "USD",
            "BillingPeriodStart": _focus_time(month),
            "BillingPeriodEnd": _focus_time(after),
            "ChargeCategory": "Usage",
            "ChargeClass": "",
            "ChargeFrequency": "Usage-Based",
            "ChargePeriodStart": _focus_time(use.since),
            "ChargePeriodEnd": _focus_time(max(ends, use.since)),
            "ChargeDescription": "CPU time of an operation" if tags.get(USER_TAG) else "CPU time that nobody booked",
            "ConsumedQuantity": f"{Decimal(use.nanoseconds).scaleb(-9):f}",
            "ConsumedUnit": "vCPU-Seconds",
            "PricingQuantity": f"{hours:.18f}",
            "PricingUnit": "vCPU-Hours",
            "ListUnitPrice": str(self.price.value),
            "ServiceCategory": "Compute",
            "ServiceName": self.price.service,
            "ServiceSubcategory": "Other (Compute)",
            "SkuId": self.price.id,
            "SkuPriceId": f"{self.price.id}@{self.price.valid_from}",
            "ResourceId": operation_id,
            "Tags": json.dumps(tags, sort_keys=True),
            "x_ProcessId": self._pid,
            "x_WallSeconds": f"{time.monotonic() - use.wall_from:.6f}",
        }


def _thread_time(use: _Use) -> int:
    """CPU time of the operation's thread since the last reading; 0 once the thread has ended."""
    try:
        now = time.clock_gettime_ns(use.thread_clock)
    except OSError:
        return 0
    use.thread_last, used = now, now - use.thread_last
    return max(used, 0)


def _focus_time(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"


def _append(path: Path, header: str, rows: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        file.seek(max(size - _LONGEST_ROW, 0))
        end = file.read()
        # A header that was cut short is finished; a row that was, is closed.
        text = (header[size:] if header.encode().startswith(end) else _closing(end)) + rows
        if file.write(text.encode()) != len(text.encode()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)  # a bill must outlive a power cut as well as the ledger does


def _closing(end: bytes) -> str:
    """What ends a row that was cut short, by a crash or a full disk, so that it spoils no other row."""
    torn = end.rpartition(b"\n")[2]
    return ('"' if torn.count(b'"') % 2 else "") + "\n" if torn else ""

"""A bench row is a figure with its reference, the ratio, what was asked, and whether it holds.

On a disturbed machine a timing neither passes nor fails: `holds` is None, with the reason. A machine is disturbed
when a bare fdatasync takes longer than 0.5 ms, or when others use more than a fifth of the processors.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MOST_FDATASYNC_SECONDS = 0.0005
_MOST_FOREIGN = 0.20


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    id: str
    value: float
    unit: str
    reference: float | None
    ratio: float | None
    asked: str
    holds: bool | None
    why: str

    def record(self) -> dict[str, Any]:
        """As bench.json keeps it."""
        return asdict(self)


@dataclass(slots=True)
class Machine:
    """What others did to this machine while a figure was taken."""

    fdatasync_seconds: float = 0.0
    foreign: float = 0.0

    @property
    def disturbed(self) -> str:
        """Why a timing means nothing now; empty when it does."""
        said = []
        if self.fdatasync_seconds > _MOST_FDATASYNC_SECONDS:
            said.append("the disk is slow")
        if self.foreign > _MOST_FOREIGN:
            said.append("others use the processors")
        return " and ".join(said)

    def __str__(self) -> str:
        return f"fdatasync p50 {self.fdatasync_seconds * 1000:.2f} ms, foreign CPU {self.foreign:.0%}"


def watched(measure: Callable[[], Any]) -> tuple[Any, Machine]:
    """Run a measurement and watch the machine meanwhile."""
    machine = Machine(fdatasync_seconds=fdatasync_seconds())
    busy, own, began = _busy_seconds(), _own_seconds(), time.perf_counter()
    result = measure()
    elapsed = (time.perf_counter() - began) * (os.cpu_count() or 1)
    foreign = (_busy_seconds() - busy) - (_own_seconds() - own)
    machine.foreign = max(foreign / elapsed, 0.0) if elapsed else 0.0
    return result, machine


def timing(
    row_id: str, value: float, unit: str, reference: float | None, asked: str, holds: bool, machine: Machine
) -> Row:
    """A row whose verdict is withheld on a disturbed machine."""
    ratio = None if not reference else value / reference
    why = f"{machine}" + (f": {machine.disturbed}" if machine.disturbed else "")
    return Row(row_id, value, unit, reference, ratio, asked, None if machine.disturbed else holds, why)


def fdatasync_seconds(rounds: int = 100) -> float:
    """What a bare fdatasync of 4 KiB takes here, the median."""
    with tempfile.TemporaryDirectory() as folder:
        descriptor = os.open(Path(folder) / "probe", os.O_WRONLY | os.O_CREAT)
        taken = []
        for i in range(rounds):
            os.pwrite(descriptor, b"x" * 4096, i * 4096)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - began)
        os.close(descriptor)
    return statistics.median(taken)


def _busy_seconds() -> float:
    """CPU seconds that this machine has worked, all processes together (Linux: /proc/stat)."""
    fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

"""Real work for a validation to pay for: verify installed packages against the checksums they came with.

Every wheel carries a RECORD of its files with their SHA-256 (https://packaging.python.org/specifications/
recording-installed-packages/). Reading and hashing them takes real CPU time, touches nothing, and finds real damage.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from podcastqa.display import Table
from podcastqa.money import Usd
from podcastqa.treasury import LOCAL, Treasury

OPERATION = "verify-installed-files"
#: About 18 CPU seconds at the list price of a vCPU-hour: far above what one such operation takes.
ESTIMATE = Usd("0.0002")
_MOST_BYTES = 24_000_000  # per operation: enough to measure, short enough to wait for


@dataclass(frozen=True, slots=True)
class Verified:
    """What one operation did, and what it cost."""

    user: str
    hold_id: str
    files: int
    megabytes: int
    damaged: int
    cost: Usd


def work_together(treasury: Treasury, users: Sequence[str | None], rounds: int) -> list[list[Verified]]:
    """Each user does one operation a round, all users at once: none begins its work before all are admitted."""
    shares = len(users) * rounds
    found = []
    for number in range(rounds):
        together = threading.Barrier(len(users))
        begin = number * len(users)
        with ThreadPoolExecutor(len(users)) as pool:
            jobs = [
                pool.submit(_verify_installed, treasury, user, begin + place, shares, together)
                for place, user in enumerate(users)
            ]
        found.append([job.result() for job in jobs])
    return found


def work_table(work: Sequence[Verified]) -> Table:
    """For the report: one row an operation."""
    rows = tuple((w.user, w.files, w.megabytes, w.damaged, w.cost) for w in work)
    columns = ("user", "files verified", "MB read", "files that differ", "cost in USD")
    return Table("Real work: installed files against their recorded SHA-256", columns, rows)


def _verify_installed(
    treasury: Treasury, user: str | None, part: int, parts: int, together: threading.Barrier
) -> Verified:
    """Verify one of `parts` shares of the installed packages, under a hold of that user; all start `together`."""
    with treasury.spending(user, LOCAL, OPERATION, ESTIMATE) as spending:
        together.wait(timeout=60)
        files = size = damaged = 0
        for path, digest in _recorded(part, parts):
            content = path.read_bytes()
            files, size = files + 1, size + len(content)
            damaged += hashlib.sha256(content).digest() != digest
            if size > _MOST_BYTES:
                break
    return Verified(
        user or treasury.me, spending.hold.hold_id, files, size // 1_000_000, damaged, spending.actual or Usd("0")
    )


def _recorded(part: int, parts: int) -> Iterator[tuple[Path, bytes]]:
    """Files of every `parts`-th installed package, with the SHA-256 that each was installed with."""
    for distribution in sorted(distributions(), key=_name)[part::parts]:
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if file.hash is not None and file.hash.mode == "sha256" and path.is_file():
                yield path, base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4))


def _name(distribution: Distribution) -> str:
    return distribution.metadata["Name"] or ""

"""The mirror against the ledger: equal to the last unit at a million entries, and then only new rows are read."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from podcastqa.money import Usd
from podcastqa.spend.entries import Operation
from podcastqa.wiring import Parts
from tests.bench.guard import fill, parts_in
from tests.bench.rows import Row

_HOLDS = 500_000  # a reserve and a settle each: a million entries
_NEW = 10


def run() -> list[Row]:
    """Totals and counts of both sides, then the rows that a second sync touched."""
    with tempfile.TemporaryDirectory() as folder:
        made = parts_in(Path(folder))
        user = made.users.add("bench")
        fill(made, user.id, 2 * _HOLDS)
        began = time.perf_counter()
        first = made.mirror.sync()
        seconds = time.perf_counter() - began
        apart = _difference(made)
        for i in range(_NEW):
            made.budget.reserve(Operation(user.id, "s", "o", "s"), Usd("0.01"), f"new-{i}")
        second = made.mirror.sync()
        apart += _difference(made)
        made.database.close()
    why = f"{first.new_rows} rows in {seconds:.1f} s, then {second.new_rows} for {_NEW} new ones"
    return [
        Row("mirror-difference-pico-usd", apart, "1e-12 USD", 0, None, "0", apart == 0, why),
        Row("mirror-second-sync-rows", second.new_rows, "rows", _NEW, None, f"{_NEW}", second.new_rows == _NEW, why),
    ]


def _difference(made: Parts) -> int:
    asked = "SELECT count(*), sum(amount_pico), sum(id), sum(day) FROM entries"
    ledger = made.database.driver().execute(asked).fetchone()
    mirror = made.mirror.query(asked)[0]
    return sum(abs(int(a) - int(b)) for a, b in zip(ledger, mirror, strict=True))

"""What must be nothing: money past a limit that 64 processes race for, answers that a kill or a power cut undoes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from podcastqa.database import open_database
from tests.bench.rows import Row
from tests.conftest import Process
from tests.test_races import LIMIT, MOST, a_race

_PROCESSES, _AMOUNTS, _KILLS, _CUTS = 64, 1_000, 200, 20


def run() -> list[Row]:
    """The race, then the tests of crashes with as many kills and power cuts as are asked for."""
    crashes = {"PODCASTQA_KILLS": str(_KILLS), "PODCASTQA_CUTS": str(_CUTS)}
    return [
        *_race(),
        _tests("crash-200-kills", "test_crash.py", crashes),
        _tests("power-loss", "test_power_loss.py", crashes),
    ]


def _race() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        home, began = Path(folder), time.perf_counter()
        open_database(f"sqlite:///{home}/podcastqa.sqlite").close()
        admitted, pico, parts = a_race(
            home, lambda lines, *words, **environ: Process(home, lines, *words, **environ), _PROCESSES, _AMOUNTS
        )
        seconds = time.perf_counter() - began
        parts.database.close()
    over, short = max(pico - LIMIT.pico, 0), LIMIT.pico - pico
    why = f"{_PROCESSES} processes x {_AMOUNTS} amounts, {admitted} admitted, {seconds:.0f} s with their start"
    return [
        Row("race-overspend", over, "1e-12 USD", 0, None, "0", over == 0, why),
        Row("race-left-over", short, "1e-12 USD", MOST, None, "< one estimate", short < MOST, why),
    ]


def _tests(row_id: str, name: str, environ: dict[str, str]) -> Row:
    """A module of tests by itself: 0 where all of them pass."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{name}"]
    done = subprocess.run(words, env=os.environ | environ, capture_output=True, text=True, check=False)
    told = done.stdout.strip().splitlines()[-1]
    failed = sum(map(int, re.findall(r"(\d+) (?:failed|error)", told)))
    skipped = " skipped" in told
    return Row(row_id, failed, "failed", 0, None, "0", None if skipped else not done.returncode, f"{environ}: {told}")

"""How long a person waits before anything happens: `import podcastqa` beside bare Python, and `podcastqa --help`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.rows import Row, timing, watched

_ROUNDS = 15


def run() -> list[Row]:
    """Medians of interleaved runs."""
    python, command = sys.executable, str(Path(sys.executable).with_name("podcastqa"))
    bare, ours, page = [python, "-c", "pass"], [python, "-c", "import podcastqa"], [command, "--help"]
    taken, machine = watched(lambda: [[_seconds(c) for c in (bare, ours, page)] for _ in range(_ROUNDS)])
    floor, imported, helped = (statistics.median(column) for column in zip(*taken, strict=True))
    above = imported - floor
    return [
        timing("import-podcastqa-above-python", above * 1000, "ms", floor * 1000, "<= 50 ms", above <= 0.050, machine),
        timing("podcastqa-help", helped, "s", floor, "<= 0.3 s", helped <= 0.3, machine),
    ]


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began

"""The guard beside its model over a million steps of one seeded life: what is asked is that they never differ."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time

from tests.bench.rows import Row

_STEPS = 1_000_000


def run() -> list[Row]:
    """0 where the two never differed, in as many lives at once as there are processors; else 1, and what repeats it."""
    lives = os.cpu_count() or 1
    seeds, began = [secrets.randbelow(10**9) for _ in range(lives)], time.perf_counter()
    words = [[sys.executable, "-m", "tests.simulation", str(seed), str(_STEPS // lives)] for seed in seeds]
    started = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for line in words]
    told = [one.communicate()[1].strip().splitlines()[-1:] for one in started]
    differ = [line[0] for one, line in zip(started, told, strict=True) if one.returncode]
    why = f"{_STEPS} steps of seeds {seeds} in {time.perf_counter() - began:.0f} s"
    return [Row("model-differences", len(differ), "lives", 0, None, "0", not differ, "; ".join(differ) or why)]

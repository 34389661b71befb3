"""How much of `podcastqa/spend` the suite runs: lines and branches together, as coverage.py counts them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.rows import Row

_ASKED = 95.0


def run() -> list[Row]:
    """One run of the step 1 tests under coverage."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "step1", "-p", "no:cacheprovider"]
        counted = ["--cov=podcastqa/spend", "--cov-branch", f"--cov-report=json:{report}"]
        done = subprocess.run([*command, *counted], capture_output=True, text=True, check=False)
        totals = json.loads(report.read_text(encoding="utf-8"))["totals"]
    passed = done.returncode == 0
    percent = float(totals["percent_covered"])
    why = f"{totals['covered_lines']} of {totals['num_statements']} lines, " + (
        f"{totals['covered_branches']} of {totals['num_branches']} branches" if passed else "and tests failed"
    )
    return [Row("coverage-spend", percent, "%", _ASKED, None, ">= 95 %", passed and percent >= _ASKED, why)]

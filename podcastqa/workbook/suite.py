"""Step 1's own tests run in a process of their own: real tests with real results, counted from pytest's own report."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from podcastqa.settings import child_environment

_WHICH = "step1 and not (notebooks or bench or aws)"
#: A test of a component that is not in use says so in its skip; any other skip leaves the suite incomplete.
NOT_IN_USE = "not in use: "


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What pytest counted."""

    passed: int
    failed: tuple[str, ...]
    skipped: tuple[str, ...]
    seconds: float
    output: str


def run_suite(root: Path, timeout_seconds: int) -> SuiteResult:
    """Run `pytest -m step1` in the checkout; raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="podcastqa-suite-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", _WHICH, "-p", "no:cacheprovider", "--no-header"]
        done = subprocess.run(
            [*command, f"--junitxml={report}", str(root / "tests")],
            cwd=root,
            env=_environment(Path(folder)),
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if not report.exists():
            return SuiteResult(0, ("pytest did not run",), (), 0.0, done.stdout + done.stderr)
        return _read(report, done.stdout)


def _environment(folder: Path) -> dict[str, str]:
    # Nothing of this run's own settings: the tests make their own homes.
    own = {"PODCASTQA_HOME": str(folder / "home"), "PODCASTQA_REPORTS": str(folder / "reports")}
    return child_environment(without=("PODCASTQA_", "PYTEST_", "AWS_"), **own)


def _read(report: Path, output: str) -> SuiteResult:
    suite = ET.parse(report).getroot().find("testsuite")  # noqa: S314 – pytest wrote it a moment ago, in a folder of ours
    if suite is None:
        return SuiteResult(0, ("pytest's report is empty",), (), 0.0, output)
    failed, skipped, passed = [], [], 0
    for case in suite.iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif skip is not None:
            skipped.append(f"{name}: {skip.get('message', '')}")
        else:
            passed += 1
    return SuiteResult(passed, tuple(failed), tuple(skipped), float(suite.get("time", "0")), output)

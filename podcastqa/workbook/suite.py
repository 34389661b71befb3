"""Step 1's own tests run in a process of their own: real tests with real results, counted from pytest's own report."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from podcastqa.settings import child_environment

_WHICH = "step1 and not (notebooks or bench or aws or spotify)"
#: With the books in a file, nothing is asked of a server.
_WITHOUT_SERVER = f"{_WHICH} and not postgresql"
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

    @property
    def holds(self) -> bool | None:
        """Nothing failed and something passed; None where a test of a component in use was skipped."""
        if self.failed or not self.passed:
            return False
        return None if any(NOT_IN_USE not in skip for skip in self.skipped) else True

    def counted(self) -> str:
        """In words."""
        return f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"


def run_suite(root: Path, timeout_seconds: int, *, server: bool = False, chosen: str = "") -> SuiteResult:
    """Run `pytest -m step1` in the checkout, with nothing of this run's settings; raises subprocess.TimeoutExpired.

    With `server` also on PostgreSQL; `chosen` (pytest's -k) leaves out the rest.
    """
    return _run(root, _WHICH if server else _WITHOUT_SERVER, timeout_seconds, alone=True, chosen=chosen)


def run_live(root: Path, timeout_seconds: int) -> SuiteResult:
    """Run the live AWS tests, which book in the ledger in use and share its cached bill; raises TimeoutExpired.

    Without those that send a mail: the step sends its own, and mails cost money.
    """
    return _run(root, "aws and not sends_mail", timeout_seconds, alone=False)


def _run(root: Path, which: str, timeout_seconds: int, *, alone: bool, chosen: str = "") -> SuiteResult:
    with tempfile.TemporaryDirectory(prefix="podcastqa-suite-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", which, "-p", "no:cacheprovider", "--no-header"]
        command += ["-k", chosen] if chosen else []
        done = subprocess.run(
            [*command, f"--junitxml={report}", str(root / "tests")],
            cwd=root,
            env=_environment(Path(folder)) if alone else child_environment(without=("PYTEST_",)),
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

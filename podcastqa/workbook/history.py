"""What has been run is read from the JSON twins beside the reports; nothing else remembers it for people.

Gates are not decided here: a file can be copied, so they are read from the database (`gates.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from podcastqa.display import Table, Tabular
from podcastqa.money import Usd

#: What a file must say to be a report's twin.
_TWIN = ("step", "verdict", "criteria", "components", "cost_usd", "started", "finished", "run_id")
_APPENDIX_TWIN = ("appendix", "title", "looked_at", "proves", "stopped_at", "started", "finished", "run_id")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a step, as its JSON twin tells it."""

    record: dict[str, Any]
    report: Path
    """The HTML report."""
    href: str
    """The way to it from the index, in URL form."""
    changed: tuple[str, ...] = ()
    """What differs from the run of the same step before."""

    @property
    def step(self) -> str:
        """Which step."""
        return str(self.record["step"])

    @property
    def verdict(self) -> str:
        """PASS, FAIL or INCOMPLETE."""
        return str(self.record["verdict"])

    @property
    def started(self) -> datetime:
        """When it began, UTC."""
        return datetime.fromisoformat(self.record["started"])

    @property
    def duration(self) -> timedelta:
        """How long it took."""
        return datetime.fromisoformat(self.record["finished"]) - self.started

    @property
    def cost(self) -> Usd:
        """What it cost."""
        return Usd(self.record["cost_usd"])

    @property
    def components(self) -> dict[str, str]:
        """The parts it was run with."""
        return dict(self.record["components"])


@dataclass(frozen=True, slots=True)
class AppendixRun:
    """One run of an appendix, as its JSON twin tells it: no verdict, and apart from the steps."""

    record: dict[str, Any]
    report: Path
    href: str
    """The way to it from the index, in URL form."""

    @property
    def started(self) -> datetime:
        """When it began, UTC."""
        return datetime.fromisoformat(self.record["started"])


@dataclass(frozen=True, slots=True)
class Listing(Tabular):
    """Runs, newest first."""

    runs: tuple[Run, ...]

    def table(self) -> Table:
        """Verdict, step, date, cost, duration, components, report."""
        rows = tuple(
            (
                run.verdict,
                run.step,
                f"{run.started:%Y-%m-%d %H:%M:%S}",
                run.cost,
                f"{run.duration.total_seconds():.1f}",
                ", ".join(f"{name}: {value}" for name, value in run.components.items()),
                str(run.report),
            )
            for run in self.runs
        )
        columns = ("verdict", "step", "started (UTC)", "cost (USD)", "duration (s)", "components", "report")
        return Table("Reports", columns, rows, () if rows else ("None yet: podcastqa validate step1",))


def collect(reports: Path) -> list[Run]:
    """Every run that left a twin under `reports`, oldest first; other files are passed over."""
    found = [run for twin in reports.glob("*/*.json") if (run := _run(twin, reports))]
    runs: list[Run] = []
    for run in sorted(found, key=lambda run: (run.started, run.href)):
        runs.append(replace(run, changed=tuple(changes(run.record, last_run(run.step, runs)))))
    return runs


def appendices(reports: Path) -> list[AppendixRun]:
    """Every run of an appendix that left a twin under `reports`, oldest first."""
    found = [run for twin in reports.glob("*/*.json") if (run := _appendix_run(twin, reports))]
    return sorted(found, key=lambda run: (run.started, run.href))


def listing(runs: Iterable[Run]) -> Listing:
    """The runs as a table, newest first."""
    return Listing(tuple(sorted(runs, key=lambda run: run.started, reverse=True)))


def last_run(step: str, runs: Sequence[Run]) -> Run | None:
    """The newest run of the step."""
    return next((run for run in reversed(runs) if run.step == step), None)


def changes(record: Mapping[str, Any], earlier: Run | None) -> list[str]:
    """Criteria whose outcome differs from the earlier run's, and components that were swapped, each in a sentence."""
    if earlier is None:
        return []
    before = {criterion["id"]: criterion["outcome"] for criterion in earlier.record["criteria"]}
    criteria = [
        f"{now['id']} {now['name']}: {before[now['id']]} → {now['outcome']}"
        for now in record["criteria"]
        if before.get(now["id"], now["outcome"]) != now["outcome"]
    ]
    was = earlier.components
    swapped = [f"{k}: {was[k]} → {v}" for k, v in record["components"].items() if was.get(k, v) != v]
    return criteria + swapped


def write_index(reports: Path) -> Path:
    """Write reports/index.html anew from every twin; returns its path."""
    from podcastqa.workbook.report import index_html

    index = reports / "index.html"
    draft = index.with_name(f".{index.name}.{id(index):x}")
    draft.write_text(index_html(collect(reports), appendices(reports)), encoding="utf-8")
    return draft.replace(index)


def forget(reports: Path, user: str) -> int:
    """Delete the reports of runs that looked into that user's podcasts, and their twins; returns how many."""
    gone = [run for run in collect(reports) if run.record.get("parameters", {}).get("user") == user]
    for run in gone:
        run.report.with_suffix(".json").unlink(missing_ok=True)
        run.report.unlink(missing_ok=True)
    if gone:
        write_index(reports)
    return len(gone)


def _run(twin: Path, reports: Path) -> Run | None:
    try:
        found = _read(twin, reports, _TWIN)
        run = Run(*found) if found else None
        _ = run and (run.duration, run.cost, run.components)  # a twin that somebody changed by hand is not one
    except (OSError, ValueError, TypeError, ArithmeticError):
        return None
    return run


def _appendix_run(twin: Path, reports: Path) -> AppendixRun | None:
    try:
        found = _read(twin, reports, _APPENDIX_TWIN)
        run = AppendixRun(*found) if found else None
        _ = run and (run.started, datetime.fromisoformat(run.record["finished"]) - run.started)
        _ = run and run.record["stopped_at"] and run.record["stopped_at"]["cell"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return run


def _read(twin: Path, reports: Path, needed: Sequence[str]) -> tuple[dict[str, Any], Path, str] | None:
    """The record, its page, and the way to it; None where the file is no twin of that kind."""
    record = json.loads(twin.read_text(encoding="utf-8"))
    report = twin.with_suffix(".html")
    if not isinstance(record, dict) or any(key not in record for key in needed) or not report.exists():
        return None
    return record, report, quote(report.relative_to(reports).as_posix())

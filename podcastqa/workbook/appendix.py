"""An appendix looks and proves nothing: its notebook is run and reported like a step's, without criteria and verdict.

It never records a validation and touches no gate. It ended well if every code cell ran to its end; a parameter that it
does not know is an error, and what stops it is in its report, red.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podcastqa.clock import SystemClock
from podcastqa.errors import Misuse
from podcastqa.workbook.criteria import Parameter, checked
from podcastqa.workbook.runner import bundles, iso, notebook_named, publish, refuse_stale

if TYPE_CHECKING:
    from podcastqa.settings import Settings
    from podcastqa.workbook.execution import Execution

#: What cells of an appendix say for its report and its twin; later cells add to what earlier ones said.
APPENDIX_MIME = "application/vnd.podcastqa.appendix+json"
PROVES = "An appendix proves nothing: it asks no criterion, gives no verdict, and opens or closes no gate."
#: What a run says of itself; no cell can say otherwise.
_OURS = (
    "appendix",
    "title",
    "question",
    "run_id",
    "parameters",
    "started",
    "finished",
    "proves",
    "stopped_at",
    "report",
)


@dataclass(frozen=True, slots=True)
class Appendix:
    """One notebook beside the steps."""

    id: str
    title: str
    question: str
    notebook: str
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class AppendixResult:
    """What a run left behind: the page, its JSON twin, 0 if every cell ran (else 1), and a sentence on how it ended."""

    report: Path
    exit_status: int
    json: Path
    said: str


_BILLS = Appendix(
    id="bills",
    title="Bills, explored",
    question="What do the bills charge, whom, for what, and how does that stand beside the ledger?",
    notebook="bills.ipynb",
    parameters=(
        Parameter("bill_file", "", "a FOCUS, CUR or console CSV file, a folder or a glob; else what was imported"),
        Parameter("days", 28, "how many of the last days are looked at day by day", 1, 366),
    ),
)
APPENDICES = {one.id: one for one in (_BILLS,)}


def appendix_named(name: str) -> Appendix:
    """The appendix of that id; raises Misuse with the nearest name."""
    if name in APPENDICES:
        return APPENDICES[name]
    near = get_close_matches(name, APPENDICES, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Appendices: {', '.join(APPENDICES)}."
    raise Misuse(f"There is no appendix {name!r}.", next_step=hint)


def run(
    name: str,
    given: Mapping[str, object],
    settings: Settings,
    *,
    notebook: Path | None = None,
    progress: bool = True,
) -> AppendixResult:
    """Run an appendix's notebook and write its report; raises Misuse before a kernel starts, and nothing later."""
    appendix = appendix_named(name)
    source = notebook or notebook_named(appendix.notebook, settings)
    values = checked(appendix.parameters, given)
    chosen = {parameter: values[parameter] for parameter in given}
    refuse_stale(source, chosen)

    from podcastqa.workbook.execution import execute
    from podcastqa.workbook.report import render_appendix

    started = SystemClock().now()
    done = execute(source, chosen, timeout=settings.cell_timeout_seconds, label=appendix.id, progress=progress)
    record = record_of(done, appendix, values, started)
    page, final = publish(done.notebook, record, appendix.id, settings, started, render_appendix)
    stopped = final["stopped_at"]
    said = f"The notebook stopped at code cell {stopped['cell']}: {stopped['error']}." if stopped else PROVES
    return AppendixResult(page, 1 if stopped else 0, page.with_suffix(".json"), said)


def record_of(done: Execution, appendix: Appendix, parameters: Mapping[str, Any], started: datetime) -> dict[str, Any]:
    """The record of a run: what its cells said for machines, and where it stopped if it did."""
    record: dict[str, Any] = {
        "appendix": appendix.id,
        "title": appendix.title,
        "question": appendix.question,
        "run_id": f"{appendix.id}-{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        "parameters": dict(parameters),
        "started": iso(started),
        "finished": iso(SystemClock().now()),
        "proves": PROVES,
        "looked_at": ", ".join(value for value in parameters.values() if value and isinstance(value, str)),
        "facts": [],
        "notices": [],
        "components": {},
        "provenance": [],
        "not_part_of_this_run": [],
        "stopped_at": done.stopped.record() if done.stopped else None,
        "report": "",
    }
    for said in bundles(done.notebook, APPENDIX_MIME):
        record |= {key: value for key, value in said.items() if key not in _OURS}
    return record

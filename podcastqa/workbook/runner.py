"""A run counts only if every code cell ran to its end and the closing cell said the verdict; it always leaves a report.

papermill takes an unknown parameter for a remark and `sys.exit(0)` for success, and leaves no banner when a kernel
dies or a cell takes too long. Here parameters are checked before the kernel starts, and whatever stops a notebook
becomes a FAIL with the stopped cell in sight. Secrets leave the executed notebook before anything is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podcastqa.clock import SystemClock
from podcastqa.errors import Misuse, ParameterError, ReportError
from podcastqa.workbook.criteria import CRITERION_MIME, OPENING_MIME, VERDICT_MIME, Verdict, checked
from podcastqa.workbook.steps import STEPS, Step, step_before, step_named

if TYPE_CHECKING:
    from podcastqa.settings import Settings
    from podcastqa.workbook.execution import Execution


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind."""

    verdict: Verdict
    report: Path
    json: Path
    exit_status: int
    record: dict[str, Any]


def run(
    step_id: str,
    given: Mapping[str, object],
    settings: Settings,
    *,
    notebook: Path | None = None,
    progress: bool = True,
) -> RunResult:
    """Run a step's notebook and write its report.

    Raises Misuse (ParameterError) or GateClosed before a kernel starts; everything later is in the report.
    """
    step = step_named(step_id)
    _require_gate(step, settings)
    source = notebook or _notebook_of(step, settings)
    values = checked(step.parameters, given)
    chosen = {name: values[name] for name in given}
    refuse_stale(source, chosen)

    from podcastqa.workbook.execution import execute

    started = SystemClock().now()
    done = execute(source, chosen, timeout=settings.cell_timeout_seconds, label=step.id, progress=progress)
    record = record_of(done, step, values, started)
    if done.stopped is not None:
        _remember_stop(record, settings)
    return _written(done.notebook, record, step, settings, started)


def read_verdict(notebook: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the closing cell of an executed notebook said, whoever ran it; None if it was never reached."""
    said = list(bundles(notebook, VERDICT_MIME))
    return said[-1] if said else None


def record_of(done: Execution, step: Step, parameters: Mapping[str, Any], started: datetime) -> dict[str, Any]:
    """The record of a run: the closing cell's own, or, for a run that stopped, what was seen until then."""
    said = read_verdict(done.notebook)
    stop = done.stopped
    if said is not None and stop is None:
        return said | {"stopped_at": None}
    where = stop.sentence if stop else "The notebook ended without a closing verdict."
    known = said or _assembled(done.notebook, step, parameters, started, where)
    notices = [*known["notices"], where]
    if said is None:
        notices.append(
            "Cost not measured: the run stopped before its closing cell; `podcastqa spend` shows what was booked."
        )
    return known | {"verdict": Verdict.FAIL.value, "notices": notices, "stopped_at": stop.record() if stop else None}


def _assembled(
    notebook: Mapping[str, Any], step: Step, parameters: Mapping[str, Any], started: datetime, where: str
) -> dict[str, Any]:
    """A record from what the cells showed before the run stopped."""
    seen = {criterion["id"]: criterion for criterion in bundles(notebook, CRITERION_MIME)}
    opening = next(bundles(notebook, OPENING_MIME), {})
    missing = {"outcome": "NOT RUN", "measured": f"nothing: {where}", "next_step": f"podcastqa validate {step.id}"}
    criteria = [seen.get(c.id) or {"id": c.id, "name": c.name, "asked": c.asked} | missing for c in step.criteria]
    began = iso(started)
    return {
        "step": step.id,
        "title": step.title,
        "question": step.question,
        "run_id": f"{step.id}-stopped-{began}",
        "criteria_version": step.criteria_version,
        "fingerprint": "",
        "components": {},
        "parameters": dict(parameters),
        "started": began,
        "finished": iso(SystemClock().now()),
        "criteria": criteria,
        "cost_usd": "0.000000000000",
        "report": "",
        "speaks_for": "",
        "not_part_of_this_run": [],
        "notices": [],
        "provenance": [],
        **opening,
    }


def bundles(notebook: Mapping[str, Any], mime: str) -> Iterator[dict[str, Any]]:
    """What cells showed for machines, of that kind, in their order."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if mime in output.get("data", {}):
                yield dict(output["data"][mime])


def _require_gate(step: Step, settings: Settings) -> None:
    if step_before(step) is None:
        return
    from podcastqa import wiring
    from podcastqa.workbook import gates

    parts = wiring.parts(settings)
    gates.require(step, parts.components, parts.database, rehearsal=settings.under_pytest)


def _remember_stop(record: Mapping[str, Any], settings: Settings) -> None:
    """A run that stopped closes the gate too, if it got far enough to say with what it was run."""
    if record["fingerprint"]:
        from podcastqa import wiring
        from podcastqa.workbook import gates

        gates.record(wiring.parts(settings).database, record, rehearsal=settings.under_pytest)


def _notebook_of(step: Step, settings: Settings) -> Path:
    if step.notebook is None:
        ready = ", ".join(other.id for other in STEPS.values() if other.notebook)
        raise Misuse(
            f"{step.id} ({step.title}) is not part of this version yet.", next_step=f"Steps in this version: {ready}."
        )
    return notebook_named(step.notebook, settings)


def notebook_named(name: str, settings: Settings) -> Path:
    """Where the checkout keeps it; raises ReportError where there is none."""
    notebook = (settings.root or Path()) / "notebooks" / name
    if not notebook.exists():
        raise ReportError(f"The notebook {name} is not here.", next_step="Run it inside a checkout of podcastqa.")
    return notebook


def refuse_stale(source: Path, chosen: Mapping[str, object]) -> None:
    """A parameter that is known here and not to its notebook would be set and never read; raises ParameterError."""
    try:
        cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ReportError(f"The notebook {source.name} cannot be read ({problem}).") from problem
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", ())]
    stale = [name for name in chosen if name not in names_set_in("\n".join(tagged))]
    if stale:
        raise ParameterError(f"The notebook {source.name} has no parameter {', '.join(stale)} in its parameters cell.")


def names_set_in(code: str) -> dict[str, object]:
    """The literals that a parameters cell sets, by name."""
    import ast

    found: dict[str, object] = {}
    for statement in ast.parse(code).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(value, ast.expr):
                found[target.id] = ast.literal_eval(value)
    return found


def _written(
    notebook: Mapping[str, Any], record: dict[str, Any], step: Step, settings: Settings, started: datetime
) -> RunResult:
    from podcastqa.workbook import history, report

    earlier = history.last_run(step.id, history.collect(settings.reports))
    stem = (step.notebook or step.id).removesuffix(".ipynb")

    def laid_out(clean: Any, final: dict[str, Any]) -> str:
        return report.render(clean, final, history.changes(final, earlier))

    page, final = publish(notebook, record, stem, settings, started, laid_out)
    verdict = Verdict(final["verdict"])
    return RunResult(verdict, page, page.with_suffix(".json"), verdict.exit_status, final)


def publish(
    notebook: Mapping[str, Any],
    record: Mapping[str, Any],
    stem: str,
    settings: Settings,
    started: datetime,
    laid_out: Callable[[Any, dict[str, Any]], str],
) -> tuple[Path, dict[str, Any]]:
    """Redact everything, then write the page, its twin beside it and the index; no name is ever used twice.

    `laid_out` makes the page of the notebook and the record, both redacted. Returns the page and that record.
    """
    import nbformat

    from podcastqa.redaction import Redactor
    from podcastqa.workbook import history

    redactor = Redactor(settings.secrets)
    clean = nbformat.from_dict(redactor.tree(notebook))  # type: ignore[no-untyped-call]
    folder = settings.reports / f"{started:%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    with _free_name(folder, stem) as name:
        page, twin = folder / f"{name}.html", folder / f"{name}.json"
        final = redactor.tree({**record, "report": page.relative_to(settings.reports).as_posix()})
        page.write_text(laid_out(clean, final), encoding="utf-8")
        twin.write_text(json.dumps(final, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    history.write_index(settings.reports)
    return page, final


class _free_name:  # noqa: N801 - used like a function, in a `with`
    """The first free of name, name-2, name-3 …, claimed by creating its page, given back if nothing is written."""

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder, self._stem, self._page = folder, stem, folder

    def __enter__(self) -> str:
        for number in count(1):
            name = self._stem if number == 1 else f"{self._stem}-{number}"
            self._page = self._folder / f"{name}.html"
            try:
                os.close(os.open(self._page, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            except FileExistsError:
                continue
            return name
        raise AssertionError("numbers do not end")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._page.unlink(missing_ok=True)


def iso(instant: datetime) -> str:
    """As records and their twins spell an instant."""
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")

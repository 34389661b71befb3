"""A report is one HTML file that loads nothing and runs nothing: the verdict first, then all that stands behind it.

What it says comes from the record (the JSON twin) and from the executed notebook, both already redacted; every text
is escaped on its way in, so that a title from outside stays a title.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from podcastqa.display import show
from podcastqa.money import Usd
from podcastqa.workbook.cells import TEMPLATES, Cells, read_cells, warm
from podcastqa.workbook.criteria import Outcome, Verdict
from podcastqa.workbook.history import AppendixRun, Run

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["index_html", "render", "render_appendix", "warm"]

_TONES = {"PASS": "#17693a", "FAIL": "#ad1f19", "INCOMPLETE": "#b07a10", "APPENDIX": "#1f5aa6"}
_UNMEASURED = "cost not measured"
_STOPPED = "The notebook stopped at"  # said in the verdict's own frame, with a link
_TREND = 40


def render(notebook: Any, record: Mapping[str, Any], changed: Sequence[str] = ()) -> str:
    """The report of one run; `notebook` is the executed NotebookNode, `changed` what differs from the run before."""
    stopped, cells = record.get("stopped_at"), _cells(notebook, record)
    criteria = [dict(row) | {"anchor": cells.anchors.get(row["id"])} for row in record["criteria"]]
    return _page(
        "report.html.j2",
        verdict=record["verdict"],
        name=_step_name(record["step"]),
        title=record.get("title") or record["step"],
        said=_said(criteria),
        facts=_facts(record),
        criteria=criteria,
        # Of a notebook that stopped, all that comes after is not run: one line says so better than ten.
        open_criteria=[
            row for row in criteria if row["outcome"] == "FAIL" or (row["outcome"] != "PASS" and not stopped)
        ],
        changed=changed,
        **_shared(record, cells),
    )


def render_appendix(notebook: Any, record: Mapping[str, Any]) -> str:
    """The report of an appendix: the same page without verdict and criteria, red only where its notebook stopped."""
    times = [("It took", _duration(record), ""), ("Started (UTC)", _when(record["started"]).removesuffix(" UTC"), "")]
    return _page(
        "appendix.html.j2",
        verdict="FAIL" if record["stopped_at"] else "APPENDIX",
        name="Appendix",
        title=record["title"],
        facts=[*map(tuple, record["facts"]), *times],
        changed=(),
        **_shared(record, _cells(notebook, record)),
    )


def _cells(notebook: Any, record: Mapping[str, Any]) -> Cells:
    stopped = record.get("stopped_at")
    return read_cells(notebook, stopped["index"] if stopped else None)


def _shared(record: Mapping[str, Any], cells: Cells) -> dict[str, Any]:
    """What the page of a step and that of an appendix both show."""
    from markupsafe import Markup

    stopped = record.get("stopped_at")
    return {
        "record": record,
        "when": _when(record["started"]),
        "stopped": stopped,
        "notices": [text for text in record.get("notices", []) if not (stopped and text.startswith(_STOPPED))],
        "figures": [_figure(figure) for figure in cells.figures],
        "provenance": _grid(record.get("provenance", [])),
        "groups": _groups(record),
        "cells": Markup(cells.html),  # noqa: S704 - built by cells.py, which lets nothing through that could run
        "twin": Markup(embedded(record)),  # noqa: S704 - every < in it is escaped
    }


def index_html(runs: Iterable[Run], appendices: Iterable[AppendixRun] = ()) -> str:
    """The page of all runs: what changed last, each step with its trend, then every run, the newest first.

    Appendices stand below, apart: they say nothing of what has passed.
    """
    newest_first = sorted(runs, key=lambda run: run.started, reverse=True)
    rows = [_row(run) for run in newest_first]
    steps = []
    for step in sorted({row["step"] for row in rows}):
        own = [row for row in rows if row["step"] == step]
        steps.append({"name": own[0]["name"], "newest": own[0], "trend": own[:_TREND][::-1]})
    changed = newest_first[0].changed if newest_first else ()
    verdict = rows[0]["verdict"] if rows else "INCOMPLETE"
    looked = [_appendix_row(one) for one in sorted(appendices, key=lambda one: one.started, reverse=True)]
    return _page("index.html.j2", verdict=verdict, runs=rows, steps=steps, changed=changed, appendices=looked)


def embedded(record: Mapping[str, Any]) -> str:
    """The JSON twin as it may stand inside a script element: no text in it can close the element or open a comment."""
    return json.dumps(record, ensure_ascii=False).replace("<", "\\u003c")


def _page(template: str, verdict: str, **context: Any) -> str:
    from markupsafe import Markup

    icon = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" '
        f'fill="{_TONES[verdict]}"/><path d="{_ICONS[verdict]}" fill="none" stroke="#fff" stroke-width="4" '
        'stroke-linecap="round"/></svg>'
    )
    css = Markup(_css())  # noqa: S704 - our own file
    return _environment().get_template(template).render(**context, icon=icon, css=css, marks=_MARKS)


_MARKS = {word.value: word.mark for word in (*Verdict, *Outcome)}
_ICONS = {
    "PASS": "m9 17 5 5 9-11",
    "FAIL": "m10 10 12 12m0-12L10 22",
    "INCOMPLETE": "M16 8v9m0 7v.1",
    "APPENDIX": "M9 10h14M9 16h14M9 22h8",
}


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


@cache
def _css() -> str:
    text = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return re.sub(r"\n\s*", "\n", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)).strip()


def _said(criteria: Sequence[Mapping[str, Any]]) -> str:
    counts = {word: sum(row["outcome"] == word.value for row in criteria) for word in Outcome}
    rest = [f"{counts[word]} {said}" for word, said in _REST.items() if counts[word]]
    return ", ".join([f"{counts[Outcome.PASS]} of {len(criteria)} criteria passed", *rest]) + "."


_REST = {Outcome.FAIL: "failed", Outcome.NOT_RUN: "not run"}


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What stands in large figures under the verdict: label, value, small print."""
    cost = _cost(record)
    exact = "" if cost == "not measured" else f"{record['cost_usd']} USD"
    return [
        ("This run cost", cost, exact),
        ("It took", _duration(record), ""),
        ("Started (UTC)", _when(record["started"]).removesuffix(" UTC"), ""),
        ("Run", str(record.get("run_id", "")).rpartition("-")[2] or "–", str(record.get("run_id", ""))),
    ]


def _groups(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    version = record.get("criteria_version")
    marks = [("Criteria version", version), ("Fingerprint", str(record.get("fingerprint", ""))[:16])]
    return [
        ("Components", [(key, show(value)) for key, value in record.get("components", {}).items()]),
        ("Parameters", [(key, show(value) or "–") for key, value in record.get("parameters", {}).items()]),
        ("What this verdict belongs to", [(key, str(value)) for key, value in marks if value]),
    ]


def _row(run: Run) -> dict[str, Any]:
    record = run.record
    criteria = record["criteria"]
    return {
        "step": record["step"],
        "name": _step_name(record["step"]),
        "title": record.get("title") or record["step"],
        "verdict": record["verdict"],
        "when": _when(record["started"]),
        "said": _said(criteria),
        "passed": f"{sum(row['outcome'] == 'PASS' for row in criteria)} of {len(criteria)}",
        "components": ", ".join(str(value) for value in record.get("components", {}).values()),
        "cost": _cost(record),
        "duration": _duration(record),
        "href": run.href,
    }


def _appendix_row(run: AppendixRun) -> dict[str, Any]:
    record, stopped = run.record, run.record["stopped_at"]
    return {
        "title": record["title"],
        "when": _when(record["started"]),
        "looked_at": record["looked_at"] or "–",
        "ended": f"✘ stopped at cell {stopped['cell']}" if stopped else "ran to its end",
        "duration": _duration(record),
        "href": run.href,
    }


def _grid(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Records as a table; the columns are those of the first."""
    if not records:
        return None
    columns = list(records[0])
    rows = [[show(record.get(name)) for name in columns] for record in records]
    return {"columns": columns, "rows": rows, "numeric": [False] * len(columns)}


def _figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    from podcastqa.workbook.figures import data_uri

    return {**figure, "src": data_uri(str(figure["svg"]))}


def _cost(record: Mapping[str, Any]) -> str:
    if any(str(notice).lower().startswith(_UNMEASURED) for notice in record.get("notices", [])):
        return "not measured"
    return Usd(record["cost_usd"]).shown()


def _duration(record: Mapping[str, Any]) -> str:
    seconds = (_instant(record["finished"]) - _instant(record["started"])).total_seconds()
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _when(text: str) -> str:
    instant = _instant(text)
    return f"{instant.day} {instant:%b %Y, %H:%M} UTC"


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _step_name(step: str) -> str:
    return re.sub(r"^step(\d+)$", r"Step \1", step)

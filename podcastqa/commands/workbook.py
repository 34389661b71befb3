"""Commands that run notebooks and find their reports; the report's path is always the last line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from podcastqa.commands.printing import JSON, out, say, show
from podcastqa.errors import Misuse, ReportError
from podcastqa.values import named_values
from podcastqa.words import Command, Given, takes

if TYPE_CHECKING:
    from podcastqa.settings import Settings
    from podcastqa.workbook.runner import RunResult


def _validate(given: Given, settings: Settings) -> int:
    from podcastqa.workbook.steps import STEPS

    if given.step != "all":
        return _run_step(given.step, named_values(given.p), settings)
    if given.p:
        raise Misuse("`validate all` takes no parameters: they belong to one step.")
    for name in (step.id for step in STEPS.values() if step.notebook):
        if status := _run_step(name, {}, settings):
            return status
    return 0


def _run_step(name: str, parameters: dict[str, str], settings: Settings) -> int:
    from podcastqa.workbook.runner import run

    result = run(name, parameters, settings)
    out(*_verdict_lines(result))
    return result.exit_status


def _verdict_lines(result: RunResult) -> list[str]:
    """The verdict, what is not passed with its next step, the cost; the report's path is the last line."""
    record = result.record
    criteria: list[dict[str, str]] = record["criteria"]
    passed = sum(criterion["outcome"] == "PASS" for criterion in criteria)
    lines = [f"{record['step']}: {record['verdict']} ({passed} of {len(criteria)} criteria passed)"]
    lines += [str(record[key]) for key in ("speaks_for",) if record.get(key)]
    lines += [f"Note: {notice}" for notice in record.get("notices", [])]
    for criterion in criteria:
        if criterion["outcome"] != "PASS":
            lines += ["", f"{criterion['outcome']}  {criterion['id']} {criterion['name']}"]
            lines += [f"  {key}: {criterion[key]}" for key in ("measured", "asked") if criterion[key]]
            lines += [f"  next: {criterion['next_step']}"] if criterion["next_step"] else []
    return [*lines, "", f"This run cost ${record['cost_usd']}. Its report:", str(result.report.resolve())]


def _report_list(given: Given, settings: Settings) -> int:
    from podcastqa.workbook.history import collect, listing

    return show(listing(collect(settings.reports)), given)


def _report_open(_: Given, settings: Settings) -> int:
    import webbrowser

    from podcastqa.workbook.history import collect

    runs = collect(settings.reports)
    if not runs:
        raise ReportError("There is no report yet.", next_step="Make one: podcastqa validate step1")
    newest = runs[-1].report.resolve()
    if not webbrowser.open(newest.as_uri()):
        say("No browser was found here; open the file below in one.")
    out(newest)
    return 0


def _lab(_: Given, settings: Settings) -> int:
    import os
    from importlib.util import find_spec

    if settings.root is None:
        raise Misuse("The notebooks are in the checkout.", next_step="Call this from a folder of the checkout.")
    if find_spec("jupyterlab") is None:
        raise Misuse("JupyterLab is not installed here.", next_step="Install what is needed: make setup")
    # The shell's signals are JupyterLab's own from here on, so this program becomes it instead of starting it.
    opening = [f"--notebook-dir={settings.root}", "--LabApp.default_url=/lab/tree/notebooks"]
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *opening])  # noqa: S606, a literal list


COMMANDS = {
    "validate": Command(
        "Run a step's notebook on real data, write its report, and print the verdict. The last line is the\n"
        "report's path; its JSON twin stands beside it. Exit status: 0 PASS, 1 FAIL, 3 INCOMPLETE.",
        _validate,
        (
            takes("step", nargs="?", default="step1", metavar="STEP", help="step1 (unless said) to step5, or all"),
            takes("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter"),
        ),
    ),
    "report list": Command("Every run of every step: verdict, date, cost, report.", _report_list, (JSON,)),
    "report open": Command("Open the newest report in the browser and print its path.", _report_open),
    "lab": Command("Open the notebooks in JupyterLab.", _lab),
}

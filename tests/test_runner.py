"""Real notebooks in real kernels: whatever stops one, its report is written, red, and says where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podcastqa.errors import GateClosed, ParameterError
from podcastqa.settings import Settings
from podcastqa.workbook import history
from podcastqa.workbook.runner import RunResult, read_verdict, run

pytestmark = pytest.mark.notebooks

CANARY = "cAnArY/7f3+Q=z&9'x\"2"
OPEN = """\
from podcastqa.money import Usd
from podcastqa.wiring import parts
from podcastqa.workbook.session import open_session
made = parts()
given = {"users": users, "days": days, "work_rounds": work_rounds, "console_csv": console_csv, "tests": tests}
session = open_session("step1", given, made.components, made)"""
PARAMETERS = "users = 3\ndays = 7\nwork_rounds = 1\nconsole_csv = tests = ''"
FIRST = 'session.record("1", True, "it answers")'
REST = 'rest = [session.record(c.id, True, "as asked") for c in session.step.criteria if c.id not in session.findings]'
CLOSE = 'session.finish(Usd("0.000001"), speaks_for="embedded", not_part=["AWS"])'


def cell(number: int, source: str, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    metadata = {"tags": list(tags)} if tags else {}
    shared = {"cell_type": "code", "execution_count": None, "outputs": []}
    return shared | {"id": f"cell-{number}", "metadata": metadata, "source": source}


def notebook(folder: Path, *sources: str, parameters: str = PARAMETERS, tags: tuple[str, ...] = ()) -> Path:
    cells = [cell(0, parameters, ("parameters",)), *(cell(i, s, tags) for i, s in enumerate(sources, 1))]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    text = {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
    path = folder / "small.ipynb"
    path.write_text(json.dumps(text), encoding="utf-8")
    return path


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PODCASTQA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PODCASTQA_REPORTS", str(tmp_path / "reports"))
    return Settings.load()


def outcomes(result: RunResult) -> dict[str, str]:
    return {row["id"]: row["outcome"] for row in result.record["criteria"]}


def assert_red(result: RunResult, error: str) -> None:
    """A red report, with the error in sight, a twin that says the same, and a line in the index."""
    assert (result.verdict, result.exit_status) == ("FAIL", 1)
    page = result.report.read_text(encoding="utf-8")
    assert "FAIL" in page
    assert error in page
    assert json.loads(result.json.read_text(encoding="utf-8")) == result.record
    assert any("stopped at code cell" in notice and error in notice for notice in result.record["notices"])
    index = (result.report.parent.parent / "index.html").read_text(encoding="utf-8")
    assert result.report.name in index


def test_a_notebook_that_passes_gives_a_report_a_twin_and_a_line_in_the_index(
    tmp_path: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    source = notebook(tmp_path, OPEN, FIRST, REST, CLOSE)
    result = run("step1", {"users": "4"}, settings, notebook=source)
    assert (result.verdict, result.exit_status, result.record["stopped_at"]) == ("PASS", 0, None)
    assert result.record["parameters"] == {"users": 4, "days": 7, "work_rounds": 1, "console_csv": "", "tests": ""}
    assert set(result.record) >= {"step", "verdict", "criteria", "components", "cost_usd", "started", "finished"}
    assert result.record["report"] == result.report.relative_to(settings.reports).as_posix()
    assert result.report.name == "step1_cost_monitoring.html"
    again = run("step1", {}, settings, notebook=source)
    assert again.report.name == "step1_cost_monitoring-2.html"
    assert [r.verdict for r in history.collect(settings.reports)] == ["PASS", "PASS"]
    assert capfd.readouterr().err == ""


def test_stock_papermill_gives_the_same_verdict_as_our_runner(tmp_path: Path, settings: Settings) -> None:
    source = notebook(tmp_path, OPEN, FIRST, REST, CLOSE)
    ours = run("step1", {"users": 5}, settings, notebook=source).record
    out = tmp_path / "out.ipynb"
    call = [sys.executable, "-m", "papermill", str(source), str(out), "-p", "users", "5", "--no-progress-bar"]
    subprocess.run(call, check=True, capture_output=True, timeout=120)
    theirs = read_verdict(json.loads(out.read_text(encoding="utf-8")))
    assert theirs is not None
    for key in ("step", "verdict", "criteria", "components", "parameters", "fingerprint", "cost_usd"):
        assert theirs[key] == ours[key], key


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"user": "4"}, "did you mean users?"),
        ({"users": "many"}, "users: 'many' is not a whole number from 3 to 16"),
        ({"users": "2"}, "users: '2' is not a whole number from 3 to 16"),
    ],
)
def test_a_misspelt_or_wrong_parameter_is_refused_before_the_kernel_starts(
    tmp_path: Path, settings: Settings, given: dict[str, str], told: str
) -> None:
    source = notebook(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(ParameterError) as raised:
        run("step1", given, settings, notebook=source)
    assert told in str(raised.value)
    assert not (tmp_path / "ran").exists()
    assert not settings.reports.exists()


def test_a_parameter_that_the_notebook_no_longer_has_is_refused(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(ParameterError, match="has no parameter users"):
        run("step1", {"users": 4}, settings, notebook=notebook(tmp_path, "pass", parameters="days = 7"))


def test_a_failed_criterion_is_a_fail_and_hides_no_other(tmp_path: Path, settings: Settings) -> None:
    fail = 'session.record("2", False, "lost a cent", "find it")'
    result = run("step1", {}, settings, notebook=notebook(tmp_path, OPEN, FIRST, fail, REST, CLOSE))
    assert (result.verdict, result.exit_status, result.record["stopped_at"]) == ("FAIL", 1, None)
    assert outcomes(result) == {c: "FAIL" if c == "2" else "PASS" for c in outcomes(result)}
    assert "lost a cent" in result.report.read_text(encoding="utf-8")


def test_a_criterion_that_did_not_run_is_incomplete(tmp_path: Path, settings: Settings) -> None:
    result = run("step1", {}, settings, notebook=notebook(tmp_path, OPEN, FIRST, CLOSE))
    assert (result.verdict, result.exit_status) == ("INCOMPLETE", 3)


@pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "raise SystemExit", "import sys; sys.exit(3)"])
def test_leaving_through_sys_exit_is_a_fail(tmp_path: Path, settings: Settings, leave: str) -> None:
    result = run("step1", {}, settings, notebook=notebook(tmp_path, OPEN, FIRST, leave, REST, CLOSE))
    assert_red(result, "sys.exit")
    assert outcomes(result)["1"] == "PASS"
    assert outcomes(result)["2"] == "NOT RUN"
    assert any(notice.startswith("Cost not measured") for notice in result.record["notices"])


def test_sys_exit_after_the_closing_cell_is_a_fail_too(tmp_path: Path, settings: Settings) -> None:
    result = run("step1", {}, settings, notebook=notebook(tmp_path, OPEN, REST, CLOSE, "raise SystemExit(0)"))
    assert_red(result, "sys.exit")
    assert set(outcomes(result).values()) == {"PASS"}


def test_an_exception_leaves_a_red_report_with_the_failing_cell(tmp_path: Path, settings: Settings) -> None:
    result = run("step1", {}, settings, notebook=notebook(tmp_path, OPEN, FIRST, "1 / 0", REST, CLOSE))
    assert_red(result, "ZeroDivisionError")
    assert result.record["stopped_at"]["id"] == "cell-3"
    assert result.record["components"]


def test_an_error_that_a_tag_allows_is_still_a_fail(tmp_path: Path, settings: Settings) -> None:
    source = notebook(tmp_path, OPEN, REST, "1 / 0", CLOSE, tags=("raises-exception",))
    assert_red(run("step1", {}, settings, notebook=source), "ZeroDivisionError")


def test_a_cell_that_a_tag_skips_is_a_fail(tmp_path: Path, settings: Settings) -> None:
    source = notebook(tmp_path, OPEN, REST, CLOSE)
    text = json.loads(source.read_text(encoding="utf-8"))
    text["cells"].insert(2, cell(9, "1 / 0", ("skip-execution",)))
    source.write_text(json.dumps(text), encoding="utf-8")
    assert_red(run("step1", {}, settings, notebook=source), "did not run to its end")


def test_a_kernel_that_dies_leaves_a_red_report(
    tmp_path: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    die = "import os\nos.write(2, b'last words')\nos._exit(7)"
    result = run("step1", {}, settings, notebook=notebook(tmp_path, OPEN, FIRST, die, REST, CLOSE))
    assert_red(result, "DeadKernelError")
    assert outcomes(result)["1"] == "PASS"
    assert capfd.readouterr().err == ""


def test_a_cell_that_takes_too_long_leaves_a_red_report(
    tmp_path: Path, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    slow = notebook(tmp_path, OPEN, FIRST, "import time; time.sleep(60)", REST, CLOSE)
    result = run("step1", {}, replace(settings, cell_timeout_seconds=4), notebook=slow)
    assert_red(result, "it ran longer than 4 s")
    assert capfd.readouterr().err == ""


def test_a_notebook_without_a_closing_verdict_is_a_fail(tmp_path: Path, settings: Settings) -> None:
    result = run("step1", {}, settings, notebook=notebook(tmp_path, OPEN, REST))
    assert (result.verdict, result.exit_status) == ("FAIL", 1)
    assert any("without a closing verdict" in notice for notice in result.record["notices"])


def test_a_kernel_that_does_not_exist_leaves_a_red_report(tmp_path: Path, settings: Settings) -> None:
    source = notebook(tmp_path, OPEN, CLOSE)
    source.write_text(source.read_text(encoding="utf-8").replace("python3", "cobol"), encoding="utf-8")
    assert_red(run("step1", {}, settings, notebook=source), "cobol")


def test_no_canary_survives_anywhere_that_the_runner_writes(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    spill = (
        "import os, sys, json\nfrom IPython.display import HTML, Markdown, display\nfrom html import escape\n"
        "s = os.environ['AWS_SECRET_ACCESS_KEY']\nprint(s)\nprint(s, file=sys.stderr)\n"
        "print(repr(s), json.dumps({s: s}))\n"
        "display(HTML(escape(s)), Markdown(s))\nfor part in (s[:9], s[9:]): print(part, end='', flush=True)\n"
        "os.system('echo \"$AWS_SECRET_ACCESS_KEY\" >&2')\nsession.record('1', True, s)\n{s: s}"
    )
    source = notebook(tmp_path, OPEN, spill, f"key = {CANARY!r}; raise ValueError(key)", CLOSE)
    result = run("step1", {}, Settings.load(), notebook=source)
    assert_red(result, "ValueError")
    told = "".join(capfd.readouterr())
    for written in (
        told,
        *(file.read_text(encoding="utf-8") for file in settings.reports.rglob("*") if file.is_file()),
    ):
        for spelling in (CANARY, json.dumps(CANARY)[1:-1], "cAnArY", "7f3+Q"):
            assert spelling not in written
    assert "[redacted]" in result.report.read_text(encoding="utf-8")


def test_a_later_step_says_what_is_missing_of_the_one_before(settings: Settings) -> None:
    with pytest.raises(GateClosed, match=r"step2 opens when step1 .* has passed"):
        run("step2", {}, settings)


def test_a_pass_outside_the_tests_opens_the_gate_and_a_run_that_stops_closes_it(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environ |= {"PODCASTQA_HOME": str(tmp_path / "home"), "PODCASTQA_REPORTS": str(tmp_path / "reports")}
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    notebook(good, OPEN, REST, CLOSE)
    notebook(bad, OPEN, FIRST, "raise SystemExit(0)")
    script = (
        "import sys\nfrom pathlib import Path\nfrom podcastqa.errors import PodcastQAError\n"
        "from podcastqa.settings import Settings\nfrom podcastqa.wiring import parts\n"
        "from podcastqa.workbook import gates\nfrom podcastqa.workbook.runner import run\n"
        "from podcastqa.workbook.steps import STEPS\n"
        "for folder in sys.argv[1:]:\n"
        "    print(run('step1', {}, Settings.load(), notebook=Path(folder) / 'small.ipynb').verdict)\n"
        "    made = parts(Settings.load())\n"
        "    try:\n        gates.require(STEPS['step2'], made.components, made.database)\n        print('open')\n"
        "    except PodcastQAError as told:\n        print(type(told).__name__)"
    )
    call = [sys.executable, "-c", script, str(good), str(bad)]
    done = subprocess.run(call, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["PASS", "open", "FAIL", GateClosed.__name__], done.stderr
    assert done.stderr == ""

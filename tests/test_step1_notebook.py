"""Step 1 run by our runner, by the stock papermill command and as Run All does it: one verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from podcastqa.workbook.runner import read_verdict

pytestmark = pytest.mark.notebooks

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "step1_cost_monitoring.ipynb"
TOOLS = Path(sys.executable).parent
#: All tests run once, with ours; the other two take a quick look, for the tests are the same.
QUICK = "test_money"
# What Run All does after somebody has changed a parameter: a kernel in the notebook's own folder, every cell in order.
RUN_ALL = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
[parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
parameters.source += f"\\ntests = {sys.argv[4]!r}"
NotebookClient(notebook, resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(notebook, sys.argv[3])
"""
CANARY = "canary/4711+Xy&<z>"
SECRETS = {
    "AWS_ACCESS_KEY_ID": f"id-{CANARY}",
    "AWS_SECRET_ACCESS_KEY": f"secret-{CANARY}",
    "AWS_SESSION_TOKEN": f"token-{CANARY}",
}
#: The secrets open nothing, and must not be tried on anybody's account.
LEFT_ALONE = {"BILLING_SOURCE": "local", "MAILER": "maildir"}


def start(folder: Path, command: list[str], **environ: str) -> subprocess.Popen[str]:
    """The command as a person runs it: not under pytest, with a home of its own."""
    ours = ("PYTEST_", "PODCASTQA_", "AWS_", "COV_", "PYTHONWARN")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    own = {"PODCASTQA_HOME": str(folder / "home"), "PODCASTQA_REPORTS": str(folder / "reports"), **environ}
    path = f"{TOOLS}{os.pathsep}{kept.get('PATH', '')}"
    folder.mkdir()
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=kept | {"PATH": path, "PODCASTQA_CONFIG": os.devnull} | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int, str, str]]:
    """(folder, exit status, stdout, stderr) of the three runs, made side by side."""
    base = tmp_path_factory.mktemp("runs")
    stock, all_cells = str(base / "stock.ipynb"), str(base / "all.ipynb")
    started = {
        "ours": start(base / "ours", [str(TOOLS / "podcastqa"), "validate", "step1"], **SECRETS, **LEFT_ALONE),
        "stock": start(base / "stock", [str(TOOLS / "papermill"), str(NOTEBOOK), stock, "-p", "tests", QUICK]),
        "run all": start(
            base / "all", [sys.executable, "-c", RUN_ALL, str(NOTEBOOK), str(NOTEBOOK.parent), all_cells, QUICK]
        ),
    }
    said = {name: process.communicate(timeout=600) for name, process in started.items()}
    return {
        name: (Path({"ours": base / "ours", "stock": stock, "run all": all_cells}[name]), one.returncode, *said[name])
        for name, one in started.items()
    }


def verdict_of(notebook: Path) -> dict[str, Any]:
    found = read_verdict(json.loads(notebook.read_text(encoding="utf-8")))
    assert found
    return found


def test_the_runner_the_stock_command_and_run_all_give_the_same_verdict(runs: Any) -> None:
    folder, status, out, err = runs["ours"]
    assert (status, err) == (0, ""), out + err
    [twin] = (folder / "reports").glob("*/step1_cost_monitoring.json")
    ours = json.loads(twin.read_text(encoding="utf-8"))
    for name in ("stock", "run all"):
        notebook, status, _, err = runs[name]
        assert status == 0, err
        other = verdict_of(notebook)
        for field in ("step", "components", "criteria_version", "fingerprint"):
            assert other[field] == ours[field], (name, field)
        assert other["parameters"] == ours["parameters"] | {"tests": QUICK}
        outcomes = {c["id"]: c["outcome"] for c in ours["criteria"]}
        assert {c["id"]: c["outcome"] for c in other["criteria"]} == outcomes | {"7": "NOT RUN"}
        assert other["verdict"] == "INCOMPLETE"  # some of the tests prove nothing of the suite
    assert ours["verdict"] == "PASS"
    assert {c["outcome"] for c in ours["criteria"]} == {"PASS"}


def test_a_run_ends_in_its_reports_path_which_can_be_listed_and_opened(runs: Any) -> None:
    folder, _, out, _ = runs["ours"]
    lines = out.splitlines()
    assert lines[0] == "step1: PASS (10 of 10 criteria passed)"
    report = Path(lines[-1])
    twin = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    assert f"This run cost ${twin['cost_usd']}. Its report:" in lines
    own = {"PODCASTQA_HOME": str(folder / "home"), "PODCASTQA_REPORTS": str(folder / "reports")}
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{folder}/opened\n')
    browser.chmod(0o755)
    listed = podcastqa("report", "list", "--json", **own)
    rows = json.loads(listed.stdout)["rows"]
    assert [(row["verdict"], row["step"], row["report"]) for row in rows] == [("PASS", "step1", str(report))]
    assert podcastqa("report", "open", BROWSER=f"{browser} %s", **own).stdout == f"{report}\n"
    assert (folder / "opened").read_text() == f"{report.as_uri()}\n"


def test_a_pass_opens_the_gate_and_a_quick_look_does_not(runs: Any) -> None:
    def step2(folder: Path) -> subprocess.CompletedProcess[str]:
        own = {"PODCASTQA_HOME": str(folder / "home"), "PODCASTQA_REPORTS": str(folder / "reports of step 2")}
        return podcastqa("validate", "step2", **own)

    passed = step2(runs["ours"][0])
    assert passed.returncode == 0, passed.stderr
    assert passed.stdout.startswith("step2: PASS (7 of 7 criteria passed)")
    looked = step2(runs["stock"][0].with_suffix(""))
    assert looked.returncode == 3
    assert "step2 opens when step1" in looked.stderr


def podcastqa(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOLS / "podcastqa"), *words],
        env={"PATH": os.environ["PATH"], "PODCASTQA_CONFIG": os.devnull, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_secret_of_the_settings_is_in_anything_that_a_run_prints_or_writes(runs: Any) -> None:
    folder, _, out, err = runs["ours"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".html", ".json", ".sqlite", ".duckdb", ".csv"}
    everything = b"\n".join([out.encode(), err.encode(), *(str(p).encode() + p.read_bytes() for p in files)])
    assert b"4711+Xy" not in everything
    assert b"4711%2BXy" not in everything


def test_the_report_stays_small(runs: Any) -> None:
    [page] = (runs["ours"][0] / "reports").glob("*/step1_cost_monitoring.html")
    text = page.read_text(encoding="utf-8")
    figures = sum(len(part.split('"', 1)[0]) for part in text.split("data:image")[1:])
    assert len(text.encode()) - figures <= 60_000

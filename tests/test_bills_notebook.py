"""The appendix on bills: exact on real bills, plain where there is nothing, red on what is no bill."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from podcastqa.bills.days import DayKind
from podcastqa.clock import SystemClock
from podcastqa.errors import BillError, Misuse, ParameterError
from podcastqa.money import Usd
from podcastqa.scope import SYSTEM
from podcastqa.settings import Settings
from podcastqa.spend.tables import bill_days
from podcastqa.wiring import Parts, build
from podcastqa.workbook import history
from podcastqa.workbook.appendix import APPENDICES, APPENDIX_MIME, AppendixResult, run
from podcastqa.workbook.bill_books import read_file
from podcastqa.workbook.bill_sums import Sum
from podcastqa.workbook.bills import Bills
from podcastqa.workbook.gates import validations
from podcastqa.workbook.runner import bundles, names_set_in

pytestmark = pytest.mark.notebooks

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "bills.ipynb"
DATA = os.environ.get("PODCASTQA_TEST_DATA", "")
SAMPLE = Path(DATA) / "bills" / "focus_sample.csv"
real = pytest.mark.skipif(
    not SAMPLE.is_file(), reason="PODCASTQA_TEST_DATA names no folder with bills/focus_sample.csv"
)
BILLED, EFFECTIVE = "20.52022672899", "14.97651418586"
ROW = "0.10,USD,Usage,2026-10-01T00:00:00Z,2026-10-01T01:00:00Z,SQS,AWS,"
CANARY = "cAnArY/7f3+Q=z"
RUN_ALL = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
notebook.cells[1].source += f"\\nbill_file = {sys.argv[4]!r}"
NotebookClient(notebook, resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(notebook, sys.argv[3])
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("PODCASTQA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PODCASTQA_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("TMPDIR", str(scratch))
    return Settings.load()


def page_and_twin(result: AppendixResult) -> tuple[str, dict[str, Any]]:
    return result.report.read_text(encoding="utf-8"), json.loads(result.json.read_text(encoding="utf-8"))


def small_bill(folder: Path, *rows: str) -> Path:
    path = folder / "small.csv"
    header = "BilledCost,BillingCurrency,ChargeCategory,ChargePeriodStart,ChargePeriodEnd,ServiceName,ProviderName,Tags"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def guards_figures(made: Parts) -> list[Any]:
    with made.database.read(SYSTEM) as connection:
        days = connection.execute(select(bill_days)).all()
        return [made.ledger.last_id(), *days, *connection.execute(select(validations)).all(), made.archive.sources()]


@real
def test_the_sums_of_the_real_sample_are_exact_three_ways_and_the_guards_books_stay_as_they_were(
    settings: Settings, tmp_path: Path
) -> None:
    with SAMPLE.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert str(sum(Decimal(row["BilledCost"]) for row in rows)) == BILLED
    assert str(sum(Decimal(row["EffectiveCost"]) for row in rows)) == EFFECTIVE
    made = build(settings, clock=SystemClock())
    before = guards_figures(made)
    result = run("bills", {"bill_file": str(SAMPLE)}, settings, progress=False)
    page, twin = page_and_twin(result)
    assert (result.exit_status, twin["stopped_at"]) == (0, None), result.said
    assert BILLED in page
    assert EFFECTIVE in page
    whole = {row["sum of"]: [row[f"{way}, USD"] for way in ("Python", "SQL", "DuckDB")] for row in twin["totals"][-2:]}
    assert whole == {"BilledCost": [f"{BILLED}0"] * 3, "EffectiveCost": [f"{EFFECTIVE}0"] * 3}
    assert {row["bill"]: row["lines"] for row in twin["totals"]} == {
        "aws": 942,
        "microsoft": 51,
        "oracle": 7,
        "all": 1000,
    }
    assert "into books of its own" in page
    assert guards_figures(made) == before
    assert not list((tmp_path / "scratch").glob("podcastqa-bills-*"))  # those books are gone


@real
def test_the_report_has_no_verdict_and_no_criteria_and_stands_apart_from_the_steps(settings: Settings) -> None:
    result = run("bills", {"bill_file": str(SAMPLE), "days": "10"}, settings, progress=False)
    page, twin = page_and_twin(result)
    assert result.report.parent.name == twin["started"][:10]
    assert result.report.name == "bills.html"
    assert not {"verdict", "criteria", "step"} & set(twin)
    assert twin["parameters"] == {"bill_file": str(SAMPLE), "days": 10}
    for absent in ('class="verdict', 'id="criteria"', 'href="#criteria"', 'id="verdict"'):
        assert absent not in page
    assert "An appendix proves nothing" in page
    assert page.count("<figure ") == 4
    assert "OUR PROJECTION, and no provider" in page
    assert history.collect(settings.reports) == []
    [seen] = history.appendices(settings.reports)
    index = (settings.reports / "index.html").read_text(encoding="utf-8")
    assert f'href="{seen.href}"' in index[index.index('id="appendices"') :]
    assert "ran to its end" in index
    again = run("bills", {"bill_file": str(SAMPLE)}, settings, progress=False)
    assert again.report.name == "bills-2.html"


@real
def test_what_was_imported_is_shown_without_a_file_with_the_same_sums(settings: Settings) -> None:
    made = build(settings, clock=SystemClock())
    made.bookkeeper.import_bills(str(SAMPLE))
    with made.treasury.spending(None, "local-compute", "hash-files", Usd("0.01")):
        sum(range(100_000))
    before = guards_figures(made)
    result = run("bills", {}, settings, progress=False)
    page, twin = page_and_twin(result)
    assert result.exit_status == 0, result.said
    assert BILLED in page
    assert EFFECTIVE in page
    assert twin["components"] == {"bills": "aws, microsoft, oracle, local-meter"}
    assert re.search(r"imported bills of aws \(942 lines\).*; \d+ lines? of this machine", page)
    assert guards_figures(made) == before


def test_without_a_file_and_without_imports_it_says_that_there_is_nothing_yet(settings: Settings) -> None:
    result = run("bills", {}, settings, progress=False)
    page, twin = page_and_twin(result)
    assert (result.exit_status, twin["stopped_at"], twin["facts"]) == (0, None, []), result.said
    assert "There is nothing yet: no bill was imported" in page
    assert "podcastqa bills import PATH" in page
    assert "nothing to draw" in page


@pytest.mark.parametrize(
    ("text", "told"),
    [("a,b\n1,2\n", "wrong.csv is no bill"), (None, "There is no bill at")],
)
def test_what_is_no_bill_gives_a_red_report_with_the_sentence_and_status_1(
    settings: Settings, tmp_path: Path, text: str | None, told: str
) -> None:
    path = tmp_path / "wrong.csv"
    if text:
        path.write_text(text, encoding="utf-8")
    result = run("bills", {"bill_file": str(path)}, settings, progress=False)
    page, twin = page_and_twin(result)
    assert result.exit_status == 1
    assert told in result.said
    assert twin["stopped_at"]["id"] == "opening"
    assert told in twin["stopped_at"]["error"]
    assert 'class="verdict FAIL" id="stopped"' in page
    assert told in page
    assert "stopped at cell 3" in (settings.reports / "index.html").read_text(encoding="utf-8")
    assert not list((tmp_path / "scratch").glob("podcastqa-bills-*"))


def test_a_row_that_cannot_be_read_is_told_with_its_line_and_the_rest_is_counted(
    settings: Settings, tmp_path: Path
) -> None:
    path = small_bill(
        tmp_path,
        "0.10,USD,Usage,2026-10-01T00:00:00Z,2026-10-02T00:00:00Z,SQS,AWS,",
        "0.10,EUR,Usage,2026-10-01T00:00:00Z,2026-10-02T00:00:00Z,SQS,AWS,",
        "-0.04,USD,Credit,2026-10-01T00:00:00Z,2026-10-02T00:00:00Z,SQS,AWS,",
    )
    page, twin = page_and_twin(run("bills", {"bill_file": str(path)}, settings, progress=False))
    assert "small.csv line 3" in page
    assert "the currency is EUR, not USD" in page
    assert twin["totals"][-2]["SQL, USD"] == "0.060000000000"  # 0.10 - 0.04
    assert "Gross 0.100000000000 USD, credits and refunds -0.040000000000 USD, net 0.060000000000 USD." in page


def test_a_secret_and_a_script_on_a_bill_are_neither_shown_nor_run(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    row = f"0.10,USD,Usage,2026-10-01T00:00:00Z,2026-10-02T00:00:00Z,<script>alert(1)</script> {CANARY},AWS,"
    path = small_bill(tmp_path, row)
    result = run("bills", {"bill_file": str(path)}, Settings.load(), progress=False)
    page, twin = page_and_twin(result)
    assert result.exit_status == 0, result.said
    assert "[redacted]" in page
    assert "cAnArY" not in page + json.dumps(twin)
    assert "<script>alert" not in page


def test_sums_that_differ_by_one_unit_stop_the_notebook(settings: Settings, tmp_path: Path) -> None:
    made = build(settings, clock=SystemClock())
    books = read_file(made, str(small_bill(tmp_path, ROW)))
    unit, cents = Usd.from_pico(1), Usd("0.10")
    assert Bills(made, books, 28).agreement().sentences == ("The three sums differ by 0.000000000000 USD.",)
    wrong = replace(books, sums=(Sum("all", "BilledCost", 1, (cents, cents, cents + unit)),))
    with pytest.raises(BillError, match=r"differ by 0\.000000000001 USD"):
        Bills(made, wrong, 28).agreement()


def test_days_before_the_last_ones_are_one_row_and_nothing_is_lost(settings: Settings, tmp_path: Path) -> None:
    made = build(settings, clock=SystemClock())
    rows = (ROW.replace("10-01", f"10-{day:02}") for day in range(1, 11))
    table = Bills(made, read_file(made, str(small_bill(tmp_path, *rows))), 3).by_day().table()
    assert [row[:3] for row in table.rows] == [
        ("before", 7, Usd("0.70")),
        *((date(2026, 10, day), 1, Usd("0.10")) for day in (8, 9, 10)),
        ("all", 10, Usd("1.00")),
    ]


def test_the_ledger_beside_a_file_is_the_real_one(settings: Settings, tmp_path: Path) -> None:
    made = build(settings, clock=SystemClock())
    today = f"{made.clock.now():%Y-%m-%d}"
    made.treasury.call("aws-cost-explorer", "GetCostAndUsage", Usd("0.01"))
    path = small_bill(tmp_path, ROW.replace("2026-10-01", today).replace("0.10", "0.01"))
    books = read_file(made, str(path))
    [row] = books.beside["aws"].rows
    assert (row.gross, row.ledger, row.kind) == (Usd("0.01"), Usd("0.01"), DayKind.LATE)  # today is not complete yet
    with pytest.raises(Misuse, match="There is no bill of 'azure' here"):
        Bills(made, books, 28).reconcile("azure")


def test_an_unknown_parameter_or_appendix_is_refused_before_a_kernel_starts(settings: Settings) -> None:
    with pytest.raises(ParameterError, match="did you mean bill_file"):
        run("bills", {"bil_file": "x.csv"}, settings)
    with pytest.raises(ParameterError, match="days: '0' is not a whole number from 1 to 366"):
        run("bills", {"days": "0"}, settings)
    with pytest.raises(Misuse, match="Did you mean bills"):
        run("bill", {}, settings)
    assert not settings.reports.exists()


def test_the_notebook_sets_the_parameters_of_its_appendix_to_their_defaults() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    [tagged] = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())]
    assert names_set_in(tagged) == {p.name: p.default for p in APPENDICES["bills"].parameters}


@real
def test_stock_papermill_and_run_all_find_the_same(settings: Settings, tmp_path: Path) -> None:
    _, ours = page_and_twin(run("bills", {"bill_file": str(SAMPLE)}, settings, progress=False))
    stock, everything = tmp_path / "stock.ipynb", tmp_path / "all.ipynb"
    given = ["-p", "bill_file", str(SAMPLE), "--no-progress-bar"]
    calls = [
        [sys.executable, "-m", "papermill", str(NOTEBOOK), str(stock), *given],
        [sys.executable, "-c", RUN_ALL, str(NOTEBOOK), str(NOTEBOOK.parent), str(everything), str(SAMPLE)],
    ]
    for call, out in zip(calls, (stock, everything), strict=True):
        done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = {}
        for bundle in bundles(json.loads(out.read_text(encoding="utf-8")), APPENDIX_MIME):
            said |= bundle
        for field in ("totals", "facts", "components", "looked_at"):
            assert said[field] == ours[field], field

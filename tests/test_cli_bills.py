"""The shell's commands on bills: what is kept, put beside the ledger, projected and handed out, and how each ends."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.cli import main
from podcastqa.money import Usd
from podcastqa.values import month
from tests.shell import Shell

#: Books a dollar against AWS's bill, as a paid call of the program does, in a process that ran five days ago.
EXPLORE = """
from podcastqa.wiring import parts
from podcastqa.workbook.bill_books import read_file
print(*(bill.source for bill in read_file(parts(), "out.parquet").bills))
"""
BOOK = """
from datetime import UTC, datetime, timedelta
from podcastqa.money import Usd
from podcastqa.wiring import parts
class FiveDaysAgo:
    def now(self):
        return datetime.now(UTC) - timedelta(days=5)
parts(clock=FiveDaysAgo()).treasury.call("aws-cost-explorer", "GetCostAndUsage", Usd("1"))
"""
#: Works on this machine, so that the local meter has something to bill.
WORK = """
from podcastqa.money import Usd
from podcastqa.wiring import parts
with parts().treasury.spending(None, "local-compute", "work", Usd("0.01")):
    sum(range(100_000))
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def real() -> Path:
    """The folder of real bills."""
    folder = os.environ.get("PODCASTQA_TEST_DATA")
    if not folder:
        pytest.skip("PODCASTQA_TEST_DATA is not set: real bills are in bills/ of that folder")
    return Path(folder) / "bills"


def focus(path: Path, *charges: tuple[date, str], provider: str = "AWS") -> Path:
    """A FOCUS export with these charges, each a UTC day and its cost."""
    columns = ("BilledCost", "EffectiveCost", "BillingCurrency", "ChargeCategory", "ServiceName", "ProviderName")
    periods = ("BillingAccountId", "BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd")
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow((*columns, *periods))
        for day, cost in charges:
            times = (f"{one}T00:00:00Z" for one in (day.replace(day=1), day, day + timedelta(days=1)))
            rows.writerow((cost, cost, "USD", "Usage", "AWS Cost Explorer", provider, "123456789012", *times))
    return path


def printed(shell: Shell, *words: str, status: int = 0) -> str:
    """What a command prints that says nothing beside it and ends with `status`."""
    done = shell(*words)
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout


# ── the local meter's bill ────────────────────────────────────────────────────────────────────────────────────────────


def test_without_any_clouds_bill_the_ledger_is_put_beside_the_local_meter(shell: Shell) -> None:
    assert shell(code=WORK).returncode == 0
    kinds = {row["kind"]: row for row in json.loads(printed(shell, "bills", "reconcile", "--json"))["rows"]}
    assert kinds["matched"]["operations"] == 1
    assert kinds["matched"]["ledger in USD"] == kinds["matched"]["bill in USD"] != str(Usd("0"))
    assert "Ledger beside the bill of local-meter" in printed(shell, "bills", "reconcile", "--source", "local-meter")


def test_books_that_the_meters_bill_does_not_bear_out_end_in_status_1(shell: Shell) -> None:
    assert shell(code=WORK).returncode == 0
    (shell.folder / "home/local-meter.focus.csv").unlink()
    assert "missing in the bill: " in printed(shell, "bills", "reconcile", status=1)


@pytest.mark.parametrize("words", [["--month", "2024-02"], ["--by-service"]])
def test_the_meters_bill_is_not_cut_by_month_or_service(shell: Shell, words: list[str]) -> None:
    done = shell("bills", "reconcile", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "operation by operation" in done.stderr
    assert "podcastqa bills import PATH" in done.stderr


# ── imported bills ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_imported_file_is_listed_and_importing_it_twice_changes_nothing(shell: Shell) -> None:
    focus(shell.folder / "bill.csv", (date(2024, 2, 28), "1.5"))
    assert "1.50" in printed(shell, "bills", "import", "bill.csv")
    listed = printed(shell, "bills", "list", "--json")
    assert "bill.csv" in listed
    assert list(json.loads(printed(shell, "bills", "import", "bill.csv", "--json"))) == ["title", "rows", "notes"]
    assert json.loads(printed(shell, "bills", "list", "--json"))["rows"] == json.loads(listed)["rows"]
    assert printed(shell, "bills") == printed(shell, "bills", "list")


def test_a_folder_and_a_quoted_glob_are_imported_too(shell: Shell) -> None:
    (shell.folder / "exports").mkdir()
    focus(shell.folder / "exports/a.csv", (date(2024, 1, 31), "2"))
    focus(shell.folder / "exports/b.csv", (date(2024, 2, 1), "3"))
    printed(shell, "bills", "import", "exports/*.csv")
    total = json.loads(printed(shell, "bills", "reconcile", "--json"))["kinds"][-1]
    assert total["bill gross in USD"] == str(Usd("5"))  # 2 + 3
    assert "a.csv" in printed(shell, "bills", "import", "exports")


def test_a_file_that_is_no_bill_is_refused_in_a_sentence(shell: Shell) -> None:
    (shell.folder / "poem.csv").write_text("a,b\nroses,red\n")
    done = shell("bills", "import", "poem.csv")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "poem.csv" in done.stdout + done.stderr


def test_reconcile_shows_the_kinds_then_the_days_and_others_costs_are_no_fault(shell: Shell) -> None:
    focus(shell.folder / "bill.csv", (date(2024, 1, 31), "2"), (date(2024, 2, 1), "3"))
    printed(shell, "bills", "import", "bill.csv")
    kinds, days = printed(shell, "bills", "reconcile").split("\n\n")
    assert kinds.startswith("Ledger beside the bill of aws by kind, 2024-01-31 to 2024-02-01 UTC")
    assert days.startswith("Ledger beside the bill of aws day by day, 2024-01-31 to 2024-02-01 UTC")
    february = json.loads(printed(shell, "bills", "reconcile", "--month", "2024-02", "--json"))
    assert (february["first"], february["end"], february["matches"]) == ("2024-02-01", "2024-03-01", True)
    assert [(row["day"], row["kind"]) for row in february["rows"]] == [("2024-02-01", "missing in the ledger")]
    assert "AWS Cost Explorer" in printed(shell, "bills", "reconcile", "--by-service")


def test_a_bill_that_says_less_than_was_booked_is_a_fault_and_status_1(shell: Shell) -> None:
    assert shell(code=BOOK).returncode == 0
    then = datetime.now(UTC).date() - timedelta(days=5)
    focus(shell.folder / "bill.csv", (then, "0.25"))
    printed(shell, "bills", "import", "bill.csv")
    found = json.loads(printed(shell, "bills", "reconcile", "--json", status=1))
    assert [(row["kind"], row["difference in USD"]) for row in found["rows"] if row["fault"]] == [
        ("unexplained", str(Usd("0.75")))  # 1 - 0.25
    ]
    assert "FAULT: unexplained" in printed(shell, "bills", "reconcile", status=1)


def test_where_several_clouds_are_imported_somebody_says_which(shell: Shell) -> None:
    focus(shell.folder / "m.csv", (date(2024, 2, 1), "3"), provider="Microsoft")
    printed(shell, "bills", "import", "m.csv")
    assert "the bill of microsoft" in printed(shell, "bills", "reconcile")  # the only one
    focus(shell.folder / "o.csv", (date(2024, 2, 1), "4"), provider="Oracle")
    printed(shell, "bills", "import", "o.csv")
    asked = shell("bills", "reconcile")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "There are bills of microsoft, oracle." in asked.stderr
    assert "the bill of oracle" in printed(shell, "bills", "reconcile", "--source", "oracle")


def test_a_bill_that_nobody_has_and_a_month_to_come_are_sentences(shell: Shell) -> None:
    none = shell("bills", "reconcile", "--source", "aws")
    assert (none.returncode, none.stdout) == (1, "")
    assert "There is no bill of aws" in none.stderr
    focus(shell.folder / "bill.csv", (date(2024, 2, 1), "3"))
    printed(shell, "bills", "import", "bill.csv")
    future = shell("bills", "reconcile", "--month", "2999-12")
    assert (future.returncode, future.stdout) == (2, "")
    assert "has not begun" in future.stderr


# ── real bills ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_real_focus_sample_is_kept_and_reconciled_to_its_last_decimal(shell: Shell, real: Path) -> None:
    sample = real / "focus_sample.csv"
    expected: dict[str, Decimal] = defaultdict(Decimal)
    with sample.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            expected[row["ProviderName"]] += Decimal(row["BilledCost"])
    assert sum(expected.values()) == Decimal("20.52022672899")
    imported = printed(shell, "bills", "import", str(sample), "--json")
    assert [name for name, net in expected.items() if str(Usd(net)) not in imported] == []
    assert "focus_sample.csv" in printed(shell, "bills")
    found = json.loads(printed(shell, "bills", "reconcile", "--json"))
    assert found["source"] == "aws"
    assert found["kinds"][-1]["bill net in USD"] == str(Usd(expected["AWS"]))


def test_the_consoles_file_is_compared_with_cost_explorer_and_with_nothing_else(shell: Shell, real: Path) -> None:
    console = str(real / "console_costs.csv")
    printed(shell, "bills", "import", console)
    refused = shell("bills", "compare", console)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Cost Explorer is not in use" in refused.stderr


@pytest.mark.notebooks
def test_the_bills_report_ends_in_its_path_and_leaves_the_books_alone(shell: Shell, real: Path) -> None:
    done = shell("bills", "report", os.path.relpath(real / "focus_sample.csv", shell.folder))
    assert done.returncode == 0, done.stderr
    assert "20.52022672899" in Path(done.stdout.splitlines()[-1]).read_text(encoding="utf-8")
    assert "focus_sample.csv" not in printed(shell, "bills")


# ── the ledger, handed out and projected ──────────────────────────────────────────────────────────────────────────────


def test_the_ledger_as_a_focus_file_has_the_ledgers_total(shell: Shell) -> None:
    assert shell(code=BOOK).returncode == shell(code=WORK).returncode == 0
    assert "FOCUS 1.2" in printed(shell, "spend", "--focus", "out.parquet")
    services = json.loads(printed(shell, "spend", "--by", "service", "--json"))["rows"]
    cost = {row["service"]: Usd(row["cost in USD"]) for row in services}
    (total,) = duckdb.sql(f"SELECT SUM(BilledCost) FROM '{shell.folder}/out.parquet'").fetchall()[0]
    assert Usd(str(total)) == cost["aws-cost-explorer"] + cost["local-compute"] > cost["aws-cost-explorer"] == Usd("1")


def test_what_we_wrote_ourselves_is_not_imported_as_a_bill_for_it_would_count_twice(shell: Shell) -> None:
    assert shell(code=BOOK).returncode == shell(code=WORK).returncode == 0
    before = printed(shell, "spend", "--json")
    printed(shell, "spend", "--focus", "out.parquet")
    for ours in ("out.parquet", "home/local-meter.focus.csv"):
        done = shell("bills", "import", ours)
        assert (done.returncode, done.stdout) == (1, "")
        assert "was written by podcastqa itself" in done.stderr
    assert json.loads(printed(shell, "spend", "--json"))["rows"] == json.loads(before)["rows"]
    explored = shell(code=EXPLORE)  # in books of its own it is looked at like any other file
    assert (explored.returncode, explored.stdout) == (0, "podcastqa\n")


@pytest.mark.parametrize("out", ["", ".", "no/such/folder/out.parquet"])
def test_a_focus_file_that_cannot_be_written_is_refused_in_a_sentence(shell: Shell, out: str) -> None:
    done = shell("spend", "--focus", out)
    assert (done.returncode in (1, 2), done.stdout) == (True, "")
    assert done.stderr.startswith("podcastqa: ")
    assert "Traceback" not in done.stderr


def test_a_projection_is_called_one_and_says_why_there_is_none(shell: Shell) -> None:
    said = printed(shell, "spend", "--projection")
    assert said.startswith("Projection to the end of month ")
    assert "No projection yet: it needs at least 3 complete days" in said


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.dates(date(2000, 1, 1), date(2999, 12, 31)))
def test_every_month_is_read_as_its_first_day(day: date) -> None:
    assert month(f"{day:%Y-%m}") == day.replace(day=1)


@pytest.mark.parametrize(
    "bad", ["2026", "2026-1", "2026-00", "2026-13", "26-10", "2026-10-01", "٢٠٢٦-١٠", "1026-10", ""]
)
def test_what_is_no_month_is_refused_by_main_before_any_book_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    for name in [name for name in os.environ if name.startswith(("PODCASTQA_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PODCASTQA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PODCASTQA_CONFIG", os.devnull)
    out, said = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(said):
        assert main(["bills", "reconcile", "--month", bad]) == 2
    assert (out.getvalue(), "write it like 2026-10" in said.getvalue()) == ("", True)
    assert not (tmp_path / "home/podcastqa.sqlite").exists()

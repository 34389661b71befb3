"""The console's own download: each day to its last decimal, whatever it is grouped by, and its sums looked at twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podcastqa.bills.archive import BillArchive
from podcastqa.bills.console_csv import ConsoleCosts, is_console_csv, read_console_csv
from podcastqa.database import Database, open_database
from podcastqa.errors import BillError
from podcastqa.money import ZERO, Usd
from tests.conftest import SetClock

pytestmark = pytest.mark.step1
FIRST, SECOND, THIRD = (date(2024, 9, day) for day in (1, 2, 3))
DOWNLOAD = """"Service","EC2-Instances($)","S3($)","Tax($)","Total costs($)"
"Service total","3.5","0.0000000003","1","4.5000000003"
"2024-09-01","3","1E-10","","3.0000000001"
"2024-09-02","0.5","0.0000000002","1","1.5000000002"
"2024-09-03","0","","","0"
"""


def download(folder: Path, text: str = DOWNLOAD) -> Path:
    path = folder / "costs.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def costs(folder: Path, text: str = DOWNLOAD) -> ConsoleCosts:
    return read_console_csv(download(folder, text))


@pytest.fixture
def database(home: Path) -> Iterator[Database]:
    made = open_database(f"sqlite:///{home / 'podcastqa.sqlite'}")
    yield made
    made.close()


def test_each_day_is_the_exact_sum_of_its_services(tmp_path: Path) -> None:
    found = costs(tmp_path)
    assert found.days == {FIRST: Usd("3.0000000001"), SECOND: Usd("1.5000000002"), THIRD: ZERO}
    assert [(line.day, line.service, line.amount) for line in found.lines] == [
        (FIRST, "EC2-Instances", Usd("3")),
        (FIRST, "S3", Usd("0.0000000001")),  # 1E-10
        (SECOND, "EC2-Instances", Usd("0.5")),
        (SECOND, "S3", Usd("0.0000000002")),
        (SECOND, "Tax", Usd("1")),
        (THIRD, "EC2-Instances", ZERO),
    ]
    assert found.notes == found.bad_rows == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"Service","', '\N{ZERO WIDTH NO-BREAK SPACE}"Service","'),  # a byte order mark
        ("\n", "\r\n"),
        ('"', ""),
        ("($)", ""),
        ('"Service', '"Instance type'),
        ("Total costs($)", "Total cost ($)"),
        ('"2024-09-03","0","","","0"\n', '\n"2024-09-03","0","","","0"'),  # an empty line, and none at the end
    ],
)
def test_however_it_is_spelled_it_says_the_same(tmp_path: Path, old: str, new: str) -> None:
    plain, other = costs(tmp_path), costs(tmp_path, DOWNLOAD.replace(old, new))
    assert (other.days, other.lines, other.bad_rows, other.notes) == (plain.days, plain.lines, (), ())


def test_a_sum_of_the_consoles_that_differs_is_noted_and_its_figures_stand(tmp_path: Path) -> None:
    text = DOWNLOAD.replace('"3.5","0.0000000003"', '"3.6","0.0000000003"').replace("3.0000000001", "3.01")
    found = costs(tmp_path, text)
    assert found.days[FIRST] == Usd("3.0000000001")
    assert found.notes == (
        "2024-09-01, line 3: the console's total is 0.009999999900 USD more than its figures, which stand.",
        "Service total, EC2-Instances: the console's total is 0.100000000000 USD more than its figures, which stand.",
    )
    assert found.bad_rows == ()


def test_without_totals_there_is_nothing_to_compare(tmp_path: Path) -> None:
    lines = DOWNLOAD.splitlines()
    found = costs(tmp_path, "\n".join([lines[0], lines[2].replace("3.0000000001", "")]))
    assert (found.days, found.notes) == ({FIRST: Usd("3.0000000001")}, ())


def test_a_download_that_is_not_grouped_has_its_totals_only(tmp_path: Path) -> None:
    found = costs(tmp_path, '"Service","Total costs($)"\n"Service total","3"\n"2024-09-01","1"\n"2024-09-02","2"\n')
    assert found.days == {FIRST: Usd("1"), SECOND: Usd("2")}
    assert [(line.service, line.amount) for line in found.lines] == [("", Usd("1")), ("", Usd("2"))]
    assert found.notes == ()


def test_columns_of_use_beside_columns_of_costs_are_not_money(tmp_path: Path) -> None:
    found = costs(tmp_path, '"Service","EC2($)","EC2(Hrs)","Total costs($)"\n"2024-09-01","1","24","1"\n')
    assert (found.days, found.notes) == ({FIRST: Usd("1")}, ())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('"2024-09-02","0.5","0"', "it has 3 cells and not 5"),
        ('"2024-09-02","0.5","0","1","1.5","9"', "it has 6 cells and not 5"),
        ('"2024-09-02","0.5","much","1","1.5"', "'much' is not an amount of US dollars."),
        ('"September 2","0.5","0","1","1.5"', "Invalid isoformat string: 'September 2'"),
        ('"2024-09-01","0.5","0","1","1.5"', "2024-09-01 was there before"),
        ('"2024-09-02","NaN","0","1","1.5"', "NaN is not a finite amount of US dollars."),
    ],
)
def test_a_bad_row_is_told_with_its_line_and_the_other_days_are_kept(tmp_path: Path, bad: str, reason: str) -> None:
    lines = DOWNLOAD.splitlines()
    found = costs(tmp_path, "\n".join([lines[0], "", lines[2], bad, lines[4]]))
    assert [(row.place, row.reason) for row in found.bad_rows] == [("costs.csv line 4", reason)]
    assert found.days == {FIRST: Usd("3.0000000001"), THIRD: ZERO}


def test_a_download_by_the_hour_adds_up_to_its_days(tmp_path: Path) -> None:
    hours = "".join(f'"2024-09-0{day}T{hour:02}:00:00Z","1","1"\n' for day in (1, 2) for hour in range(day))
    found = costs(tmp_path, '"Service","EC2($)","Total costs($)"\n' + hours)
    assert found.days == {FIRST: Usd("1"), SECOND: Usd("2")}


def test_a_download_by_month_is_refused_with_what_to_do(tmp_path: Path) -> None:
    months = '"2024-08-01","1","1"\n"2024-09-01","1","1"\n'
    with pytest.raises(BillError, match=r'costs\.csv is by month, .* Choose the granularity "Daily"'):
        costs(tmp_path, '"Service","EC2($)","Total costs($)"\n' + months)


@pytest.mark.parametrize("column", ["EC2(€)", "Total costs(CNY)"])
def test_a_download_in_another_currency_is_refused(tmp_path: Path, column: str) -> None:
    text = f'"Service","{column}","Total costs($)"\n"2024-09-01","1","1"\n'
    with pytest.raises(BillError, match=r"costs\.csv is not in US dollars: it has a column"):
        costs(tmp_path, text)


@pytest.mark.parametrize("text", ["", "name,age\nada,36\n", "Total costs($)\n1\n", "<html>"])
def test_what_is_no_download_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BillError, match=r"costs\.csv is not a download of Cost Explorer's console"):
        costs(tmp_path, text)
    assert not is_console_csv(text.splitlines()[:1])


@given(
    amounts=st.lists(
        st.lists(st.one_of(st.none(), st.decimals(0, 99999, places=10)), min_size=3, max_size=3), min_size=1, max_size=9
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_figures_come_back_exactly_and_agree_with_exact_totals(
    tmp_path: Path, amounts: list[list[Decimal | None]]
) -> None:
    def cells(label: str, row: list[Decimal | None]) -> str:
        total = sum((cell for cell in row if cell is not None), Decimal())
        return ",".join([f'"{label}"', *(f'"{"" if cell is None else cell}"' for cell in row), f'"{total}"'])

    sums = [sum((row[at] or Decimal() for row in amounts), Decimal()) for at in range(3)]
    days = [cells(f"2024-09-{number + 2:02}", row) for number, row in enumerate(amounts)]
    found = costs(
        tmp_path, "\n".join(["Service,A($),B($),C($),Total costs($)", cells("Service total", [*sums]), *days])
    )
    assert [day.decimal for day in found.days.values()] == [
        sum((cell for cell in row if cell is not None), Decimal()) for row in amounts
    ]
    assert found.notes == found.bad_rows == ()


@pytest.mark.parametrize("account", ["", "123456789012"])
def test_it_is_imported_as_a_bill_of_the_configured_account(tmp_path: Path, database: Database, account: str) -> None:
    archive = BillArchive(database, SetClock(datetime(2024, 10, 20, tzinfo=UTC)), "podcastqa:user", account)
    result = archive.add(str(download(tmp_path)))
    assert [(file.format, file.rows) for file in result.files] == [("Cost Explorer console CSV", 6)]
    assert [(one.source, one.net) for one in archive.totals().sources] == [("aws", Usd("4.5000000003"))]
    kept = database.driver().execute("SELECT DISTINCT source, account, line FROM bill_lines ORDER BY line").fetchall()
    assert kept == [("aws", account, 3), ("aws", account, 4), ("aws", account, 5)]
    assert archive.lines("aws") == read_console_csv(tmp_path / "costs.csv").lines

"""Bills: a FOCUS file is read to the last decimal, and a row that is bad hides no good one."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.bills.bill import Bill, BillLine, Provenance, exact_usd, focus_time
from podcastqa.bills.focus import read_focus
from podcastqa.bills.local_meter import LocalMeterBill
from podcastqa.clock import day_number
from podcastqa.errors import BadEstimate, BillError
from podcastqa.money import ZERO, Usd
from podcastqa.spend.meter import COLUMNS, Meter
from podcastqa.spend.prices import PriceList
from tests.conftest import A_WEDNESDAY, SetClock

step1 = pytest.mark.step1
NEEDED = ("BilledCost", "BillingCurrency", "ChargeCategory", "ChargePeriodStart", "ServiceName")
HEADER = (*NEEDED, "ChargePeriodEnd", "ResourceId", "Tags")
TUESDAY, WEDNESDAY = date(2024, 2, 27), date(2024, 2, 28)


def row(cost: str = "1", *, currency: str = "USD", category: str = "Usage", **more: str) -> dict[str, str]:
    usual = {"ChargePeriodStart": "2024-02-28T10:00:00Z", "ChargePeriodEnd": "2024-02-28T11:00:00Z", "ServiceName": "s"}
    return {"BilledCost": cost, "BillingCurrency": currency, "ChargeCategory": category, **usual, **more}


def focus_file(path: Path, rows: Sequence[dict[str, str]], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n", restval="NULL")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path) -> Bill:
    """As a cloud's export is read; the local meter's reader makes the same of every CSV, for both go by one rule."""
    bill = read_focus(path, source="cloud", component="FOCUS export", clock=SetClock())
    if path.suffix == ".csv":
        other = LocalMeterBill(path, SetClock()).read()
        assert other.lines == bill.lines
        assert [bad.place for bad in other.bad_rows] == [bad.place for bad in bill.bad_rows]
    return bill


def billed(day: date, amount: str, user: str = "", category: str = "Usage") -> BillLine:
    return BillLine(day, user, "r", "s", category, Usd(amount))


def bill_of(*lines: BillLine) -> Bill:
    return Bill("cloud", lines, (), Provenance("c", "a", "", A_WEDNESDAY, A_WEDNESDAY))


# ── a cloud's own export ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def sample() -> Path:
    folder = os.environ.get("PODCASTQA_TEST_DATA")
    if not folder:
        pytest.skip("PODCASTQA_TEST_DATA is not set: the real FOCUS sample is bills/focus_sample.csv in that folder")
    return Path(folder) / "bills" / "focus_sample.csv"


def test_the_real_focus_sample_is_read_to_its_last_decimal(sample: Path) -> None:
    bill = read(sample)
    assert (len(bill.lines), bill.bad_rows) == (1000, ())
    assert bill.net == Usd("20.52022672899")
    credit = sum((line.amount for line in bill.lines if line.category == "Credit"), ZERO)
    assert credit == Usd("-2.6137")
    assert bill.gross == Usd("20.52022672899") - credit == Usd("23.13392672899")
    assert sum((bill.between(day, date.fromordinal(day.toordinal() + 1)) for day in days_of(bill)), ZERO) == bill.gross


def test_the_real_focus_sample_is_what_python_makes_of_it_line_by_line(sample: Path) -> None:
    with sample.open(newline="", encoding="utf-8") as file:
        plain = [
            (r["ChargePeriodStart"][:10], r["ServiceName"], r["ChargeCategory"], Decimal(r["BilledCost"]))
            for r in csv.DictReader(file)
        ]
    lines = read(sample).lines
    assert [(str(one.day), one.service, one.category, one.amount.decimal) for one in lines] == plain
    assert sum(one.resource_id == "" for one in lines) == 75  # NULL in the file
    assert "NULL" not in {one.resource_id for one in lines}


def days_of(bill: Bill) -> list[date]:
    return sorted({line.day for line in bill.lines})


# ── the form ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@step1
def test_credits_and_refunds_lower_the_net_and_never_the_gross(tmp_path: Path) -> None:
    rows = [row("5"), row("0.25", category="Tax"), row("-2", category="Credit"), row("-0.5", category="Refund")]
    bill = read(focus_file(tmp_path / "b.csv", rows))
    assert bill.gross == Usd("5.25")  # 5 + 0.25
    assert bill.net == Usd("2.75")  # 5 + 0.25 - 2 - 0.5


@step1
def test_an_adjustment_that_lowers_the_cost_counts_in_both(tmp_path: Path) -> None:
    bill = read(focus_file(tmp_path / "b.csv", [row("5"), row("-1", category="Adjustment")]))
    assert bill.gross == bill.net == Usd("4")


@step1
def test_another_currency_is_refused_in_its_row_and_the_others_are_kept(tmp_path: Path) -> None:
    rows = [row("1"), row("2", currency="EUR"), row("3"), row("4", currency="NULL")]
    bill = read(focus_file(tmp_path / "bill.csv", rows))
    assert bill.gross == Usd("4")  # 1 + 3
    assert [(bad.place, bad.reason) for bad in bill.bad_rows] == [
        ("bill.csv line 3", "the currency is EUR, not USD"),
        ("bill.csv line 5", "the currency is missing, not USD"),
    ]


@step1
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"BilledCost": "five"}, "five"),
        ({"BilledCost": "NULL"}, ""),
        ({"BilledCost": "NaN"}, "finite"),
        ({"BilledCost": "Infinity"}, "finite"),
        ({"BilledCost": "4000001"}, "more than one entry"),
        ({"BilledCost": "1,50"}, ""),
        ({"ChargePeriodStart": "yesterday"}, "yesterday"),
        ({"ChargePeriodStart": "NULL"}, ""),
        ({"Tags": "{not json"}, ""),
        ({"Tags": "[1, 2]"}, "Tags is not a JSON object"),
        ({"ChargePeriodEnd": "later"}, "later"),
    ],
)
def test_a_row_that_cannot_be_read_is_told_with_file_and_line_and_nothing_else_is_lost(
    tmp_path: Path, fault: dict[str, str], said: str
) -> None:
    bill = read(focus_file(tmp_path / "bill.csv", [row("1"), row("2") | fault, row("3")]))
    [bad] = bill.bad_rows
    assert bad.place == "bill.csv line 3"
    assert bad.reason
    assert said in bad.reason
    assert (len(bill.lines), bill.gross) == (2, Usd("4"))  # 1 + 3
    assert "bill.csv line 3" in str(bill)


@step1
def test_both_spellings_of_a_time_mean_the_same_utc_day(tmp_path: Path) -> None:
    starts = ("2024-02-28T23:59:59Z", "2024-02-28 23:59:59", "2024-02-29T00:00:00Z", "2024-02-29 00:59:59+01:00")
    bill = read(focus_file(tmp_path / "b.csv", [row("1", ChargePeriodStart=start) for start in starts]))
    assert [line.day.day for line in bill.lines] == [28, 28, 29, 28]
    assert focus_time("2024-09-18T22:00:00Z") == focus_time("2024-09-18 22:00:00")


@step1
def test_null_in_a_cell_is_nothing_quoted_or_not(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text(f"{','.join(HEADER)}\n" + '1,USD,Usage,2024-02-28 10:00:00,s,NULL,"NULL",NULL\n', encoding="utf-8")
    [line] = read(path).lines
    assert (line.resource_id, line.user_tag, line.day) == ("", "", WEDNESDAY)


@step1
def test_tags_name_the_user_and_the_run(tmp_path: Path) -> None:
    rows = [row("1", Tags='{"podcastqa:user": "7", "podcastqa:run": "r1"}'), row("2", Tags='{"env": "prod"}')]
    bill = read(focus_file(tmp_path / "b.csv", rows))
    assert [line.user_tag for line in bill.lines] == ["7", ""]
    assert bill.unattributed == Usd("2")
    assert bill.of_run("r1") == Usd("1")


@step1
def test_a_byte_order_mark_a_quoted_line_break_and_an_empty_line_are_no_fault(tmp_path: Path) -> None:
    path = focus_file(tmp_path / "b.csv", [row("1", ServiceName="two\nlines"), row("2", currency="EUR")])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n2,EUR", b"\n\n2,EUR"))
    bill = read(path)
    assert [line.service for line in bill.lines] == ["two\nlines"]
    assert [bad.place for bad in bill.bad_rows] == ["b.csv line 5"]  # header 1, the first row 2 and 3, nothing on 4


@step1
def test_columns_may_stand_in_any_order_and_most_may_be_missing(tmp_path: Path) -> None:
    bill = read(focus_file(tmp_path / "b.csv", [{k: row("1.5")[k] for k in NEEDED}], tuple(reversed(NEEDED))))
    assert [(line.amount, line.day, line.resource_id) for line in bill.lines] == [(Usd("1.5"), WEDNESDAY, "")]


@step1
@pytest.mark.parametrize("missing", NEEDED)
def test_a_file_without_a_needed_column_is_no_focus_file_and_the_error_names_it(tmp_path: Path, missing: str) -> None:
    header = tuple(name for name in NEEDED if name != missing)
    path = focus_file(tmp_path / "b.csv", [{k: row()[k] for k in header}], header)
    with pytest.raises(BillError, match=rf"b\.csv is not a FOCUS file: it has no column {missing}"):
        read(path)


@step1
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.csv", b"<html><body>Sign in</body></html>\n"),
        ("picture.csv", bytes(range(256)) * 4),
        ("bill.parquet", b"PAR1 but not really"),
        ("bill.csv.gz", b"\x1f\x8b but not really"),
        ("half.csv.gz", gzip.compress(b",".join(name.encode() for name in HEADER) + b"\n" * 9)[:-9]),
    ],
)
def test_what_is_no_bill_at_all_is_said_in_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BillError, match=rf"^{name} (is not a FOCUS file|cannot be read): ") as refusal:
        read(path)
    assert "\n" not in str(refusal.value)


@step1
def test_a_file_that_is_not_there_yet_or_is_still_empty_is_an_empty_bill(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    for name in ("absent.csv", "empty.csv"):
        bill = read(tmp_path / name)
        assert (bill.lines, bill.bad_rows, bill.gross) == ((), (), ZERO)


@step1
def test_a_header_alone_is_an_empty_bill(tmp_path: Path) -> None:
    assert read(focus_file(tmp_path / "b.csv", [])).lines == ()


@step1
@pytest.mark.parametrize("torn", ["3,US", "3,USD,Usage,2024-02-2", '3,USD,Usage,2024-02-28 10:00:00,s,NULL,NULL,"{""p'])
def test_a_torn_last_line_is_a_bad_row_and_the_rows_before_it_stand(tmp_path: Path, torn: str) -> None:
    path = focus_file(tmp_path / "b.csv", [row("1"), row("2")])
    path.write_text(path.read_text(encoding="utf-8") + torn, encoding="utf-8")
    bill = read(path)
    assert bill.gross == Usd("3")  # 1 + 2
    assert [bad.place for bad in bill.bad_rows] == ["b.csv line 4"]


@step1
def test_a_compressed_export_and_a_parquet_export_are_the_same_bill(tmp_path: Path) -> None:
    import duckdb

    rows = [row("0.00000080000"), row("1E-7"), row("2.5", ResourceId='a,b"c', Tags='{"podcastqa:user": "7"}')]
    plain = focus_file(tmp_path / "b.csv", rows)
    packed, columns = tmp_path / "b.csv.gz", tmp_path / "b.parquet"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            f"COPY (SELECT * REPLACE (BilledCost::DECIMAL(30,15) AS BilledCost,"
            f" ChargePeriodStart::TIMESTAMP AS ChargePeriodStart)"
            f" FROM read_csv('{plain}', all_varchar = true)) TO '{columns}' (FORMAT parquet)"
        )
    assert read(plain).lines == read(packed).lines == read(columns).lines
    assert read(plain).gross == Usd("2.500000900000")  # 0.0000008 + 0.0000001 + 2.5


@step1
def test_tags_that_parquet_keeps_as_a_map_name_the_user_too(tmp_path: Path) -> None:
    import duckdb

    path = tmp_path / "b.parquet"
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            "COPY (SELECT 1.5::DECIMAL(18,6) AS BilledCost, 'USD' AS BillingCurrency, 'Usage' AS ChargeCategory,"
            " TIMESTAMP '2024-02-28 10:00:00' AS ChargePeriodStart, 's' AS ServiceName,"
            f" MAP {{'podcastqa:user': '7'}} AS Tags) TO '{path}' (FORMAT parquet)"
        )
    [line] = read(path).lines
    assert (line.user_tag, line.amount, line.day) == ("7", Usd("1.5"), WEDNESDAY)


@step1
@given(amounts=st.lists(st.decimals("-999999", "999999", places=12), min_size=1, max_size=12))
def test_any_amounts_come_back_exactly_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[Decimal]
) -> None:
    path = tmp_path_factory.getbasetemp() / "amounts.csv"
    bill = read(focus_file(path, [row(str(amount)) for amount in amounts]))
    assert [line.amount.decimal for line in bill.lines] == amounts
    assert bill.net.decimal == sum(amounts)


@step1
def test_more_than_twelve_decimals_are_rounded_half_to_even_counted_and_told(tmp_path: Path) -> None:
    amounts = ("0.0000000000005", "0.0000000000015", "2.5E-12", "0.00000000000249", "1")
    bill = read(focus_file(tmp_path / "b.csv", [row(amount) for amount in amounts]))
    assert [line.amount.pico for line in bill.lines] == [0, 2, 2, 2, 10**12]
    # 0 - 0.5, 2 - 1.5, 2 - 2.5, 2 - 2.49 of the twelfth decimal
    assert dict(bill.provenance.remarks)["rounded"] == (
        "BilledCost: 4 amounts have more than 12 decimals; rounding moved the sum by -0.00000000000099 USD."
    )


@step1
def test_amounts_are_spelt_as_bills_spell_them() -> None:
    assert exact_usd("1E-7") == exact_usd(" 0.00000010000 ") == Usd("0.0000001")
    with pytest.raises(BadEstimate):
        exact_usd("NaN")


@step1
def test_a_bill_says_where_it_came_from_and_through_when_it_is_complete(tmp_path: Path) -> None:
    rows = [row("1", ChargePeriodEnd="2024-02-28T11:30:00Z"), row("1", ChargePeriodEnd="2024-02-28 09:00:00")]
    path = focus_file(tmp_path / "b.csv", rows)
    told = read(path).provenance
    assert (told.component, told.account, told.read_at) == ("FOCUS export", "b.csv", A_WEDNESDAY)
    assert told.complete_through == datetime(2024, 2, 28, 11, 30, tzinfo=UTC)
    assert len(told.sha256) == 64
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert read(path).provenance.sha256 != told.sha256
    assert told.sha256 in str(told.table().records())


# ── what the guard keeps of a bill ────────────────────────────────────────────────────────────────────────────────────


@step1
def test_day_totals_keep_each_day_as_a_whole_and_each_known_users_part_of_it() -> None:
    bill = bill_of(
        billed(TUESDAY, "1", "1"),
        billed(WEDNESDAY, "2", "1"),
        billed(WEDNESDAY, "4", "2"),
        billed(WEDNESDAY, "8"),  # nobody's
        billed(WEDNESDAY, "16", "99"),  # names no user: in the whole only
        billed(WEDNESDAY, "-3", "2", "Credit"),
    )
    tuesday, wednesday = day_number(TUESDAY), day_number(WEDNESDAY)
    assert bill.day_totals({"1": 1, "2": 2}) == [
        (tuesday, 0, Usd("1"), Usd("1")),
        (tuesday, 1, Usd("1"), Usd("1")),
        (wednesday, 0, Usd("30"), Usd("27")),  # 2 + 4 + 8 + 16, and less 3
        (wednesday, 1, Usd("2"), Usd("2")),
        (wednesday, 2, Usd("4"), Usd("1")),  # 4, and less 3
    ]


@step1
def test_a_tag_that_says_zero_is_not_the_whole_system_twice() -> None:
    bill = bill_of(billed(WEDNESDAY, "2", "0"), billed(WEDNESDAY, "1"))
    assert bill.day_totals({"1": 1}) == [(day_number(WEDNESDAY), 0, Usd("3"), Usd("3"))]  # 2 + 1, each once


LINES = st.builds(
    BillLine,
    day=st.dates(date(2024, 2, 26), date(2024, 3, 3)),
    user_tag=st.sampled_from(["", "1", "2", "99"]),
    resource_id=st.just("r"),
    service=st.just("s"),
    category=st.sampled_from(["Usage", "Tax", "Credit", "Refund"]),
    amount=st.integers(-(10**15), 10**15).map(Usd.from_pico),
)


@step1
@given(st.lists(LINES, max_size=20))
def test_day_totals_of_the_whole_sum_to_the_bill(lines: list[BillLine]) -> None:
    bill = bill_of(*lines)
    whole = [(gross, net) for _, scope, gross, net in bill.day_totals({"1": 1, "2": 2}) if scope == 0]
    assert sum((gross for gross, _ in whole), ZERO) == bill.gross
    assert sum((net for _, net in whole), ZERO) == bill.net
    one = [gross for _, scope, gross, _ in bill.day_totals({"1": 1, "2": 2}) if scope == 1]
    assert sum(one, ZERO) == sum((line.amount for line in lines if line.is_use and line.user_tag == "1"), ZERO)


# ── the local meter's own file ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def meter(tmp_path: Path) -> Meter:
    return Meter(
        tmp_path / "home" / "local-meter.focus.csv",
        PriceList.load().named("local-vcpu-hour", WEDNESDAY),
        SetClock(),
        run_id="run-1",
    )


@step1
def test_the_meters_rows_are_focus_rows_read_by_the_reader_of_cloud_exports(meter: Meter) -> None:
    meter.begin("op-1", 7)
    cost = meter.end("op-1")
    bill = LocalMeterBill(meter.path, SetClock()).read()
    [line] = [line for line in bill.lines if line.resource_id == "op-1"]
    assert (line.amount, line.user_tag, line.run, line.day) == (cost, "7", "run-1", WEDNESDAY)
    assert bill.bad_rows == ()
    assert meter.path.read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)
    assert bill.gross == cost + bill.unattributed  # what this process used before is nobody's


@step1
@pytest.mark.parametrize("lost", [1, 20, 30, 60, 200])
def test_a_meters_file_whose_last_row_was_torn_goes_on_in_a_line_of_its_own(meter: Meter, lost: int) -> None:
    meter.begin("op-1", 7)
    first = meter.end("op-1")
    whole = meter.path.read_bytes()
    meter.path.write_bytes(whole[:-lost])  # the power went while the last row was on its way
    meter.begin("op-2", 7)
    second = meter.end("op-2")
    bill = LocalMeterBill(meter.path, SetClock()).read()
    operations = {one.resource_id: one.amount for one in bill.lines if one.user_tag}
    assert operations == {"op-1": first, "op-2": second}  # what was torn is the row behind them, of nobody's time
    assert [bad.place for bad in bill.bad_rows] in ([], ["local-meter.focus.csv line 3"])


@step1
def test_the_meters_bill_is_read_again_only_when_rows_may_have_been_added(meter: Meter) -> None:
    source = LocalMeterBill(meter.path, SetClock())
    assert not source.changed_since(None)  # no file yet
    meter.begin("op-1", 7)
    meter.end("op-1")
    assert source.changed_since(None)
    touched = datetime(2024, 2, 28, 12, 0, tzinfo=UTC)
    os.utime(meter.path, (touched.timestamp(), touched.timestamp()))
    assert source.changed_since(touched)  # within the same second it may have grown unseen
    assert source.changed_since(touched.replace(microsecond=999_999))
    assert not source.changed_since(touched.replace(second=1))

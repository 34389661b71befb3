"""Imported bills: every cent of a file once, whatever it is packed in, delivered again or torn."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from podcastqa.bills.archive import BillArchive
from podcastqa.bills.bill import BadRow, BillLine
from podcastqa.bills.console_csv import read_console_csv
from podcastqa.bills.files import BillFile, find
from podcastqa.bills.focus import layout_of, read_export, source_of, tag_spellings
from podcastqa.bills.import_result import SourceTotal
from podcastqa.database import Database, open_database
from podcastqa.errors import BillError
from podcastqa.money import ZERO, Usd
from podcastqa.spend.mirror import Mirror
from tests.conftest import Process, SetClock, race

step1 = pytest.mark.step1
USER_TAG = "podcastqa:user"
HEADER = (
    *("BilledCost", "EffectiveCost", "BillingAccountId", "BillingCurrency", "BillingPeriodStart", "ChargeCategory"),
    *("ChargeClass", "ChargePeriodEnd", "ChargePeriodStart", "ProviderName", "ResourceId", "ServiceName", "Tags"),
)
IMPORTED = datetime(2024, 10, 20, 9, 0, tzinfo=UTC)


def row(cost: str = "1", *, day: str = "2024-09-18", provider: str = "AWS", **more: str) -> dict[str, str]:
    usual = {
        "BilledCost": cost,
        "EffectiveCost": cost,
        "BillingAccountId": "1234",
        "BillingCurrency": "USD",
        "BillingPeriodStart": f"{day[:7]}-01 00:00:00",
        "ChargeCategory": "Usage",
        "ChargePeriodEnd": f"{day} 11:00:00",
        "ChargePeriodStart": f"{day} 10:00:00",
        "ProviderName": provider,
        "ServiceName": "s",
    }
    return usual | more


def focus_file(path: Path, rows: Iterable[dict[str, str]], header: Sequence[str] = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n", restval="NULL")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path, user_tag: str = USER_TAG) -> BillFile:
    return read_export(path, path.name, user_tag)


def parquet(path: Path, select: str) -> Path:
    """What DuckDB writes of a query."""
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path


def parquet_of(plain: Path, path: Path, replace: str = "") -> Path:
    """A CSV file as Parquet, all cells as text but those in `replace`."""
    return parquet(path, f"SELECT * {replace} FROM read_csv('{plain}', all_varchar = true, nullstr = 'NULL')")


@pytest.fixture
def database(home: Path) -> Iterator[Database]:
    made = open_database(f"sqlite:///{home / 'podcastqa.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def clock() -> SetClock:
    return SetClock(IMPORTED)


@pytest.fixture
def archive(database: Database, clock: SetClock) -> BillArchive:
    return BillArchive(database, clock, USER_TAG, "")


@pytest.fixture
def mirror(database: Database, clock: SetClock, tmp_path: Path) -> Mirror:
    return Mirror(tmp_path / "mirror.duckdb", database, clock)


@pytest.fixture(scope="session")
def data() -> Path:
    folder = os.environ.get("PODCASTQA_TEST_DATA")
    if not folder:
        pytest.skip("PODCASTQA_TEST_DATA is not set: the real FOCUS sample is bills/focus_sample.csv in that folder")
    return Path(folder) / "bills"


@pytest.fixture
def sample(data: Path) -> Path:
    return data / "focus_sample.csv"


def net(archive: BillArchive) -> Usd:
    """What stands, as SQL adds it up; as Python does, which has to be the same."""
    total = sum((one.net for one in archive.totals().sources), ZERO)
    assert total == sum((line.amount for line in archive.lines()), ZERO)
    return total


def in_duckdb(mirror: Mirror) -> Decimal:
    [(total,)] = mirror.query("SELECT coalesce(sum(amount_usd), 0) FROM bill_lines_usd")
    return Decimal(total)


def totals(found: Iterable[SourceTotal]) -> dict[str, tuple[int, Usd, Usd, Usd]]:
    return {one.source: (one.rows, one.gross, one.net, one.effective) for one in found}


# ── the real FOCUS sample ─────────────────────────────────────────────────────────────────────────────────────────

#: What Python's decimals make of the file's own text, provider by provider.
BILLED, EFFECTIVE = Usd("20.52022672899"), Usd("14.97651418586")


def by_provider(sample: Path) -> dict[str, tuple[int, Usd, Usd, Usd]]:
    with sample.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for provider in ("AWS", "Microsoft", "Oracle"):
        mine = [r for r in rows if r["ProviderName"] == provider]
        use = [Decimal(r["BilledCost"]) for r in mine if r["ChargeCategory"] != "Credit"]
        billed, effective = (sum(Decimal(r[name]) for r in mine) for name in ("BilledCost", "EffectiveCost"))
        found[provider.lower()] = (len(mine), Usd(sum(use, Decimal())), Usd(Decimal(billed)), Usd(Decimal(effective)))
    return found


def packed(sample: Path, kind: str, folder: Path) -> Path:
    if kind == "gzip":
        path = folder / "sample.csv.gz"
        path.write_bytes(gzip.compress(sample.read_bytes()))
        return path
    if kind == "parquet of text":
        return parquet_of(sample, folder / "sample.parquet")
    if kind == "parquet of doubles":
        kinds = "REPLACE (BilledCost::DOUBLE AS BilledCost, EffectiveCost::DOUBLE AS EffectiveCost,"
        kinds += " ChargePeriodStart::TIMESTAMPTZ AS ChargePeriodStart, BillingPeriodStart::DATE AS BillingPeriodStart)"
        return parquet_of(sample, folder / "doubles.parquet", kinds)
    return sample


@pytest.mark.parametrize("kind", ["plain", "gzip", "parquet of text", "parquet of doubles"])
def test_the_real_sample_sums_exactly_in_sql_in_python_and_in_duckdb(
    sample: Path, kind: str, tmp_path: Path, archive: BillArchive, mirror: Mirror
) -> None:
    result = archive.add(str(packed(sample, kind, tmp_path)))
    [told] = result.files
    assert (result.changed, told.format, told.rows, told.bad_rows) == (True, "FOCUS 1.0", 1000, 0)
    expected = by_provider(sample)
    assert {source: rows for source, (rows, *_) in expected.items()} == {"aws": 942, "microsoft": 51, "oracle": 7}
    assert totals(result.sources) == totals(archive.totals().sources) == expected
    assert net(archive) == sum((total[2] for total in expected.values()), ZERO) == BILLED
    assert sum((total[3] for total in expected.values()), ZERO) == EFFECTIVE
    found = mirror.query(
        "SELECT source, count(*), sum(amount_pico), sum(amount_usd), sum(effective_usd) FROM bill_lines_usd"
        " GROUP BY source"
    )
    for source, rows, pico, billed, effective in found:
        assert (rows, Usd.from_pico(int(pico)), Usd(billed), Usd(effective)) == (
            *(expected[source][0], expected[source][2]),
            *(expected[source][2], expected[source][3]),
        )


def test_the_real_sample_keeps_the_providers_own_text_line_and_category(sample: Path, database: Database) -> None:
    BillArchive(database, SetClock(IMPORTED), USER_TAG, "").add(str(sample))
    kept = database.driver().execute("SELECT line, amount_text, amount_pico, category FROM bill_lines").fetchall()
    with sample.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        plain = [(reader.line_num, r["BilledCost"], Usd(r["BilledCost"]).pico, r["ChargeCategory"]) for r in reader]
    assert sorted(kept) == sorted(plain)
    categories = [category for *_, category in kept]
    assert {name: categories.count(name) for name in set(categories)} == {"Usage": 997, "Adjustment": 2, "Credit": 1}


def test_the_real_samples_sum_is_what_pandas_and_pyarrow_make_of_it(sample: Path, archive: BillArchive) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pd.read_csv(sample, dtype=str, keep_default_na=False)["BilledCost"]
    assert sum(map(Decimal, text)) == BILLED.decimal
    summed = pc.sum(pa.array(text).cast(pa.decimal128(38, 12))).as_py()
    archive.add(str(sample))
    assert net(archive).decimal == summed == BILLED.decimal


def test_torn_rows_behind_the_real_sample_are_told_with_their_lines_and_it_still_sums(
    sample: Path, archive: BillArchive, tmp_path: Path
) -> None:
    whole = sample.read_text(encoding="utf-8").rstrip("\r\n").splitlines()
    copy = tmp_path / "torn.csv"
    behind = ['NULL,0.5,"123', whole[1] + ",1", whole[1].replace('"USD"', '"EUR"'), whole[2]]
    copy.write_text("\n".join([*whole, *behind]) + "\n", encoding="utf-8")
    result = archive.add(str(copy))
    assert [bad.place for bad in result.bad_rows] == [f"torn.csv line {1002 + n}" for n in range(3)]
    assert [bad.reason for bad in result.bad_rows] == [
        "a quote in it is not closed",
        "it has too many cells",
        "the currency is EUR, not USD",
    ]
    assert net(archive) == BILLED + Usd("0.00001605990")  # the third line once more
    assert "torn.csv line 1004: the currency is EUR, not USD" in str(result)


def test_the_real_aws_rows_as_a_cur_come_to_the_same(sample: Path, archive: BillArchive, tmp_path: Path) -> None:
    names = {
        "BilledCost": "line_item_unblended_cost",
        "BillingAccountId": "bill_payer_account_id",
        "BillingCurrency": "line_item_currency_code",
        "BillingPeriodStart": "bill_billing_period_start_date",
        "ChargeCategory": "line_item_line_item_type",
        "ChargePeriodStart": "line_item_usage_start_date",
        "ChargePeriodEnd": "line_item_usage_end_date",
        "ResourceId": "line_item_resource_id",
        "ServiceName": "line_item_product_code",
        "Tags": "resource_tags",
    }
    renamed = ", ".join(f'"{ours}" AS {theirs}' for ours, theirs in names.items())
    rows = (
        f"SELECT {renamed} FROM read_csv('{sample}', all_varchar = true, nullstr = 'NULL') WHERE ProviderName = 'AWS'"
    )
    result = archive.add(str(parquet(tmp_path / "cur.parquet", rows)))
    count, gross, billed, _ = by_provider(sample)["aws"]
    assert totals(result.sources) == {
        "aws": (count, gross, billed, billed)
    }  # nothing was reserved: effective is billed
    assert result.files[0].format == "CUR 2.0"


def test_a_real_download_comes_to_its_own_total(data: Path) -> None:
    found = read_console_csv(data / "console_costs.csv")
    assert found.days == {date(2022, 3, 1): Usd("90.6091201938")}
    assert (found.bad_rows, found.notes, len(found.sha256)) == ((), (), 64)
    services = {line.service: line.amount for line in found.lines}
    assert services["Support (Developer)"] == Usd("29")
    assert services["Lambda"] == Usd("0.0000001891")
    assert "VPC" not in services  # an empty cell is no data
    assert services["Glue"] == ZERO  # "0" is
    assert {line.category for line in found.lines if line.service == "Tax"} == {"Tax"}


# ── what a file is ────────────────────────────────────────────────────────────────────────────────────────────────


@step1
@pytest.mark.parametrize(
    ("more", "version"),
    [
        ((), "FOCUS 1.0"),
        (("ServiceSubcategory", "SkuMeter"), "FOCUS 1.1"),
        (("ServiceSubcategory", "InvoiceId", "PricingCurrency"), "FOCUS 1.2"),
    ],
)
def test_the_version_is_told_by_the_columns(more: tuple[str, ...], version: str) -> None:
    layout = layout_of((*HEADER, *more))
    assert layout
    assert layout.format == version


@step1
@pytest.mark.parametrize(
    ("provider", "issuer", "publisher", "source"),
    [
        ("AWS", "Amazon Web Services, Inc.", "Red Hat Inc.", "aws"),
        ("", "Amazon Web Services EMEA SARL", "", "aws"),
        ("", "", "Amazon Web Services Canada, Inc.", "aws"),
        ("Snowflake", "AWS", "Snowflake", "aws"),  # it is on AWS's invoice
        ("Microsoft", "Microsoft", "Microsoft", "microsoft"),
        ("", "Google Cloud", "", "google-cloud"),
        ("Awsome Hosting", "", "", "awsome-hosting"),
        ("Яндекс", "", "", "яндекс"),
        ("", "", "", "unnamed"),
    ],
)
def test_each_row_is_on_the_bill_of_who_provides_or_invoices_it(
    provider: str, issuer: str, publisher: str, source: str
) -> None:
    assert source_of(provider, issuer, publisher) == source


@step1
def test_a_row_that_names_nobody_is_awss_in_a_file_with_awss_own_columns(tmp_path: Path) -> None:
    nameless = row(provider="NULL")
    aws = read(focus_file(tmp_path / "aws.csv", [nameless | {"x_ServiceCode": "AmazonS3"}], (*HEADER, "x_ServiceCode")))
    assert [line.source for line in aws.lines] == ["aws"]
    assert [line.source for line in read(focus_file(tmp_path / "any.csv", [nameless])).lines] == ["unnamed"]


@step1
def test_a_negative_correction_of_an_earlier_period_is_a_refund_and_no_other_negative_charge_is(tmp_path: Path) -> None:
    rows = [
        row("5"),
        row("-2", ChargeClass="Correction"),  # an earlier invoice was too high
        row("0.5", ChargeClass="Correction"),  # or too low
        row("-1"),  # this period's own
        row("-0.25", ChargeCategory="Credit"),
    ]
    lines = [found.line for found in read(focus_file(tmp_path / "b.csv", rows)).lines]
    assert [line.category for line in lines] == ["Usage", "Refund", "Usage", "Usage", "Credit"]
    assert sum((line.amount for line in lines if line.is_use), ZERO) == Usd("4.5")  # 5 + 0.5 - 1


CUR = {
    "line_item_unblended_cost": "2",
    "line_item_currency_code": "USD",
    "line_item_product_code": "AmazonEC2",
    "line_item_line_item_type": "Usage",
    "line_item_usage_start_date": "2024-09-18T10:00:00.000Z",
    "line_item_usage_end_date": "2024-09-18T11:00:00.000Z",
    "bill_payer_account_id": "1234",
    "bill_billing_period_start_date": "2024-09-01T00:00:00.000Z",
}


@step1
@pytest.mark.parametrize(
    ("more", "effective"),
    [
        ({}, "2"),
        ({"line_item_line_item_type": "DiscountedUsage", "reservation_effective_cost": "0.7"}, "0.7"),
        (
            {
                "line_item_line_item_type": "RIFee",
                "reservation_unused_amortized_upfront_fee_for_billing_period": "0.1",
                "reservation_unused_recurring_fee": "0.03",
            },
            "0.13",
        ),
        ({"line_item_line_item_type": "Fee", "reservation_reservation_a_r_n": "arn:aws:ec2::1234:ri"}, "0"),
        ({"line_item_line_item_type": "Fee"}, "2"),
        (
            {
                "line_item_line_item_type": "SavingsPlanRecurringFee",
                "savings_plan_total_commitment_to_date": "1.5",
                "savings_plan_used_commitment": "1.25",
            },
            "0.25",
        ),
        ({"line_item_line_item_type": "SavingsPlanNegation"}, "0"),
        ({"line_item_line_item_type": "DiscountedUsage"}, "2"),  # its column is missing: as billed
    ],
)
def test_what_a_cur_line_costs_effectively_goes_by_its_type(
    tmp_path: Path, more: dict[str, str], effective: str
) -> None:
    cells = CUR | more
    [found] = read(focus_file(tmp_path / "cur.csv", [cells], tuple(cells))).lines
    assert (found.line.amount, found.effective) == (Usd("2"), Usd(effective))
    assert (found.source, found.account, found.period) == ("aws", "1234", date(2024, 9, 1))


@step1
def test_credits_and_refunds_of_a_cur_are_no_use(tmp_path: Path) -> None:
    rows = [CUR | {"line_item_line_item_type": kind} for kind in ("Usage", "Credit", "Refund", "Tax", "EdpDiscount")]
    found = read(focus_file(tmp_path / "cur.csv", rows, tuple(CUR)))
    assert [one.line.is_use for one in found.lines] == [True, False, False, True, True]


# ── whose it is ───────────────────────────────────────────────────────────────────────────────────────────────────


@step1
def test_a_tags_key_is_found_as_each_export_spells_it() -> None:
    assert tag_spellings("podcastqa:user") == (
        "podcastqa:user",
        "user:podcastqa:user",
        "resourceTags/podcastqa:user",
        "resourceTags/user:podcastqa:user",
        "user_podcastqa_user",
    )
    assert "user_cost_center_name" in tag_spellings("costCenter-Name")
    assert "user_karpenter_sh_nodepool" in tag_spellings("karpenter.sh/nodepool")


@step1
@pytest.mark.parametrize("key", tag_spellings(USER_TAG))
def test_the_user_is_named_by_the_configured_tag(tmp_path: Path, key: str) -> None:
    plain = focus_file(tmp_path / "b.csv", [row(Tags=f'{{"{key}": "ada", "env": null}}'), row(Tags="{}"), row()])
    assert [found.line.user_tag for found in read(plain).lines] == ["ada", "", ""]
    assert [found.line.user_tag for found in read(plain, "env").lines] == ["", "", ""]


@step1
def test_the_tag_itself_goes_before_another_spelling_of_it(tmp_path: Path) -> None:
    rows = [row(Tags='{"user:podcastqa:user": "bob", "podcastqa:user": "ada"}')]
    assert [found.line.user_tag for found in read(focus_file(tmp_path / "b.csv", rows)).lines] == ["ada"]


@step1
@pytest.mark.parametrize(
    "tags",
    [
        "MAP {'podcastqa:user': 'ada', 'env': NULL}",
        "{'podcastqa:user': 'ada', 'env': NULL::VARCHAR}",
        "[{'key': 'podcastqa:user', 'value': 'ada'}]",
        '\'{"podcastqa:user": "ada"}\'',
        '\'{"podcastqa:user": "ada"}\'::JSON',
    ],
)
def test_parquet_keeps_tags_as_a_map_a_struct_a_list_or_text(tmp_path: Path, tags: str) -> None:
    plain = focus_file(tmp_path / "b.csv", [row("1.5")])
    [found] = read(parquet_of(plain, tmp_path / "b.parquet", f"REPLACE ({tags} AS Tags)")).lines
    assert (found.line.user_tag, found.line.amount) == ("ada", Usd("1.5"))


@step1
def test_a_cur_names_the_user_in_its_map_or_in_a_column_of_its_own(tmp_path: Path) -> None:
    flat = CUR | {"resource_tags_user_podcastqa_user": "ada"}
    assert [one.line.user_tag for one in read(focus_file(tmp_path / "flat.csv", [flat], tuple(flat))).lines] == ["ada"]
    mapped = CUR | {"tags": '{"resourceTags/podcastqa:user": "bob", "costCategory/team": "x"}'}
    assert [one.line.user_tag for one in read(focus_file(tmp_path / "m.csv", [mapped], tuple(mapped))).lines] == ["bob"]


# ── amounts ───────────────────────────────────────────────────────────────────────────────────────────────────────


@step1
def test_what_a_parquet_file_keeps_as_doubles_is_its_shortest_text_and_what_is_rounded_is_told(tmp_path: Path) -> None:
    values = "(0.1::DOUBLE), (0.1::DOUBLE + 0.2::DOUBLE), (1.60599e-05), ('NaN'), ('Infinity'), (1e300), (NULL)"
    plain = focus_file(tmp_path / "b.csv", [row()])
    path = parquet(
        tmp_path / "b.parquet",
        f"SELECT r.* REPLACE (v.cost AS BilledCost, 0::DOUBLE AS EffectiveCost) FROM read_csv('{plain}', all_varchar ="
        f" true, nullstr = 'NULL') r, (VALUES {values}) v (cost)",
    )
    found = read(path)
    assert [one.amount_text for one in found.lines] == ["0.1", "0.30000000000000004", "1.60599e-05"]
    assert [one.line.amount for one in found.lines] == [Usd("0.1"), Usd("0.3"), Usd("0.0000160599")]
    assert found.notes == (
        "BilledCost: 1 amounts have more than 12 decimals; rounding moved the sum by -0.00000000000000004 USD.",
    )
    assert [bad.place for bad in found.bad_rows] == [f"b.parquet row {n}" for n in (4, 5, 6, 7)]


AMOUNTS = st.one_of(
    st.decimals("-3999999", "3999999", places=12),
    st.integers(-4 * 10**18, 4 * 10**18).map(lambda pico: Decimal(pico).scaleb(-12)),
)


@step1
@given(amounts=st.lists(AMOUNTS, min_size=1, max_size=12), exponent=st.booleans())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_amounts_come_through_csv_archive_sql_and_duckdb_exactly(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, amounts: list[Decimal], exponent: bool
) -> None:
    folder = tmp_path_factory.mktemp("amounts")
    shutil.copy(migrated, folder / "b.sqlite")
    database = open_database(f"sqlite:///{folder / 'b.sqlite'}")
    archive = BillArchive(database, SetClock(IMPORTED), USER_TAG, "")
    spelled = [f"{amount:E}" if exponent else f"{amount:f}" for amount in amounts]
    archive.add(str(focus_file(folder / "b.csv", [row(text) for text in spelled])))
    assert [line.amount.decimal for line in archive.lines()] == amounts
    [(summed,)] = Mirror(folder / "m.duckdb", database, SetClock()).query("SELECT sum(amount_usd) FROM bill_lines_usd")
    assert summed == sum(amounts)
    texts = [text for (text,) in database.driver().execute("SELECT amount_text FROM bill_lines ORDER BY id")]
    assert texts == spelled
    database.close()


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@step1
def test_a_bad_row_has_its_line_behind_line_breaks_empty_lines_and_rejected_rows(tmp_path: Path) -> None:
    header = ",".join(HEADER)
    good = ",".join(row().get(name, "NULL") for name in HEADER)
    lines = [
        header,  # line 1
        good.replace(",s,", ',"two\nlines",'),  # 2 and 3
        "",  # 4
        "1,2",  # 5: too few
        good,  # 6
        good + ",more",  # 7: too many
        good.replace(",s,", ',"a ""quoted"" one",'),  # 8
        good.replace("USD", "CHF"),  # 9
        good.replace(",s,", ',"never closed,'),  # 10
        good,  # 11
        good.replace(",s,", ',"x"y,'),  # 12: goes on behind its quotes
        good.replace(",s,", ',"three\r\n\nlines",'),  # 13 to 15
        good.replace("2024-09-18 10", "18.9.2024 10"),  # 16
    ]
    path = tmp_path / "b.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = read(path)
    assert [one.number for one in found.lines] == [2, 6, 8, 11, 13]
    assert [one.line.service for one in found.lines] == ["two\nlines", "s", 'a "quoted" one', "s", "three\r\n\nlines"]
    assert [bad.place for bad in found.bad_rows] == [f"b.csv line {n}" for n in (5, 7, 9, 10, 12, 16)]


@step1
@given(faults=st.lists(st.sampled_from(["", "few", "many", "quote", "currency", "break", "empty"]), max_size=25))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_torn_between_them_good_rows_stay_and_bad_ones_have_their_line(
    tmp_path: Path, faults: list[str]
) -> None:
    good = ",".join(row().get(name, "NULL") for name in HEADER)
    spelled = {
        "": good,
        "few": "1,2",
        "many": good + ",x",
        "quote": good.replace(",s,", ',"s,'),
        "currency": good.replace("USD", "CHF"),
        "break": good.replace(",s,", ',"s\n\ns",'),
        "empty": "",
    }
    expected_good, expected_bad, line = [], [], 2
    for fault in faults:
        if fault in ("", "break"):
            expected_good.append(line)
        elif fault != "empty":
            expected_bad.append(f"b.csv line {line}")
        line += 1 + spelled[fault].count("\n")
    path = tmp_path / "b.csv"
    path.write_text("\n".join([",".join(HEADER), *(spelled[fault] for fault in faults)]), encoding="utf-8", newline="")
    found = read(path)
    assert [one.number for one in found.lines] == expected_good
    assert [bad.place for bad in found.bad_rows] == expected_bad


@step1
def test_lines_that_end_otherwise_and_letters_that_are_none_cost_no_row(tmp_path: Path) -> None:
    good = ",".join(row().get(name, "NULL") for name in HEADER).encode()
    path = tmp_path / "b.csv"
    path.write_bytes(b"\r\n".join([",".join(HEADER).encode(), good, good]) + b"\n" + good.replace(b",s,", b",caf\xe9,"))
    found = read(path)
    assert (len(found.lines), found.bad_rows) == (3, ())
    assert found.lines[2].line.service == "caf\N{REPLACEMENT CHARACTER}"


# ── the same bill again ───────────────────────────────────────────────────────────────────────────────────────────


@step1
def test_a_file_imported_twice_changes_nothing_and_says_since_when_it_is_known(
    tmp_path: Path, archive: BillArchive, clock: SetClock, database: Database
) -> None:
    path = focus_file(tmp_path / "b.csv", [row("1"), row("2")])
    archive.add(str(path))
    clock.forward(hours=3)
    for other in (path, Path(shutil.copy(path, tmp_path / "of another name.csv"))):
        again = archive.add(str(other))
        assert (again.changed, again.sources, again.replaced) == (False, (), ())
        assert again.files[0].known_since == IMPORTED
        assert "known since 2024-10-20 09:00 UTC" in str(again)
    assert net(archive) == Usd("3")
    assert database.driver().execute("SELECT count(*) FROM bill_imports").fetchone() == (1,)
    assert archive.newest_at("aws") == IMPORTED


@step1
def test_a_month_that_is_delivered_again_counts_once_and_the_result_says_what_it_replaced(
    tmp_path: Path, archive: BillArchive, clock: SetClock, mirror: Mirror
) -> None:
    path = tmp_path / "b.csv"
    archive.add(str(focus_file(path, [row("1", day="2024-08-31"), row("2"), row("4", BillingAccountId="9")])))
    clock.forward(days=1)
    result = archive.add(str(focus_file(path, [row("2"), row("0.5")])))
    [gone] = result.replaced
    assert (gone.source, gone.account, gone.month, gone.rows) == ("aws", "1234", date(2024, 9, 1), 1)
    assert (gone.net, gone.imported_at) == (Usd("2"), IMPORTED)
    assert net(archive) == Usd("7.5")  # August's 1, the other account's 4, September's 2 + 0.5
    assert in_duckdb(mirror) == Decimal("7.5")
    assert [(one.rows, one.standing, one.stands) for one in archive.list().files] == [
        (2, 2, "yes"),
        (3, 2, "2 of 3 rows"),
    ]
    assert "Replaced: aws account 1234 2024-09, 1 rows, $2.00 net, imported 2024-10-20 09:00 UTC." in str(result)


@step1
def test_an_older_delivery_imported_once_more_does_not_come_back(tmp_path: Path, archive: BillArchive) -> None:
    older = focus_file(tmp_path / "older.csv", [row("1")])
    archive.add(str(older))
    archive.add(str(focus_file(tmp_path / "newer.csv", [row("3")])))
    assert archive.add(str(older)).changed is False
    assert net(archive) == Usd("3")


@step1
def test_a_folder_with_a_new_part_of_a_month_stands_whole_and_its_other_months_are_left_alone(
    tmp_path: Path, archive: BillArchive, clock: SetClock, database: Database
) -> None:
    folder = tmp_path / "exports"
    focus_file(folder / "2024-08" / "part-1.csv", [row("1", day="2024-08-02")])
    focus_file(folder / "2024-09" / "part-1.csv", [row("2")])
    archive.add(str(folder))
    clock.forward(days=1)
    focus_file(folder / "2024-09" / "part-2.csv", [row("4")])
    result = archive.add(str(folder))
    assert net(archive) == Usd("7")  # 1 + 2 + 4
    assert {file.name: file.known_since for file in result.files} == {
        str(Path("2024-08") / "part-1.csv"): IMPORTED,
        str(Path("2024-09") / "part-1.csv"): IMPORTED,
        str(Path("2024-09") / "part-2.csv"): None,
    }
    august = "SELECT DISTINCT import_id FROM bill_lines WHERE amount_text = '1'"
    assert database.driver().execute(august).fetchall() == [(1,)]
    assert archive.add(str(folder)).changed is False


@step1
def test_the_same_bytes_twice_in_a_folder_count_once(tmp_path: Path, archive: BillArchive) -> None:
    one = focus_file(tmp_path / "a" / "b.csv", [row("1")])
    shutil.copy(one, tmp_path / "a" / "c.csv")
    result = archive.add(str(tmp_path / "a"))
    assert net(archive) == Usd("1")
    assert [file.problem for file in result.files] == ["", "It is the same as b.csv."]


@step1
def test_of_a_month_that_files_of_several_formats_tell_the_most_detailed_counts(
    tmp_path: Path, database: Database
) -> None:
    archive = BillArchive(database, SetClock(IMPORTED), USER_TAG, "1234")
    folder = tmp_path / "a"
    focus_file(folder / "focus.csv", [row("1")])
    focus_file(folder / "cur.csv", [CUR], tuple(CUR))
    (folder / "console.csv").write_text(
        '"Service","EC2($)","Total costs($)"\n"2024-08-31","9","9"\n"2024-09-18","1","1"\n', encoding="utf-8"
    )
    result = archive.add(str(folder))
    assert result.notes == (
        "console.csv: left out for aws 2024-09, which a file of FOCUS 1.0 tells.",
        "cur.csv: left out for aws 2024-09, which a file of FOCUS 1.0 tells.",
    )
    assert net(archive) == Usd("10")  # August's 9 of the console, September's 1
    assert {file.name: file.stands for file in archive.list().files} == {
        "console.csv": "yes",
        "cur.csv": "left out",
        "focus.csv": "yes",
    }
    assert archive.add(str(folder)).changed is False


@step1
def test_a_download_that_does_not_say_whose_it_is_never_counts_beside_the_same_month_of_an_account(
    tmp_path: Path, archive: BillArchive, mirror: Mirror
) -> None:
    console = tmp_path / "console.csv"
    console.write_text('"Service","EC2($)","Total costs($)"\n"2024-09-18","9","9"\n', encoding="utf-8")
    archive.add(str(focus_file(tmp_path / "a.csv", [row("1"), row("2", provider="Microsoft")])))
    archive.add(str(console))
    assert net(archive) == Usd("11")  # 9, the newer; and what Microsoft wants
    assert in_duckdb(mirror) == Decimal("11")
    result = archive.add(str(focus_file(tmp_path / "b.csv", [row("4")])))
    assert [gone.account for gone in result.replaced] == [""]
    assert net(archive) == Usd("6")  # 4 + 2
    assert in_duckdb(mirror) == Decimal("6")


@step1
@given(
    imports=st.lists(
        st.lists(st.tuples(st.sampled_from("AB"), st.integers(7, 9), st.integers(1, 99)), min_size=1, max_size=5),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_delivered_again_each_month_of_an_account_is_its_newest_imports(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, imports: list[list[tuple[str, int, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("again")
    shutil.copy(migrated, folder / "b.sqlite")
    database = open_database(f"sqlite:///{folder / 'b.sqlite'}")
    archive, mirror = (
        BillArchive(database, SetClock(IMPORTED), USER_TAG, ""),
        Mirror(folder / "m.duckdb", database, SetClock()),
    )
    stands: dict[tuple[str, int], int] = {}
    for number, lines in enumerate(imports):
        rows = [row(str(cents), day=f"2024-0{month}-10", BillingAccountId=who) for who, month, cents in lines]
        archive.add(str(focus_file(folder / f"{number}.csv", [*rows, row("0", day=f"2025-01-{number + 1:02}")])))
        for who, month in {(who, month) for who, month, _ in lines}:
            stands[who, month] = sum(cents for w, m, cents in lines if (w, m) == (who, month))
        assert net(archive).decimal == sum(stands.values()) == in_duckdb(mirror)
    database.close()


# ── all or nothing ────────────────────────────────────────────────────────────────────────────────────────────────


def nothing_is_kept(database: Database) -> bool:
    counts = [database.driver().execute(f"SELECT count(*) FROM {name}").fetchone() for name in TABLES]
    return counts == [(0,)] * len(TABLES)


TABLES = ("bill_imports", "bill_files", "bill_lines")


@step1
def test_a_file_that_is_torn_so_that_it_cannot_be_unpacked_ends_the_import_and_nothing_is_kept(
    tmp_path: Path, archive: BillArchive, database: Database
) -> None:
    plain = focus_file(tmp_path / "a" / "good.csv", [row("1")])
    (tmp_path / "a" / "torn.csv.gz").write_bytes(gzip.compress(plain.read_bytes() * 50)[:-20])
    with pytest.raises(BillError, match=r"^torn\.csv\.gz cannot be read: .* Download it anew\.$"):
        archive.add(str(tmp_path / "a"))
    assert nothing_is_kept(database)


@step1
def test_what_the_database_refuses_halfway_leaves_nothing(
    tmp_path: Path, archive: BillArchive, database: Database
) -> None:
    with database.hot() as driver:
        driver.execute(
            "CREATE TRIGGER full BEFORE INSERT ON bill_lines WHEN NEW.amount_text = '3'"
            " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    with pytest.raises(IntegrityError):
        archive.add(str(focus_file(tmp_path / "b.csv", [row("1"), row("2"), row("3")])))
    assert nothing_is_kept(database)
    with database.hot() as driver:
        driver.execute("DROP TRIGGER full")
    assert archive.add(str(tmp_path / "b.csv")).changed
    assert net(archive) == Usd("6")


@step1
def test_a_file_beside_bills_that_is_none_is_left_out_and_said(tmp_path: Path, archive: BillArchive) -> None:
    folder = tmp_path / "a"
    focus_file(folder / "b.csv", [row("1")])
    (folder / "other.csv").write_text("name,age\nada,36\n", encoding="utf-8")
    (folder / "empty.csv").touch()
    (folder / "Manifest.json").write_text("{}", encoding="utf-8")
    result = archive.add(str(folder))
    assert net(archive) == Usd("1")
    assert [file.name for file in result.files if file.problem] == ["empty.csv", "other.csv"]
    assert "other.csv: left out: other.csv is no bill" in str(result)


@step1
@pytest.mark.parametrize("text", ["name,age\nada,36\n", "", "<html>\n"])
def test_a_single_file_that_is_no_bill_is_refused_in_one_sentence(
    tmp_path: Path, archive: BillArchive, text: str
) -> None:
    (tmp_path / "b.csv").write_text(text, encoding="utf-8")
    with pytest.raises(BillError, match=r"^b\.csv is no bill: .* Export FOCUS"):
        archive.add(str(tmp_path / "b.csv"))


@step1
def test_a_path_with_nothing_at_it_says_what_would_be_something(tmp_path: Path, archive: BillArchive) -> None:
    with pytest.raises(BillError, match=r"There is no bill at .*nowhere.* Name a file, a folder or a glob"):
        archive.add(str(tmp_path / "nowhere" / "*.csv"))


@step1
def test_a_file_whose_rows_are_all_bad_is_told_and_may_be_imported_again(tmp_path: Path, archive: BillArchive) -> None:
    path = focus_file(tmp_path / "b.csv", [row("x")])
    for _ in range(2):
        result = archive.add(str(path))
        assert (result.changed, result.files[0].known_since) == (False, None)
        assert result.bad_rows == (BadRow("b.csv line 2", "'x' is not an amount of US dollars."),)
    assert archive.list().files == ()


RACE = """
from podcastqa.bills.archive import BillArchive
made = opened()
ready()
print(made.archive.add(sys.argv[2]).changed)
"""


@step1
def test_two_processes_that_import_the_same_file_at_once_keep_it_once(
    tmp_path: Path, process: Callable[..., Process], archive: BillArchive
) -> None:
    path = focus_file(tmp_path / "b.csv", [row("1")] * 500)
    said = race([process(RACE, str(path)) for _ in range(3)])
    assert sorted(out.strip() for out in said) == ["False", "False", "True"]
    assert net(archive) == Usd("500")


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────


@step1
def test_a_glob_and_a_folder_find_the_same_bills(tmp_path: Path) -> None:
    names = ("a.csv", "b.csv.gz", "c.parquet", "deep/er/d.snappy.parquet", "notes.txt", "Manifest.json")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    bills = {tmp_path / name for name in names[:4]}
    assert set(find(str(tmp_path))) == set(find(str(tmp_path / "**" / "*"))) == bills
    assert set(find(str(tmp_path / "*.csv*"))) == {tmp_path / "a.csv", tmp_path / "b.csv.gz"}
    assert set(find(str(tmp_path)).values()) == {*names[:3], str(Path("deep/er/d.snappy.parquet"))}


@step1
def test_of_an_export_that_keeps_every_delivery_the_newest_of_each_month_counts(
    tmp_path: Path, archive: BillArchive
) -> None:
    data = tmp_path / "export" / "data"
    deliveries = {
        "BILLING_PERIOD=2024-08/20240901T040000Z-b2": ["1"],
        "BILLING_PERIOD=2024-09/20240910T040000Z-ff": ["2"],
        "BILLING_PERIOD=2024-09/20241003T040000Z-0a": ["2", "4"],
    }
    for folder, costs in deliveries.items():
        for number, cost in enumerate(costs):
            focus_file(data / folder / f"part-{number}.csv", [row(cost, day=f"{folder[15:22]}-05", ResourceId=folder)])
    archive.add(str(tmp_path))
    assert net(archive) == Usd("7")  # 1, and 2 + 4


@step1
def test_a_name_that_looks_like_a_glob_is_a_name(tmp_path: Path, archive: BillArchive) -> None:
    plain = focus_file(tmp_path / "it's [1] *.csv", [row("1")])
    folder = tmp_path / "BILLING_PERIOD=2024-09"
    folder.mkdir()
    written = parquet_of(focus_file(tmp_path / "p.csv", [row("2")]), folder / "p.parquet")
    columns = written.rename(folder / "a [2]?.parquet")
    for number, path in enumerate((plain, columns), start=1):
        assert archive.add(str(path)).files[0].name == path.name
        assert net(archive) == Usd(number)


# ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────────


@step1
def test_lines_are_those_of_a_source_and_of_days_from_the_first_to_before_the_end(
    tmp_path: Path, archive: BillArchive
) -> None:
    days = ("2024-09-17", "2024-09-18", "2024-09-19")
    rows = [row(str(n + 1), day=day, Tags='{"podcastqa:user": "ada"}') for n, day in enumerate(days)]
    archive.add(str(focus_file(tmp_path / "b.csv", [*rows, row("9", provider="Oracle")])))
    found = archive.lines("aws", date(2024, 9, 18), date(2024, 9, 19))
    assert found == (BillLine(date(2024, 9, 18), "ada", "", "s", "Usage", Usd("2")),)
    assert [line.amount for line in archive.lines("oracle")] == [Usd("9")]
    assert len(archive.lines()) == 4
    assert archive.sources() == ("aws", "oracle")


@step1
def test_an_archive_with_nothing_in_it_says_so(archive: BillArchive, mirror: Mirror) -> None:
    assert (archive.sources(), archive.lines(), archive.totals().sources) == ((), (), ())
    assert (archive.newest_at("aws"), archive.complete_through("aws")) == (None, None)
    assert "Nothing was imported yet" in str(archive.list())
    assert in_duckdb(mirror) == 0


@step1
@pytest.mark.parametrize(
    ("last", "through"),
    [
        ("2024-09-30", datetime(2024, 10, 1, tzinfo=UTC)),
        ("2024-10-18", datetime(2024, 10, 19, tzinfo=UTC)),
        ("2024-10-19", datetime(2024, 10, 19, tzinfo=UTC)),  # imported on the 20th: its day had not ended a day before
        ("2024-10-20", datetime(2024, 10, 19, tzinfo=UTC)),
    ],
)
def test_a_day_is_complete_when_it_had_ended_a_whole_day_before_the_day_of_the_import(
    tmp_path: Path, archive: BillArchive, last: str, through: datetime
) -> None:
    archive.add(str(focus_file(tmp_path / "b.csv", [row("1", day="2024-09-02"), row("1", day=last)])))
    assert archive.complete_through("aws") == through


@step1
def test_bad_rows_are_kept_with_the_import(tmp_path: Path, archive: BillArchive) -> None:
    result = archive.add(str(focus_file(tmp_path / "b.csv", [row("1"), row("1", BillingCurrency="EUR")])))
    [listed] = archive.list().files
    assert listed.bad_rows == result.bad_rows == (BadRow("b.csv line 3", "the currency is EUR, not USD"),)
    assert (listed.name, listed.format, listed.rows, listed.path) == (
        *("b.csv", "FOCUS 1.0", 1),
        str(tmp_path / "b.csv"),
    )


@step1
def test_the_result_lays_itself_out_for_people_and_for_programs(tmp_path: Path, archive: BillArchive) -> None:
    rows = [row("1"), row("-0.25", ChargeCategory="Credit"), row("2", provider="Oracle")]
    result = archive.add(str(focus_file(tmp_path / "b.csv", rows)))
    records: list[dict[str, Any]] = result.table().records()
    assert [(r["source"], r["gross in USD"], r["net in USD"]) for r in records] == [
        ("aws", "1.000000000000", "0.750000000000"),
        ("oracle", "2.000000000000", "2.000000000000"),
    ]
    assert archive.totals().table().records() == records

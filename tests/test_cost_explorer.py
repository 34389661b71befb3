"""What is asked of Cost Explorer, and how its answer is read; what AWS itself says: test_real_cost_tracking."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.bills.bill import Bill, BillLine, Provenance, larger_per_day
from podcastqa.bills.cost_explorer import budget_days, parse, request
from podcastqa.clock import windows
from podcastqa.money import Usd

step1 = pytest.mark.step1
TAG = "podcastqa:user"
BY_USER = [{"Type": "TAG", "Key": TAG}, {"Type": "DIMENSION", "Key": "RECORD_TYPE"}]
DAY = date(2026, 11, 3)

#: The example that the AWS command line interface documents (aws-cli, awscli/examples/ce/get-cost-and-usage.rst).
PUBLISHED = """{"GroupDefinitions": [{"Type": "DIMENSION", "Key": "SERVICE"}, {"Type": "TAG", "Key": "Environment"}],
"ResultsByTime": [{"Estimated": false, "TimePeriod": {"Start": "2017-09-01", "End": "2017-10-01"}, "Total": {},
"Groups": [
{"Keys": ["Amazon Simple Storage Service", "Environment$"], "Metrics": {
"BlendedCost": {"Amount": "40.3527508453", "Unit": "USD"}, "UnblendedCost": {"Amount": "40.3543773134", "Unit": "USD"},
"UsageQuantity": {"Amount": "9312771.098461578", "Unit": "N/A"}}},
{"Keys": ["Amazon Simple Storage Service", "Environment$Dev"], "Metrics": {
"BlendedCost": {"Amount": "0.2682364644", "Unit": "USD"}, "UnblendedCost": {"Amount": "0.2682364644", "Unit": "USD"},
"UsageQuantity": {"Amount": "22403.4395271182", "Unit": "N/A"}}}]}]}"""


@step1
def test_the_published_example_is_read_to_the_tenth_decimal_and_filed_under_its_start() -> None:
    told = parse([PUBLISHED], [{"Type": "DIMENSION", "Key": "SERVICE"}, {"Type": "TAG", "Key": "Environment"}])
    untagged, dev = told.lines
    assert (untagged.day, untagged.service, untagged.user_tag) == (
        date(2017, 9, 1),
        "Amazon Simple Storage Service",
        "",
    )
    assert (dev.user_tag, dev.amount) == ("Dev", Usd("0.2682364644"))
    assert untagged.amount + dev.amount == Usd("40.6226137778")  # 40.3543773134 + 0.2682364644
    assert told.estimated == frozenset()
    assert told.bad_rows == ()


def page(*groups: tuple[str, str, object], day: date = DAY, unit: str = "USD", estimated: bool = True) -> str:
    """A page of the documented shape: (user, record type, amount) each a group."""
    shown = [
        {"Keys": [f"{TAG}${user}", kind], "Metrics": {"UnblendedCost": {"Amount": amount, "Unit": unit}}}
        for user, kind, amount in groups
    ]
    period = {"Start": day.isoformat(), "End": (day + timedelta(days=1)).isoformat()}
    return json.dumps({"ResultsByTime": [{"TimePeriod": period, "Total": {}, "Groups": shown, "Estimated": estimated}]})


@step1
def test_an_amount_that_comes_as_a_number_is_read_from_its_digits_and_never_as_a_float() -> None:
    as_number = page(("ada", "Usage", 0)).replace('"Amount": 0', '"Amount": 0.1000000000000')
    as_text = page(("ada", "Usage", "0.1"))
    exponent = page(("ada", "Usage", 0)).replace('"Amount": 0', '"Amount": 1.0E-1')
    for text in (as_number, as_text, exponent):
        [line] = parse([text], BY_USER).lines
        assert line.amount == Usd("0.1")


@step1
def test_credits_and_refunds_lower_the_net_and_not_the_gross() -> None:
    text = page(("ada", "Usage", "3"), ("", "Credit", "-2"), ("", "Refund", "-0.5"), ("", "Tax", "0.25"))
    now = datetime(2026, 11, 4, tzinfo=UTC)
    bill = Bill("aws", parse([text], BY_USER).lines, (), Provenance("c", "a", "", now, now))
    assert bill.gross == Usd("3.25")  # 3 + 0.25
    assert bill.net == Usd("0.75")  # 3 - 2 - 0.5 + 0.25
    assert bill.unattributed == Usd("0.25")


@step1
def test_a_row_that_cannot_be_read_is_told_with_its_place_and_the_others_are_kept() -> None:
    told = parse(
        [
            page(("ada", "Usage", "1")),
            page(("bob", "Usage", "a lot"), ("cy", "Usage", "2")),
            page(("d", "Usage", "9"), unit="CNY"),
        ],
        BY_USER,
    )
    assert [line.user_tag for line in told.lines] == ["ada", "cy"]
    assert [(bad.place, bad.reason) for bad in told.bad_rows] == [
        (f"page 2, {DAY}, {TAG}$bob Usage", "'a lot' is not an amount of US dollars."),
        (f"page 3, {DAY}, {TAG}$d Usage", "the currency is CNY, not USD"),
    ]


@step1
def test_a_tag_value_may_hold_the_sign_that_ends_the_key() -> None:
    [line] = parse([page(("a$b", "Usage", "1"))], BY_USER).lines
    assert line.user_tag == "a$b"


@step1
@given(
    amounts=st.lists(st.decimals("-99999", "99999", places=10), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_however_an_answer_is_cut_into_pages_its_sum_is_the_same(amounts: list[Decimal], cuts: list[int]) -> None:
    groups = [(f"user{i}", "Usage", f"{amount:f}") for i, amount in enumerate(amounts)]
    edges = sorted({0, len(groups), *(cut for cut in cuts if cut < len(groups))})
    pages = [page(*groups[begin:end]) for begin, end in pairwise(edges)]
    told = parse(pages, BY_USER)
    assert sum((line.amount for line in told.lines), Usd("0")) == Usd(sum(amounts, Decimal(0)))
    assert told.estimated == {DAY}


@step1
@given(st.dates(date(2020, 1, 1), date(2099, 12, 30)))
def test_one_answer_holds_every_day_of_the_three_windows_so_far_and_ends_tomorrow(today: date) -> None:
    first, end = budget_days(today)
    noon = datetime(today.year, today.month, today.day, 12, tzinfo=UTC)
    assert first == min(span.start for span in windows(noon))
    assert end == today + timedelta(days=1)
    assert 1 <= (end - first).days <= 37
    # Cost Explorer takes no end past the first of the next month; tomorrow never is.
    assert end <= (today.replace(day=1) + timedelta(days=31)).replace(day=1)


@step1
def test_the_request_is_one_that_botocore_accepts() -> None:
    boto3 = pytest.importorskip("boto3", reason="not in use: AWS (pip install 'podcastqa[aws]')")
    from botocore.validate import ParamValidator

    client = boto3.client("ce", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")  # noqa: S106 - none
    shape = client.meta.service_model.operation_model("GetCostAndUsage").input_shape
    asked = request(*budget_days(DAY), ("TAG", TAG), ("DIMENSION", "RECORD_TYPE"))
    assert ParamValidator().validate(asked | {"NextPageToken": "t"}, shape).generate_report() == ""
    assert asked["TimePeriod"] == {"Start": "2026-11-01", "End": "2026-11-04"}  # the 1st is before Monday the 2nd


def bill(*charges: tuple[int, str], covers: set[int] | None = None) -> Bill:
    """(day of November 2026, amount) each a line."""
    lines = tuple(BillLine(date(2026, 11, day), "", "", "", "Usage", Usd(amount)) for day, amount in charges)
    now = datetime(2026, 11, 20, tzinfo=UTC)
    days = None if covers is None else frozenset(date(2026, 11, day) for day in covers)
    return Bill("aws", lines, (), Provenance("c", "a", "", now, now), days)


@step1
def test_an_answer_and_a_file_of_the_same_days_are_counted_once_each_day_as_the_larger_tells_it() -> None:
    both = larger_per_day(bill((1, "5"), (2, "1"), covers={1, 2}), bill((1, "4"), (2, "3"), (9, "7"), covers={1, 2, 9}))
    assert [(line.day.day, line.amount) for line in both.lines] == [(1, Usd("5")), (2, Usd("3")), (9, Usd("7"))]
    assert both.gross == Usd("15")  # max(5, 4) + max(1, 3) + 7
    assert both.covers == {date(2026, 11, day) for day in (1, 2, 9)}

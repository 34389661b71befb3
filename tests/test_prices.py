"""A price is known by its page and the day it was checked; what has no price does not run."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podcastqa.errors import BadEstimate, Refused, UnknownPrice
from podcastqa.money import Usd
from podcastqa.spend.meter import SOURCE
from podcastqa.spend.prices import PRICE_LIST, Price, PriceList
from podcastqa.wiring import Parts
from tests.conftest import A_WEDNESDAY

pytestmark = pytest.mark.step1

TODAY = A_WEDNESDAY.date()
BLOCK = """
[[price]]
id = "{id}"
service = "ask"
operation = "{operation}"
source = "a-bill"
value = "{value}"
unit = "request"
valid_from = {valid_from}
checked = 2024-02-01
page = "https://example.org/prices"
about = "what a question costs"
"""


def price_list(tmp_path: Path, *blocks: dict[str, str]) -> PriceList:
    usual = {"id": "ask", "operation": "*", "value": "0.01", "valid_from": "2024-01-01"}
    path = tmp_path / "prices.toml"
    path.write_text("".join(BLOCK.format(**(usual | block)) for block in blocks))
    return PriceList.load(path)


def test_every_price_says_when_it_was_checked_and_on_which_page() -> None:
    prices = PriceList.load().prices
    assert prices
    for price in prices:
        page = urlsplit(price.page)
        assert (page.scheme, bool(page.netloc)) == ("https", True)
        assert price.checked >= price.valid_from
        assert price.value.is_finite()
        assert price.value > 0
        assert all((price.id, price.service, price.operation, price.source, price.unit, price.about))
    assert len({(price.id, price.valid_from) for price in prices}) == len(prices)


def test_every_price_is_written_as_a_string_and_none_ever_was_a_float() -> None:
    lines = [line for line in PRICE_LIST.read_text().splitlines() if line.startswith("value")]
    assert len(lines) == len(PriceList.load().prices)
    assert all(line.split("=")[1].strip().startswith('"') for line in lines)
    assert all(isinstance(price.value, Decimal) for price in PriceList.load().prices)


def test_a_machine_hour_is_on_the_list_and_on_the_local_bill(parts: Parts) -> None:
    price = parts.prices.named(parts.settings.local_meter_price, TODAY)
    assert (price.source, price.unit) == (SOURCE, "vCPU-hour")
    assert parts.meter.price == price


def test_an_unknown_price_is_refused() -> None:
    prices = PriceList.load()
    for service, operation in (("local-computer", "x"), ("aws-cost-explorer", "GetCost"), ("", "")):
        with pytest.raises(UnknownPrice, match="so it may not run"):
            prices.find(service, operation, TODAY)
    with pytest.raises(UnknownPrice, match=r"Known: .*local-vcpu-hour"):
        prices.named("local-vcpu", TODAY)
    assert issubclass(UnknownPrice, Refused)


def test_a_price_that_changed_counts_from_its_day_on_and_the_old_one_until_then(tmp_path: Path) -> None:
    prices = price_list(
        tmp_path,
        {"value": "0.03", "valid_from": "2024-03-01"},  # out of order on purpose
        {"value": "0.01", "valid_from": "2024-01-01"},
        {"value": "0.02", "valid_from": "2024-02-01"},
    )
    for day, value in (("2024-01-01", "0.01"), ("2024-01-31", "0.01"), ("2024-02-01", "0.02"), ("2024-02-29", "0.02")):
        assert prices.find("ask", "any", date.fromisoformat(day)).value == Decimal(value)
        assert prices.named("ask", date.fromisoformat(day)).value == Decimal(value)
    assert prices.find("ask", "any", date(2030, 1, 1)).value == Decimal("0.03")
    before = date(2023, 12, 31)
    with pytest.raises(UnknownPrice):
        prices.find("ask", "any", before)
    with pytest.raises(UnknownPrice):
        prices.named("ask", before)


def test_an_operation_with_a_price_of_its_own_does_not_pay_the_general_one(tmp_path: Path) -> None:
    prices = price_list(
        tmp_path,
        {"id": "ask-deep", "operation": "deep", "value": "0.50", "valid_from": "2024-01-01"},
        {"id": "ask-any", "operation": "*", "value": "0.01", "valid_from": "2024-02-01"},  # newer, and general
    )
    assert prices.find("ask", "deep", TODAY).id == "ask-deep"
    assert prices.find("ask", "shallow", TODAY).id == "ask-any"


@given(value=st.decimals("0", "1000", places=12), quantity=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None, derandomize=False)
def test_an_estimate_is_never_less_than_price_times_quantity_and_less_than_a_unit_more(
    value: Decimal, quantity: int
) -> None:
    unit = Decimal(1).scaleb(-12)
    cost = a_price(value).cost(quantity).decimal if value * quantity <= 4_000_000 else None
    if cost is None:
        with pytest.raises(BadEstimate):
            a_price(value).cost(quantity)
    else:
        assert value * quantity <= cost < value * quantity + unit


def a_price(value: Decimal) -> Price:
    words = ("p", "s", "*", "b", value, "request", date(2024, 1, 1), date(2024, 1, 1), "https://example.org", "")
    return Price(*words)


def test_an_estimate_is_rounded_up_to_the_whole_unit() -> None:
    third = a_price(Decimal("0.000000000001")).cost(Decimal("1.000000001"))
    assert third == Usd("0.000000000002")  # 1.000000001e-12, and a part of a unit is a unit


def test_the_list_shows_each_price_with_its_provenance() -> None:
    shown = str(PriceList.load())
    for price in PriceList.load().prices:
        assert price.id in shown
        assert str(price.checked) in shown
        assert price.page in shown

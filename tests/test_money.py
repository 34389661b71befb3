"""Money: exact at every step, and nothing that is not an amount gets in."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.errors import BadEstimate
from podcastqa.money import MOST_PICO, ZERO, Usd, split

pytestmark = pytest.mark.step1

picos = st.integers(-MOST_PICO, MOST_PICO)
amounts = picos.map(Usd.from_pico)
decimals = st.decimals(-4_000_000, 4_000_000, allow_nan=False, allow_infinity=False, places=18)


@pytest.mark.parametrize(
    ("said", "pico"),
    [
        ("0", 0),
        ("0.01", 10**10),
        ("5.00", 5 * 10**12),
        ("0.000000000001", 1),
        ("-1.5", -15 * 10**11),
        ("1e-12", 1),
        ("0.0100000000000000", 10**10),  # sixteen decimals, but none that counts
        (3, 3 * 10**12),
        (Decimal("0.07"), 7 * 10**10),
        ("4000000", MOST_PICO),
    ],
)
def test_an_amount_is_read_exactly(said: str | int | Decimal, pico: int) -> None:
    assert Usd(said).pico == pico


@pytest.mark.parametrize("said", [0.1, 1.0, math.nan, math.inf, True, None, b"1", [1]])
def test_what_is_not_text_whole_or_decimal_is_never_money(said: object) -> None:
    for door in (Usd, Usd.rounded_up, Usd.rounded_half_even):
        with pytest.raises(TypeError, match=type(said).__name__):
            door(said)  # type: ignore[arg-type,operator]


@pytest.mark.parametrize(
    "said", ["NaN", "sNaN", "inf", "-Infinity", "", "five", "5,00", "$5", "1e13", "9" * 400, "1e999999"]
)
def test_what_is_not_a_finite_amount_in_range_is_refused(said: str) -> None:
    for door in (Usd, Usd.rounded_up, Usd.rounded_half_even):
        with pytest.raises(BadEstimate):
            door(said)


def test_a_thirteenth_decimal_is_refused_unless_the_rounding_is_said() -> None:
    with pytest.raises(BadEstimate, match="twelve decimals"):
        Usd("0.0000000000001")
    assert Usd.rounded_up("0.0000000000001").pico == 1
    assert Usd.rounded_half_even("0.0000000000001").pico == 0
    assert Usd.rounded_half_even("0.0000000000005").pico == 0
    assert Usd.rounded_half_even("0.0000000000015").pico == 2


def test_one_unit_past_the_range_is_refused() -> None:
    with pytest.raises(BadEstimate, match="more than one entry can hold"):
        Usd("4000000.000000000001")
    with pytest.raises(BadEstimate, match="more than one entry can hold"):
        Usd("-4000000.000000000001")


def test_pico_dollars_are_whole() -> None:
    for wrong in (1.0, True, "1", Decimal(1)):
        with pytest.raises(TypeError, match="whole numbers"):
            Usd.from_pico(wrong)  # type: ignore[arg-type]


@given(amounts)
def test_what_is_written_is_read_back(amount: Usd) -> None:
    assert Usd(str(amount)) == amount
    assert Usd(amount.decimal) == amount
    assert Usd(json.loads(json.dumps(f"{amount}"))) == amount
    assert Usd(repr(amount).removeprefix("Usd('").removesuffix("')")) == amount


@given(amounts, amounts, amounts)
def test_sums_do_not_depend_on_order(a: Usd, b: Usd, c: Usd) -> None:
    assert (a + b) + c == a + (b + c) == c + (b + a)
    assert sum([a, b, c], start=ZERO) == sum([c, a, b]) == a + b + c
    assert a - b == a + -b
    assert a + b - b == a


@given(amounts, st.integers(0, 1000))
def test_so_many_times_is_so_many_added(amount: Usd, times: int) -> None:
    assert amount * times == times * amount
    assert (amount * times).decimal == amount.decimal * times


def test_money_mixes_with_nothing_else() -> None:
    for other in (1, Decimal(1), 1.0, "1"):
        with pytest.raises(TypeError):
            Usd("1") + other  # type: ignore[operator]
        with pytest.raises(TypeError):
            Usd("1") < other  # type: ignore[operator]  # noqa: B015
        assert Usd("1") != other
    with pytest.raises(TypeError):
        Usd("1") * 1.5  # type: ignore[operator]
    with pytest.raises(TypeError):
        Usd("1") - 1  # type: ignore[operator]


@given(picos, picos)
def test_amounts_compare_as_their_units_do(a: int, b: int) -> None:
    assert (Usd.from_pico(a) < Usd.from_pico(b)) == (a < b)
    assert (Usd.from_pico(a) >= Usd.from_pico(b)) == (a >= b)
    assert (Usd.from_pico(a) == Usd.from_pico(b)) == (a == b)
    assert bool(Usd.from_pico(a)) == (a != 0)


@given(decimals)
def test_an_estimate_is_never_rounded_down_nor_by_a_whole_unit(said: Decimal) -> None:
    up = Fraction(Usd.rounded_up(said).pico) - Fraction(said) * 10**12
    assert 0 <= up < 1


@given(decimals)
def test_an_actual_is_rounded_to_the_nearest_unit_and_to_even_at_a_tie(said: Decimal) -> None:
    pico = Usd.rounded_half_even(said).pico
    assert pico == round(Fraction(said) * 10**12)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("0", "$0.00"),
        ("5", "$5.00"),
        ("1234.5", "$1,234.50"),
        ("-0.25", "-$0.25"),
        ("1.2345", "$1.2345"),
        ("0.012345", "$0.012345"),
        ("0.000000000001", "$0.000000000001"),
    ],
)
def test_people_see_cents_and_never_a_zero_that_is_not_one(said: str, shown: str) -> None:
    assert Usd(said).shown() == shown


@given(amounts)
def test_what_is_shown_is_zero_only_for_zero(amount: Usd) -> None:
    assert any(digit in "123456789" for digit in amount.shown()) == bool(amount)


def test_an_amount_formats_like_a_number() -> None:
    assert f"{Usd('1.5'):.6f}" == "1.500000"
    assert f"{Usd('1234.5'):,.2f}" == "1,234.50"
    assert f"{Usd('1.5')}" == "1.500000000000"


@given(st.integers(0, 10**18), st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_shares_sum_to_the_whole_and_stay_within_one_unit_of_fair(total: int, weights: list[int]) -> None:
    shares = split(total, weights)
    assert sum(shares) == total
    fair = weights if any(weights) else [1] * len(weights)
    for share, weight in zip(shares, fair, strict=True):
        assert abs(share - Fraction(total * weight, sum(fair))) < 1


def test_the_first_wins_a_tie_for_the_last_unit() -> None:
    assert split(10, [1, 1, 1]) == [4, 3, 3]
    assert split(1, [0, 0]) == [1, 0]
    assert split(7, [3, 0, 1]) == [5, 0, 2]


@pytest.mark.parametrize(("total", "weights"), [(1, []), (-1, [1]), (1, [1, -1])])
def test_nothing_negative_and_nobody_cannot_be_split(total: int, weights: list[int]) -> None:
    with pytest.raises(ValueError, match="split needs"):
        split(total, weights)

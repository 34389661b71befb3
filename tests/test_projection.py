"""A projection is exact where days are alike, never below what is spent, and says so when it knows too little."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from fractions import Fraction
from math import gamma, pi, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.money import ZERO, Usd
from podcastqa.spend.projection import T_90, NoProjection, Projection, every_day, project

pytestmark = pytest.mark.step1
TODAY = date(2024, 2, 20)  # of 29 days: nine are whole and still to come, and today


def before(today: date, *costs: str) -> list[tuple[date, Usd]]:
    """The last of the costs is yesterday's."""
    return [(today - timedelta(days=len(costs) - n), Usd(cost)) for n, cost in enumerate(costs)]


def projected(
    days: Sequence[tuple[date, Usd]], month_to_date: str, today: date = TODAY, history: int = 28
) -> Projection:
    found = project(days, today, Usd(month_to_date), history)
    assert isinstance(found, Projection)
    return found


def test_a_constant_daily_spend_projects_exactly_constant_times_days() -> None:
    found = projected(before(TODAY, *["0.01"] * 19), "0.19")
    assert found.low == found.expected == found.high == Usd("0.29")  # 0.01 × 29 days


def test_what_today_has_spent_is_not_counted_twice() -> None:
    days = [*before(TODAY, *["0.01"] * 19), (TODAY, Usd("0.004"))]
    assert projected(days, "0.194").expected == Usd("0.29")  # 0.194 + 0.006 left of today + 9 × 0.01


def test_a_day_that_was_dearer_than_the_mean_has_nothing_left_of_it() -> None:
    days = [*before(TODAY, *["0.01"] * 19), (TODAY, Usd("5"))]
    assert projected(days, "5.19").expected == Usd("5.28")  # 5.19 + 0 + 9 × 0.01


def test_the_interval_is_students_with_the_arithmetic_in_sight() -> None:
    found = projected(before(TODAY, "1", "2", "3"), "6")
    assert (found.days, found.daily_mean) == (3, Usd("2"))
    assert found.expected == Usd("26")  # 6 + 2 today + 9 × 2
    # s² = (1 + 0 + 1) / 2 = 1; R = 10 days, n = 3: 1.886 × sqrt(10 + 100 / 3) = 1.886 × 6.5828… = 12.415…
    half = found.high - found.expected
    square = Fraction(1886, 1000) ** 2 * (10 + Fraction(100, 3))
    assert Fraction((half.pico - 1) ** 2, 10**24) < square <= Fraction(half.pico**2, 10**24)
    assert f"{half:.3f}" == "12.415"
    assert found.low == found.expected - half


def test_the_low_end_is_never_below_what_is_already_spent() -> None:
    found = projected(before(TODAY, "0", "0", "30"), "30")
    assert found.low == Usd("30")
    assert found.expected == Usd("130")  # 30 + 10 × (30 / 3)


def test_on_the_last_day_of_a_month_only_the_rest_of_it_is_projected() -> None:
    last = date(2024, 2, 29)
    days = [*before(last, "1", "1", "1"), (last, Usd("0.25"))]
    assert projected(days, "28.25", last).expected == Usd("29")  # 28.25 + 0.75


def test_only_the_last_days_count_and_days_of_other_months_are_days_like_others() -> None:
    days = before(date(2024, 3, 2), *["99"] * 5, *["1"] * 28)
    found = projected(days, "1", date(2024, 3, 2))
    assert (found.days, found.seen) == (28, (date(2024, 2, 3), date(2024, 3, 1)))
    assert found.expected == Usd("31")  # 1 + 1 today + 29 × 1
    assert projected(days, "1", date(2024, 3, 2), history=30).daily_mean > Usd("1")


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (0, "No projection yet: it needs at least 3 complete days before 2024-02-20, and 0 are known."),
        (1, "No projection yet: it needs at least 3 complete days before 2024-02-20, and 1 is known."),
        (2, "No projection yet: it needs at least 3 complete days before 2024-02-20, and 2 are known."),
    ],
)
def test_fewer_than_three_complete_days_make_no_projection_but_a_sentence(known: int, says: str) -> None:
    days = [*before(TODAY, *["1"] * known), (TODAY, Usd("1")), (TODAY + timedelta(days=1), Usd("1"))]
    found = project(days, TODAY, Usd("3"))
    assert isinstance(found, NoProjection)
    assert found.reason == says
    assert says in str(found)
    assert found.record() == {
        "projection": False,
        "month": "month 2024-02",
        "month_to_date": "3.000000000000",
        "reason": says,
    }


def test_amounts_of_one_day_from_two_sources_are_one_day() -> None:
    days = before(TODAY, "1", "1", "1")
    assert projected([*days, *days], "6").daily_mean == Usd("2")  # (1 + 1) × 3 / 3


def test_it_is_labelled_as_a_projection_wherever_it_is_shown() -> None:
    found = projected(before(TODAY, "1", "2", "3"), "6")
    assert found.table().title == "Projection to the end of month 2024-02"
    assert "A projection, not a bill" in str(found)
    assert "80 %" in found._repr_html_()
    assert json.loads(json.dumps(found.record()))["expected"] == "26.000000000000"
    assert found.record()["projection"] is True


def test_days_without_a_row_are_zeros_from_the_first_row_on() -> None:
    rows = [(date(2024, 2, 16), Usd("1")), (date(2024, 2, 18), Usd("2")), (date(2024, 2, 18), Usd("3"))]
    filled = [(date(2024, 2, day), Usd(cost)) for day, cost in ((16, "1"), (17, "0"), (18, "5"), (19, "0"))]  # 2 + 3
    assert every_day(rows, TODAY) == filled
    assert every_day([*rows, (TODAY, Usd("4"))], TODAY) == [*filled, (TODAY, Usd("4"))]
    assert every_day(rows, TODAY, since=date(2024, 2, 15))[0] == (date(2024, 2, 15), ZERO)
    assert every_day([], TODAY) == []


def test_the_quantiles_are_students() -> None:
    def below(t: float, freedom: int) -> float:
        """The probability of less than t: Simpson's rule over the density from 0 on."""
        scale = gamma((freedom + 1) / 2) / (sqrt(freedom * pi) * gamma(freedom / 2))
        density = [scale * (1 + (t * n / 1000) ** 2 / freedom) ** (-(freedom + 1) / 2) for n in range(1001)]
        inner = 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2])
        return float(0.5 + t / 3000 * (density[0] + inner + density[-1]))

    assert len(T_90) == 26  # 3 to 28 days
    for freedom, quantile in enumerate(T_90, start=2):
        assert below(float(quantile), freedom) == pytest.approx(0.9, abs=0.0001)


MONEY = st.integers(0, 10**15).map(Usd.from_pico)
HISTORY = st.lists(MONEY, min_size=3, max_size=40)
TODAYS = st.dates(date(2023, 1, 1), date(2025, 12, 31))


@given(costs=HISTORY, spent=MONEY, so_far=MONEY, today=TODAYS)
def test_low_expected_and_high_stand_in_order_above_what_is_spent(
    costs: list[Usd], spent: Usd, so_far: Usd, today: date
) -> None:
    days = [(today - timedelta(days=n), cost) for n, cost in enumerate(costs, start=1)]
    found = project([*days, (today, so_far)], today, spent)
    assert isinstance(found, Projection)
    assert spent <= found.low <= found.expected <= found.high


@given(costs=HISTORY, spent=MONEY, today=TODAYS, times=st.integers(2, 1000))
def test_amounts_so_many_times_as_large_project_so_many_times_as_much(
    costs: list[Usd], spent: Usd, today: date, times: int
) -> None:
    one, many = (
        project([(today - timedelta(days=n), cost * by) for n, cost in enumerate(costs, start=1)], today, spent * by)
        for by in (1, times)
    )
    assert isinstance(one, Projection)
    assert isinstance(many, Projection)
    for end in ("low", "expected", "high"):  # each end of `one` was rounded by less than 3 units of 1e-12 USD
        assert abs(getattr(many, end).pico - times * getattr(one, end).pico) <= 3 * times


@given(cost=MONEY, today=TODAYS, history=st.integers(3, 28))
def test_any_constant_spend_projects_exactly(cost: Usd, today: date, history: int) -> None:
    days = [(today - timedelta(days=n), cost) for n in range(1, history + 1)]
    length = ((today.replace(day=1) + timedelta(days=31)).replace(day=1) - today.replace(day=1)).days
    found = projected(days, str(cost * (today.day - 1)), today)
    assert found.low == found.expected == found.high == cost * length

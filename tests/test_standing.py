"""One comparison a scope says what surely fits: the same as all windows, looked at one by one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.alerts.alert import due
from podcastqa.money import Usd
from podcastqa.spend.admission import all_below, fits
from podcastqa.spend.standing import NEVER, Standing, Today, edges

pytestmark = pytest.mark.step1
FRIDAY = date(2024, 3, 1)  # its week began on Monday, 26 February; its month today
SPAN = edges(FRIDAY)
TODAY = SPAN[0]
AMOUNTS = st.integers(0, 1000)
ROWS = st.tuples(st.integers(TODAY - 6, TODAY + 31), st.sampled_from("ab"), AMOUNTS, AMOUNTS, AMOUNTS)


def test_today_counts_in_every_window_and_another_day_in_those_that_hold_it() -> None:
    has = Standing(SPAN)
    has.add(TODAY, "a", booked=5, held=1)
    has.add(TODAY - 1, "a", booked=7, held=2)  # Thursday: this week, last month
    has.add(TODAY + 3, "a", booked=11, held=4)  # Monday: next week, this month
    assert has.real == (5, 5 + 7, 5 + 11)
    assert has.total == (5 + 1, 5 + 1 + 7 + 2, 5 + 1 + 11 + 4)
    # 100 a day, 30 a week, 40 a month: today may come to min(100, 30 - 9, 40 - 15) = 21, and 6 of it is there.
    assert has.most_today((100, 30, 40)) == 21


def test_a_bill_counts_where_it_is_larger_than_what_was_booked() -> None:
    has = Standing(SPAN)
    has.add(TODAY, "a", booked=5, held=0, billed=8)
    assert has.real == (8, 8, 8)
    has.add(TODAY, "a", booked=2, held=0)  # 7 is booked, 8 is billed
    assert has.real == (8, 8, 8)
    has.add(TODAY, "a", booked=2, held=0)  # 9 is booked
    assert has.real == (9, 9, 9)


def test_a_standing_that_is_read_anew_is_the_same_one_with_nothing_left_of_before() -> None:
    has = Standing(SPAN)
    row = has.row(TODAY, "a")
    has.add(TODAY, "a", 5, 1)
    has.add(TODAY - 1, "a", 7, 2)
    has.clear()
    assert (has.real, has.total, row) == ((0, 0, 0), (0, 0, 0), [0, 0, 0])
    has.add(TODAY, "a", 3, 0)
    assert row == [3, 0, 0]  # whoever knew the row sees it


@given(st.lists(ROWS, max_size=12), st.lists(st.integers(0, 9000), min_size=3, max_size=3), AMOUNTS)
def test_what_one_comparison_lets_in_fits_every_window_and_what_it_does_not_let_in_fits_not_every_one(
    rows: list[tuple[int, str, int, int, int]], limits: list[int], pico: int
) -> None:
    has = Standing(SPAN)
    for row in rows:
        has.add(*row)
    today = _today(room=[(has, has.most_today(limits))])
    assert today.has_room(pico) == fits(pico, has.total, limits)


def test_where_nobody_has_looked_yet_nothing_surely_fits() -> None:
    assert not _today(room=[]).has_room(0)
    assert _today(room=[(Standing(SPAN), NEVER)]).has_room(0)


def _today(room: Sequence[tuple[Standing, int]]) -> Today:
    """What an operation of user 1 moves, with so much room."""
    return Today((1, "service", "source"), ([0, 0, 0], Standing(SPAN), [0, 0, 0], Standing(SPAN)), None, room=room)


LIMITS = st.lists(st.none() | st.integers(0, 3000), min_size=3, max_size=3)


@given(st.integers(1, 100), st.lists(st.integers(0, 3000), min_size=3, max_size=3), LIMITS)
def test_what_is_below_a_threshold_in_every_window_needs_no_mail_and_what_is_not_may_need_one(
    percent: int, spent: list[int], limits: list[int | None]
) -> None:
    reached = [
        due(Usd.from_pico(have), Usd.from_pico(limit), (percent,))
        for have, limit in zip(spent, limits, strict=True)
        if limit is not None
    ]
    if all_below(percent, spent, limits):
        assert not any(reached)
    elif all(spent):  # where nothing is spent nothing is due, even of a limit of zero
        assert any(reached)

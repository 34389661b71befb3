"""A real bill beside a ledger that booked none of it."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from podcastqa.bills.days import DayKind, reconcile_days
from podcastqa.bills.focus import read_focus
from podcastqa.money import ZERO
from tests.conftest import SetClock

DATA = os.environ.get("PODCASTQA_TEST_DATA", "")


@pytest.mark.skipif(not DATA, reason="PODCASTQA_TEST_DATA names no folder with real data")
def test_a_real_bill_of_a_month_beside_an_empty_ledger_is_all_others_use() -> None:
    path = Path(DATA) / "bills" / "focus_sample.csv"
    told = read_focus(path, source="aws", component="FOCUS export", clock=SetClock())
    first, end = min(line.day for line in told.lines), max(line.day for line in told.lines) + timedelta(days=1)
    for by_service in (False, True):
        found = reconcile_days(
            *("aws", [], told), first=first, end=end, complete_through=end, closed_before=end, by_service=by_service
        )
        assert found.matches
        assert sum((row.net for row in found.rows), ZERO) == told.net
        assert {row.kind for row in found.rows} <= {DayKind.MATCHED, DayKind.MISSING_IN_LEDGER}

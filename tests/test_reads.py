"""A paid answer: asked for by one process at a time, kept whole, used until it is too old."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta

import pytest

from podcastqa.bills.reads import BillReads, Question
from podcastqa.wiring import Parts
from tests.conftest import Process, SetClock, race

pytestmark = pytest.mark.step1
OURS = Question("aws by podcastqa:user", "210987654321")
ASKED: dict[str, object] = {"TimePeriod": {"Start": "2024-02-01", "End": "2024-02-29"}}
SLOT = timedelta(hours=8)


@pytest.fixture
def reads(parts: Parts) -> BillReads:
    return BillReads(parts.database, parts.clock)


def claim(reads: BillReads) -> int:
    reading = reads.claim(OURS, ASKED, SLOT)
    assert reading
    return reading


def test_an_answer_is_kept_in_the_providers_own_words_and_used_for_the_slot(reads: BillReads, clock: SetClock) -> None:
    assert reads.is_due(OURS, SLOT)
    reads.answered(claim(reads), ['{"Amount": "0.1000000000"}', "{}"])
    newest = reads.newest(OURS)
    assert newest
    assert newest.pages == ('{"Amount": "0.1000000000"}', "{}")
    assert newest.request == ASKED
    assert newest.sha256 == hashlib.sha256(b'{"Amount": "0.1000000000"}\n{}').hexdigest()
    assert newest.read_at == reads.newest_at(OURS) == clock.now()
    clock.forward(hours=7, minutes=59)
    assert reads.claim(OURS, ASKED, SLOT) is None
    clock.forward(minutes=1)
    assert claim(reads)


def test_another_account_shares_nothing(reads: BillReads) -> None:
    reads.answered(claim(reads), ["{}"])
    other = Question(OURS.source, "123456789012")
    assert reads.newest(other) is None
    assert reads.is_due(other, SLOT)


def test_a_failure_keeps_the_last_answer_and_says_when_to_try_again(reads: BillReads, clock: SetClock) -> None:
    reads.answered(claim(reads), ["{}"])
    clock.forward(hours=9)
    reads.failed(claim(reads), "AWS did not answer.", timedelta(minutes=15))
    assert reads.claim(OURS, ASKED, SLOT) is None
    failure = reads.failure(OURS)
    assert failure
    assert (failure.problem, failure.again_at - failure.at) == ("AWS did not answer.", timedelta(minutes=15))
    assert reads.newest(OURS)
    clock.forward(minutes=15)
    reads.answered(claim(reads), ["{}"])
    assert reads.failure(OURS) is None


def test_a_free_failure_may_be_repeated_at_once(reads: BillReads) -> None:
    reads.failed(claim(reads), "permission missing", timedelta(0))
    assert reads.is_due(OURS, SLOT)


def test_a_claim_keeps_others_away_until_it_runs_out(reads: BillReads, clock: SetClock) -> None:
    claim(reads)
    clock.forward(seconds=59)
    assert reads.claim(OURS, ASKED, SLOT) is None
    clock.forward(seconds=1)
    assert claim(reads)


def test_a_clock_that_was_set_back_blocks_nobody_for_ever(reads: BillReads, clock: SetClock) -> None:
    reads.answered(claim(reads), ["{}"])
    clock.forward(days=-2)
    assert claim(reads)


def test_of_eight_processes_at_once_one_asks(process: Callable[..., Process]) -> None:
    lines = """
from podcastqa.bills.reads import BillReads, Question
made = opened()
reads = BillReads(made.database, made.clock)
ready()
reading = reads.claim(Question("aws", "1"), {}, timedelta(hours=8))
print("asks" if reading else "waits")
"""
    said = race([process(lines) for _ in range(8)])
    assert sorted(one.strip() for one in said) == ["asks"] + ["waits"] * 7

"""Many processes with random amounts on one limit: never a pico-dollar over it, and never an estimate short of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

from podcastqa.clock import SystemClock, WindowKind
from podcastqa.errors import OverLimit
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import Hold, Operation
from podcastqa.wiring import Parts, build
from tests.conftest import ROOMY, Process, operation, race, settings_in
from tests.naive import NaiveBudget

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

LIMIT = Usd("0.000001000000")  # a million pico-dollars
MOST = 1000  # the largest estimate, in pico-dollars

TAKES = """
import random
made, chance = opened(), random.Random(int(sys.argv[2]))
what, taken, refused = Operation(1, "service", "o", "s"), [], 0
ready()
for _ in range(int(sys.argv[3])):
    pico = chance.randint(1, 1000)
    try:
        made.budget.reserve(what, Usd.from_pico(pico))
    except OverLimit:
        refused += 1
    else:
        taken.append(pico)
while True:  # and on with what may still fit, down to the smallest
    try:
        made.budget.reserve(what, Usd.from_pico(1000))
        taken.append(1000)
    except OverLimit:
        break
print(len(taken), sum(taken))
"""


def a_race(home: Path, process: Callable[..., Process], processes: int, amounts: int) -> tuple[int, int, Parts]:
    """(how many were admitted, their sum in pico-dollars as the processes added it up, the parts)."""
    parts = build(settings_in(home, **ROOMY), clock=SystemClock())
    parts.users.add("ada")
    for kind in WindowKind:
        parts.budget.set_limit(1, kind, LIMIT, by="ada", reason="a race")
    told = race([process(TAKES, str(seed), str(amounts), **ROOMY) for seed in range(processes)])
    counts = [tuple(map(int, one.split())) for one in told]
    return sum(count for count, _ in counts), sum(pico for _, pico in counts), parts


def test_random_amounts_of_many_processes_fill_a_limit_to_within_one_estimate_and_never_pass_it(
    home: Path, process: Callable[..., Process]
) -> None:
    admitted, pico, parts = a_race(home, process, 8, 200)
    assert LIMIT.pico - MOST < pico <= LIMIT.pico
    rows = [entry.amount.pico for entry in parts.ledger.entries()]
    assert (len(rows), sum(rows)) == (admitted, pico)  # what was answered is what is written
    spent = max(parts.budget.standing(1).values(), key=lambda one: one.total)
    assert (spent.real, spent.held.pico) == (ZERO, pico)


class Reserves(Protocol):
    def reserve(self, operation: Operation, estimate: Usd) -> Hold: ...


def overspent(budget: Reserves, parts: Parts, limit: Usd) -> bool:
    """Whether threads that ask all at once get more than the limit: the check that every guard has to pass."""
    together = threading.Barrier(4)

    def take(_: int) -> None:
        together.wait()
        for _ in range(20):
            try:
                budget.reserve(operation(1), Usd.from_pico(limit.pico // 2))
            except OverLimit:
                return

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(take, range(4)))
    return max(one.total for one in parts.budget.standing(1).values()) > limit


@pytest.fixture
def raced(parts: Parts) -> Parts:
    parts.users.add("ada")
    for kind in WindowKind:
        parts.budget.set_limit(1, kind, Usd("1.00"), by="ada", reason="a race")
    return parts


def test_the_guard_passes_the_race(raced: Parts) -> None:
    assert not overspent(raced.budget, raced, Usd("1.00"))


def test_a_guard_that_looks_first_and_writes_later_is_caught_by_the_same_race(raced: Parts) -> None:
    all_have_looked, looked = threading.Barrier(4), threading.local()

    def others_look_too() -> None:
        if not hasattr(looked, "once"):
            looked.once = all_have_looked.wait(timeout=60)

    limits = dict.fromkeys(WindowKind, Usd("1.00"))
    naive = NaiveBudget(raced.ledger, raced.clock, limits, others_look_too)
    assert overspent(naive, raced, Usd("1.00"))

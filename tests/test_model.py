"""The guard against a model of it in plain Python: whatever is done in whichever order, both say the same."""

from __future__ import annotations

import random
import secrets
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from podcastqa.clock import WindowKind
from tests.postgres_server import Server
from tests.simulation import Differs, Life, live

pytestmark = pytest.mark.step1

#: `make bench` does a million.
STEPS = 10_000


class GuardBesideModel(RuleBasedStateMachine):
    """Hypothesis picks what happens and all that is random in it, and makes a failure as short as it can."""

    @initialize(chance=st.randoms(use_true_random=False))
    def begin(self, chance: random.Random) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.life = Life(0, Path(self.place.name))
        self.life.random = chance

    @rule()
    def spend(self) -> None:
        self.life._spend()

    @rule()
    def many_at_once(self) -> None:
        self.life._batch()

    @rule()
    def time_jumps(self) -> None:
        self.life._jump()

    @rule()
    def a_window_ends(self) -> None:
        self.life._edge()

    @rule()
    def a_limit_is_set_or_removed(self) -> None:
        self.life._limit()

    @rule()
    def stop_and_release(self) -> None:
        self.life._stop()

    @rule()
    def a_bill_comes(self) -> None:
        self.life._bill()

    @rule()
    def the_program_starts_anew(self) -> None:
        self.life._restart()

    @invariant()
    def both_say_the_same(self) -> None:
        if hasattr(self, "life"):
            self.life.compare()

    def teardown(self) -> None:
        if hasattr(self, "life"):
            try:
                self.life.compare_all()
            finally:
                self.life.budget.writer.close()
                self.life.database.close()
                self.place.cleanup()


TestGuardBesideModel = GuardBesideModel.TestCase
TestGuardBesideModel.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_long_life_ends_in_the_books_that_the_model_has() -> None:
    done = live(20_240_228, STEPS - 2_000)
    assert min(done.values()) > 0  # nothing that may happen was left out
    assert {"spend", "batch", "jump", "edge", "limit", "stop", "bill", "restart", "full"} <= done.keys()


def test_a_life_that_nobody_has_lived_before_does_too() -> None:
    live(secrets.randbelow(10**9), 2_000)


@pytest.mark.postgresql
def test_a_life_on_a_server_does_too(server: Server) -> None:
    url = server.empty()
    done = live(secrets.randbelow(10**9), 1_500, url)
    assert {"spend", "batch", "restart", "connection cut"} <= done.keys()
    server.drop(url)


def test_a_difference_is_told_with_the_command_that_repeats_it() -> None:
    def spoil(life: Life) -> None:
        life.model.usual[0, WindowKind.DAY] = 0  # a model that allows nothing

    with pytest.raises(Differs, match=r"step \d+ of seed 7: the guard says .* Again: python -m tests.simulation 7 \d+"):
        live(7, 50, spoil=spoil)

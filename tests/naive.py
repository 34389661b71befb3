"""The guard that people write first: look at what is spent, then write. It overspends; tests must catch it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from podcastqa.clock import Clock, WindowKind
from podcastqa.errors import OverLimit
from podcastqa.money import Usd
from podcastqa.spend.entries import Hold, Operation, new_hold_id
from podcastqa.spend.ledger import NOTHING, Ledger


class NaiveBudget:
    """Reads in one transaction and writes in another; `between` is what others do in the meantime."""

    def __init__(
        self, ledger: Ledger, clock: Clock, limits: dict[WindowKind, Usd], between: Callable[[], object] = lambda: None
    ) -> None:
        self._ledger, self._clock, self._limits, self._between = ledger, clock, limits, between

    def reserve(self, operation: Operation, estimate: Usd) -> Hold:
        now = self._clock.now()
        spent = self._ledger.standing(operation.user_id, now)
        self._between()
        for scope in (0, operation.user_id):
            for kind, limit in self._limits.items():
                if spent.get((scope, kind), NOTHING).total + estimate > limit:
                    raise OverLimit(scope="user" if scope else "system", window=kind.value)
        with self._ledger.writing() as books:
            return books.open(new_hold_id(), operation, estimate, timedelta(minutes=15), None)

"""Each attempt of a paid call is a hold of its own: reserved and started before it is sent, resolved by its outcome.

Answered: settled. Refused by the provider: void, nothing was charged. No answer: it stands in doubt, counted at its
estimate. All attempts together keep to one deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from podcastqa.errors import ProviderError
from podcastqa.money import Usd
from podcastqa.spend.budget import Budget
from podcastqa.spend.entries import Operation, new_hold_id

T = TypeVar("T")
#: All attempts of one call end within so many seconds.
DEADLINE_SECONDS = 5.0
#: Kept back from the deadline for what surrounds an attempt.
_MARGIN_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Payer:
    """Whoever pays for calls to providers: the guard, and the words that are kept of what went wrong."""

    budget: Budget
    redact: Callable[[str], str]
    waits: Sequence[float] = (0.2, 0.6)
    """Seconds before the second and the third attempt."""
    calls: list[tuple[str, float]] = field(default_factory=list)
    """Every call that this process paid for or tried to: its operation, and the seconds until it ended."""

    def pay(self, what: Operation, cost: Usd, send: Callable[[float], T], *, after_doubt: bool = True) -> T:
        """Reserve, start, `send(seconds left)`, settle at `cost`; again where that may help.

        Raises Refused before an attempt that has no room, else the last attempt's ProviderError. Without `after_doubt`
        nothing is sent again that may have been done.
        """
        began = time.monotonic()
        try:
            return self._attempts(what, cost, send, began + DEADLINE_SECONDS, after_doubt=after_doubt)
        finally:
            self.calls.append((f"{what.service} {what.operation}", time.monotonic() - began))

    def _attempts(self, what: Operation, cost: Usd, send: Callable[[float], T], end: float, *, after_doubt: bool) -> T:
        for wait in (*self.waits, None):
            try:
                return self._attempt(what, cost, send, end - _MARGIN_SECONDS - time.monotonic())
            except ProviderError as problem:
                late = wait is None or time.monotonic() + wait + 2 * _MARGIN_SECONDS > end
                if late or not problem.again or (problem.in_doubt and not after_doubt):
                    raise
                time.sleep(wait or 0)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, what: Operation, cost: Usd, send: Callable[[float], T], seconds: float) -> T:
        hold = self.budget.reserve(what, cost, new_hold_id())
        self.budget.start(hold.hold_id)
        try:
            answer = send(seconds)
        except ProviderError as problem:
            if not problem.in_doubt:
                self.budget.void(hold.hold_id, self.redact(f"nothing was charged: {problem.message}"))
            raise
        self.budget.settle(hold.hold_id, cost)
        return answer

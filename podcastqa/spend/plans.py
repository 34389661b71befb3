"""What is to be paid for, before anybody asks the guard: who pays, at which price, on which bill.

An operation that has neither a price nor an estimate of the caller's own does not run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from podcastqa.clock import Clock
from podcastqa.errors import Misuse, UnknownPrice
from podcastqa.money import Usd
from podcastqa.spend.entries import Operation, checked_name
from podcastqa.spend.meter import SOURCE
from podcastqa.spend.prices import PriceList
from podcastqa.users import Users

#: The billing source of operations that no price list knows: no bill will ever speak of them.
OWN_ESTIMATE = "own-estimate"
_MOST_REMEMBERED = 10_000


class Plans:
    """Operations by what callers say of them: remembered for the day, with the number of the user."""

    def __init__(self, prices: PriceList, users: Users, clock: Clock, me: str, redact: Callable[[str], str]) -> None:
        """`me`: who pays where nobody is named, added where there is none; `redact` hides secrets in names."""
        self._prices, self._users, self._clock, self._me, self._redact = prices, users, clock, me, redact
        self._known: tuple[int, dict[tuple[object, ...], Operation]] = 0, {}  # of which day, what was asked for

    def work(self, user: str | None, service: str, operation: str, estimate: Usd | None) -> tuple[Operation, Usd]:
        """An operation that runs under a hold, and what it is expected to cost; raises UnknownPrice, UnknownUser."""
        what = self._of(user, service, operation, own_estimate=estimate is not None)
        return what, self._estimate(what) if estimate is None else estimate

    def call(self, user: str | None, service: str, operation: str) -> Operation:
        """An operation whose cost the caller knows before; raises Misuse for work that the local meter measures."""
        what = self._of(user, service, operation, own_estimate=True)
        if what.source == SOURCE:  # its row would be missing in the bill for good
            raise Misuse("The local meter says what work on this machine costs.", next_step="Run it under spending().")
        return what

    def forget(self) -> None:
        """Somebody whom it knew was deleted."""
        self._known = 0, {}

    def _of(self, user: str | None, service: str, operation: str, *, own_estimate: bool) -> Operation:
        now = self._clock.now()
        day, known = self._known
        if day != now.toordinal() or len(known) > _MOST_REMEMBERED:
            known = {}
            self._known = now.toordinal(), known
        key = user, service, operation, own_estimate
        found = known.get(key)
        if found is None:
            payer = self._users.meant(user, self._me)
            what = self._redact(checked_name("service", service)), self._redact(checked_name("operation", operation))
            priced = self._priced(*what, now.date(), own_estimate=own_estimate)
            found = known[key] = Operation(payer.id, *priced)
        return found

    def _priced(self, service: str, operation: str, today: date, *, own_estimate: bool) -> tuple[str, str, str, str]:
        """Service, operation, the bill on which it will stand, and the price's id."""
        try:
            price = self._prices.find(service, operation, today)
        except UnknownPrice:
            if not own_estimate:
                raise
            return service, operation, OWN_ESTIMATE, ""
        return service, operation, price.source, price.id

    def _estimate(self, what: Operation) -> Usd:
        price = self._prices.named(what.price, self._clock.now().date())
        if price.unit not in ("request", "recipient"):
            raise UnknownPrice(f"{what.service} is paid per {price.unit}: say what you expect it to cost.")
        return price.cost(1)

"""A price is known by its page and the day it was checked; what has no price does not run."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from podcastqa.display import Table, Tabular
from podcastqa.errors import UnknownPrice
from podcastqa.money import Usd

PRICE_LIST = Path(__file__).with_name("price_list.toml")


@dataclass(frozen=True, slots=True)
class Price:
    """`value` US dollars per `unit` of a service's operation (`*`: any), on the bill named `source`."""

    id: str
    service: str
    operation: str
    source: str
    value: Decimal
    unit: str
    valid_from: date
    checked: date
    page: str
    about: str

    def cost(self, quantity: Decimal | int) -> Usd:
        """What so many units cost, rounded up: for estimates."""
        return Usd.rounded_up(self.value * quantity)


@dataclass(frozen=True, slots=True)
class PriceList(Tabular):
    """Every price that is known, oldest first."""

    prices: tuple[Price, ...]

    @classmethod
    def load(cls, path: Path = PRICE_LIST) -> PriceList:
        """Read the list; values are strings in the file, so that none ever was a float."""
        blocks = tomllib.loads(path.read_text(encoding="utf-8"))["price"]
        prices = (Price(**{**block, "value": Decimal(block["value"])}) for block in blocks)
        return cls(tuple(sorted(prices, key=lambda price: price.valid_from)))

    def find(self, service: str, operation: str, on: date) -> Price:
        """The price of that operation on that day, its own before a general one; raises UnknownPrice."""
        fits = [p for p in self.prices if p.service == service and p.operation in ("*", operation)]
        valid = [p for p in fits if p.valid_from <= on]
        if not valid:
            raise UnknownPrice(
                f"There is no price for {service} {operation} on {on}, so it may not run.",
                next_step="Add a block to the price list, or give an estimate of your own.",
            )
        return ([p for p in valid if p.operation == operation] or valid)[-1]

    def named(self, price_id: str, on: date) -> Price:
        """The price of that id on that day; raises UnknownPrice."""
        valid = [p for p in self.prices if p.id == price_id and p.valid_from <= on]
        if not valid:
            known = ", ".join(sorted({p.id for p in self.prices}))
            raise UnknownPrice(f"There is no price {price_id!r} on {on}.", next_step=f"Known: {known}.")
        return valid[-1]

    def table(self) -> Table:
        """Each price with its provenance."""
        rows = tuple((p.id, f"${p.value}", p.unit, p.valid_from, p.checked, p.page) for p in self.prices)
        return Table("Prices", ("price", "USD", "per", "valid from", "checked", "page"), rows)

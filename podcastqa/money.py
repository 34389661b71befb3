"""Money is exact: US dollars as a whole number of pico-dollars (1e-12 USD), and no float ever gets in.

One unit at rest (a signed 64-bit integer, ±$9.2 million), Decimal in the hand, a string at the door.
Formatting is the only place where an amount is rounded for the eye.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from functools import total_ordering

from podcastqa.errors import BadEstimate

PICO_PER_USD = 10**12
#: The largest amount that one entry or limit may hold: room is left below 2**63 for sums in SQL.
MOST_PICO = 4 * 10**18
_WIDE = Context(prec=60)


@total_ordering
@dataclass(frozen=True, slots=True)
class Usd:
    """An exact amount of US dollars; `Usd("0.01")`, `Usd(Decimal("0.01"))`, `Usd.from_pico(10**10)`.

    A float is refused, because it is already wrong; so are NaN, infinities, amounts that need more than
    twelve decimals (say how to round: `Usd.rounded_up`, `Usd.rounded_half_even`) and amounts past ±$4 million.
    """

    pico: int

    def __init__(self, amount: str | int | Decimal) -> None:
        object.__setattr__(self, "pico", _in_range(_exact(_decimal(amount)), amount))

    @classmethod
    def from_pico(cls, pico: int) -> Usd:
        """The amount of `pico` times 1e-12 USD."""
        if type(pico) is not int:
            raise TypeError(f"pico-dollars are whole numbers, not {type(pico).__name__}")
        made = object.__new__(cls)
        object.__setattr__(made, "pico", pico)
        return made

    @classmethod
    def rounded_up(cls, amount: str | int | Decimal) -> Usd:
        """For estimates: never less than what was said."""
        return cls._rounded(amount, ROUND_CEILING)

    @classmethod
    def rounded_half_even(cls, amount: str | int | Decimal) -> Usd:
        """For actual costs: to the nearest unit, without drift."""
        return cls._rounded(amount, ROUND_HALF_EVEN)

    @classmethod
    def _rounded(cls, amount: str | int | Decimal, rounding: str) -> Usd:
        whole = (_finite(_decimal(amount), amount) * PICO_PER_USD).to_integral_value(rounding, _WIDE)
        return cls.from_pico(_in_range(int(whole), amount))

    @property
    def decimal(self) -> Decimal:
        """The same amount as a Decimal number of dollars."""
        return Decimal(self.pico).scaleb(-12, _WIDE)

    def __add__(self, other: Usd) -> Usd:
        return Usd.from_pico(self.pico + other.pico) if isinstance(other, Usd) else NotImplemented

    def __radd__(self, other: object) -> Usd:
        return self if other == 0 else NotImplemented  # so that sum() works

    def __sub__(self, other: Usd) -> Usd:
        return Usd.from_pico(self.pico - other.pico) if isinstance(other, Usd) else NotImplemented

    def __neg__(self) -> Usd:
        return Usd.from_pico(-self.pico)

    def __mul__(self, times: int) -> Usd:
        return Usd.from_pico(self.pico * times) if type(times) is int else NotImplemented

    __rmul__ = __mul__

    def __lt__(self, other: Usd) -> bool:
        return self.pico < other.pico if isinstance(other, Usd) else NotImplemented

    def __bool__(self) -> bool:
        return self.pico != 0

    def __str__(self) -> str:
        """All twelve decimals: what is written to JSON and read back without loss."""
        return f"{self.decimal:.12f}"

    def __format__(self, spec: str) -> str:
        return format(self.decimal, spec) if spec else str(self)

    def __repr__(self) -> str:
        return f"Usd('{self}')"

    def shown(self) -> str:
        """For people: a dollar sign, cents at least, and enough decimals that small amounts do not read as zero."""
        places = 2 if self.pico % 10**10 == 0 else 4 if abs(self.pico) >= PICO_PER_USD else 6
        if self.pico and abs(self.pico) < 10**7:
            places = 12
        sign = "-" if self.pico < 0 else ""
        return f"{sign}${abs(self.decimal):,.{places}f}"


ZERO = Usd.from_pico(0)


def split(total_pico: int, weights: Sequence[int]) -> list[int]:
    """Shares of `total_pico` in proportion to `weights`, which sum to it exactly (largest remainder, first wins a tie).

    All weights zero means equal shares. Weights are whole and not negative; the total is not negative.
    """
    if not weights or total_pico < 0 or min(weights) < 0:
        raise ValueError("split needs at least one weight, and nothing negative")
    whole = sum(weights)
    if whole == 0:
        weights, whole = [1] * len(weights), len(weights)
    shares = [total_pico * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total_pico * weights[i] % whole), i))
    for i in by_remainder[: total_pico - sum(shares)]:
        shares[i] += 1
    return shares


def _decimal(amount: str | int | Decimal) -> Decimal:
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise TypeError(f"money is a string, a whole number or a Decimal, not {type(amount).__name__}: {amount!r}")
    try:
        return Decimal(amount)
    except InvalidOperation:
        raise BadEstimate(f"{amount!r} is not an amount of US dollars.") from None


def _finite(number: Decimal, said: object) -> Decimal:
    if not number.is_finite():
        raise BadEstimate(f"{said} is not a finite amount of US dollars.")
    if number.adjusted() > 12:  # far past the range, and costly to write out in full
        raise BadEstimate(f"{said} US dollars is more than one entry can hold ($4,000,000).")
    return number


def _exact(number: Decimal) -> int:
    scaled = _finite(number, number).scaleb(12, _WIDE)
    whole = scaled.to_integral_value(context=_WIDE)
    if whole != scaled:
        raise BadEstimate(f"{number} US dollars has more than twelve decimals; say how to round it.")
    return int(whole)


def _in_range(pico: int, said: object) -> int:
    if abs(pico) > MOST_PICO:
        raise BadEstimate(f"{said} US dollars is more than one entry can hold ($4,000,000).")
    return pico

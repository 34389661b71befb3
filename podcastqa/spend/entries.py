"""An entry is a fact about a hold: reserved, started, settled, voided, expired or corrected; it never changes.

An operation that runs at once is reserved and started in one: the row of its reserve then names no expiry.

reserve ──► start ──► settle        the money is counted from `reserve` on
   │          └────── in doubt      started and then vanished: counted at its estimate until resolved
   ├──► void                        nothing was charged
   └──► expire                      ran out of time before it started
any ──► correct                     a later row that mends an earlier one, with a reason
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import count
from typing import NamedTuple

from podcastqa.errors import BadEstimate, Misuse
from podcastqa.money import MOST_PICO, Usd

#: A service's, an operation's and a source's name is no longer.
MOST_LETTERS = 200


class EntryKind(StrEnum):
    """What happened to the hold."""

    RESERVE = "reserve"
    START = "start"
    SETTLE = "settle"
    VOID = "void"
    EXPIRE = "expire"
    CORRECT = "correct"


#: Of SQL: whether an entry ends its hold, whether it starts it, and which of the steps in a hold's life it is.
STARTS = "(kind = 'start' OR kind = 'reserve' AND expires_us = 0)"
ENDS = "kind IN ('settle', 'void', 'expire')"
STEP = "CASE kind WHEN 'reserve' THEN 0 WHEN 'start' THEN 1 WHEN 'correct' THEN NULL ELSE 2 END"
#: Of SQL: whether the hold whose reserve is the row `r` was started by another row, and whether it has ended.
WAS_STARTED, HAS_ENDED = (
    f"EXISTS (SELECT 1 FROM entries WHERE entries.hold_id = r.hold_id AND ({STEP}) = {at})" for at in (1, 2)
)


@dataclass(frozen=True, slots=True)
class Operation:
    """What is to be paid for: who, for which service and operation, against which billing source."""

    user_id: int
    service: str
    operation: str
    source: str
    price: str = ""

    def __post_init__(self) -> None:
        if self.user_id < 1:  # 0 is the whole system: it has limits, and spends nothing by itself
            raise Misuse("An operation needs a user who pays.")
        for name in ("service", "operation", "source"):
            checked_name(name, getattr(self, name))


class Hold(NamedTuple):
    """Money set aside for one operation. A tuple is made in half the time that a frozen dataclass takes.

    `expires_at` is `reserved_at` where the operation ran at once.
    """

    hold_id: str
    operation: Operation
    estimate: Usd
    reserved_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger."""

    id: int
    hold_id: str
    kind: EntryKind
    operation: Operation
    amount: Usd
    day: int
    at: datetime
    reason: str


def checked_name(what: str, name: str) -> str:
    """The name of a service, an operation or a source, if it is one: a text that can be written down."""
    try:
        if len(name.encode()) > 0 and len(name) <= MOST_LETTERS:
            return name
    except (AttributeError, UnicodeEncodeError):  # no text, or half of a character
        pass
    raise Misuse(f"An operation needs a {what} of 1 to {MOST_LETTERS} characters.")


def checked_estimate(estimate: Usd) -> Usd:
    """The estimate, if it may be reserved: an exact amount that is not negative."""
    if isinstance(estimate, Usd) and 0 <= estimate.pico <= MOST_PICO:
        return estimate
    if checked_amount(estimate).pico < 0:
        raise BadEstimate(f"An estimate cannot be negative: {estimate.shown()}.")
    return estimate


def checked_amount(amount: Usd) -> Usd:
    """The amount, if one entry can hold it."""
    if not isinstance(amount, Usd):
        raise BadEstimate(f"An estimate is an amount of Usd, not {type(amount).__name__}.")
    if abs(amount.pico) > MOST_PICO:
        raise BadEstimate(f"{amount.shown()} is more than one entry can hold ($4,000,000).")
    return amount


def checked_hold_id(hold_id: str | None) -> str:
    """The id, if it can be one; nothing, which asks for a new one, where none is given."""
    if not hold_id:
        return ""
    if not (isinstance(hold_id, str) and len(hold_id) <= 200):
        raise Misuse("The id of a hold is a text of 1 to 200 characters.")
    return hold_id


def new_hold_id(stem: str = "") -> str:
    """An id that nobody else makes: its stem, then how many this process has made.

    It stands in three places of the database for each hold, so it is no longer than it has to be.
    """
    return f"{stem or hold_id_stem(time.time_ns() // 1000)}{next(_made):x}"


def hold_id_stem(at_us: int) -> str:
    """What the ids begin with that this process makes at one instant: the time, then what is this process's own."""
    return f"{_short(at_us)}{_own}"


def _short(number: int) -> str:
    """A number below 2**55 in eleven digits that sort as it does."""
    return _DIGITS[number >> 50 & 31] + "".join([_TWO_DIGITS[number >> shift & 1023] for shift in (40, 30, 20, 10, 0)])


def _begin_anew() -> None:
    """A forked child is another process."""
    global _own  # noqa: PLW0603 – there is one process
    _own = _short(secrets.randbits(25))[-5:]


_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_TWO_DIGITS = [one + other for one in _DIGITS for other in _DIGITS]
_own, _made = "", count()
_begin_anew()
os.register_at_fork(after_in_child=_begin_anew)

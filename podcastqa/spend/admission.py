"""What an operation must fit into, and what is kept out of its reach: the rule of the guard, without its books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from podcastqa.clock import WindowKind
from podcastqa.errors import LimitMissing
from podcastqa.money import ZERO, Usd
from podcastqa.spend.standing import KINDS, ScopeKey
from podcastqa.users import SYSTEM_ID

#: scope → pico-dollars in day, week and month; None where there is no limit.
Picos = Mapping[ScopeKey, Sequence[int | None]]
_NOTHING = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Kept:
    """The last of each limit, set aside for one service from the window's start: the mail about a full budget is paid.

    Others leave it alone; the service may spend it even where a bill has passed the limit meanwhile.
    """

    service: str
    most: Usd

    def of(self, limit_pico: int) -> int:
        """How much of that limit is kept: a hundredth at most."""
        return min(self.most.pico, limit_pico // 100)


class Settled(NamedTuple):
    """What a settle did: the overrun past the estimate, and what each scope that has limits has spent by now."""

    overrun: Usd
    real: Mapping[ScopeKey, tuple[int, ...]]
    """Pico-dollars in day, week and month, without what is held; empty where surely no threshold is reached."""
    limits: Picos


#: There is nothing to tell anybody.
QUIET = Settled(ZERO, {}, {})


def fits(pico: int, spent: Sequence[int], limits: Sequence[int | None]) -> bool:
    """Whether there is a limit in each window, and room in each: the usual case, told in one go."""
    if None in limits:
        return False
    (in_day, in_week, in_month), (a_day, a_week, a_month) = spent, limits
    return in_day + pico <= a_day and in_week + pico <= a_week and in_month + pico <= a_month  # type: ignore[operator]


def all_below(percent: int, spent: Sequence[int], limits: Sequence[int | None]) -> bool:
    """Whether in each window less than so much of the limit is spent; a window without a limit is no matter."""
    if None in limits:
        return all(limit is None or 100 * have < percent * limit for have, limit in zip(spent, limits, strict=True))
    (in_day, in_week, in_month), (a_day, a_week, a_month) = spent, limits
    by_day, by_week, by_month = percent * a_day, percent * a_week, percent * a_month  # type: ignore[operator]
    return 100 * in_day < by_day and 100 * in_week < by_week and 100 * in_month < by_month


def first_over(
    estimate_pico: int, spent: Mapping[ScopeKey, Sequence[int]], limits: Picos
) -> tuple[ScopeKey, WindowKind] | None:
    """The first window without room for the estimate, scope by scope in the order of `limits`; None if all fit.

    Both hold pico-dollars in the order day, week, month. The system (0) and a user need a limit in each window: raises
    LimitMissing where there is none. A service (by name) has only those that somebody set.
    """
    for scope, picos in limits.items():
        if fits(estimate_pico, spent.get(scope, _NOTHING), picos):
            continue
        for kind, have, limit in zip(KINDS, spent.get(scope, _NOTHING), picos, strict=True):
            if limit is None:
                if isinstance(scope, str):
                    continue
                whose = "the whole system" if scope == SYSTEM_ID else "this user"
                raise LimitMissing(
                    f"There is no {kind.adjective} limit for {whose}, so nothing may be spent.",
                    next_step=f"Set one: podcastqa budget set {kind} AMOUNT --reason WHY",
                )
            if have + estimate_pico > limit:
                return scope, kind
    return None

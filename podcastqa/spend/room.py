"""What the limits leave to an operation: day, week and month, of the whole system, of the user and of the service.

Where it surely fits one comparison a scope says so; else each window is looked at, and a refusal says which is full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from shlex import quote

from podcastqa.clock import Clock, WindowKind, window
from podcastqa.database import Database
from podcastqa.errors import OverLimit, UnknownUser
from podcastqa.money import ZERO, Usd
from podcastqa.spend.admission import Kept, Picos, first_over
from podcastqa.spend.books import Books
from podcastqa.spend.decisions import Decisions, Limits
from podcastqa.spend.entries import EntryKind, Operation
from podcastqa.spend.limits import PLACE
from podcastqa.spend.standing import NEVER, Expired, ScopeKey, without
from podcastqa.users import SYSTEM_ID

#: An estimate that has to leave what is kept.
_SOMETHING = Usd.from_pico(1)


class Room(Decisions):
    """The limits beside what is spent and held."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        system_limits: Limits,
        user_limits: Limits,
        name_of: Callable[[int], str],
        kept: Kept | None,
        first_percent: int,
    ) -> None:
        super().__init__(database, clock, system_limits, user_limits)
        self._name_of, self._kept, self._first_percent = name_of, kept, first_percent

    def make_room(self, books: Books, operation: Operation, estimate: Usd) -> None:
        """Let it in if it fits into every window; where it does not, what ran out of time no longer counts, and is
        closed if that makes room. Raises what `reserve` raises."""
        if operation.user_id not in books.users:
            books.prepare((operation.user_id,))
            if operation.user_id not in books.users:
                raise UnknownUser(f"There is no user with the number {operation.user_id}.")
        limits = self.limits_on(books, operation)
        if self._has_room(books, operation, estimate, limits):
            return
        left = self._left_to(books, operation, estimate, limits)
        if first_over(estimate.pico, {scope: books.standing(scope).total for scope in limits}, left) is None:
            return
        expired = books.expired()
        spent = {scope: without(expired, scope, books.standing(scope)) for scope in limits}
        over = first_over(estimate.pico, spent, left)
        if over is not None and not self._is_kept_for(books, operation, estimate, limits):
            raise self._over_limit(over, operation, estimate, spent[over[0]], limits[over[0]], books.now)
        self._expire(books, expired)

    def _has_room(self, books: Books, operation: Operation, estimate: Usd, limits: Picos) -> bool:
        """Whether it surely fits; how much does is kept ready for the next one of its kind."""
        today = books.today(operation)
        if today is None:
            return False
        if not today.room:
            today.limits = self._most(books, operation, limits)
            today.levels = self._levels(books, operation, limits)
            for scope, _ in today.limits:
                books.standing(scope)
            books.look(today)
        return today.has_room(estimate.pico)

    def _most(self, books: Books, operation: Operation, limits: Picos) -> Sequence[tuple[ScopeKey, Sequence[int]]]:
        """What the limits leave to whatever costs something, each a number; nothing where one is missing."""
        key = "most", operation.user_id, operation.service
        found: Sequence[tuple[ScopeKey, Sequence[int]]] | None = books.memory.get(key)
        if found is None:
            left = self._left_to(books, operation, _SOMETHING, limits)
            is_missing = any(None in picos for scope, picos in left.items() if not isinstance(scope, str))
            all_of_them = [(scope, [NEVER if p is None else p for p in picos]) for scope, picos in left.items()]
            found = books.memory[key] = [] if is_missing else all_of_them
        return found

    def _levels(self, books: Books, operation: Operation, limits: Picos) -> Sequence[tuple[ScopeKey, Sequence[int]]]:
        """The real spend up to which less than the first threshold of each limit is reached."""
        key = "levels", operation.user_id, operation.service
        found: Sequence[tuple[ScopeKey, Sequence[int]]] | None = books.memory.get(key)
        if found is None:
            found = books.memory[key] = [
                (scope, [NEVER if p is None else (self._first_percent * p - 1) // 100 for p in picos])
                for scope, picos in limits.items()
            ]
        return found

    @staticmethod
    def _expire(books: Books, expired: Sequence[Expired]) -> None:
        if expired:
            books.look_up([row[0] for row in expired])
        for hold_id, *_ in expired:
            books.close(EntryKind.EXPIRE, books.get(hold_id), ZERO, books.now)

    def limits_on(self, books: Books, operation: Operation) -> Picos:
        """The limits that an operation has to keep: the system's, the user's, and the service's if it has any."""
        books.serve(self)
        set_by_people = books.limits()
        key = operation.user_id, operation.service
        found: dict[ScopeKey, Sequence[int | None]] | None = books.memory.get(key)
        if found is None:
            found = dict(self._limits_of(set_by_people, operation.user_id).items())
            if operation.service in set_by_people.services():
                found[operation.service] = set_by_people.of(SYSTEM_ID, operation.service)
            books.memory[key] = found
        return found

    def _left_to(self, books: Books, operation: Operation, estimate: Usd, limits: Picos) -> Picos:
        """The limits without what is kept for another service; what costs nothing need not leave anything."""
        kept = self._kept
        if kept is None or operation.service == kept.service or not estimate:
            return limits
        key = "kept", operation.user_id, operation.service
        found: Picos | None = books.memory.get(key)
        if found is None:
            found = books.memory[key] = {
                scope: picos if isinstance(scope, str) else [None if p is None else p - kept.of(p) for p in picos]
                for scope, picos in limits.items()
            }
        return found

    def _is_kept_for(self, books: Books, operation: Operation, estimate: Usd, limits: Picos) -> bool:
        """Whether the operation's service has enough left of what is kept for it, in every window."""
        if self._kept is None or operation.service != self._kept.service:
            return False
        whole = [picos for scope, picos in limits.items() if not isinstance(scope, str)]
        least = min(self._kept.of(pico or 0) for picos in whole for pico in picos)
        return books.spent_on(operation.service) + estimate.pico <= least

    def _over_limit(
        self,
        over: tuple[ScopeKey, WindowKind],
        operation: Operation,
        estimate: Usd,
        spent: Sequence[int],
        limits: Sequence[int | None],
        now: datetime,
    ) -> OverLimit:
        (scope, kind), place = over, PLACE[over[1].value]
        kept = 0
        if self._kept and operation.service != self._kept.service and not isinstance(scope, str):
            kept = self._kept.of(limits[place] or 0)
        keeps = f"; {Usd.from_pico(kept).shown()} of it is kept for alerts" if kept else ""
        have, limit = Usd.from_pico(spent[place]).shown(), Usd.from_pico(limits[place] or 0).shown()
        what = f"{operation.service} {operation.operation} ({estimate.shown()})"
        brief = f"{what} would exceed the {kind.adjective} limit of {self._called(scope)}"
        return OverLimit(
            f"{brief}: {have} of {limit} is spent or held ({window(kind, now)}){keeps}.",
            next_step=f"Wait for the next window, or raise it: podcastqa budget set {kind} AMOUNT{self._option(scope)} "
            "--reason WHY",
            scope="service" if isinstance(scope, str) else "user" if scope else "system",
            window=kind.value,
            brief=f"{brief} ({window(kind, now)}).",
        )

    def _option(self, scope: ScopeKey) -> str:
        """How a command is told whose limit it is."""
        if isinstance(scope, str):
            return f" --service {quote(scope)}"
        return "" if scope == SYSTEM_ID else f" --user {quote(self._name_of(scope))}"

    def _called(self, scope: ScopeKey) -> str:
        if isinstance(scope, str):
            return f"the service {scope}"
        return "the whole system" if scope == SYSTEM_ID else self._name_of(scope)

"""A job is what one caller wants done with the books, once, in one transaction with those of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from podcastqa.spend.books import Books

T = TypeVar("T")


class Job(Generic[T]):
    """What one caller wants done with the books, once: it looks first and changes last, so that a refusal changes
    nothing."""

    #: Whether doing it twice is doing it once, so that it is tried anew when a connection was cut.
    again = True
    future: asyncio.Future[Any] | None = None
    done = False
    """Of a job that a thread waits for: whether it has been answered."""
    answer: Any = None
    problem: BaseException | None = None

    def __init__(self, hold_id: str, user_id: int) -> None:
        """`hold_id`: the hold that it is about, empty where its id is yet to be made."""
        self.hold_id, self.user_id = hold_id, user_id

    def do(self, books: Books) -> T:
        """Look, then change; returns the answer."""
        raise NotImplementedError


class Doing(Job[T]):
    """A job that is one function of the books."""

    def __init__(self, do: Callable[[Books], T], hold_id: str = "", user_id: int = 0, *, again: bool = True) -> None:
        super().__init__(hold_id, user_id)
        self._do, self.again = do, again

    def do(self, books: Books) -> T:
        """What the function returns."""
        return self._do(books)

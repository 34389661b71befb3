"""How a step's criteria are asked: each method answers one, and one that raises hides no other."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import wraps
from typing import Protocol, TypeVar

from podcastqa.errors import PodcastQAError
from podcastqa.money import Usd
from podcastqa.wiring import Parts
from podcastqa.workbook.criteria import Answer, Finding
from podcastqa.workbook.session import Session

UNSET = "Unset the endpoint override, and run it against the provider itself."


class Asked(Protocol):
    """A run of a step."""

    session: Session
    parts: Parts

    @property
    def unproved(self) -> Collection[str]:
        """The criteria that a provider would have to answer for, and somebody else may have."""


T = TypeVar("T", bound=Asked)
A = TypeVar("A")


class Measured:
    """Of a run: how long its calls took, and what the meter measured of it."""

    session: Session
    parts: Parts

    def __init__(self, session: Session, parts: Parts) -> None:
        self.session, self.parts = session, parts
        self._calls: list[tuple[str, float]] = []

    def _timed(self, name: str, call: Callable[[], A]) -> A:
        began = time.perf_counter()
        try:
            return call()
        finally:
            self._calls.append((name, time.perf_counter() - began))

    def _cost(self) -> Usd:
        """What the meter measured of this run."""
        return self.parts.treasury.bills.meter.read().of_run(self.session.run_id)


def criterion(number: str) -> Callable[[Callable[[T], Answer]], Callable[[T], Finding]]:
    """Record what the method finds as that criterion; what it raises is a FAIL, with the traceback in sight."""

    def decorate(method: Callable[[T], Answer]) -> Callable[[T], Finding]:
        @wraps(method)
        def recorded(self: T) -> Finding:
            try:
                answer = method(self)
            except Exception as problem:  # noqa: BLE001 – one broken criterion must not hide the others
                print(self.parts.redactor.text(traceback.format_exc()), file=sys.stderr)  # noqa: T201
                said = str(problem) if isinstance(problem, PodcastQAError) else f"{type(problem).__name__}: {problem}"
                answer = Answer(False, said, "The traceback is in the cell's output.")
            if number in self.unproved:
                answer = replace(
                    answer, holds=None, measured=f"contract check only: {answer.measured}", next_step=UNSET
                )
            step = answer.next_step or ("" if answer.holds else "See what was measured, and run the step again.")
            return self.session.record(number, answer.holds, answer.measured, step, answer.tables)

        return recorded

    return decorate

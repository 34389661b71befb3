"""A criterion ends in PASS, FAIL or NOT RUN, beside what was measured and what was asked; nothing loosens it.

A verdict is PASS only if every criterion is; one that did not run makes it INCOMPLETE, one that failed makes it FAIL.
A parameter changes how much is run, within its range, and never what is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from html import escape
from typing import Any

from podcastqa.display import Table
from podcastqa.errors import ParameterError

OPENING_MIME = "application/vnd.podcastqa.opening+json"
CRITERION_MIME = "application/vnd.podcastqa.criterion+json"
VERDICT_MIME = "application/vnd.podcastqa.verdict+json"
FIGURE_MIME = "application/vnd.podcastqa.figure+json"


class Outcome(StrEnum):
    """How one criterion ended."""

    PASS = "PASS"  # noqa: S105 - a word, not a password
    FAIL = "FAIL"
    NOT_RUN = "NOT RUN"

    @property
    def mark(self) -> str:
        """A shape, for eyes that do not see the colour."""
        return {"PASS": "✔", "FAIL": "✘", "NOT RUN": "○"}[self.value]


class Verdict(StrEnum):
    """How a whole step ended."""

    PASS = "PASS"  # noqa: S105 - a word, not a password
    FAIL = "FAIL"
    INCOMPLETE = "INCOMPLETE"

    @property
    def mark(self) -> str:
        """A shape, for eyes that do not see the colour."""
        return {"PASS": "✔", "FAIL": "✘", "INCOMPLETE": "○"}[self.value]

    @property
    def exit_status(self) -> int:
        """What the shell is told."""
        return {"PASS": 0, "FAIL": 1, "INCOMPLETE": 3}[self.value]


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that a step has to show."""

    id: str
    name: str
    asked: str
    on_aws: str = ""
    """What is asked instead where the bill is AWS's; empty: the same."""
    needs: tuple[str, ...] = ()
    """It is asked only where one of these sources is part of the library; empty: always."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one criterion."""

    criterion: Criterion
    outcome: Outcome
    measured: str
    next_step: str = ""
    tables: tuple[Table, ...] = ()

    def record(self) -> dict[str, str]:
        """As the JSON twin of a report promises it."""
        criterion = self.criterion
        return {
            "id": criterion.id,
            "name": criterion.name,
            "outcome": self.outcome.value,
            "measured": self.measured,
            "asked": criterion.asked,
            "next_step": self.next_step,
        }

    def table(self) -> Table:
        """Measured and asked, side by side."""
        title = f"{self.outcome.mark} {self.outcome}: {self.criterion.id} {self.criterion.name}"
        notes = (f"Next step: {self.next_step}",) if self.next_step else ()
        return Table(title, ("measured", "asked"), ((self.measured, self.criterion.asked),), notes)

    def __str__(self) -> str:
        lines = [
            f"{self.outcome.mark} {self.outcome}: {self.criterion.id} {self.criterion.name}",
            f"  measured: {self.measured}",
            f"  asked:    {self.criterion.asked}",
            *([f"  next:     {self.next_step}"] if self.next_step else []),
        ]
        return "\n\n".join(["\n".join(lines), *(table.text() for table in self.tables)])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        tables = "".join(table.html() for table in (self.table(), *self.tables))
        kind = escape(self.outcome.value.lower().replace(" ", "-"))
        return {
            "text/plain": str(self),
            "text/html": f'<div class="criterion {kind}">{tables}</div>',
            CRITERION_MIME: self.record(),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What a criterion found: True, False or (could not be checked) None, in words, and what to do about it."""

    holds: bool | None
    measured: str
    next_step: str = ""
    tables: Sequence[Table] = ()


def judge(findings: Iterable[Finding]) -> Verdict:
    """FAIL if any criterion failed; else INCOMPLETE if any did not run, or there is none; else PASS."""
    outcomes = {finding.outcome for finding in findings}
    if Outcome.FAIL in outcomes:
        return Verdict.FAIL
    return Verdict.PASS if outcomes == {Outcome.PASS} else Verdict.INCOMPLETE


@dataclass(frozen=True, slots=True)
class Parameter:
    """A notebook's parameter: its default says its type, `low` and `high` (both allowed) or `choices` its range."""

    name: str
    default: int | bool | str
    help: str
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """What may be given, in words."""
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, int):
            most = f" to {self.high}" if self.high is not None else " or more"
            return "a whole number" if self.low is None else f"a whole number from {self.low}{most}"
        return f"one of {', '.join(self.choices)}" if self.choices else "text"

    def parse(self, given: object) -> int | bool | str:
        """The value that a text from the shell, or a value from a notebook, stands for; raises ParameterError."""
        value = self._typed(given)
        whole = value if isinstance(value, int) and not isinstance(value, bool) else None
        too_low = whole is not None and self.low is not None and whole < self.low
        too_high = whole is not None and self.high is not None and whole > self.high
        if value is None or too_low or too_high or (self.choices and value not in self.choices):
            raise ParameterError(f"{self.name}: {given!r} is not {self.range}.")
        return value

    def _typed(self, given: object) -> int | bool | str | None:
        if isinstance(self.default, bool):
            return given if isinstance(given, bool) else {"true": True, "false": False}.get(str(given).lower())
        if isinstance(self.default, int):
            if isinstance(given, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", given.strip()):
                return int(given)
            return given if isinstance(given, int) and not isinstance(given, bool) else None
        return given if isinstance(given, str) else None


def checked(parameters: tuple[Parameter, ...], given: Mapping[str, object]) -> dict[str, Any]:
    """Every parameter with its value, given or default; all faults are told at once in one ParameterError."""
    known = {parameter.name: parameter for parameter in parameters}
    faults = [_unknown(name, known) for name in given if name not in known]
    values: dict[str, Any] = {}
    for name, parameter in known.items():
        try:
            values[name] = parameter.parse(given.get(name, parameter.default))
        except ParameterError as fault:
            faults.append(fault.message)
    if faults:
        can = "; ".join(f"{p.name}, {p.range} ({p.default} unless given): {p.help}" for p in parameters)
        raise ParameterError("\n".join(faults), next_step=f"Parameters: {can}." if can else "It takes no parameters.")
    return values


def _unknown(name: str, known: Mapping[str, Parameter]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"There is no parameter {name!r}" + (f"; did you mean {near[0]}?" if near else ".")

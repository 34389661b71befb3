"""A session is one run of a step: opened at its gate, every criterion recorded once, closed with one verdict.

All criteria are evaluated before the run fails, so that one failure hides no other. The verdict leaves the notebook
as a MIME bundle in the closing cell's output: the same for our runner, for stock papermill and for JupyterLab.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from podcastqa.display import Table
from podcastqa.errors import Misuse, VerdictFailed
from podcastqa.money import Usd
from podcastqa.workbook import gates
from podcastqa.workbook.criteria import OPENING_MIME, VERDICT_MIME, Finding, Outcome, Verdict, checked, judge
from podcastqa.workbook.steps import Step, step_named

if TYPE_CHECKING:
    from podcastqa.clock import Clock
    from podcastqa.database import Database
    from podcastqa.redaction import Redactor
    from podcastqa.settings import Settings


class Parts(Protocol):
    """What a session needs of the wiring."""

    @property
    def settings(self) -> Settings:
        """The settings in use."""

    @property
    def clock(self) -> Clock:
        """Says what time it is."""

    @property
    def database(self) -> Database:
        """Where gates are remembered."""

    @property
    def redactor(self) -> Redactor:
        """Takes secrets out of what is shown."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The verdict of a run, with everything that a report and its JSON twin say."""

    record: dict[str, Any]

    def table(self) -> Table:
        """Every criterion, measured and asked side by side."""
        record = self.record
        rows = tuple(
            (f"{Outcome(c['outcome']).mark} {c['outcome']}", f"{c['id']} {c['name']}", c["measured"], c["asked"])
            for c in record["criteria"]
        )
        notes = [f"Next step for {c['id']} {c['name']}: {c['next_step']}" for c in record["criteria"] if c["next_step"]]
        cost = f"This run cost ${record['cost_usd']}."
        return Table(_headline(record), ("outcome", "criterion", "measured", "asked"), rows, (*notes, cost))

    def __str__(self) -> str:
        return "\n".join([*self.record["notices"], self.table().text()])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        notices = "".join(f"<p><strong>{escape(notice)}</strong></p>" for notice in self.record["notices"])
        kind = self.record["verdict"].lower()
        html = f'<div class="verdict {kind}">{notices}{self.table().html()}</div>'
        return {"text/plain": str(self), "text/html": html, VERDICT_MIME: self.record}


class Session:
    """One run of a step; make it with `open_session`, which checks the parameters and the gate first."""

    def __init__(self, step: Step, parameters: Mapping[str, Any], components: Mapping[str, str], parts: Parts) -> None:
        self.step = step
        self.parameters = dict(parameters)
        self.components = dict(components)
        self.started = parts.clock.now()
        self.run_id = f"{step.id}-{self.started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        self.findings: dict[str, Finding] = {}
        self.closing: Closing | None = None
        self._parts = parts

    def record(
        self,
        criterion_id: str,
        passed: bool | None,
        measured: str,
        next_step: str = "",
        tables: Sequence[Table] = (),
    ) -> Finding:
        """Say how one criterion ended: True PASS, False FAIL, None NOT RUN. Once each; end the cell with the result."""
        criterion = self.step.criterion(criterion_id)
        if criterion_id in self.findings:
            raise Misuse(f"Criterion {criterion_id} is already recorded; run the notebook from the top.")
        if passed is not True and not next_step:
            next_step = f"See what its cell shows, mend it, then run again: podcastqa validate {self.step.id}"
        outcome = {True: Outcome.PASS, False: Outcome.FAIL, None: Outcome.NOT_RUN}[passed]
        hide = self._parts.redactor.text
        shown = tuple(_hidden(table, hide) for table in tables)
        finding = Finding(criterion, outcome, hide(measured), hide(next_step), shown)
        self.findings[criterion_id] = finding
        return finding

    def finish(
        self,
        cost: Usd,
        provenance: Table | None = None,
        speaks_for: str = "",
        not_part: Sequence[str] = (),
        figures: Sequence[object] = (),
        notices: Sequence[str] = (),
    ) -> None:
        """Show the figures and the verdict, remember the run at the gate, then raise VerdictFailed if anything failed.

        It returns nothing, so that a cell ending in it shows the verdict once; `closing` keeps it.
        """
        if self.closing is not None:
            raise Misuse("This session is closed; run the notebook from the top.")
        findings = self._all_findings()
        record = self._opening() | {
            "verdict": judge(findings).value,
            "criteria": [finding.record() for finding in findings],
            "cost_usd": str(cost),
            "finished": _iso(self._parts.clock.now()),
            "report": "",
            "speaks_for": speaks_for,
            "not_part_of_this_run": list(not_part),
            "notices": [*self._notices(), *notices],
            "provenance": provenance.records() if provenance else [],
        }
        self.closing = Closing(self._parts.redactor.tree(record))
        for shown in (*figures, self.closing):
            _display(shown)
        gates.record(self._parts.database, self.closing.record, rehearsal=self._parts.settings.under_pytest)
        failed = [finding.criterion for finding in findings if finding.outcome is Outcome.FAIL]
        if failed:
            names = ", ".join(f"{criterion.id} {criterion.name}" for criterion in failed)
            raise VerdictFailed(f"{self.step.id} did not pass: {names}.", next_step="The table above says what to do.")

    def _all_findings(self) -> list[Finding]:
        again = f"Run the whole notebook: podcastqa validate {self.step.id}"
        return [
            self.findings.get(criterion.id)
            or Finding(criterion, Outcome.NOT_RUN, "nothing: its cell did not run", again)
            for criterion in self.step.criteria
        ]

    def _opening(self) -> dict[str, Any]:
        """What is known from the start; a run that stops halfway is reported with it."""
        return {
            "step": self.step.id,
            "title": self.step.title,
            "question": self.step.question,
            "run_id": self.run_id,
            "criteria_version": self.step.criteria_version,
            "fingerprint": gates.fingerprint(self.components, self.step.criteria_version),
            "components": self.components,
            "parameters": self.parameters,
            "started": _iso(self.started),
            "notices": self._notices(),
        }

    def _notices(self) -> list[str]:
        overrides = ", ".join(self._parts.settings.endpoint_overrides)
        notice = (
            f"Contract check, not a validation: with {overrides} set, a stand-in may have answered; "
            "what it said is kept apart and validates no provider."
        )
        return [notice] if overrides else []

    def __str__(self) -> str:
        used = ", ".join(f"{name}: {value}" for name, value in self.components.items())
        given = ", ".join(f"{name} = {value}" for name, value in self.parameters.items())
        lines = [
            *self._notices(),
            f"{self.step.title}: {self.step.question}",
            f"With {used}.",
            f"Run {self.run_id}, {given}.",
        ]
        return self._parts.redactor.text("\n".join(lines))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        text = str(self)
        html = "".join(f"<p>{escape(line)}</p>" for line in text.splitlines())
        return {"text/plain": text, "text/html": html, OPENING_MIME: self._parts.redactor.tree(self._opening())}


def open_session(step_id: str, given: Mapping[str, object], components: Mapping[str, str], parts: Parts) -> Session:
    """Check the parameters and the gate, then show and return the session.

    Raises ParameterError or GateClosed; nothing has run then. `components` are those in use, the same that a run of
    the step before would have named.
    """
    step = step_named(step_id).using(components)
    values = checked(step.parameters, given)
    gates.require(step, components, parts.database, rehearsal=parts.settings.under_pytest)
    session = Session(step, values, components, parts)
    _display(session)
    return session


def _display(shown: object) -> None:
    from IPython import display

    show: Any = display.display  # IPython leaves it untyped
    show(shown)


def _headline(record: Mapping[str, Any]) -> str:
    verdict = Verdict(record["verdict"])
    passed = sum(criterion["outcome"] == "PASS" for criterion in record["criteria"])
    said = f"{verdict.mark} {verdict}: {passed} of {len(record['criteria'])} criteria passed"
    return f"{said}. {record['speaks_for']}".strip()


def _hidden(table: Table, hide: Any) -> Table:
    """The table without secrets; only text can hold one."""
    rows = tuple(tuple(hide(cell) if isinstance(cell, str) else cell for cell in row) for row in table.rows)
    return replace(table, title=hide(table.title), rows=rows, notes=tuple(map(hide, table.notes)))


def _iso(instant: datetime) -> str:
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")

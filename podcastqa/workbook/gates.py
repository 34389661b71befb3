"""A step opens only after the one before has passed, with the components in use now and by today's criteria.

Gates are read from the database, never from a file's name. Each run adds a row; the newest row of a step with
these components and this version of its criteria decides. What runs under pytest is a rehearsal and opens nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, Table, Text, UniqueConstraint, select

from podcastqa.clock import from_microseconds, microseconds
from podcastqa.database import SYSTEM, Database, metadata, row_id
from podcastqa.errors import GateClosed
from podcastqa.money import Usd
from podcastqa.workbook.steps import Step, step_before

validations = Table(
    "validations",
    metadata,
    row_id(),
    Column("run_id", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("criteria_version", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("rehearsal", Integer, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("finished_us", BigInteger, nullable=False),
    Column("cost_pico", BigInteger, nullable=False),
    Column("components", Text, nullable=False),
    Column("criteria", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    UniqueConstraint("run_id", name="uq_validations_run"),
    CheckConstraint("verdict IN ('PASS', 'FAIL', 'INCOMPLETE')", name="ck_validations_verdict"),
    sqlite_autoincrement=True,
)


def fingerprint(components: Mapping[str, str], criteria_version: int) -> str:
    """What a PASS belongs to: the components it was run with and the words of its criteria."""
    said = json.dumps({"components": dict(components), "criteria": criteria_version}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def record(database: Database, run: Mapping[str, Any], *, rehearsal: bool) -> None:
    """Remember a run: `run` is the record of its closing cell. The same run is remembered once, its last word kept."""
    row = {
        "run_id": run["run_id"],
        "step": run["step"],
        "verdict": run["verdict"],
        "criteria_version": run["criteria_version"],
        "fingerprint": run["fingerprint"],
        "rehearsal": int(rehearsal),
        "started_us": microseconds(datetime.fromisoformat(run["started"])),
        "finished_us": microseconds(datetime.fromisoformat(run["finished"])),
        "cost_pico": Usd(run["cost_usd"]).pico,
        **{name: json.dumps(run[name], sort_keys=True) for name in ("components", "criteria", "parameters")},
    }
    with database.write(SYSTEM) as connection:
        connection.execute(validations.delete().where(validations.c.run_id == run["run_id"]))
        connection.execute(validations.insert().values(row))


def forget(database: Database, user: str) -> None:
    """Forget the runs that looked into that user's podcasts: what they measured was that user's."""
    with database.write(SYSTEM) as connection:
        rows = connection.execute(select(validations.c.run_id, validations.c.parameters)).all()
        for run_id, parameters in rows:
            if json.loads(parameters).get("user") == user:
                connection.execute(validations.delete().where(validations.c.run_id == run_id))


def require(step: Step, components: Mapping[str, str], database: Database, *, rehearsal: bool = False) -> None:
    """Raises GateClosed, saying which criteria of the step before are missing and how to get them.

    What a rehearsal passed opens for a rehearsal, and for nothing else.
    """
    before = step_before(step)
    if before is None:
        return
    runs = _runs(before, database, rehearsal=rehearsal)
    same = [run for run in runs if _same_components(run, components, before.criteria_version)]
    if same and same[0]["verdict"] == "PASS":
        return
    raise GateClosed(_why(step, before, same, runs, components), next_step=_next_step(before, same))


def _runs(step: Step, database: Database, *, rehearsal: bool) -> list[dict[str, Any]]:
    """Runs of the step that count, newest first: rehearsals only for a rehearsal."""
    columns = validations.c
    counts = columns.rehearsal <= int(rehearsal)
    wanted = (columns.step == step.id, counts, columns.criteria_version == step.criteria_version)
    with database.read(SYSTEM) as connection:
        rows = connection.execute(select(validations).where(*wanted).order_by(columns.id.desc())).mappings().all()
    return [
        {**row, "components": json.loads(row["components"]), "criteria": json.loads(row["criteria"])} for row in rows
    ]


def _same_components(run: Mapping[str, Any], components: Mapping[str, str], version: int) -> bool:
    """Whether the run's own components stand as they stood; a later step may use more of them."""
    now = {name: components.get(name, "") for name in run["components"]}
    return bool(run["fingerprint"] == fingerprint(now, version))


def _why(
    step: Step,
    before: Step,
    same: list[dict[str, Any]],
    runs: list[dict[str, Any]],
    components: Mapping[str, str],
) -> str:
    door = f"{step.id} opens when {before.id} ({before.title}) has passed"
    if same:
        missing = [c for c in same[0]["criteria"] if c["outcome"] != "PASS"]
        listed = "; ".join(f"{c['id']} {c['name']} ({c['outcome']}: {c['measured']})" for c in missing)
        when = from_microseconds(same[0]["finished_us"])
        reached = f"missing: {listed}" if listed else "its notebook did not run to the end"
        return f"{door}. Its last run ({when:%Y-%m-%d %H:%M} UTC) was {same[0]['verdict']}; {reached}."
    if runs:
        was = runs[0]["components"]
        changed = [f"{k}: {v} then, {components.get(k, 'none')} now" for k, v in was.items() if components.get(k) != v]
        return f"{door} with the components in use now. It has run with others ({'; '.join(changed)})."
    listed = ", ".join(f"{criterion.id} {criterion.name}" for criterion in before.criteria)
    return f"{door}, and it has not run yet. Missing: {listed or 'all of it'}."


def _next_step(before: Step, same: list[dict[str, Any]]) -> str:
    missing = [c["next_step"] for c in same[0]["criteria"] if c["outcome"] != "PASS" and c["next_step"]] if same else []
    if before.notebook is None:
        return f"{before.id} is not part of this version yet."
    return " ".join(
        [*missing, f"Then run: podcastqa validate {before.id}" if missing else f"Run: podcastqa validate {before.id}"]
    )

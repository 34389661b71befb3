"""Drills break things on purpose, in books of their own: limits that refuse, a stop that stops, mails that arrive.

Each drill has a database, a ledger and a bill of its own, of the same kind as the real ones, and the real mailer.
Nothing that a drill books is in the real ledger; the CPU time that drills take is, as part of the run.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from podcastqa.database import SYSTEM, Database, metadata
from podcastqa.display import Table
from podcastqa.errors import EmergencyStopped, OverLimit, Refused
from podcastqa.money import Usd
from podcastqa.treasury import Treasury
from podcastqa.wiring import Parts, drill_parts

_SERVICE, _WRITE = "drill", "write-a-file"
_ROOMY = dict.fromkeys(
    [f"{whose}{window}_budget_limit" for whose in ("", "user_") for window in ("daily", "weekly", "monthly")], "1000"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One limit tried: what stopped the operation that was too dear, and whether anything of it happened."""

    name: str
    refused_by: str
    asked: str
    side_effect_absent: bool
    cheap_one_ran: bool

    @property
    def holds(self) -> bool:
        """Refused by the limit that was meant, nothing happened, and what fits still runs."""
        return self.refused_by == self.asked and self.side_effect_absent and self.cheap_one_ran


def try_limits(parts: Parts, run_id: str) -> list[Refusal]:
    """Each window's limit, a user's limit and the emergency stop: a real operation refused, another let through."""
    tight = {
        "day": ({"daily_budget_limit": "0.01"}, "system day"),
        "week": ({"weekly_budget_limit": "0.01"}, "system week"),
        "month": ({"monthly_budget_limit": "0.01"}, "system month"),
        "user's day": ({"user_daily_budget_limit": "0.01"}, "user day"),
    }
    found = [_try_limit(parts, run_id, name, limits, asked) for name, (limits, asked) in tight.items()]
    return [*found, _try_stop(parts, run_id)]


def refusal_table(refusals: list[Refusal]) -> Table:
    """For the report: one row a limit."""
    columns = ("limit", "refused by", "asked", "file absent", "cheap one ran")
    rows = tuple((r.name, r.refused_by, r.asked, _yes(r.side_effect_absent), _yes(r.cheap_one_ran)) for r in refusals)
    return Table("Operations beyond a limit", columns, rows)


def _try_limit(parts: Parts, run_id: str, name: str, limits: dict[str, str], asked: str) -> Refusal:
    drill = drill_parts(parts, f"{run_id}-{name.replace(chr(39), '').replace(' ', '-')}", **(_ROOMY | limits))
    dear, cheap = drill.settings.home / "dear", drill.settings.home / "cheap"
    refused_by = _write_under_hold(drill.treasury, Usd("0.02"), dear)
    ran = _write_under_hold(drill.treasury, Usd("0.001"), cheap)
    return Refusal(name, refused_by, asked, not dear.exists(), cheap.exists() and ran == "")


def _try_stop(parts: Parts, run_id: str) -> Refusal:
    drill = drill_parts(parts, f"{run_id}-stop", **_ROOMY)
    stopped, released = drill.settings.home / "stopped", drill.settings.home / "released"
    drill.budget.stop(by="step 1", reason="drill")
    refused_by = _write_under_hold(drill.treasury, Usd("0.001"), stopped)
    drill.budget.release(by="step 1", reason="drill")
    ran = _write_under_hold(drill.treasury, Usd("0.001"), released)
    return Refusal("emergency stop", refused_by, "stop", not stopped.exists(), released.exists() and ran == "")


def _write_under_hold(treasury: Treasury, estimate: Usd, file: Path) -> str:
    """Write a file if the guard admits it; returns what refused it, or nothing."""
    try:
        with treasury.spending(None, _SERVICE, _WRITE, estimate) as spending:
            file.write_text("This operation ran.\n", encoding="utf-8")
            spending.settle(estimate)
    except OverLimit as refusal:
        return f"{refusal.scope} {refusal.window}"
    except EmergencyStopped:
        return "stop"
    except Refused as refusal:
        return type(refusal).__name__
    return ""


@dataclass(frozen=True, slots=True)
class Mailed:
    """One alert that was due: what came of it."""

    threshold: str
    message_id: str
    subject: str
    whole: bool
    accepted: bool


def try_alerts(parts: Parts, run_id: str) -> tuple[list[Mailed], int]:
    """Spend through every threshold of a small daily limit, then past it; and how many mails a second round sent."""
    drill = drill_parts(parts, f"{run_id}-alerts", **(_ROOMY | {"daily_budget_limit": "1.00"}))
    for _ in range(10):
        drill.treasury.call(_SERVICE, "spend-a-tenth", Usd("0.10"))
    with suppress(OverLimit):  # its mail is one of those asked for
        drill.treasury.call(_SERVICE, "one-too-many", Usd("0.10"))
    again = drill.treasury.deliver_alerts()
    mails = [_read_back(drill, notice.alert.threshold, notice.message_id) for notice in drill.outbox.sent()]
    return mails, len(again.sent)


def _read_back(parts: Parts, threshold: str, message_id: str) -> Mailed:
    read_back = getattr(parts.mailer, "read_back", None)
    if read_back is None:  # a server accepted it; only a mailbox of our own can be looked into
        return Mailed(threshold, message_id, "", False, bool(message_id))
    message = read_back(message_id)
    if message is None:
        return Mailed(threshold, message_id, "", False, False)
    kinds = {part.get_content_type() for part in message.walk()}
    return Mailed(threshold, message_id, str(message["Subject"]), {"text/plain", "text/html"} <= kinds, True)


def mail_table(mails: list[Mailed]) -> Table:
    """For the report: one row a mail."""
    rows = tuple((m.threshold, m.subject, m.message_id, _yes(m.accepted), _yes(m.whole)) for m in mails)
    return Table("Mails", ("threshold", "subject", "Message-ID", "in the mailbox", "text and HTML"), rows)


_ENTRY = (
    "INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us, reason)"
    " VALUES ({hold}, {kind}, {user}, 's', 's', 'o', {amount}, 1, 1, {reason})"
)
_VALIDATION = (
    "INSERT INTO validations (run_id, step, verdict, criteria_version, fingerprint, rehearsal, started_us, finished_us,"
    " cost_pico, components, criteria, parameters)"
    " VALUES ('r', 's', {verdict}, 1, 'f', 1, 1, 1, 1, '{{}}', '[]', '{{}}')"
)
_MAIL = (
    "INSERT INTO outbox (user_id, window_kind, window_start, threshold, spent_pico, limit_pico, detail, created_us)"
    " VALUES (0, {window}, 1, {threshold}, 1, 1, '', 1)"
)


def _entry(hold: str = "'h'", kind: str = "'reserve'", user: str = "1", amount: str = "1", reason: str = "''") -> str:
    return _ENTRY.format(hold=hold, kind=kind, user=user, amount=amount, reason=reason)


def _limit(window: str = "'day'", amount: str = "1", by: str = "'a'") -> str:
    return (
        "INSERT INTO limits (user_id, window_kind, amount_pico, set_us, set_by, reason)"
        f" VALUES (0, {window}, {amount}, 1, {by}, 'r')"
    )


def _held(started: str = "0", user: str = "1") -> str:
    return f"INSERT INTO open_holds VALUES ('x', {user}, 's', 1, 1, {started}, 1)"


_SETUP = (
    "INSERT INTO users (id, name, created_us) VALUES (1, 'one', 1)",
    _entry(),
    _entry(kind="'start'"),
    _entry(kind="'settle'"),
    _limit(),
    "INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (0, 1, 'a', 'r')",
    _MAIL.format(window="'day'", threshold="'50'"),
    _VALIDATION.format(verdict="'PASS'"),
    "INSERT INTO bill_days VALUES ('s', 1, 0, 1, 1, 1)",
    "INSERT INTO counters (user_id, day, source) VALUES (0, 1, 's')",
)
#: What each constraint must refuse; the test of the schema asks that every named constraint stands here.
ATTEMPTS: tuple[tuple[str, str], ...] = (
    ("users.name unique", "INSERT INTO users (name, created_us) VALUES ('one', 1)"),
    ("ck_users_name", "INSERT INTO users (name, created_us) VALUES (NULL, 1)"),
    ("uq_entries_reserve", _entry()),
    ("uq_entries_start", _entry(kind="'start'")),
    ("uq_entries_end", _entry(kind="'void'")),
    ("ck_entries_kind", _entry(kind="'refund'", hold="'h'")),
    ("ck_entries_amount", _entry(hold="'n'", amount="-1")),
    ("ck_entries_amount", _entry(hold="'n'", amount="4000000000000000001")),
    ("ck_entries_hold", _entry(hold="''")),
    ("ck_entries_reason", _entry(kind="'correct'")),
    ("entries.user_id known", _entry(hold="'n'", user="99")),
    ("entries.amount_pico not null", _entry(hold="'n'", amount="NULL")),
    ("entries_need_reserve", _entry(hold="'n'", kind="'settle'")),
    ("entries_no_update", "UPDATE entries SET amount_pico = 0"),
    ("entries_no_delete", "DELETE FROM entries"),
    ("ck_open_holds_started", _held(started="2")),
    ("open_holds.user_id known", _held(user="99")),
    ("counters primary key", "INSERT INTO counters (user_id, day, source) VALUES (0, 1, 's')"),
    ("ck_counters_held", "UPDATE counters SET held_pico = -1"),
    ("bill_days primary key", "INSERT INTO bill_days VALUES ('s', 1, 0, 2, 2, 2)"),
    ("ck_limits_window", _limit(window="'year'")),
    ("ck_limits_amount", _limit(amount="-1")),
    ("ck_limits_who", _limit(by="''")),
    ("limits_no_update", "UPDATE limits SET amount_pico = 0"),
    ("limits_no_delete", "DELETE FROM limits"),
    ("ck_stops_stopped", "INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (2, 1, 'a', 'r')"),
    ("ck_stops_who", "INSERT INTO stops (stopped, at_us, said_by, reason) VALUES (1, 1, '', 'r')"),
    ("stops_no_update", "UPDATE stops SET stopped = 1"),
    ("stops_no_delete", "DELETE FROM stops"),
    ("uq_outbox_once", _MAIL.format(window="'day'", threshold="'50'")),
    ("ck_outbox_threshold", _MAIL.format(window="'day'", threshold="''")),
    ("ck_outbox_window", _MAIL.format(window="'year'", threshold="'80'")),
    ("uq_validations_run", _VALIDATION.format(verdict="'PASS'")),
    ("ck_validations_verdict", _VALIDATION.format(verdict="'MAYBE'")),
)


def try_constraints(parts: Parts, run_id: str) -> list[tuple[str, str]]:
    """Break each constraint, in a database of its own: (constraint, what the database said; empty if it took it)."""
    drill = drill_parts(parts, f"{run_id}-constraints")
    with drill.database.hot() as driver:
        for statement in _SETUP:
            driver.execute(statement)
        return [(name, _refused(driver, statement)) for name, statement in ATTEMPTS]


def _refused(driver: sqlite3.Connection, statement: str) -> str:
    driver.execute("SAVEPOINT attempt")
    try:
        driver.execute(statement)
    except sqlite3.IntegrityError as refusal:
        return str(refusal)
    finally:
        driver.execute("ROLLBACK TO attempt")
    return ""


def by_its_own_name(name: str, refusal: str) -> bool:
    """Whether it was this constraint that refused: a check says its name, the other kinds say what they guard."""
    return name in refusal if name.startswith("ck_") else bool(refusal)


def schema_differences(parts: Parts, run_id: str) -> list[str]:
    """Where the schema in use differs from the declared tables, or from what the migrations make of an empty file.

    The second look sees what the first cannot: a trigger that was dropped, a check that was loosened.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with parts.database.read(SYSTEM) as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    used, made = _schema(parts.database), _schema(drill_parts(parts, f"{run_id}-constraints").database)
    unlike = sorted(name for name in {*used, *made} if used.get(name) != made.get(name))
    return [*map(str, differences), *(f"{name} is not as the migrations make it" for name in unlike)]


def _schema(database: Database) -> dict[str, str]:
    """Every table, index and trigger with the SQL that made it."""
    rows = database.driver().execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {f"{kind} {name}": sql for kind, name, sql in rows}


def named_constraints() -> set[str]:
    """Every constraint with a name that the program declares: each must be among the attempts."""
    declared = {str(c.name) for table in metadata.tables.values() for c in table.constraints if c.name}
    unique = {str(index.name) for table in metadata.tables.values() for index in table.indexes if index.unique}
    return declared | unique


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"

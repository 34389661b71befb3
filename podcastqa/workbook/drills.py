"""Drills break things on purpose, in books of their own: limits that refuse, a stop that stops, mails that arrive.

Each drill has a database, a ledger and a bill of its own, of the same kind as the real ones, and the real mailer.
Nothing that a drill books is in the real ledger; the CPU time that drills take is, as part of the run.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from podcastqa.alerts.maildir import MaildirMailer
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
    place = f"{run_id}-{name.replace(chr(39), '').replace(' ', '-')}"
    drill = drill_parts(parts, place, _ROOMY | limits, mailer=_aside(parts))
    dear, cheap = drill.settings.home / "dear", drill.settings.home / "cheap"
    refused_by = _write_under_hold(drill.treasury, Usd("0.02"), dear)
    ran = _write_under_hold(drill.treasury, Usd("0.001"), cheap)
    return Refusal(name, refused_by, asked, not dear.exists(), cheap.exists() and ran == "")


def _try_stop(parts: Parts, run_id: str) -> Refusal:
    drill = drill_parts(parts, f"{run_id}-stop", _ROOMY, mailer=_aside(parts))
    stopped, released = drill.settings.home / "stopped", drill.settings.home / "released"
    drill.budget.stop(by="step 1", reason="drill")
    refused_by = _write_under_hold(drill.treasury, Usd("0.001"), stopped)
    drill.budget.release(by="step 1", reason="drill")
    ran = _write_under_hold(drill.treasury, Usd("0.001"), released)
    return Refusal("emergency stop", refused_by, "stop", not stopped.exists(), released.exists() and ran == "")


def _aside(parts: Parts) -> MaildirMailer:
    """Limits are tried here, and not the mail: what refusals say goes to a mailbox that nobody reads or pays for."""
    return MaildirMailer(parts.settings.home / "drills" / "maildir")


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
    whole: bool | None
    """Both parts are in it; None where only its receipt can be seen."""
    accepted: bool


def try_alerts(parts: Parts, run_id: str) -> tuple[list[Mailed], int]:
    """Spend through every threshold of a small daily limit, then past it; and how many mails a second round sent."""
    drill = drill_parts(parts, f"{run_id}-alerts", _ROOMY | {"daily_budget_limit": "1.00"})
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
        return Mailed(threshold, message_id, "", None, bool(message_id))
    message = read_back(message_id)
    if message is None:
        return Mailed(threshold, message_id, "", False, False)
    kinds = {part.get_content_type() for part in message.walk()}
    return Mailed(threshold, message_id, str(message["Subject"]), {"text/plain", "text/html"} <= kinds, True)


def mail_table(mails: list[Mailed]) -> Table:
    """For the report: one row a mail."""
    rows = tuple(
        (m.threshold, m.subject, m.message_id, _yes(m.accepted), None if m.whole is None else _yes(m.whole))
        for m in mails
    )
    return Table("Mails", ("threshold", "subject", "Message-ID", "accepted", "text and HTML"), rows)


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"

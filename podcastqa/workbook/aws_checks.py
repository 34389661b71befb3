"""What step 1 asks where the bill is AWS's: whose it is, whether the console says the same, how the ledger compares.

An endpoint override turns all of it into a contract check: only the provider's own host can validate a provider.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from podcastqa.bills.bill import Bill
from podcastqa.bills.days import DayKind
from podcastqa.errors import BillError
from podcastqa.money import Usd
from podcastqa.wiring import Parts
from podcastqa.workbook.bill_figures import bill_against_ledger
from podcastqa.workbook.criteria import Answer

#: The criteria that speak of AWS's answers where the bill is AWS's.
_OF_AWS = ("1", "2", "4", "7", "8", "9", "10")


def unproved(parts: Parts) -> tuple[str, ...]:
    """The criteria that a provider would have to answer for, and somebody else may have: an endpoint is overridden."""
    if not parts.settings.endpoint_overrides:
        return ()
    return (*(_OF_AWS if parts.cost_explorer else ()), *(("5",) if parts.mailer.name == "Amazon SES" else ()))


def not_part(parts: Parts) -> tuple[str, ...]:
    """Parts that this run says nothing of."""
    said = ["PostgreSQL and its row-level security: the database is SQLite"]
    if not parts.cost_explorer:
        said.append("AWS Cost Explorer: the bill is the local meter's; AWS not validated")
    others = [name for name in ("Amazon SES", "SMTP", "Maildir") if name != parts.mailer.name]
    return (*said, f"{' and '.join(others)}: mails go by {parts.mailer.name}")


def answers(parts: Parts, bill: Bill, paid: Usd) -> Answer:
    """The answer that the guard paid for, now or earlier in the slot: whose it is, how old, how complete."""
    made = bill.provenance
    if bill.problem or made.complete_through is None:
        said = dict(made.remarks)
        refused = False if parts.cost_explorer and parts.cost_explorer.refused else None  # else nobody could ask
        return Answer(refused, said.get("STALE") or said["never read"], "", [made.table()])
    measured = (
        f"{made.component}, {made.account}: {len(bill.lines)} charges, answered at {made.read_at:%Y-%m-%d %H:%M} UTC, "
        f"complete through {made.complete_through - timedelta(days=1):%Y-%m-%d}; {paid.shown()} paid to AWS in this "
        f"run so far; {len(bill.bad_rows)} rows cannot be read"
    )
    if not parts.settings.aws_account_id:
        return Answer(None, measured, "Set AWS_ACCOUNT_ID: the account that the credentials have to belong to.")
    return Answer(not bill.bad_rows, measured, "", [made.table()])


def books(parts: Parts, console_csv: str, meter: Answer) -> Answer:
    """The meter's books, then the ledger beside Cost Explorer by kind, then Cost Explorer beside the console's file."""
    try:
        days = parts.bookkeeper.reconcile_days()
    except BillError as problem:
        asked = None if meter.holds else False
        return Answer(asked, f"meter: {meter.measured}. AWS: {problem.message}", problem.next_step, meter.tables)
    faults = "; ".join(map(str, days.faults[:5]))
    kinds = ", ".join(f"{len(days.of_kind(kind))} {kind}" for kind in DayKind if days.of_kind(kind))
    measured = f"meter: {meter.measured}. AWS: {len(days.rows)} days ({kinds}), {len(days.faults)} faults"
    tables = [*meter.tables, days.by_kind(), days.table()]
    if meter.holds is False or days.faults:
        return Answer(False, measured, "; ".join(filter(None, (meter.next_step, faults))), tables)
    if not console_csv:
        step = (
            "Download the CSV in the Cost Explorer console (daily, grouped by service), then run: "
            "podcastqa validate step1 -p console_csv FILE"
        )
        return Answer(None, f"{measured}. Console: no file to compare with", step, tables)
    match = parts.bookkeeper.console_match(Path(console_csv))
    console = f"{len(match.judged)} of {len(match.days)} days judged, {len(match.faults)} not as asked"
    step = "" if match.judged else "Compare days that are complete: those before yesterday."
    return Answer(match.holds, f"{measured}. Console: {console}", step, [*tables, match.table()])


def figures(parts: Parts) -> tuple[object, ...]:
    """Ledger beside Cost Explorer, day by day, where there is something to draw."""
    if parts.cost_explorer is None:
        return ()
    try:
        return (bill_against_ledger(parts.bookkeeper.reconcile_days()),)
    except BillError:  # criterion 8 says what is missing
        return ()

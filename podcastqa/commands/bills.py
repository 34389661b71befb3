"""Commands about what providers say was spent; whatever may cost a request says so before it asks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from podcastqa.commands.printing import JSON, out, parts_of, print_json, say, show
from podcastqa.errors import Misuse
from podcastqa.values import existing, existing_file, month
from podcastqa.words import Command, Given, takes

if TYPE_CHECKING:
    from podcastqa.settings import Settings
    from podcastqa.wiring import Parts

#: Whether what was asked holds, as an exit status; None: nothing could be judged.
_STATUS = {True: 0, False: 1, None: 3}


def _list(given: Given, settings: Settings) -> int:
    return show(parts_of(settings).bookkeeper.imports(), given)


def _import(given: Given, settings: Settings) -> int:
    return show(parts_of(settings).bookkeeper.import_bills(given.path), given)


def _reconcile(given: Given, settings: Settings) -> int:
    parts = parts_of(settings)
    source = given.source or _source_in_use(parts)
    if source == parts.treasury.bills.meter.name:
        return _reconcile_meter(parts, given)
    if source == _aws() and (given.by_service or given.month):
        _say_price(parts, "By service" if given.by_service else "Another month")
    found = parts.bookkeeper.reconcile_days(given.month, source=source, by_service=given.by_service)
    if given.json:
        print_json(found.record())
    else:
        kinds = replace(found.by_kind(), notes=())  # the days' table says the same below
        out(kinds.text(), "", found.table().text())
    return _STATUS[not found.faults]


def _reconcile_meter(parts: Parts, given: Given) -> int:
    """This machine's bill names every operation, so it is compared by operation, and as a whole."""
    if given.month or given.by_service:
        raise Misuse(
            "The local meter's bill is reconciled as a whole, operation by operation.",
            next_step="Leave --month and --by-service out, or import a cloud's bill: podcastqa bills import PATH",
        )
    found = parts.treasury.reconcile()
    show(found, given)
    return _STATUS[found.matches]


def _source_in_use(parts: Parts) -> str:
    """AWS where it can be asked or was imported, else the one that was imported, else this machine's meter."""
    imported = parts.archive.sources()
    if parts.cost_explorer or _aws() in imported:
        return _aws()
    if len(imported) > 1:
        raise Misuse(f"There are bills of {', '.join(imported)}.", next_step=f"Say whose: --source {imported[0]}")
    return imported[0] if imported else parts.treasury.bills.meter.name


def _compare(given: Given, settings: Settings) -> int:
    from pathlib import Path

    parts = parts_of(settings)
    _say_price(parts, "Days that its last answer lacks")
    found = parts.bookkeeper.console_match(Path(given.file))
    if given.json:
        print_json(found.record())
    else:
        out(found.table().text())
    return _STATUS[found.holds]


def _report(given: Given, settings: Settings) -> int:
    from pathlib import Path

    from podcastqa.workbook.appendix import run

    # The notebook runs in a folder of its own, so a path from here has to say where "here" is.
    done = run("bills", {"bill_file": str(Path.cwd() / given.file)} if given.file else {}, settings)
    out(done.said, "Its report:", done.report.resolve())
    return int(done.exit_status)


def _say_price(parts: Parts, what: str) -> None:
    """What is asked anew costs money; the person hears it first."""
    if parts.cost_explorer is None:
        return
    price = parts.prices.named("aws-cost-explorer-request", parts.clock.now().date()).cost(1)
    hours = int(parts.cost_explorer.terms.older_than.total_seconds()) // 3600
    say(
        f"{what}: one more request to Cost Explorer is paid ({price.shown()} a page), "
        f"unless it answered that within {hours} h or an imported bill tells it."
    )


def _aws() -> str:
    from podcastqa.bills.cost_explorer import SOURCE

    return SOURCE


COMMANDS = {
    "bills list": Command("Every bill that was imported, and whether it still stands.", _list, (JSON,)),
    "bills import": Command(
        "Keep a cloud's bill: FOCUS 1.0 to 1.2 or CUR 2.0 (CSV, gzip, Parquet), or the CSV of Cost Explorer's\n"
        "console. From then on limits count it. A file imported twice changes nothing; for each account and\n"
        "month the newest import stands.",
        _import,
        (
            takes("path", type=existing, metavar="PATH", help="a file, a folder, or a glob in quotes: 'exports/*.gz'"),
            JSON,
        ),
    ),
    "bills reconcile": Command(
        "The ledger beside a bill, by kind of difference and day by day. Without any cloud's bill: beside this\n"
        "machine's own meter, operation by operation. Exit status: 1 where the books are wrong.",
        _reconcile,
        (
            takes("--month", type=month, metavar="YYYY-MM", help="this month; unless said, the days the bill covers"),
            takes("--source", metavar="NAME", help="whose bill: aws, where there is one; `bills list` names them"),
            takes("--by-service", action="store_true", help="each service of a day; pays one more request on AWS"),
            JSON,
        ),
    ),
    "bills compare": Command(
        "Cost Explorer beside the CSV that its console exports (by day), to the cent; for a closed month exactly.\n"
        "Exit status: 0 they agree, 1 they do not, 3 no day could be judged.",
        _compare,
        (takes("file", type=existing_file, metavar="FILE", help="the console's Download CSV"), JSON),
    ),
    "bills report": Command(
        "Run the notebook on bills and write its report; the last line is the report's path. It explores, and\n"
        "proves nothing: it has no verdict, and the books stay as they are.",
        _report,
        (takes("file", nargs="?", type=existing, metavar="FILE", help="any bill; unless said, what was imported"),),
    ),
}

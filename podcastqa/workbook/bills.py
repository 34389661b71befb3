"""Bills laid open for a notebook: each method is one look, and none of them can change what it looks at.

from podcastqa.workbook import bills
books = bills.open("exports/*.csv.gz")
books.by_service()
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from html import escape
from typing import Any

from podcastqa.bills.bill import Bill, BillLine
from podcastqa.bills.days import DayReconciliation
from podcastqa.clock import WindowKind
from podcastqa.display import Table, Tabular
from podcastqa.errors import BillError, Misuse
from podcastqa.money import ZERO, Usd
from podcastqa.users import SYSTEM_ID
from podcastqa.wiring import Parts, parts
from podcastqa.workbook.appendix import APPENDIX_MIME, PROVES, appendix_named
from podcastqa.workbook.bill_books import BillBooks, read_file, read_imported
from podcastqa.workbook.bill_figures import bill_against_ledger, projection_against_limit, spend_on_bill
from podcastqa.workbook.bill_sums import ALL, WAYS
from podcastqa.workbook.criteria import checked
from podcastqa.workbook.figures import Figure, NoFigure

UNATTRIBUTED = "unattributed"
_MONEY = ("gross in USD", "credits and refunds in USD", "net in USD")


def open(bill_file: str = "", days: int = 28) -> Bills:  # noqa: A001 – notebooks say bills.open(…)
    """Read the bills in `bill_file` (a file, a folder or a glob) into books of their own, or those that were imported.

    `days`: how many of the last days are looked at day by day. Raises ParameterError or BillError.
    """
    given = checked(appendix_named("bills").parameters, {"bill_file": bill_file, "days": days})
    made = parts()
    books = read_file(made, given["bill_file"]) if given["bill_file"] else read_imported(made)
    return Bills(made, books, given["days"])


@dataclass(frozen=True, slots=True, repr=False)
class Look(Tabular):
    """One table, as a shell prints it and a notebook shows it."""

    laid: Table

    def table(self) -> Table:
        """It."""
        return self.laid

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True, repr=False)
class Said:
    """Sentences for people, and a record for the report."""

    sentences: tuple[str, ...]
    record: dict[str, Any]

    def __repr__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        html = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences)
        return {"text/plain": repr(self), "text/html": html, APPENDIX_MIME: self.record}


class Bills:
    """Bills that were read; make it with `open`, and end a cell with what a method returns."""

    def __init__(self, made: Parts, books: BillBooks, days: int) -> None:
        self._made, self._books, self._days = made, books, days
        self._names = {str(number): name for number, name in made.users.names().items()}

    def __repr__(self) -> str:
        return repr(self._opening())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return self._opening()._repr_mimebundle_(include, exclude)

    def files(self) -> Tabular:
        """Which files were read, what of them could not be, and what stands."""
        return self._books.files

    def sums(self) -> Look:
        """The sum of every imported line, exactly, counted three ways that know nothing of each other."""
        rows = tuple((one.source, one.what, one.lines, *map(str, one.counted)) for one in self._books.sums)
        columns = ("bill", "sum of", "lines", *(f"{way}, USD" for way in WAYS))
        notes = tuple(
            f"The bill of {bill.source} is no import: its {len(bill.lines)} lines sum to {bill.net} USD (Python)."
            for bill in self._books.bills
            if bill.source not in {one.source for one in self._books.sums}
        )
        return self._look("Every line added up, three ways", columns, rows, notes)

    def agreement(self) -> Said:
        """How far the three sums are apart; raises BillError where they are."""
        apart = sum((one.apart for one in self._books.sums), ZERO)
        if apart:
            raise BillError(f"The three sums differ by {apart} USD.", next_step="See above which; do not trust them.")
        return Said((f"The three sums differ by {apart} USD.",), {})

    def by_service(self) -> Tabular:
        """What each service charges, of each bill; the most first."""
        found = self._grouped(lambda bill, line: (bill.source, line.service or "no service named"))
        return self._totals("By service", ("bill", "service"), _most_first(found))

    def by_user(self) -> Tabular:
        """Whom it is charged to, by the user's tag; what carries none is unattributed."""
        found = self._grouped(lambda _, line: (self._user(line),))
        return self._totals("By user", ("user",), _most_first(found))

    def by_day(self) -> Tabular:
        """The last days; what was before is one row."""
        found = self._grouped(lambda _, line: (line.day,))
        since = self._since(day for (day,) in found)
        early = [line for (day,), lines in found.items() if day < since for line in lines]
        before: dict[tuple[Any, ...], list[BillLine]] = {("before",): early} if early else {}
        days = {key: found[key] for key in sorted(found) if key[0] >= since}
        return self._totals("By day (UTC)", ("day",), before | days)

    def credits(self) -> Tabular:
        """Each kind of charge: what counts as use, and what lowers the bill without lowering the use."""
        found = self._grouped(lambda bill, line: (bill.source, line.category or "none", _use(line)))
        note = "Budgets count gross, for credits and refunds hide what was used; what is paid is net."
        return self._totals("Credits and refunds apart", ("bill", "category", "counts as"), _most_first(found), note)

    def plot_services(self) -> Figure | NoFigure:
        """The same as bars."""
        return self._figure("service")

    def plot_users(self) -> Figure | NoFigure:
        """The same as bars."""
        return self._figure("user")

    def reconcile_by_kind(self, source: str = "") -> Tabular | NoFigure:
        """How the ledger stands beside the bill on the last days: how often each kind of difference, and how much."""
        found = self._beside(source)
        return found if isinstance(found, NoFigure) else Look(found.by_kind())

    def reconcile(self, source: str = "") -> Tabular | NoFigure:
        """The same, day by day."""
        return self._beside(source)

    def plot_reconcile(self, source: str = "") -> Figure | NoFigure:
        """The same, drawn."""
        found = self._beside(source)
        return found if isinstance(found, NoFigure) else bill_against_ledger(found)

    def forecast(self) -> Tabular:
        """Our projection to the month's end, with its interval; no provider was asked."""
        table = self._books.outlook.found.table()
        note = f"OUR PROJECTION, and no provider's forecast: {self._books.outlook.said}."
        return Look(replace(table, notes=(note, *table.notes)))

    def plot_forecast(self) -> Figure | NoFigure:
        """The same beside the month's limit."""
        limit = self._made.budget.limits(SYSTEM_ID).get((SYSTEM_ID, WindowKind.MONTH), ZERO)
        return projection_against_limit(self._books.outlook.days, self._books.outlook.found, limit)

    def close(self) -> Said:
        """What stands at the end, for the report's top and its twin."""
        whole, sums = self._books.whole, [one for one in self._books.sums if one.source == ALL]
        if whole is None:
            return Said(("There was nothing to look at.", PROVES), {})
        facts = [(one.what, one.counted[0].shown(), f"{one.counted[0]} USD") for one in sums if one.lines]
        spoken = f"{len({line.day for line in whole.lines})} days, {len(self._books.bills)} bills"
        facts.append(("Lines", f"{len(whole.lines):,}", spoken))
        owed = f"Gross {whole.gross} USD, credits and refunds {whole.net - whole.gross} USD, net {whole.net} USD."
        return Said((owed, PROVES), {"facts": facts, "totals": self.sums().table().records()})

    def _opening(self) -> Said:
        books = self._books
        unread = [f"{books.bad_rows} rows could not be read and are in no sum: see Import below."]
        notices = unread if books.bad_rows else []
        record = {
            "notices": notices,
            "looked_at": books.looked_at,
            "components": {"bills": ", ".join(bill.source for bill in books.bills) or "none"},
            "provenance": [self._provenance(bill) for bill in books.bills],
            "not_part_of_this_run": ["AWS Cost Explorer: nothing was asked, and nothing paid"],
        }
        return Said((books.where, *notices), self._made.redactor.tree(record))

    def _provenance(self, bill: Bill) -> dict[str, str]:
        made = bill.provenance
        through = f"{made.complete_through:%Y-%m-%d %H:%M} UTC" if made.complete_through else "–"
        lines = f"{len(bill.lines):,}"
        return {"bill": bill.source, "component": made.component, "lines": lines, "complete through": through}

    def _grouped(self, key: Callable[[Bill, BillLine], tuple[Any, ...]]) -> dict[tuple[Any, ...], list[BillLine]]:
        found: dict[tuple[Any, ...], list[BillLine]] = defaultdict(list)
        for bill in self._books.bills:
            for line in bill.lines:
                found[key(bill, line)].append(line)
        return found

    def _totals(
        self, title: str, names: tuple[str, ...], groups: dict[tuple[Any, ...], list[BillLine]], *notes: str
    ) -> Tabular:
        """One row a group and one for all of them, exact: shown short where the eye needs no more."""
        rows = [(*key, len(lines), *_sides(lines)) for key, lines in groups.items()]
        whole = [line for lines in groups.values() for line in lines]
        rows.append(("all", *[""] * (len(names) - 1), len(whole), *_sides(whole)))
        nothing = () if whole else ("There is no bill yet.",)
        return self._look(title, (*names, "lines", *_MONEY), tuple(rows if whole else ()), (*notes, *nothing))

    def _look(
        self, title: str, columns: tuple[str, ...], rows: tuple[tuple[Any, ...], ...], notes: tuple[str, ...] = ()
    ) -> Look:
        """A table in which no text holds a secret, whoever runs the notebook."""
        hide = self._made.redactor.text
        clean = tuple(tuple(hide(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
        return Look(Table(title, columns, clean, tuple(map(hide, notes))))

    def _figure(self, by: str) -> Figure | NoFigure:
        whole = self._books.whole
        if whole is None:
            return NoFigure(f"Spend by {by}", "There is no bill yet, so there is nothing to draw.")
        return spend_on_bill(whole, by, self._names)

    def _beside(self, source: str) -> DayReconciliation | NoFigure:
        """Of one bill (the first, unless said), the last days."""
        known = self._books.beside
        if source and source not in known:
            raise Misuse(f"There is no bill of {source!r} here.", next_step=f"There is: {', '.join(known) or 'none'}.")
        if not known:
            return NoFigure("Ledger beside the bill", "There is no bill yet, so there is nothing to compare.")
        found = known[source] if source else next(iter(known.values()))
        since = max(found.first, found.end - timedelta(days=self._days))
        others = [name for name in known if name != found.source]
        call = f"books.reconcile({others[0]!r})" if others else ""
        more = (f"Other bills here: {', '.join(others)}. One of them: {call}",) if others else ()
        rows = tuple(row for row in found.rows if row.day >= since)
        return replace(found, first=since, rows=rows, remarks=(*found.remarks, *more))

    def _since(self, days: Iterable[date]) -> date:
        return max(days, default=date.max) - timedelta(days=self._days - 1)

    def _user(self, line: BillLine) -> str:
        return self._names.get(line.user_tag, line.user_tag) or UNATTRIBUTED


def _use(line: BillLine) -> str:
    return "use" if line.is_use else "credit or refund"


def _sides(lines: Iterable[BillLine]) -> tuple[Usd, Usd, Usd]:
    """Gross, credits and refunds, net."""
    sides = {True: 0, False: 0}
    for line in lines:
        sides[line.is_use] += line.amount.pico
    gross, lowered = Usd.from_pico(sides[True]), Usd.from_pico(sides[False])
    return gross, lowered, gross + lowered


def _most_first(groups: dict[tuple[Any, ...], list[BillLine]]) -> dict[tuple[Any, ...], list[BillLine]]:
    return dict(sorted(groups.items(), key=lambda group: (-_sides(group[1])[0].pico, tuple(map(str, group[0])))))

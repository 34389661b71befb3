"""A FOCUS export is read as it was written: every column as text, every amount as an exact decimal.

The local meter's file and a cloud's export come through here alike. DuckDB parses the file (CSV, gzip or Parquet);
FOCUS 1.0 to 1.2 columns: https://focus.finops.org/focus-specification/
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import InvalidOperation
from pathlib import Path
from typing import Any

from podcastqa.bills.bill import BadRow, Bill, BillLine, Provenance, exact_usd, focus_time
from podcastqa.clock import Clock
from podcastqa.errors import BadEstimate, BillError
from podcastqa.spend.meter import RUN_TAG, USER_TAG

_NEEDED = ("BilledCost", "BillingCurrency", "ChargeCategory", "ChargePeriodStart", "ServiceName")
_TAKEN = (*_NEEDED, "ResourceId", "Tags", "ChargePeriodEnd")


def read_focus(path: Path, *, source: str, component: str, clock: Clock, user_tag: str = USER_TAG) -> Bill:
    """The bill in a FOCUS file; raises BillError where the file is none.

    A file that does not exist yet is an empty bill: nothing was spent.
    """
    now = clock.now()
    if not path.exists():
        return Bill(source, (), (), Provenance(component, path.name, "", now, now))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lines: list[BillLine] = []
    bad: list[BadRow] = []
    complete = datetime(1970, 1, 1, tzinfo=UTC)
    for number, row in enumerate(_rows(path), start=2):  # line 1 is the header
        try:
            lines.append(_line(row, user_tag))
            complete = max(complete, focus_time(row["ChargePeriodEnd"] or row["ChargePeriodStart"]))
        except (ValueError, InvalidOperation, BadEstimate, KeyError) as problem:
            bad.append(BadRow(f"{path.name} line {number}", str(problem) or type(problem).__name__))
    return Bill(source, tuple(lines), tuple(bad), Provenance(component, path.name, digest, now, complete))


def _line(row: dict[str, str], user_tag: str) -> BillLine:
    if row["BillingCurrency"] != "USD":
        raise ValueError(f"the currency is {row['BillingCurrency'] or 'missing'}, not USD")
    tags = _tags(row["Tags"])
    return BillLine(
        day=focus_time(row["ChargePeriodStart"]).date(),
        user_tag=tags.get(user_tag, ""),
        resource_id=row["ResourceId"],
        service=row["ServiceName"],
        category=row["ChargeCategory"],
        amount=exact_usd(row["BilledCost"]),
        run=tags.get(RUN_TAG, ""),
    )


def _tags(text: str) -> dict[str, str]:
    found = json.loads(text) if text else {}
    if not isinstance(found, dict):
        raise ValueError("Tags is not a JSON object")
    return {str(key): str(value) for key, value in found.items()}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    import duckdb

    reader = "read_parquet(?)" if path.suffix == ".parquet" else _CSV
    with duckdb.connect(":memory:") as connection:
        try:
            found = connection.execute(f"SELECT * FROM {reader}", [str(path)])  # noqa: S608 – two constants
        except duckdb.Error as problem:
            raise BillError(f"{path.name} is not a FOCUS file: {_first_line(problem)}") from problem
        names = [column[0] for column in found.description or ()]
        missing = [name for name in _NEEDED if name not in names]
        if missing:
            raise BillError(f"{path.name} is not a FOCUS file: it has no column {', '.join(missing)}.")
        at = {name: names.index(name) for name in _TAKEN if name in names}
        while chunk := found.fetchmany(10_000):
            for values in chunk:
                yield {name: _clean(values[at[name]]) if name in at else "" for name in _TAKEN}


# Every cell as text; a row that is cut short (a process died while writing) is kept, and told as a bad row.
_CSV = (
    "read_csv(?, header = true, all_varchar = true, delim = ',', quote = '\"', escape = '\"',"
    " null_padding = true, strict_mode = false)"
)


def _clean(value: Any) -> str:
    text = "" if value is None else str(value)
    return "" if text == "NULL" else text


def _first_line(problem: Exception) -> str:
    return str(problem).strip().splitlines()[0]

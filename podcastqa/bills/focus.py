"""A FOCUS export is read as it was written: every column as text, every amount as an exact decimal.

The local meter's file and a cloud's export come through here alike (CSV, gzip or Parquet). CSV is read by Python's own
reader, which guesses nothing about the file and takes a torn last line for what it is.
FOCUS 1.0 to 1.2 columns: https://focus.finops.org/focus-specification/
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from podcastqa.bills.bill import BadRow, Bill, BillLine, Provenance, exact_usd, focus_time
from podcastqa.clock import Clock
from podcastqa.errors import BadEstimate, BillError
from podcastqa.spend.meter import RUN_TAG, USER_TAG

_NEEDED = ("BilledCost", "BillingCurrency", "ChargeCategory", "ChargePeriodStart", "ServiceName")
_TAKEN = (*_NEEDED, "ResourceId", "Tags", "ChargePeriodEnd")
#: Where a row stands in its file, and its cells as they are written there.
_Row = tuple[str, dict[str, str]]


def read_focus(path: Path, *, source: str, component: str, clock: Clock, user_tag: str = USER_TAG) -> Bill:
    """The bill in a FOCUS file; raises BillError where the file is none.

    A file that does not exist yet, or has nothing in it yet, is an empty bill: nothing was spent.
    """
    now = clock.now()
    if not path.exists() or not path.stat().st_size:
        return Bill(source, (), (), Provenance(component, path.name, "", now, now))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lines: list[BillLine] = []
    bad: list[BadRow] = []
    complete = datetime(1970, 1, 1, tzinfo=UTC)
    for place, row in _rows(path):
        try:
            line, ends = _line(row, user_tag), focus_time(row["ChargePeriodEnd"] or row["ChargePeriodStart"])
        except (ValueError, BadEstimate) as problem:
            bad.append(BadRow(f"{path.name} {place}", str(problem)))
        else:
            lines.append(line)
            complete = max(complete, ends)
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
    try:
        found = json.loads(text) if text else {}
    except ValueError as problem:
        raise ValueError(f"Tags is not JSON ({problem})") from problem
    if not isinstance(found, dict):
        raise ValueError("Tags is not a JSON object")
    return {str(key): str(value) for key, value in found.items()}


def _rows(path: Path) -> Iterator[_Row]:
    return _parquet_rows(path) if path.suffix == ".parquet" else _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[_Row]:
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        # utf-8-sig: some exports begin with a byte order mark; a letter cut in half must not hide the lines before it.
        with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.DictReader(file)
            _checked(path, reader.fieldnames or ())
            for row in reader:
                yield f"line {reader.line_num}", {name: _clean(row.get(name)) for name in _TAKEN}
    except (csv.Error, EOFError, OSError) as problem:
        raise BillError(f"{path.name} is not a FOCUS file: {problem}.") from problem


def _parquet_rows(path: Path) -> Iterator[_Row]:
    import duckdb

    with duckdb.connect(":memory:") as connection:
        try:
            found = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
        except duckdb.Error as problem:
            raise BillError(f"{path.name} is not a FOCUS file: {str(problem).splitlines()[0]}") from problem
        names = [column[0] for column in found.description or ()]
        _checked(path, names)
        chunks = iter(lambda: found.fetchmany(10_000), [])
        for number, values in enumerate(chain.from_iterable(chunks), start=1):
            row = dict(zip(names, values, strict=True))
            yield f"row {number}", {name: _clean(row.get(name)) for name in _TAKEN}


def _checked(path: Path, names: Any) -> None:
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise BillError(f"{path.name} is not a FOCUS file: it has no column {', '.join(missing)}.")


def _clean(value: object) -> str:
    if isinstance(value, dict):  # Parquet keeps tags as a map
        return json.dumps(value)
    return "" if value in (None, "NULL") else str(value)

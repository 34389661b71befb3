"""A row of FOCUS (1.0 to 1.2) or of a CUR 2.0 becomes a charge by one rule, whoever wrote it and whoever reads it.

Amounts are exact decimals; what has more than twelve of them is rounded half to even, counted and told. Credits and
refunds stand apart from use. FOCUS has no category for refunds: it keeps them as negative charges of the category they
refund, with `ChargeClass` "Correction" where they correct a billing period that was already invoiced. Such a row,
where it is negative, is a refund here: the use of this period is not lower because an earlier invoice was too high. A
correction that is positive, or within its own period, counts as use.
FOCUS columns: https://focus.finops.org/focus-specification/
CUR 2.0 columns: https://docs.aws.amazon.com/cur/latest/userguide/table-dictionary-cur2.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

from podcastqa.bills import files
from podcastqa.bills.bill import BadRow, Bill, BillLine, Provenance, focus_time
from podcastqa.bills.files import BillFile, FileLine, NoBill
from podcastqa.clock import Clock
from podcastqa.errors import BadEstimate
from podcastqa.money import ZERO, Usd
from podcastqa.spend.meter import RUN_TAG, USER_TAG

Cells = Mapping[str, str]
NEEDED = ("BilledCost", "BillingCurrency", "ChargeCategory", "ChargePeriodStart", "ServiceName")
_NAMES = ("ProviderName", "InvoiceIssuerName", "PublisherName")
_TAKEN = (
    *(*NEEDED, *_NAMES, "BillingAccountId", "BillingPeriodStart", "ChargeClass", "ChargePeriodEnd", "EffectiveCost"),
    *("ResourceId", "Tags"),
)
#: The newest version first: a file is of the first whose columns it has.
_VERSIONS = (
    ("FOCUS 1.2", {"BillingAccountType", "InvoiceId", "PricingCurrency", "SubAccountType"}),
    ("FOCUS 1.1", {"CapacityReservationId", "CommitmentDiscountQuantity", "ServiceSubcategory", "SkuMeter"}),
)
_AWS_OWN = {"x_ServiceCode", "x_Operation"}
CUR = "CUR 2.0"
#: Most detailed first: of a month that files of several formats tell in one import, the first one stands.
FORMATS = ("FOCUS 1.2", "FOCUS 1.1", "FOCUS 1.0", CUR)
#: A CUR's columns by FOCUS's names.
_CUR_NAMES = {
    "BilledCost": "line_item_unblended_cost",
    "BillingAccountId": "bill_payer_account_id",
    "BillingCurrency": "line_item_currency_code",
    "BillingPeriodStart": "bill_billing_period_start_date",
    "ChargeCategory": "line_item_line_item_type",
    "ChargePeriodEnd": "line_item_usage_end_date",
    "ChargePeriodStart": "line_item_usage_start_date",
    "ResourceId": "line_item_resource_id",
    "ServiceName": "line_item_product_code",
}
_CUR_TAGS = ("resource_tags", "tags")
_FLAT_TAG = "resource_tags_"
_RESERVATION = "reservation_reservation_a_r_n"
#: What a CUR's line costs with reservations and savings plans spread over what they cover: these columns, the second
#: of two added or (with a minus) taken off. A type that is not here costs what it is billed.
_CUR_EFFECTIVE = {
    "DiscountedUsage": ("reservation_effective_cost",),
    "RIFee": ("reservation_unused_amortized_upfront_fee_for_billing_period", "reservation_unused_recurring_fee"),
    "SavingsPlanCoveredUsage": ("savings_plan_savings_plan_effective_cost",),
    "SavingsPlanNegation": (),
    "SavingsPlanRecurringFee": ("savings_plan_total_commitment_to_date", "-savings_plan_used_commitment"),
    "SavingsPlanUpfrontFee": (),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a file to take."""

    format: str
    columns: tuple[str, ...]
    provider: str = ""
    """Whose a row is that names nobody."""

    def focus(self, row: Cells) -> Cells:
        """The row by FOCUS's names."""
        if self.format != CUR:
            return row
        cells = {ours: row.get(theirs, "") for ours, theirs in _CUR_NAMES.items()}
        flat = {name.removeprefix(_FLAT_TAG): text for name, text in row.items() if name.startswith(_FLAT_TAG) and text}
        tags = next((row[name] for name in _CUR_TAGS if row.get(name)), json.dumps(flat) if flat else "")
        return cells | {"Tags": tags, "EffectiveCost": _cur_effective(row)}


def layout_of(header: Iterable[str]) -> Layout | None:
    """How a file of that header is to be read; None where it is neither FOCUS nor CUR 2.0."""
    names = set(header)
    if names.issuperset(NEEDED):
        version = next((version for version, columns in _VERSIONS if names & columns), "FOCUS 1.0")
        return Layout(version, _TAKEN, "AWS" if names & _AWS_OWN else "")
    if names.issuperset(_CUR_NAMES[name] for name in NEEDED):
        effective = {column.removeprefix("-") for columns in _CUR_EFFECTIVE.values() for column in columns}
        flat = {name for name in names if name.startswith(_FLAT_TAG)}
        return Layout(CUR, (*_CUR_NAMES.values(), *_CUR_TAGS, *sorted(flat), _RESERVATION, *sorted(effective)), "AWS")
    return None


class LineRule:
    """From a row's cells to a charge; keeps count of what it had to round."""

    def __init__(self, user_tag: str = USER_TAG) -> None:
        self._user_keys = tag_spellings(user_tag)
        self._rounded: dict[str, _Rounded] = {"BilledCost": _Rounded(), "EffectiveCost": _Rounded()}

    def bill_line(self, cells: Cells) -> BillLine:
        """The charge; raises ValueError or BadEstimate with what is wrong."""
        if cells["BillingCurrency"] != "USD":
            raise ValueError(f"the currency is {cells['BillingCurrency'] or 'missing'}, not USD")
        tags = _tags(cells["Tags"])
        day = focus_time(cells["ChargePeriodStart"]).date()
        amount = self._amount("BilledCost", cells["BilledCost"])
        is_refund = amount < ZERO and cells.get("ChargeClass") == "Correction"
        return BillLine(
            day=day,
            user_tag=next((tags[key] for key in self._user_keys if tags.get(key)), ""),
            resource_id=cells["ResourceId"],
            service=cells["ServiceName"],
            category="Refund" if is_refund else cells["ChargeCategory"],
            amount=amount,
            run=tags.get(RUN_TAG, ""),
        )

    def file_line(self, number: int, cells: Cells, provider: str) -> FileLine:
        """The charge with whose bill it is on; raises the same."""
        focus_time(cells["ChargePeriodEnd"] or cells["ChargePeriodStart"])
        period = focus_time(cells.get("BillingPeriodStart") or cells["ChargePeriodStart"]).date().replace(day=1)
        effective = cells.get("EffectiveCost") or cells["BilledCost"]
        exact = Usd.rounded_half_even(effective)
        line = self.bill_line(cells)  # the last that can fail: what it rounds is kept
        if effective is not cells["BilledCost"]:
            self._amount("EffectiveCost", effective)
        source = source_of(*(cells.get(name, "") for name in _NAMES), provider)
        return FileLine(
            number, source, cells.get("BillingAccountId", ""), period, line, cells["BilledCost"].strip(), exact
        )

    def notes(self) -> tuple[str, ...]:
        """What was rounded, if anything was."""
        return tuple(
            f"{name}: {found.rows} amounts have more than 12 decimals; rounding moved the sum by {found.moved:f} USD."
            for name, found in self._rounded.items()
            if found.rows
        )

    def _amount(self, name: str, text: str) -> Usd:
        try:
            return Usd(text.strip())
        except BadEstimate:
            amount = Usd.rounded_half_even(text.strip())  # raises where decimals are not what is wrong
            self._rounded[name].rows += 1
            self._rounded[name].moved += amount.decimal - Decimal(text.strip())
            return amount


@dataclass(slots=True)
class _Rounded:
    rows: int = 0
    moved: Decimal = field(default_factory=Decimal)


def tag_spellings(key: str) -> tuple[str, ...]:
    """A tag's key as exports spell it.

    FOCUS has it as it is. CUR 2.0 writes `user_` and the key in small letters, `_` before each capital and for all
    that is neither letter nor number (podcastqa:user is user_podcastqa_user; column `resource_tags`), or
    `resourceTags/` and the key (column `tags`). Cost Explorer and older reports say `user:` and the key.
    """
    snake = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower()).strip("_")
    spelled = (key, f"user:{key}", f"resourceTags/{key}", f"resourceTags/user:{key}", f"user_{snake}")
    return tuple(dict.fromkeys(spelled))


@lru_cache(maxsize=1024)
def source_of(provider: str, issuer: str, publisher: str, otherwise: str = "") -> str:
    """Whose bill it is: `aws` where AWS provides or invoices, else the name in small letters ("microsoft")."""
    named = next((name for name in (provider, issuer, publisher, otherwise) if name.strip()), "unnamed")
    if any(re.match(r"aws\b|amazon web services", name.strip(), re.IGNORECASE) for name in (provider, issuer, named)):
        return "aws"
    return re.sub(r"[\W_]+", "-", named.lower()).strip("-") or "unnamed"


def read_export(path: Path, name: str, user_tag: str) -> BillFile:
    """A FOCUS or CUR file, read; raises NoBill where it is neither, BillError where it cannot be read."""
    header = files.header(path)
    layout = layout_of(header)
    if layout is None:
        missing = ", ".join(column for column in NEEDED if column not in header)
        raise NoBill(f"{path.name} is not a FOCUS file: it has no column {missing}.")
    rule, lines, bad, ends = LineRule(user_tag), list[FileLine](), list[tuple[int, str]](), [""]
    for number, row in files.rows(path, layout.columns):
        try:
            if isinstance(row, str):
                raise ValueError(row)
            cells = layout.focus(row)
            lines.append(rule.file_line(number, cells, layout.provider))
            ends.append(cells["ChargePeriodEnd"] or cells["ChargePeriodStart"])
        except (ValueError, BadEstimate) as problem:
            bad.append((number, str(problem)))
    bad_rows = tuple(BadRow(files.place(name, path, number), reason) for number, reason in sorted(bad))
    last = max(map(focus_time, set(filter(None, ends))), default=None)
    return BillFile(name, layout.format, files.sha256(path), tuple(lines), bad_rows, rule.notes(), last)


def read_focus(path: Path, *, source: str, component: str, clock: Clock, user_tag: str = USER_TAG) -> Bill:
    """The bill in one export, whoever its rows name; raises BillError where the file is none.

    A file that does not exist yet, or has nothing in it yet, is an empty bill: nothing was spent.
    """
    now = clock.now()
    if not path.exists() or not path.stat().st_size:
        return Bill(source, (), (), Provenance(component, path.name, "", now, now))
    read = read_export(path, path.name, user_tag)
    remarks = tuple(("rounded", note) for note in read.notes)
    made = Provenance(component, path.name, read.sha256, now, read.ends or datetime(1970, 1, 1, tzinfo=UTC), remarks)
    return Bill(source, tuple(found.line for found in read.lines), read.bad_rows, made)


def _tags(text: str) -> dict[str, str]:
    try:
        found = json.loads(text) if text else {}
    except ValueError as problem:
        raise ValueError(f"Tags is not JSON ({problem})") from problem
    if isinstance(found, list) and all(isinstance(tag, dict) and {"key", "value"} <= tag.keys() for tag in found):
        found = {tag["key"]: tag["value"] for tag in found}  # a Parquet list of keys and values
    if not isinstance(found, dict):
        raise ValueError("Tags is not a JSON object")
    return {str(key): str(value) for key, value in found.items() if value is not None}


def _cur_effective(row: Cells) -> str:
    kind = row["line_item_line_item_type"]
    columns = _CUR_EFFECTIVE.get(kind)
    if kind == "Fee" and row.get(_RESERVATION):
        columns = ()
    if columns is None or not all(row.get(column.removeprefix("-")) for column in columns):
        return ""  # as billed
    signed = ((-1 if column.startswith("-") else 1, row[column.removeprefix("-")]) for column in columns)
    return str(sum((sign * Usd.rounded_half_even(text) for sign, text in signed), ZERO))

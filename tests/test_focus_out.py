"""The ledger as FOCUS 1.2: whoever reads the file sums to the ledger's last unit, and half a file never stands."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import compute, parquet

from podcastqa.bills.focus import read_focus
from podcastqa.bills.focus_out import SERVICES, FocusFile, write_focus
from podcastqa.clock import day_of
from podcastqa.errors import BillError, Misuse
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind, Hold, Operation
from podcastqa.users import User
from podcastqa.wiring import Parts
from tests.conftest import Process, SetClock

pytestmark = pytest.mark.step1

Row = dict[str, Any]
COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")
SES = ("aws-ses", "SendRawEmail", "aws", "aws-ses-recipient")
EXPLORER = ("aws-cost-explorer", "GetCostAndUsage", "aws", "aws-cost-explorer-request")
UNPRICED = ("whisper", "transcribe", "somebody", "")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "ledger.parquet"


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada")


def paid(
    parts: Parts, user: User, hold_id: str, amount: str, what: tuple[str, str, str, str] = SES, reason: str = ""
) -> Hold:
    """One operation, through the guard."""
    hold = parts.budget.reserve(Operation(user.id, *what), Usd("0.01"), hold_id)
    parts.budget.start(hold_id)
    parts.budget.settle(hold_id, Usd(amount), reason)
    return hold


def written(parts: Parts, path: Path, users: Mapping[int, str] | None = None) -> FocusFile:
    return write_focus(parts.ledger, users, path, parts.clock)


def rows(path: Path) -> list[Row]:
    found: list[Row] = parquet.read_table(path).to_pylist()
    return found


def by_hold(path: Path) -> dict[str, Row]:
    """The last row of each hold."""
    return {row["x_HoldId"]: row for row in rows(path)}


def asked(sql: str) -> list[tuple[Any, ...]]:
    """What DuckDB makes of the file."""
    found: list[tuple[Any, ...]] = duckdb.sql(sql).fetchall()
    return found


def booked(parts: Parts) -> Usd:
    """What the guard's own counters say, in the ledger's unit."""
    parts.ledger.carry()
    (pico,) = parts.database.driver().execute("SELECT sum(booked_pico) FROM counters WHERE user_id = 0").fetchone()
    return Usd.from_pico(pico or 0)


def living(parts: Parts) -> dict[int, str]:
    return {user.id: user.name for user in parts.users.list().users}


# ── the sums ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def busy(parts: Parts, clock: SetClock, ada: User) -> Usd:
    """Two users, three services and months, settles and corrections; what was booked."""
    bob = parts.users.add("bob")
    paid(parts, ada, "a1", "0.0001")
    paid(parts, ada, "a2", "0.010000000001", EXPLORER, "as billed, é\n<b>")
    paid(parts, bob, "b1", "1.5", UNPRICED)
    parts.budget.correct("b1", Usd("-0.000000000002"), "rounded wrongly")
    clock.forward(days=2)  # 2024-03-01
    paid(parts, bob, "b2", "0.000000000003")
    parts.budget.correct("a1", Usd("-0.0001"), "not sent")
    clock.forward(days=31)  # 2024-04-01
    paid(parts, ada, "a3", "0")
    parts.budget.correct("b2", Usd("2"), "forgotten")
    # 0.0001 + 0.010000000001 + 1.5 - 0.000000000002 + 0.000000000003 - 0.0001 + 0 + 2
    return Usd("3.510000000002")


def test_whoever_sums_the_file_gets_the_ledgers_total_to_the_last_unit(parts: Parts, busy: Usd, out: Path) -> None:
    file = written(parts, out)
    assert (file.rows, file.total, booked(parts)) == (8, busy, busy)
    columns = ", ".join(f"sum({name})" for name in COSTS)
    assert asked(f"SELECT {columns} FROM '{out}'") == [(busy.decimal,) * 4]
    in_units = f"SELECT sum((BilledCost * 1000000000000)::HUGEINT) FROM '{out}'"
    assert asked(in_units) == [(busy.pico,)]
    table = parquet.read_table(out)
    assert [compute.sum(table[name]).as_py() for name in COSTS] == [busy.decimal] * 4
    bill = read_focus(out, source="podcastqa", component="FOCUS export", clock=SetClock())
    assert (bill.net, bill.bad_rows, len(bill.lines)) == (busy, (), 8)


def test_each_row_says_exactly_what_its_entry_says(parts: Parts, busy: Usd, out: Path) -> None:
    written(parts, out)
    entries = [one for one in parts.ledger.entries() if one.kind in (EntryKind.SETTLE, EntryKind.CORRECT)]
    assert [told_by(row) for row in rows(out)] == [
        (
            *(e.id, e.hold_id, e.kind.value, e.operation, e.amount.decimal, e.at, e.reason or None),
            datetime.combine(day_of(e.day), datetime.min.time(), UTC),
        )
        for e in entries
    ]


def told_by(row: Row) -> tuple[Any, ...]:
    what = (row["x_UserId"], row["ServiceName"], row["x_Operation"], row["x_BillingSource"], row["SkuPriceId"] or "")
    said = (row["x_EntryId"], row["x_HoldId"], row["x_EntryKind"], Operation(*what), row["BilledCost"])
    return (*said, row["x_BookedAt"], row["x_Reason"], row["ChargePeriodStart"])


def test_the_months_are_the_ledgers_months_and_sum_to_the_whole(parts: Parts, busy: Usd, out: Path) -> None:
    file = written(parts, out)
    parts.ledger.carry()
    days = parts.database.driver().execute("SELECT day, sum(booked_pico) FROM counters WHERE user_id = 0 GROUP BY day")
    months: dict[str, int] = {}
    for day, pico in days:
        months[f"{day_of(day):%Y-%m}"] = months.get(f"{day_of(day):%Y-%m}", 0) + pico
    assert {month: total.pico for month, _, total in file.months} == months
    assert file.months == (
        ("2024-02", 5, Usd("1.509999999999")),  # 0.0001 + 0.010000000001 + 1.5 - 0.000000000002 - 0.0001
        ("2024-03", 2, Usd("2.000000000003")),
        ("2024-04", 1, ZERO),
    )
    billed = asked(f"SELECT sum(BilledCost) FROM '{out}' GROUP BY BillingPeriodStart ORDER BY BillingPeriodStart")
    assert [Usd(total) for (total,) in billed] == [total for _, _, total in file.months]
    assert "total" in str(file)
    assert file.sha256 in str(file)


@given(
    amounts=st.lists(
        st.tuples(st.integers(0, 4 * 10**18), st.lists(st.integers(-4 * 10**18, 4 * 10**18), max_size=3)), max_size=6
    )
)
@settings(max_examples=15, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck))
def test_whatever_was_booked_the_file_sums_to_it(parts: Parts, out: Path, amounts: list[tuple[int, list[int]]]) -> None:
    user, clock = parts.users.ensure("ada"), parts.clock
    for actual, corrections in amounts:
        hold = parts.budget.reserve(Operation(user.id, *UNPRICED), ZERO)
        clock.forward(days=40)  # type: ignore[attr-defined]  # the guard admits nothing more in a window that is full
        parts.budget.settle(hold.hold_id, Usd.from_pico(actual))
        for delta in corrections:
            parts.budget.correct(hold.hold_id, Usd.from_pico(delta), "why")
    file = written(parts, out)
    [(total,)] = asked(f"SELECT coalesce(sum(BilledCost), 0) FROM '{out}'")
    each = [one for one in parts.ledger.entries() if one.kind in (EntryKind.SETTLE, EntryKind.CORRECT)]
    assert [row["BilledCost"] for row in rows(out)] == [one.amount.decimal for one in each]
    assert (Decimal(total), file.rows) == (file.total.decimal, len(each))
    assert file.total.pico == sum(one.amount.pico for one in each)


def test_a_ledger_of_several_chunks_is_written_whole(parts: Parts, ada: User, out: Path) -> None:
    with parts.ledger.writing() as books:
        for number in range(20_001):
            hold = books.open(f"h{number}", Operation(ada.id, *SES), ZERO, timedelta(hours=1), None)
            books.close(EntryKind.SETTLE, hold, Usd.from_pico(number), books.now)
    file = written(parts, out)
    assert (file.rows, file.total.pico) == (20_001, 20_000 * 20_001 // 2)
    assert parquet.ParquetFile(out).metadata.num_row_groups == 3
    found = asked(f"SELECT sum(BilledCost), count(DISTINCT x_HoldId) FROM '{out}'")
    assert found == [(file.total.decimal, 20_001)]


def test_what_is_promised_or_came_to_nothing_is_no_row(parts: Parts, clock: SetClock, ada: User, out: Path) -> None:
    for hold_id in ("open", "voided", "in doubt", "expired"):
        parts.budget.reserve(Operation(ada.id, *SES), Usd("0.5"), hold_id)
    parts.budget.start("in doubt")
    parts.budget.void("voided", "nobody to write to")
    clock.forward(days=1)
    assert (written(parts, out).rows, rows(out)) == (0, [])


def test_an_empty_ledger_makes_an_empty_file_of_the_same_columns(parts: Parts, ada: User, out: Path) -> None:
    file = written(parts, out)
    assert (file.rows, file.total, file.months) == (0, ZERO, ())
    columns = parquet.read_schema(out)
    paid(parts, ada, "a1", "1")
    written(parts, out)
    assert parquet.read_schema(out).equals(columns)
    assert (columns.field("BilledCost").type.precision, columns.field("BilledCost").type.scale) == (38, 12)


def test_the_same_ledger_makes_the_same_bytes_whenever_it_is_written(
    parts: Parts, clock: SetClock, busy: Usd, out: Path
) -> None:
    first = written(parts, out)
    clock.forward(days=100)
    second = written(parts, out.with_name("again.parquet"))
    assert first.sha256 == second.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert second.written_at == clock.instant


# ── what a row says ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_stands_in_the_utc_day_of_its_hold_however_late_it_was_settled(
    parts: Parts, clock: SetClock, ada: User, out: Path
) -> None:
    clock.instant = datetime(2023, 12, 31, 23, 59, 59, tzinfo=UTC)
    parts.budget.reserve(Operation(ada.id, *SES), Usd("0.01"), "new year")
    parts.budget.start("new year")
    clock.forward(seconds=2)
    parts.budget.settle("new year", Usd("0.02"))
    file = written(parts, out)
    row = by_hold(out)["new year"]
    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == (utc(2023, 12, 31), utc(2024, 1, 1))
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == (utc(2023, 12, 1), utc(2024, 1, 1))
    assert (row["x_BookedAt"], row["ChargeClass"]) == (datetime(2024, 1, 1, 0, 0, 1, tzinfo=UTC), None)
    assert [month for month, _, _ in file.months] == ["2023-12"]


def utc(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("mended_at", "charge_class"),
    [
        (datetime(2024, 2, 28, 12, tzinfo=UTC), None),
        (datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC), None),
        (datetime(2024, 3, 1, tzinfo=UTC), "Correction"),  # February has ended
        (datetime(2025, 2, 28, tzinfo=UTC), "Correction"),
    ],
)
def test_a_correction_is_of_that_class_once_the_month_that_it_mends_has_ended(
    parts: Parts, clock: SetClock, ada: User, out: Path, mended_at: datetime, charge_class: str | None
) -> None:
    paid(parts, ada, "a1", "1")
    clock.instant = mended_at
    parts.budget.correct("a1", Usd("-0.25"), "charged twice")
    written(parts, out)
    settled, mended = rows(out)
    assert (settled["ChargeClass"], mended["ChargeClass"]) == (None, charge_class)
    assert (mended["BilledCost"], mended["x_Reason"]) == (Decimal("-0.250000000000"), "charged twice")
    assert mended["ChargeDescription"] == "Correction: aws-ses SendRawEmail"
    same = ("ChargeCategory", "ChargePeriodStart", "BillingPeriodStart", "ServiceName", "SkuId", "x_HoldId")
    assert [settled[name] for name in same] == [mended[name] for name in same]


def test_quantities_sum_to_the_operations_that_were_paid_for(
    parts: Parts, clock: SetClock, ada: User, out: Path
) -> None:
    paid(parts, ada, "a1", "1")
    parts.budget.correct("a1", Usd("-0.5"), "half")
    parts.budget.reserve(Operation(ada.id, *SES), Usd("0.01"), "late")
    clock.forward(days=1)
    parts.budget.void("late")
    parts.budget.settle("late", Usd("0.02"))  # it ran all the same: booked as a correction
    parts.budget.correct("late", Usd("0.01"), "and more")
    written(parts, out)
    assert [(row["x_HoldId"], row["PricingQuantity"]) for row in rows(out)] == [
        ("a1", 1),
        ("a1", 0),
        ("late", 1),
        ("late", 0),
    ]
    assert {row["PricingUnit"] for row in rows(out)} == {"Operations"}


def test_a_deleted_user_is_a_number_and_nowhere_a_name(parts: Parts, ada: User, out: Path) -> None:
    eve = parts.users.add("eve-adams", "eve@example.org")
    paid(parts, ada, "a1", "1")
    paid(parts, eve, "e1", "1")
    written(parts, out, living(parts))
    assert json.loads(by_hold(out)["e1"]["Tags"]) == {"podcastqa:user": "eve-adams"}
    parts.users.delete("eve-adams")
    written(parts, out, living(parts))
    told = {hold: json.loads(row["Tags"]) for hold, row in by_hold(out).items()}
    assert told == {"a1": {"podcastqa:user": "ada"}, "e1": {"podcastqa:user": str(eve.id)}}
    assert by_hold(out)["e1"]["x_UserId"] == eve.id
    assert b"eve" not in out.read_bytes()
    assert "eve" not in str(rows(out))


def test_without_names_everybody_is_a_number(parts: Parts, ada: User, out: Path) -> None:
    paid(parts, ada, "a1", "1")
    written(parts, out)
    assert by_hold(out)["a1"]["Tags"] == f'{{"podcastqa:user": "{ada.id}"}}'


def test_services_stand_in_the_categories_of_the_specification(parts: Parts, ada: User, out: Path) -> None:
    for hold_id, what in (("ses", SES), ("explorer", EXPLORER), ("unknown", UNPRICED)):
        paid(parts, ada, hold_id, "1", what)
    written(parts, out)
    told = {hold: (row["ServiceCategory"], row["ServiceSubcategory"]) for hold, row in by_hold(out).items()}
    assert told == {
        "ses": ("Business Applications", "Other (Business Applications)"),
        "explorer": ("Management and Governance", "Cost Management"),
        "unknown": ("Other", "Other (Other)"),
    }
    assert {price.service for price in parts.prices.prices} <= SERVICES.keys()


def test_one_name_stands_for_provider_publisher_and_issuer_and_no_invoice_is_claimed(
    parts: Parts, ada: User, out: Path
) -> None:
    paid(parts, ada, "a1", "1")
    write_focus(parts.ledger, None, out, parts.clock, issuer="The Kitchen Radio")
    [row] = rows(out)
    names = ("ProviderName", "PublisherName", "InvoiceIssuerName", "BillingAccountId")
    assert {row[name] for name in names} == {"The Kitchen Radio"}
    assert (row["InvoiceId"], row["BillingCurrency"], row["ChargeCategory"]) == (None, "USD", "Usage")


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "said"),
    [("ledger.csv", "ledger.parquet"), ("ledger", "ledger.parquet"), ("ledger.parquet.gz", "Parquet")],
)
def test_another_ending_is_refused_with_the_name_that_would_do(
    parts: Parts, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(Misuse, match=re.escape(said)) as refused:
        written(parts, tmp_path / name)
    assert refused.value.next_step
    assert not (tmp_path / name).exists()


def test_a_folder_is_refused_even_if_it_is_named_like_a_file(parts: Parts, out: Path) -> None:
    out.mkdir()
    for folder in (out, out.parent):
        with pytest.raises(Misuse, match=r"is a folder\. Name a file in it") as refused:
            written(parts, folder)
        assert "ledger.parquet" in refused.value.next_step
    assert list(out.iterdir()) == []


def test_a_place_that_does_not_exist_is_a_sentence_and_nothing_is_made(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(BillError, match=r"cannot be written .*No such file") as failed:
        written(parts, tmp_path / "nowhere" / "ledger.parquet")
    assert "folder that exists" in failed.value.next_step
    assert not (tmp_path / "nowhere").exists()


def test_a_name_too_long_for_a_file_is_a_sentence(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(BillError, match="cannot be written"):
        written(parts, tmp_path / ("x" * 300 + ".parquet"))


class Unwilling(dict[int, str]):
    """Names that cannot be told any more from the third question on."""

    asked = 0

    def get(self, key: int, default: Any = None) -> Any:
        self.asked += 1
        if self.asked > 2:
            raise RuntimeError("no more names")
        return super().get(key, default)


def test_an_error_midway_leaves_what_stood_there_and_nothing_beside_it(parts: Parts, busy: Usd, out: Path) -> None:
    with pytest.raises(RuntimeError, match="no more names"):
        written(parts, out, Unwilling())
    assert not out.exists()
    written(parts, out)
    before = out.read_bytes()
    with pytest.raises(RuntimeError, match="no more names"):
        written(parts, out, Unwilling())
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir() if path.is_file()] == [out.name]


STOPPED_MIDWAY = """
from podcastqa.bills.focus_out import write_focus
class Asked(dict):
    def get(self, key, default=None):
        ready()
        return default
parts = opened()
write_focus(parts.ledger, Asked(), Path(sys.argv[2]), parts.clock)
"""


def test_a_writer_killed_midway_leaves_the_old_file_whole_and_the_next_one_succeeds(
    parts: Parts, ada: User, out: Path, process: Callable[..., Process]
) -> None:
    paid(parts, ada, "a1", "1")
    old = written(parts, out)
    paid(parts, ada, "a2", "2")
    writer = process(STOPPED_MIDWAY, str(out))
    assert writer.said() == "ready"  # its draft is open, and a row is asked for
    writer.kill()
    assert hashlib.sha256(out.read_bytes()).hexdigest() == old.sha256
    assert [path.suffix for path in out.parent.glob(".ledger.parquet.*")] == [".part"]  # no reader takes it for a bill
    assert written(parts, out).total == Usd("3")


FULL_DISK = """
import resource
from podcastqa.bills.focus_out import write_focus
parts = opened()
parts.ledger.last_id()
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
try:
    write_focus(parts.ledger, None, Path(sys.argv[2]), parts.clock)
except BillError as problem:
    print(problem, flush=True)
"""


def test_a_disk_that_takes_no_more_is_a_sentence_and_leaves_what_stood_there(
    parts: Parts, busy: Usd, out: Path, process: Callable[..., Process]
) -> None:
    written(parts, out)
    before = out.read_bytes()
    status, said, problem = process(FULL_DISK, str(out)).ended()
    assert (status, problem) == (0, "")
    assert "cannot be written" in said
    assert "has room" in said
    assert out.read_bytes() == before
    assert list(out.parent.glob(".ledger*")) == []


# ── the FinOps Foundation's validator ─────────────────────────────────────────────────────────────────────────────────


def test_the_focus_validator_finds_no_fault_but_the_one_that_every_file_has(parts: Parts, busy: Usd, out: Path) -> None:
    program = shutil.which("focus-validator")
    if program is None:
        pytest.skip("not in use: focus-validator, which lives in an environment of its own, on the PATH")
    written(parts, out, living(parts))
    python = Path(program).resolve().with_name("python")
    where = "import focus_validator as f, pathlib; print(pathlib.Path(f.__file__).parent.parent)"
    home = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    options = ["--data-file", str(out), "--validate-version", "1.2", "--block-download"]
    options += ["--applicability-criteria", "TAGGING_SUPPORTED,ACCOUNT_NAMING_SUPPORTED"]
    # It reads its list of currencies from a path that is relative to its own folder.
    told = subprocess.run([program, *options], cwd=home, capture_output=True, text=True, check=False).stdout
    assert "Total:" in told
    # Of "must be null without an invoice" and "must not be null with one" it checks both for every row, whatever else
    # the row says: a file with rows fails the one or the other.
    assert re.findall(r"^\S+ (\S+): FAIL", told, re.MULTILINE) == ["InvoiceId-C-005-C"]

"""The meter's rows are the bill of this machine: they tile its CPU clock, and none of it is lost or doubled."""

from __future__ import annotations

import csv
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podcastqa.bills.local_meter import LocalMeterBill
from podcastqa.errors import Misuse
from podcastqa.money import Usd
from podcastqa.spend.meter import COLUMNS, SOURCE, Meter, cpu_nanoseconds, cumulative_pico
from podcastqa.spend.prices import PriceList
from tests.conftest import A_WEDNESDAY, Process, SetClock, pico

pytestmark = pytest.mark.step1

PRICE = PriceList.load().named("local-vcpu-hour", A_WEDNESDAY.date())
HOUR = 3_600 * 10**9  # nanoseconds
MILLISECOND = 10**6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bill" / "local-meter.focus.csv"


@pytest.fixture
def meter(path: Path, clock: SetClock) -> Iterator[Meter]:
    made = Meter(path, PRICE, clock, run_id="run-1")
    yield made
    made.flush()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def nanoseconds(row: dict[str, str]) -> int:
    return int(Decimal(row["ConsumedQuantity"]) * 10**9)


def cost(row: dict[str, str]) -> int:
    """In whole units."""
    return Usd(row["BilledCost"]).pico


def of(path: Path, operation_id: str) -> dict[str, str]:
    (found,) = (row for row in rows(path) if row["ResourceId"] == operation_id)
    return found


def burn(milliseconds: int) -> None:
    """Real work for this thread, so much by its own CPU clock."""
    until = time.thread_time_ns() + milliseconds * MILLISECOND
    while time.thread_time_ns() < until:
        sum(range(200))


# ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_hour_of_one_processor_costs_what_the_list_says_and_a_nanosecond_its_share() -> None:
    assert cumulative_pico(HOUR, Decimal("0.04048")) == pico("0.04048")
    assert cumulative_pico(HOUR // 2, Decimal("0.04048")) == pico("0.02024")
    # 1 s: 0.04048 / 3600 = 0.0000112444…, rounded down to the unit
    assert cumulative_pico(10**9, Decimal("0.04048")) == pico("0.000011244444")
    assert cumulative_pico(89, Decimal("0.04048")) == 1  # 0.04048e12 / 3600e9 = 0.011244… of a unit a nanosecond
    assert cumulative_pico(88, Decimal("0.04048")) == 0


@given(stretches=st.lists(st.integers(0, 10**12), max_size=50))
@settings(max_examples=100, deadline=None, derandomize=False)
def test_stretches_of_the_clock_sum_to_exactly_what_the_whole_costs(stretches: list[int]) -> None:
    readings = [0]
    for stretch in stretches:
        readings.append(readings[-1] + stretch)
    costs = [cumulative_pico(reading, PRICE.value) for reading in readings]
    assert sum(after - before for before, after in pairwise(costs)) == costs[-1]
    assert costs == sorted(costs)


def test_the_clock_counts_this_process_and_the_children_it_waited_for() -> None:
    before = cpu_nanoseconds()
    subprocess.run([sys.executable, "-c", "sum(range(2_000_000))"], check=True)
    assert cpu_nanoseconds() - before >= 10 * MILLISECOND
    assert cpu_nanoseconds() >= time.process_time_ns()


WORK = """
import threading
from podcastqa.spend.meter import cpu_nanoseconds
made = opened()
user = made.users.add("ada")
def work(name):
    made.meter.begin(name, user.id)
    sum(range(300_000))
    made.meter.end(name)
made.meter.begin("background", user.id, background=True)
for name in ("one", "two"):
    work(name)
threads = [threading.Thread(target=work, args=(f"thread {n}",)) for n in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
made.meter.end("background")
sum(range(300_000))  # nobody booked this
print(cpu_nanoseconds())
"""


def test_the_rows_of_a_process_sum_to_exactly_what_its_clock_cost(process: Callable[..., Process], home: Path) -> None:
    one = process(WORK)
    status, out, err = one.ended()
    assert status == 0, err
    bill = rows(home / "local-meter.focus.csv")
    assert {row["x_ProcessId"] for row in bill} == {str(one.popen.pid)}
    clock = sum(nanoseconds(row) for row in bill)
    assert clock >= int(out)  # the clock as it stood at the last line, and what exit took
    assert clock < int(out) + 2 * 10**9
    assert sum(cost(row) for row in bill) == cumulative_pico(clock, PRICE.value)  # to the last unit
    booked = [row["ResourceId"] for row in bill if "podcastqa:user" in row["Tags"]]
    assert sorted(booked) == ["background", "one", "thread 0", "thread 1", "thread 2", "two"]


def test_what_nobody_booked_is_written_when_the_process_ends(process: Callable[..., Process], home: Path) -> None:
    one = process(WORK)
    assert one.ended()[0] == 0
    unattributed = [row for row in rows(home / "local-meter.focus.csv") if row["Tags"] == "{}"]
    assert {row["ResourceId"] for row in unattributed} == {f"process/{one.popen.pid}"}
    assert {row["ChargeDescription"] for row in unattributed} == {"CPU time that nobody booked"}
    assert len(unattributed) == 2  # the start of the program, and its end
    assert all(cost(row) > 0 for row in unattributed)


def test_a_process_that_never_metered_writes_no_bill(process: Callable[..., Process], home: Path) -> None:
    assert process("opened().meter.flush()").ended()[0] == 0
    assert not (home / "local-meter.focus.csv").exists()


# ── who pays for which stretch ───────────────────────────────────────────────────────────────────────────────────


def test_an_operation_pays_what_it_used_and_nobody_what_went_before(meter: Meter, path: Path) -> None:
    burn(20)
    meter.begin("mine", 7)
    burn(40)
    said = meter.end("mine")
    assert of(path, "mine")["Tags"] == '{"podcastqa:run": "run-1", "podcastqa:user": "7"}'
    assert 40 * MILLISECOND <= nanoseconds(of(path, "mine")) < 200 * MILLISECOND
    assert said.pico == cost(of(path, "mine"))
    before = [row for row in rows(path) if row["ResourceId"] == f"process/{os.getpid()}"]
    assert len(before) == 1
    assert nanoseconds(before[0]) >= 20 * MILLISECOND


def test_the_rows_tile_the_clock_however_operations_overlap(meter: Meter, path: Path) -> None:
    meter.begin("a", 1)
    meter.begin("b", 2)
    burn(3)
    meter.begin("c", 1)
    meter.end("a")
    burn(3)
    meter.end("c")
    meter.end("b")
    meter.begin("d", 1)
    meter.end("d")
    meter.flush()
    found = rows(path)
    assert sum(cost(row) for row in found) == cumulative_pico(sum(map(nanoseconds, found)), PRICE.value)
    assert sum(map(nanoseconds, found)) <= cpu_nanoseconds()


def test_threads_at_work_together_share_by_the_cpu_time_of_each(meter: Meter, path: Path) -> None:
    meter.begin("before", 1)
    meter.end("before")  # what the process used until here is written
    begun, done = threading.Barrier(2), threading.Barrier(2)

    def work(name: str, milliseconds: int) -> None:
        meter.begin(name, 1)
        begun.wait()
        burn(milliseconds)
        done.wait()
        meter.end(name)

    threads = [threading.Thread(target=work, args=one) for one in (("three parts", 150), ("one part", 50))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    three, one = (nanoseconds(of(path, name)) for name in ("three parts", "one part"))
    assert three + one >= 200 * MILLISECOND  # 150 + 50: nobody else pays for it
    assert 2.4 < three / one < 3.6  # 150 / 50 = 3, and a little for beginning and ending


def test_the_background_takes_what_no_other_operation_uses(meter: Meter, path: Path) -> None:
    meter.begin("background", 1, background=True)
    with pytest.raises(Misuse, match="already runs for background"):
        meter.begin("another", 1, background=True)
    burn(30)
    meter.begin("own", 2)
    burn(60)
    meter.end("own")
    burn(30)
    meter.end("background")
    background, own = nanoseconds(of(path, "background")), nanoseconds(of(path, "own"))
    assert 60 * MILLISECOND <= background < 120 * MILLISECOND  # 30 + 30, and not the 60 of its own
    assert 60 * MILLISECOND <= own < 200 * MILLISECOND
    meter.begin("another", 1, background=True)  # the place is free again
    meter.end("another")


def test_an_operation_ended_in_another_thread_than_it_began_in_is_paid_in_full(meter: Meter, path: Path) -> None:
    def begin() -> None:
        meter.begin("handed over", 1)
        burn(20)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()  # its CPU clock is gone with it
    burn(20)
    meter.end("handed over")
    assert nanoseconds(of(path, "handed over")) >= 40 * MILLISECOND


def test_operations_whose_threads_are_gone_share_alike_and_nothing_is_lost(meter: Meter, path: Path) -> None:
    meter.begin("before", 1)
    meter.end("before")
    for name in ("first", "second"):
        thread = threading.Thread(target=meter.begin, args=(name, 1))
        thread.start()
        thread.join()
    burn(40)
    meter.end("first")
    meter.end("second")
    first, second = (nanoseconds(of(path, name)) for name in ("first", "second"))
    assert first + second >= 40 * MILLISECOND
    found = rows(path)
    assert sum(cost(row) for row in found) == cumulative_pico(sum(map(nanoseconds, found)), PRICE.value)


def test_an_operation_is_begun_once_and_ended_once(meter: Meter, path: Path) -> None:
    with pytest.raises(Misuse, match="does not run for a"):
        meter.end("a")
    meter.begin("a", 1)
    with pytest.raises(Misuse, match="already runs for a"):
        meter.begin("a", 1)
    meter.end("a")
    with pytest.raises(Misuse):
        meter.end("a")
    meter.begin("a", 1)  # the next one of that name is another
    meter.end("a")
    assert [row["ResourceId"] for row in rows(path)].count("a") == 2


def test_a_forked_child_starts_anew_and_leaves_its_parents_operation_alone(meter: Meter, path: Path) -> None:
    meter.begin("parent's", 1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.raises(Misuse):
                meter.end("parent's")
            meter.begin("child's", 2)
            burn(20)
            meter.end("child's")
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    meter.end("parent's")
    assert of(path, "child's")["x_ProcessId"] == str(child)
    assert of(path, "parent's")["x_ProcessId"] == str(os.getpid())
    own = [row for row in rows(path) if row["x_ProcessId"] == str(child)]
    clock = sum(map(nanoseconds, own))
    assert 20 * MILLISECOND <= clock < 10**9  # the child's own clock, which began at zero
    assert sum(map(cost, own)) == cumulative_pico(clock, PRICE.value)


# ── the rows ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("at", "first", "after"),
    [
        ("2024-12-31T23:59:59", "2024-12-01", "2025-01-01"),
        ("2024-12-01T00:00:00", "2024-12-01", "2025-01-01"),
        ("2024-02-29T12:00:00", "2024-02-01", "2024-03-01"),
        ("2023-01-31T12:00:00", "2023-01-01", "2023-02-01"),
        ("2024-11-30T12:00:00", "2024-11-01", "2024-12-01"),
    ],
)
def test_the_billing_period_is_the_calendar_month(
    meter: Meter, path: Path, clock: SetClock, at: str, first: str, after: str
) -> None:
    clock.instant = datetime.fromisoformat(at).replace(tzinfo=UTC)
    meter.begin("a", 1)
    meter.end("a")
    row = of(path, "a")
    period = row["BillingPeriodStart"], row["BillingPeriodEnd"], row["ChargePeriodStart"]
    assert period == (f"{first}T00:00:00Z", f"{after}T00:00:00Z", f"{at}Z")


def test_an_operation_is_charged_on_the_day_it_was_reserved(meter: Meter, path: Path, clock: SetClock) -> None:
    clock.instant = datetime(2024, 3, 1, 0, 0, 5, tzinfo=UTC)
    meter.begin("a", 1, datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC))
    clock.forward(seconds=5)
    meter.end("a")
    row = of(path, "a")
    assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == ("2024-02-29T23:59:59Z", "2024-03-01T00:00:10Z")
    assert row["BillingPeriodStart"] == "2024-02-01T00:00:00Z"


def test_a_clock_set_back_ends_no_row_before_it_begins(meter: Meter, path: Path, clock: SetClock) -> None:
    meter.begin("a", 1)
    clock.forward(hours=-1)
    meter.end("a")
    row = of(path, "a")
    assert row["ChargePeriodEnd"] == row["ChargePeriodStart"] == "2024-02-28T12:00:00Z"


def test_every_row_says_all_that_focus_asks_and_prices_itself(meter: Meter, path: Path) -> None:
    meter.begin("a", 1)
    burn(5)
    meter.end("a")
    row = of(path, "a")
    assert tuple(row) == COLUMNS
    for column in ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"):
        assert row[column] == row["BilledCost"]
        assert len(row[column].partition(".")[2]) == 12  # every decimal, so that nothing is lost on the way
    assert (row["BillingCurrency"], row["ConsumedUnit"], row["PricingUnit"]) == ("USD", "vCPU-Seconds", "vCPU-Hours")
    assert row["ListUnitPrice"] == str(PRICE.value)
    assert row["SkuPriceId"] == f"{PRICE.id}@{PRICE.valid_from}"
    hours = Decimal(nanoseconds(row)) / 3_600 / 10**9
    assert abs(Decimal(row["PricingQuantity"]) - hours) < Decimal("1e-17")
    assert abs(cost(row) - pico(str(PRICE.value)) * hours) <= 1  # a stretch may begin and end within a unit
    assert Decimal(row["x_WallSeconds"]) >= 0


def test_the_file_is_read_back_whole_by_the_reader_of_cloud_bills(meter: Meter, path: Path, clock: SetClock) -> None:
    said = Usd("0")
    for number in range(3):
        meter.begin(f"operation {number}", number + 1)
        burn(2)
        said += meter.end(f"operation {number}")
    bill = LocalMeterBill(path, clock).read()
    assert (bill.source, bill.bad_rows) == (SOURCE, ())
    assert sum((line.amount for line in bill.lines), Usd("0")).pico == sum(map(cost, rows(path)))
    assert sum((line.amount for line in bill.lines if line.user_tag), Usd("0")) == said
    assert {line.run for line in bill.lines} == {"run-1"}


def test_the_file_is_for_its_owner_only(meter: Meter, path: Path) -> None:
    meter.begin("a", 1)
    meter.end("a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("torn", ['0.1,this-machine,"cut', "0.1,this-machine", '0.1,"{""podcastqa:user""'])
def test_a_row_that_was_cut_short_spoils_no_other(meter: Meter, path: Path, clock: SetClock, torn: str) -> None:
    meter.begin("first", 1)
    meter.end("first")
    with path.open("a", encoding="utf-8") as file:
        file.write(torn)  # a process died, or the disk was full, in the middle of a row
    meter.begin("next", 1)
    meter.end("next")
    bill = LocalMeterBill(path, clock).read()
    assert {"first", "next"} <= {line.resource_id for line in bill.lines}
    assert len(bill.bad_rows) == 1


def test_a_bill_that_cannot_be_written_is_told(path: Path, clock: SetClock) -> None:
    path.parent.parent.joinpath("bill").write_text("a file where the folder should be")
    meter = Meter(path, PRICE, clock)
    meter.begin("a", 1)
    with pytest.raises(OSError, match="bill"):
        meter.end("a")
    path.parent.unlink()
    meter.begin("b", 1)
    meter.end("b")
    meter.flush()
    assert of(path, "b")["Tags"] == '{"podcastqa:user": "1"}'


def test_a_header_that_was_cut_short_is_finished_by_the_next_row(tmp_path: Path) -> None:
    header = ",".join(COLUMNS) + "\n"
    for kept in (0, 1, 40, len(header) - 1, len(header)):
        path = tmp_path / f"{kept}.csv"
        path.write_text(header[:kept], encoding="utf-8")
        meter = Meter(path, PriceList.load().named("local-vcpu-hour", A_WEDNESDAY.date()), SetClock())
        meter.begin("op", 7)
        meter.end("op")
        first, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        assert first == header
        assert len(rows) >= 1

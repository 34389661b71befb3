"""Step 1's criteria: each passes on a machine where all is well, and fails where what it asks about is broken."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from podcastqa.clock import SystemClock, WindowKind
from podcastqa.errors import OverLimit, ParameterError, VerdictFailed
from podcastqa.money import ZERO, Usd
from podcastqa.spend.entries import EntryKind
from podcastqa.spend.meter import COLUMNS
from podcastqa.wiring import Parts, build
from podcastqa.workbook import constraints, drills, isolation, recount, step1
from podcastqa.workbook.criteria import Outcome
from podcastqa.workbook.session import open_session
from podcastqa.workbook.step1 import Step1
from podcastqa.workbook.work import work_together
from tests.conftest import settings_in

quick = pytest.mark.step1
PASS, FAIL, NOT_RUN = Outcome.PASS, Outcome.FAIL, Outcome.NOT_RUN
GIVEN = {"users": 3, "days": 7, "work_rounds": 1}


def started(made: Parts) -> Step1:
    return Step1(open_session("step1", GIVEN, made.components, made), made)


@pytest.fixture
def run(home: Path) -> Iterator[Step1]:
    """A run of step 1 that has just been opened in a fresh home."""
    made = build(settings_in(home), clock=SystemClock())
    one = started(made)
    yield one
    one._run.close()
    made.database.close()


@pytest.fixture
def finished(run: Step1) -> Step1:
    """A run that did real metered work, and has settled what it set aside for itself."""
    assert run.billing_connection().outcome is PASS
    assert run.validation_cost().outcome is PASS
    return run


def tamper(run: Step1, *statements: str) -> None:
    """What no code path can do: raw SQL on the real books."""
    with run.parts.database.hot() as driver:
        for statement in statements:
            driver.execute(statement)


def append_to_bill(run: Step1, **cells: str) -> None:
    """A row of the meter's file that no process wrote."""
    now = f"{run.parts.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    usual = {"BillingCurrency": "USD", "ChargeCategory": "Usage", "ChargePeriodStart": now, "ServiceName": "s"}
    row = dict.fromkeys(COLUMNS, "") | usual | cells
    with (run.parts.settings.home / "local-meter.focus.csv").open("a", encoding="utf-8") as file:
        file.write(",".join('"' + row[name].replace('"', '""') + '"' for name in COLUMNS) + "\n")


def settles(run: Step1) -> list[str]:
    """The holds that were settled, in order."""
    return [entry.hold_id for entry in run.parts.ledger.entries() if entry.kind is EntryKind.SETTLE]


# ── opening ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@quick
def test_a_run_sets_its_own_cost_aside_before_it_asks_anything(run: Step1) -> None:
    line = run.parts.treasury.status("me").line(WindowKind.DAY)
    assert (line.spent.real, line.spent.held) == (ZERO, Usd("0.01"))
    assert run.parts.meter.run_id == run.session.run_id


@quick
def test_a_run_that_the_budget_has_no_room_for_is_refused_like_any_operation(home: Path) -> None:
    made = build(settings_in(home, DAILY_BUDGET_LIMIT="0.009"), clock=SystemClock())
    with pytest.raises(OverLimit, match="validate-step1"):
        started(made)


@quick
def test_a_parameter_out_of_its_range_opens_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODCASTQA_HOME", str(home))
    monkeypatch.setenv("PODCASTQA_CONFIG", os.devnull)
    with pytest.raises(ParameterError, match="users: 2 is not a whole number from 3 to 16"):
        step1.open(users=2)
    assert not (home / "local-meter.focus.csv").exists()


@quick
def test_a_criterion_that_raises_is_a_fail_with_its_error_in_sight_and_the_next_one_still_runs(
    run: Step1, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.parts.settings.home / "drills").write_text("in the way", encoding="utf-8")
    found = run.budget_protection()
    assert found.outcome is FAIL
    assert "cannot be opened" in found.measured
    assert "Traceback" in capsys.readouterr().err
    assert run.billing_connection().outcome is PASS


# ── each criterion on a fresh home, and on a broken one ───────────────────────────────────────────────────────────────


@quick
def test_1_a_real_operation_stands_on_the_bill_once(run: Step1) -> None:
    found = run.billing_connection()
    assert found.outcome is PASS, found
    assert "local meter, local-meter.focus.csv, complete through" in found.measured
    assert "is on it once" in found.measured


@quick
def test_1_a_row_that_cannot_be_read_is_told_with_file_and_line(run: Step1) -> None:
    run.parts.meter.flush()
    append_to_bill(run, BilledCost="a dollar")
    found = run.billing_connection()
    assert "1 rows cannot be read" in found.measured
    assert found.tables[1].rows == (("local-meter.focus.csv line 3", "'a dollar' is not an amount of US dollars."),)


@quick
def test_2_day_week_and_month_are_what_a_recount_says(finished: Step1) -> None:
    finished.parts.treasury.call("s", "o", Usd("0.5"))
    found = finished.cost_retrieval()
    assert found.outcome is PASS, found
    [table] = found.tables
    for _, told, counted in table.rows:
        assert told == counted
        assert isinstance(told, Usd)
        assert told > Usd("0.5")


@quick
@pytest.mark.parametrize("by", ["- 1", "+ 1", "- 500000000000"])
@pytest.mark.parametrize("column", ["booked_pico", "bill_pico"])
def test_2_a_counter_that_is_off_by_one_unit_fails(finished: Step1, by: str, column: str) -> None:
    finished.parts.treasury.call("s", "o", Usd("0.5"))
    source = "own-estimate" if column == "booked_pico" else "local-meter"
    # The bill is read anew only when its file has changed: what the counter says of it then stands.
    os.utime(finished.parts.settings.home / "local-meter.focus.csv", (1, 1))
    finished.parts.ledger.carry()
    tamper(finished, f"UPDATE counters SET {column} = {column} {by} WHERE user_id = 0 AND source = '{source}'")
    assert finished.cost_retrieval().outcome is FAIL


@quick
def test_2_nothing_spent_is_nothing_retrieved(run: Step1) -> None:
    assert run.cost_retrieval().outcome is FAIL  # the run itself is not on the bill yet, and zero proves nothing


@quick
def test_3_every_limit_and_the_stop_refuse_and_what_fits_still_runs(run: Step1) -> None:
    found = run.budget_protection()
    assert found.outcome is PASS, found
    assert found.measured == "5 of 5 held: day, week, month, user's day, emergency stop"
    spent = {entry.operation.service for entry in run.parts.ledger.entries()}
    assert spent == {"local-compute"}  # a drill books nothing in the real ledger


@quick
def test_3_a_refusal_by_another_limit_a_side_effect_or_a_door_shut_for_good_does_not_hold() -> None:
    right = drills.Refusal("day", "system day", "system day", side_effect_absent=True, cheap_one_ran=True)
    assert right.holds
    for wrong in (
        {"refused_by": ""},
        {"refused_by": "user day"},
        {"side_effect_absent": False},
        {"cheap_one_ran": False},
    ):
        assert not replace(right, **wrong).holds  # type: ignore[arg-type]


@quick
def test_4_three_users_work_at_once_and_each_has_exactly_their_own(run: Step1) -> None:
    found = run.user_isolation()
    assert found.outcome is PASS, found
    assert "3 users, 3 operations, all running at once: yes" in found.measured
    assert "access across users refused: 18 of 18" in found.measured  # 6 ordered pairs × 3 attempts


@pytest.fixture
def three(run: Step1) -> tuple[Step1, list[str]]:
    """Three users, and their names."""
    names = ["validation-1", "validation-2", "validation-3"]
    for name in names:
        run.parts.users.ensure(name)
    return run, names


@quick
def test_4_work_one_after_the_other_is_not_work_at_once(three: tuple[Step1, list[str]]) -> None:
    run, names = three
    one_by_one = [work_together(run.parts.treasury, [name], 1)[0][0] for name in names]
    assert not isolation.were_together(run.parts.ledger, [one_by_one])
    assert isolation.were_together(run.parts.ledger, [[done] for done in one_by_one])


@quick
def test_4_a_row_on_the_bill_in_another_users_name_is_seen(three: tuple[Step1, list[str]]) -> None:
    run, names = three
    users = [run.parts.users.get(name) for name in names]
    [work] = work_together(run.parts.treasury, names, 1)
    assert isolation.attribution(run.parts, users, work)[0]
    bill = run.parts.settings.home / "local-meter.focus.csv"
    text = bill.read_text(encoding="utf-8")
    one, other = (f'""podcastqa:user"": ""{user.id}""' for user in users[:2])
    bill.write_text(text.replace(one, other), encoding="utf-8")
    assert not isolation.attribution(run.parts, users, work)[0]


@quick
def test_4_a_summary_that_lacks_one_booking_is_not_the_whole(finished: Step1) -> None:
    parts = finished.parts
    summary = parts.treasury.by_user(7)
    assert recount.sums_to_whole(parts, summary)
    parts.treasury.call("s", "o", Usd("0.000000000001"))
    assert not recount.sums_to_whole(parts, summary)


@quick
def test_5_every_mail_arrives_once_and_is_read_back(run: Step1) -> None:
    found = run.alerts()
    assert found.outcome is PASS, found
    assert found.measured == "Maildir: 4 mails (100, 50, 80, refused), read back, 0 sent twice"
    assert all(str(row[1]).startswith("[drill] podcastqa: ") for row in found.tables[0].rows)


@quick
def test_5_a_mailbox_that_cannot_be_written_fails(run: Step1) -> None:
    run.parts.settings.maildir.write_text("in the way", encoding="utf-8")  # no rights stop whoever is root; this does
    found = run.alerts()
    assert found.outcome is FAIL
    assert "Maildir: 0 mails" in found.measured


@quick
def test_6_the_schema_is_as_declared_and_every_constraint_refuses(run: Step1) -> None:
    found = run.database_models()
    assert found.outcome is PASS, found
    assert "0 differences; 64 of 64 attempts refused; 0 constraints untried" in found.measured


@quick
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("DROP TRIGGER entries_no_delete", "trigger entries_no_delete"),
        ("DROP INDEX uq_entries_step", "index uq_entries_step"),
        ("ALTER TABLE outbox DROP COLUMN delivered_to", "delivered_to"),
        ("CREATE TRIGGER forger AFTER INSERT ON stops BEGIN SELECT 1; END", "trigger forger"),
        ("CREATE TABLE elsewhere (money REAL)", "elsewhere"),
    ],
)
def test_6_a_schema_that_was_changed_by_hand_fails_and_names_what(run: Step1, damage: str, named: str) -> None:
    tamper(run, damage)
    found = run.database_models()
    assert found.outcome is FAIL
    assert named in found.next_step


@quick
def test_6_a_constraint_that_nobody_tries_to_break_would_show() -> None:
    assert constraints.named_constraints() <= {name for name, _ in constraints.ATTEMPTS}
    assert not constraints.by_its_own_name("ck_limits_who", "CHECK constraint failed: ck_limits_amount")
    assert not constraints.by_its_own_name("entries_no_update", "")


@quick
@pytest.mark.parametrize("has_folder", [False, True])
def test_7_without_tests_beside_the_package_it_is_not_run(home: Path, tmp_path: Path, has_folder: bool) -> None:
    root = tmp_path if has_folder else None
    made = build(replace(settings_in(home), root=root), clock=SystemClock())
    run = started(made)
    found = run.test_suite()
    run._run.close()
    assert found.outcome is NOT_RUN
    assert found.next_step == "Run it in a checkout: git clone, make validate"


#: What a checkout's own tests do → how criterion 7 ends, and what it counts; each runs pytest in a process of its own.
SUITES = {
    "passed, with a component not in use and tests that are none of step 1's": (
        [
            "def test_other(): assert 0",
            "@step1\ndef test_a(): pass",
            "@step1\ndef test_b(): pytest.skip('not in use: x')",
        ],
        (PASS, "1 passed, 0 failed, 1 skipped"),
    ),
    "one skipped": (
        [
            "@step1\n@pytest.mark.bench\ndef test_bench(): assert 0",
            "@step1\ndef test_a(): pass",
            "@step1\ndef test_b(): pytest.skip('no such tool here')",
        ],
        (NOT_RUN, "1 passed, 0 failed, 1 skipped"),
    ),
    "one failed, one skipped": (
        ["@step1\ndef test_a(): assert 0", "@step1\ndef test_b(): pytest.skip('no such tool here')"],
        (FAIL, "0 passed, 1 failed, 1 skipped"),
    ),
}


@pytest.mark.parametrize("suite", SUITES)
def test_7_the_suite_is_what_pytest_says_of_it(home: Path, tmp_path: Path, suite: str) -> None:
    root = tmp_path / "checkout"
    (root / "tests").mkdir(parents=True)
    (root / "pytest.ini").write_text("[pytest]\naddopts = -p no:nbval\nmarkers =\n    step1\n    bench\n", "utf-8")
    tests, (outcome, measured) = SUITES[suite]
    lines = ["import pytest", "step1 = pytest.mark.step1", *tests, ""]
    (root / "tests" / "test_of_its_own.py").write_text("\n".join(lines), encoding="utf-8")
    made = build(replace(settings_in(home), root=root), clock=SystemClock())
    run = started(made)
    found = run.test_suite()
    run._run.close()
    assert (found.outcome, measured in found.measured) == (outcome, True), found


COPY = "hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us, expires_us, price, reason"
LEDGER_ERRORS: dict[str, Callable[[str, str], tuple[str, ...]]] = {
    "an entry dropped": lambda one, _: (
        "DROP TRIGGER entries_no_delete",
        f"DELETE FROM entries WHERE hold_id = '{one}'",
    ),
    "a settle dropped": lambda one, _: (
        "DROP TRIGGER entries_no_delete",
        f"DELETE FROM entries WHERE hold_id = '{one}' AND kind = 'settle'",
    ),
    "an entry doubled": lambda one, _: (
        "DROP INDEX uq_entries_step",
        f"INSERT INTO entries ({COPY}) SELECT {COPY} FROM entries WHERE hold_id = '{one}' AND kind = 'settle'",
    ),
    "two errors that cancel out": lambda one, other: (
        "DROP TRIGGER entries_no_update",
        f"UPDATE entries SET amount_pico = amount_pico - 1 WHERE hold_id = '{one}' AND kind = 'settle'",
        f"UPDATE entries SET amount_pico = amount_pico + 1 WHERE hold_id = '{other}' AND kind = 'settle'",
    ),
}


@quick
def test_8_after_a_real_metered_run_books_and_bill_differ_by_exactly_nothing(finished: Step1) -> None:
    found = finished.books_match()
    assert found.outcome is PASS, found
    assert "difference 0.000000000000 USD over 2 operations" in found.measured  # the run's own, and what it verified
    assert "0 operations whose books are wrong" in found.measured


@quick
@pytest.mark.parametrize("error", LEDGER_ERRORS)
def test_8_one_wrong_entry_in_the_ledger_fails(finished: Step1, error: str) -> None:
    one, other = settles(finished)
    tamper(finished, *LEDGER_ERRORS[error](one, other))
    found = finished.books_match()
    assert found.outcome is FAIL, found
    if error == "two errors that cancel out":
        assert "difference 0.000000000000 USD" in found.measured
        assert one in found.next_step
        assert other in found.next_step


@quick
def test_8_an_entry_booked_twice_by_a_correction_of_the_same_amount_fails(finished: Step1) -> None:
    one = settles(finished)[0]
    cost = next(line.amount for line in finished.parts.bill_source.read().lines if line.resource_id == one)
    finished.parts.budget.correct(one, cost, "booked again by mistake")
    found = finished.books_match()
    assert found.outcome is FAIL
    assert f"difference {cost} USD" in found.measured
    assert f"unexplained: {one}" in found.next_step


@quick
def test_8_a_row_that_the_bill_lost_fails(finished: Step1) -> None:
    bill, one = finished.parts.settings.home / "local-meter.focus.csv", settles(finished)[0]
    lines = bill.read_text(encoding="utf-8").splitlines(keepends=True)
    bill.write_text("".join(line for line in lines if one not in line), encoding="utf-8")
    found = finished.books_match()
    assert found.outcome is FAIL
    assert found.next_step == f"missing in the bill: {one}"


@quick
def test_9_what_the_run_cost_is_on_the_bill_and_below_ten_cents(run: Step1) -> None:
    run.billing_connection()
    found = run.validation_cost()
    assert found.outcome is PASS, found
    bill = run.parts.bill_source.read()
    assert ZERO < bill.of_run(run.session.run_id) < Usd("0.10")
    assert f"{bill.of_run(run.session.run_id).shown()} on the bill for this run" in found.measured


@quick
@pytest.mark.parametrize(("more", "outcome"), [("0.05", PASS), ("0.10", FAIL), ("4", FAIL)])
def test_9_ten_cents_are_too_much(run: Step1, more: str, outcome: Outcome) -> None:
    run.parts.meter.flush()
    append_to_bill(run, BilledCost=more, Tags=f'{{"podcastqa:run": "{run.session.run_id}"}}')
    found = run.validation_cost()
    assert ZERO < run._cost() - Usd(more) < Usd("0.04")  # what this process really used comes on top
    assert found.outcome is outcome


@quick
def test_9_the_cost_of_another_run_is_not_this_ones(finished: Step1) -> None:
    append_to_bill(finished, BilledCost="4", Tags='{"podcastqa:run": "another"}')
    assert finished._cost() < Usd("0.04")


@quick
def test_10_without_a_cost_call_it_is_not_run(run: Step1) -> None:
    found = run.speed()
    assert (found.outcome, found.next_step) == (NOT_RUN, "Run the cells in order.")


@quick
def test_10_every_question_of_the_tracker_is_timed_and_the_slowest_named(run: Step1) -> None:
    table = asyncio.run(run.measure_cost_calls())
    assert len(table.rows) == 9
    found = run.speed()
    assert found.outcome is PASS, found
    assert "9 calls, the slowest" in found.measured


@quick
@pytest.mark.parametrize(("seconds", "outcome"), [(4.999, PASS), (5.0, FAIL), (60.0, FAIL)])
def test_10_five_seconds_are_too_long(run: Step1, seconds: float, outcome: Outcome) -> None:
    run._calls += [("quick", 0.1), ("slow", seconds)]
    found = run.speed()
    assert found.outcome is outcome
    assert f"2 calls, the slowest {seconds:.3f} s (slow)" in found.measured


# ── closing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def verdict(run: Step1) -> tuple[str, dict[str, str]]:
    """The verdict, and every criterion's outcome."""
    assert run.session.closing is not None
    record = run.session.closing.record
    return record["verdict"], {one["id"]: one["outcome"] for one in record["criteria"]}


@quick
def test_a_run_that_skipped_a_criterion_is_incomplete_and_raises_nothing(finished: Step1) -> None:
    finished.books_match()
    finished.close()
    said, outcomes = verdict(finished)
    assert said == "INCOMPLETE"
    assert {key for key, outcome in outcomes.items() if outcome == "PASS"} == {"1", "8", "9"}
    assert {outcome for key, outcome in outcomes.items() if key not in ("1", "8", "9")} == {"NOT RUN"}


@quick
def test_a_run_with_one_failed_criterion_fails_after_all_were_asked(finished: Step1) -> None:
    tamper(finished, *LEDGER_ERRORS["an entry dropped"](settles(finished)[0], ""))
    finished.books_match()
    with pytest.raises(VerdictFailed, match="step1 did not pass: 8 Books match the bill"):
        finished.close()
    assert verdict(finished)[0] == "FAIL"


@quick
def test_the_verdict_says_what_it_cost_and_what_it_speaks_for(finished: Step1) -> None:
    finished.close()
    assert finished.session.closing is not None
    record = finished.session.closing.record
    assert record["cost_usd"] == str(finished._cost()) != "0.000000000000"
    assert record["speaks_for"] == "On the embedded default (SQLite, local meter, Maildir); AWS not validated."
    assert any("PostgreSQL" in part for part in record["not_part_of_this_run"])

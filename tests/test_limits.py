"""Limits are words that people said: which is in force, what it does to the guard, and how the shell says it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.clock import WindowKind
from podcastqa.database import MIGRATIONS, open_database
from podcastqa.errors import Misuse, OverLimit
from podcastqa.money import ZERO, Usd
from podcastqa.spend.budget import Budget
from podcastqa.spend.decisions import WordState
from podcastqa.spend.entries import Operation
from podcastqa.spend.limits import InForce, LimitRow, in_force, to_come
from podcastqa.users import User
from podcastqa.wiring import Parts, build
from podcastqa.workbook.constraints import declared_differences
from tests.conftest import A_WEDNESDAY, SetClock, operation, settings_in
from tests.shell import Shell

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

DAY, WEEK, MONTH = WindowKind
SAID = {"by": "ada", "reason": "test"}
NEXT_MONDAY = datetime(2024, 3, 4, tzinfo=UTC)
LATER = A_WEDNESDAY + timedelta(hours=6)  # the same day


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada")


@pytest.fixture
def bob(parts: Parts) -> User:
    return parts.users.add("bob")


def spend(parts: Parts, user: User, amount: str, service: str = "talk") -> None:
    parts.budget.book(Operation(user.id, service, "o", "s"), Usd(amount))


def day_of(parts: Parts, scope: int = 0) -> str:
    return parts.budget.limits(scope)[scope, DAY].shown()


# ── which word is in force ────────────────────────────────────────────────────────────────────────────────────────────

SCOPES = [(0, ""), (1, ""), (0, "talk")]


@st.composite
def words(draw: st.DrawFn, set_back: bool) -> list[LimitRow]:
    """Words as they stand in the table: each begins when it was said, or a little later."""
    steps = draw(st.lists(st.integers(-9 if set_back else 0, 9), min_size=1, max_size=9))
    found = []
    for number, said_us in enumerate(accumulate(steps, initial=100), 1):
        removed = draw(st.booleans())
        user_id, service = draw(st.sampled_from(SCOPES))
        found.append(
            (
                *(user_id, service, draw(st.sampled_from(["day", "month"]))),
                *(0 if removed else draw(st.integers(0, 5)), int(removed)),
                *(said_us + draw(st.sampled_from([0, 0, 1, 5, 20])), number, said_us),
            )
        )
    return found


def picos(found: InForce) -> dict[object, int | None]:
    """Every limit that is in force, by scope and window."""
    return {(scope, kind): found.of(*scope)[place] for scope in SCOPES for place, kind in ((0, "day"), (2, "month"))}


@given(words(set_back=False), st.integers(0, 40))
def test_the_latest_beginning_that_has_come_counts_and_of_two_at_once_the_later_word(
    rows: list[LimitRow], after: int
) -> None:
    now = rows[-1][7] + after
    for (scope, kind), found in picos(in_force(rows, now)).items():
        own = [row for row in rows if (row[:2], row[2], row[5] <= now) == (scope, kind, True)]
        [*_, (pico, removed)] = [(0, 1), *((row[3], row[4]) for row in sorted(own, key=lambda row: (row[5], row[6])))]
        assert found == (None if removed else pico)


@given(words(set_back=True), st.integers(80, 200), st.integers(80, 200))
def test_what_is_in_force_is_so_until_the_next_beginning_and_no_longer(
    rows: list[LimitRow], now: int, then: int
) -> None:
    found = in_force(rows, now)
    assert found.holds(now)
    if found.holds(then):
        assert picos(in_force(rows, then)) == picos(found)
    assert in_force(reversed(rows), now) == found  # in whatever order the database gives them


@given(words(set_back=True), st.integers(80, 200), st.integers(-50, 50))
def test_a_word_that_is_to_hold_at_once_does_even_where_the_clock_was_set_back(
    rows: list[LimitRow], said: int, since: int
) -> None:
    new = (0, "", "day", 7, 0, said, len(rows) + 1, said)
    found = in_force([*rows, new], said + since).of(0)[0]
    planned = [row for row in rows if row[:3] == new[:3] and row[5] > max(row[7], said)]
    assert found == 7 or planned  # nothing but a word that was meant for later takes its place


@given(words(set_back=True), st.integers(80, 200))
def test_every_word_that_is_said_to_begin_later_comes_into_force_at_its_beginning(
    rows: list[LimitRow], now: int
) -> None:
    for row in to_come(rows, now):
        assert row not in in_force(rows, now).rows.values()
        begins = in_force(rows, now)
        while row not in begins.rows.values():
            assert begins.until_us < 2**63 - 1  # it comes before the end of time
            begins = in_force(rows, begins.until_us)
        assert begins.from_us >= row[5]


def test_a_lower_limit_is_not_undone_by_the_clock_coming_to_an_earlier_word_again(
    parts: Parts, ada: User, clock: SetClock
) -> None:
    parts.budget.set_limit(0, DAY, Usd("9"), **SAID)
    clock.forward(seconds=-5)
    parts.budget.set_limit(0, DAY, Usd("1"), **SAID)
    for _ in range(3):
        assert day_of(parts) == "$1.00"
        clock.forward(seconds=5)


# ── what it does to the guard ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_raised_limit_opens_the_door_at_once(parts: Parts, ada: User) -> None:
    spend(parts, ada, "5.00")
    with pytest.raises(OverLimit, match=r"\$5.00 of \$5.00"):
        spend(parts, ada, "0.50")
    parts.budget.set_limit(0, DAY, Usd("5.50"), **SAID)
    parts.budget.set_limit(ada.id, DAY, Usd("5.50"), **SAID)
    spend(parts, ada, "0.40")  # 5.00 + 0.40 ≤ 5.50, and a hundredth of it is kept for alerts
    with pytest.raises(OverLimit):
        spend(parts, ada, "0.11")


def test_a_limit_lowered_below_what_is_spent_closes_the_door_and_takes_nothing_back(parts: Parts, ada: User) -> None:
    running = parts.budget.reserve(Operation(ada.id, "talk", "o", "s"), Usd("2.00"))
    parts.budget.set_limit(0, DAY, Usd("1.00"), **SAID)
    with pytest.raises(OverLimit, match=r"\$2.00 of \$1.00"):
        spend(parts, ada, "0")
    parts.budget.start(running.hold_id)
    parts.budget.settle(running.hold_id, Usd("2.00"))  # what was promised before is kept
    line = parts.treasury.status().line(DAY)
    assert (line.spent.real, line.left, line.percent) == (Usd("2.00"), Usd("-1.00"), 200)  # 1.00 - 2.00; 2.00 / 1.00
    assert parts.treasury.limits().said_of("whole system", DAY) == (
        "The daily limit of the whole system is now $1.00.",
        "$2.00 is spent or held already: nothing more is admitted until day 2024-02-28 ends, or the limit is raised.",
    )


def test_a_removed_limit_leaves_the_settings_own(home: Path, clock: SetClock) -> None:
    made = build(settings_in(home, DAILY_BUDGET_LIMIT="7", USER_DAILY_BUDGET_LIMIT="3"), clock=clock)
    ada = made.users.add("ada")
    for scope, usual in ((0, "$7.00"), (ada.id, "$3.00")):
        made.budget.set_limit(scope, DAY, Usd("1"), **SAID)
        assert day_of(made, scope) == "$1.00"
        made.budget.remove_limit(scope, DAY, **SAID)
        assert day_of(made, scope) == usual
        made.budget.remove_limit(scope, DAY, **SAID)  # twice is once
        assert day_of(made, scope) == usual
    spend(made, ada, "2.90")
    made.database.close()


def test_a_service_has_no_limit_until_one_is_set_for_all_users_together(parts: Parts, ada: User, bob: User) -> None:
    spend(parts, ada, "1.00")
    parts.budget.set_limit(0, DAY, Usd("2.00"), service="talk", **SAID)
    spend(parts, bob, "0.90")  # 1.00 + 0.90 ≤ 2.00
    for user in (ada, bob):
        with pytest.raises(OverLimit, match="talk"):
            spend(parts, user, "0.20")  # 1.90 + 0.20 > 2.00
        spend(parts, user, "0.20", service="listen")
    assert parts.budget.service_limits() == {("talk", DAY): Usd("2.00")}
    line = parts.treasury.status().line(DAY, service="talk")
    assert (line.name, line.spent.total, line.left, line.percent) == ("service talk", Usd("1.90"), Usd("0.10"), 95)
    assert parts.treasury.status().line(DAY).spent.total == Usd("2.30")  # 1.90 + 2 x 0.20: not the service's
    parts.budget.remove_limit(0, DAY, service="talk", **SAID)
    assert parts.budget.service_limits() == {}
    spend(parts, ada, "0.20")
    assert [line for line in parts.treasury.status().lines if line.service] == []


def test_what_is_held_for_a_service_counts_until_it_runs_out_of_time(parts: Parts, ada: User, clock: SetClock) -> None:
    parts.budget.set_limit(0, DAY, Usd("1.00"), service="talk", **SAID)
    hold = parts.budget.reserve(Operation(ada.id, "talk", "o", "s"), Usd("0.60"))
    assert parts.treasury.status().line(DAY, service="talk").spent.held == Usd("0.60")
    with pytest.raises(OverLimit):
        spend(parts, ada, "0.50")  # 0.60 + 0.50 > 1.00
    clock.instant = hold.expires_at
    assert parts.treasury.status().line(DAY, service="talk").spent.held == ZERO
    spend(parts, ada, "0.50")


def test_a_limit_from_the_future_begins_by_itself_in_every_process_that_runs(
    parts: Parts, ada: User, clock: SetClock
) -> None:
    other = build(parts.settings, clock=clock)
    parts.budget.set_limit(0, DAY, Usd("1.00"), valid_from=LATER, **SAID)
    parts.budget.remove_limit(0, DAY, valid_from=NEXT_MONDAY, **SAID)
    clock.instant = LATER - timedelta(microseconds=1)
    spend(other, ada, "3.00")
    clock.instant = LATER
    for one in (parts, other):
        with pytest.raises(OverLimit, match=r"\$3.00 of \$1.00"):
            spend(one, ada, "0")
    clock.instant = NEXT_MONDAY
    for one in (parts, other):
        spend(one, ada, "2.00")  # 2 x 2.00 ≤ 5.00, which nobody set
    other.database.close()


def test_status_and_limits_say_which_limit_begins_later(parts: Parts, ada: User, clock: SetClock) -> None:
    parts.treasury.set_limit(WEEK, Usd("3"), service="talk", valid_from=NEXT_MONDAY, by="bob", reason="new week")
    parts.treasury.set_limit(DAY, Usd("2"), user="ada", valid_from=LATER, by="bob", reason="evening")
    parts.treasury.set_limit(DAY, Usd("1"), user="ada", valid_from=LATER, by="bob", reason="no, less")
    parts.treasury.remove_limit(MONTH, valid_from=NEXT_MONDAY, by="bob", reason="enough")
    evening = "From 2024-02-28 18:00 UTC on the daily limit of user ada is $1.00 (bob: no, less)."
    monday = (
        "From 2024-03-04 00:00 UTC on the weekly limit of the service talk is $3.00 (bob: new week).",
        "From 2024-03-04 00:00 UTC on the monthly limit of the whole system is removed (bob: enough).",
    )
    assert tuple(map(str, parts.treasury.limits().later)) == (evening, *monday)
    assert {evening, *monday} <= {*parts.treasury.status().table().notes}
    assert {evening, *monday} <= {*parts.treasury.limits().table().notes}
    parts.users.add("bob")
    assert evening not in parts.treasury.status("bob").table().notes  # that is ada's
    assert parts.treasury.limits().said_of("service talk", WEEK) == (
        "There is no weekly limit of the service talk now.",
        monday[0],
    )
    clock.instant = NEXT_MONDAY
    assert parts.treasury.limits().later == ()
    assert parts.treasury.status().line(WEEK, service="talk").limit == Usd("3")


# ── what is recorded, what is refused ─────────────────────────────────────────────────────────────────────────────────


def test_every_word_is_kept_with_who_said_it_when_and_why(parts: Parts, ada: User, clock: SetClock) -> None:
    parts.treasury.set_limit(DAY, Usd("2"), by="bob", reason="less")
    clock.forward(minutes=1)
    parts.treasury.set_limit(DAY, Usd("3"), by=" cleo ", reason=" more ")
    parts.treasury.set_limit(DAY, Usd("4"), by="cleo", reason="tonight", valid_from=LATER)
    parts.treasury.remove_limit(DAY, user="ada", by="bob", reason="as all")
    parts.users.delete("ada")
    assert parts.treasury.decisions().table().rows == (
        ("2024-02-28 12:00", "bob", "whole system", "day", Usd("2"), "2024-02-28 12:00", "replaced", "less"),
        ("2024-02-28 12:01", "cleo", "whole system", "day", Usd("3"), "2024-02-28 12:01", "in force", "more"),
        ("2024-02-28 12:01", "cleo", "whole system", "day", Usd("4"), "2024-02-28 18:00", "begins later", "tonight"),
        ("2024-02-28 12:01", "bob", f"deleted user {ada.id}", "day", None, "2024-02-28 12:01", "in force", "as all"),
    )
    states = [word.state for word in parts.budget.limit_history(LATER)]
    assert states == [WordState.REPLACED, WordState.REPLACED, WordState.IN_FORCE, WordState.IN_FORCE]


def test_a_word_without_its_speaker_or_that_means_nothing_is_refused_and_not_recorded(parts: Parts, ada: User) -> None:
    refused = [
        {**SAID, "by": " "},
        {**SAID, "reason": ""},
        {**SAID, "valid_from": A_WEDNESDAY - timedelta(microseconds=1)},
        {**SAID, "service": "s" * 201},
    ]
    for words in refused:
        with pytest.raises(Misuse):
            parts.budget.set_limit(0, DAY, Usd("1"), **words)
        with pytest.raises(Misuse):
            parts.budget.remove_limit(0, DAY, **words)
    with pytest.raises(Misuse, match="not both"):
        parts.budget.set_limit(ada.id, DAY, Usd("1"), service="talk", **SAID)
    with pytest.raises(ValueError, match="no time zone"):
        parts.budget.set_limit(0, DAY, Usd("1"), valid_from=datetime(2030, 1, 1), **SAID)  # noqa: DTZ001
    assert parts.budget.limit_history() == ()
    parts.budget.set_limit(0, DAY, Usd("1"), valid_from=A_WEDNESDAY, **SAID)  # now is no past
    assert day_of(parts) == "$1.00"


BEFORE = """
INSERT INTO users (id, name, created_us) VALUES (1, 'ada', 1);
INSERT INTO limits (user_id, window_kind, amount_pico, set_us, set_by, reason)
 VALUES (0, 'day', 7, 100, 'ada', 'r'), (1, 'week', 5, 200, 'ada', 'r');
INSERT INTO entries (hold_id, kind, user_id, source, service, operation, amount_pico, day, at_us, reason)
 VALUES ('h', 'reserve', 1, 's', 'talk', 'o', 10, 5, 1, ''), ('g', 'reserve', 1, 's', 'talk', 'o', 3, 5, 1, ''),
 ('h', 'settle', 1, 's', 'talk', 'o', 9, 5, 1, ''), ('h', 'correct', 1, 's', 'talk', 'o', -2, 5, 1, 'r'),
 ('h', 'correct', 1, 's', 'talk', 'o', -1, 5, 1, 'again');
INSERT INTO open_holds VALUES ('g', 1, 's', 5, 3, 0, 1);
INSERT INTO outbox (user_id, window_kind, window_start, threshold, spent_pico, limit_pico, detail, created_us, sent_us)
 VALUES (0, 'day', 5, '80', 8, 10, '', 1, 2), (1, 'day', 5, 'refused', 8, 10, 'why', 1, NULL);
"""


def test_limits_holds_and_alerts_from_before_this_version_are_kept(tmp_path: Path) -> None:
    path, config = tmp_path / "old.sqlite", Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
    engine.dispose()
    with closing(sqlite3.connect(path)) as old:
        old.executescript(BEFORE)
    now = open_database(f"sqlite:///{path}")
    driver = now.driver()
    columns = "id, user_id, service, window_kind, amount_pico, removed, from_us, set_us, set_by, reason"
    assert driver.execute(f"SELECT {columns} FROM limits").fetchall() == [
        (1, 0, "", "day", 7, 0, 100, 100, "ada", "r"),
        (2, 1, "", "week", 5, 0, 200, 200, "ada", "r"),
    ]
    assert driver.execute("SELECT * FROM service_counters").fetchall() == [("talk", 5, 9 - 2 - 1, 3)]
    assert driver.execute("SELECT id, user_id, service, threshold, detail, sent_us FROM outbox").fetchall() == [
        (1, 0, "", "80", "", 2),
        (2, 1, "", "refused", "why", None),
    ]
    assert declared_differences(now) == []
    now.close()


def test_two_guards_on_one_ledger_keep_each_its_own_usual_limits(parts: Parts, clock: SetClock) -> None:
    ada = parts.users.add("ada")

    def guard(most: str, minutes: int) -> Budget:
        limits = dict.fromkeys(WindowKind, Usd(most))
        shared = parts.database, parts.ledger, clock
        return Budget(*shared, system_limits=limits, user_limits=limits, hold_for=timedelta(minutes=minutes))

    wide, narrow = guard("1.00", 15), guard("0.50", 5)
    what = operation(ada.id)
    assert wide.reserve(what, Usd("0.40")).expires_at - clock.now() == timedelta(minutes=15)
    with pytest.raises(OverLimit):
        narrow.reserve(what, Usd("0.20"))  # 0.40 + 0.20 is more than 0.50
    assert narrow.reserve(what, Usd("0.10")).expires_at - clock.now() == timedelta(minutes=5)
    wide.reserve(what, Usd("0.50"))  # 0.40 + 0.10 + 0.50 = 1.00
    for full in (wide, narrow):
        with pytest.raises(OverLimit):
            full.reserve(what, Usd("0.000000000001"))


# ── in the shell ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_limits_of_users_and_services_are_set_removed_and_told_in_the_shell(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell("users", "add", "ada")
    own = shell("budget", "set", "week", "2", "--user", "ada", "--reason", "a try")
    assert own.stdout == "The weekly limit of user ada is now $2.00.\n"
    talk = ("--service", "talk", "--by", "bob", "--reason", "a dear one")
    assert shell("budget", "set", "day", "3", *talk).stdout == "The daily limit of the service talk is now $3.00.\n"
    for words in (["status"], ["budget", "show"]):
        assert "service talk  day" in shell(*words).stdout
    gone = shell("budget", "remove", "day", *talk)
    assert (gone.returncode, gone.stdout) == (0, "There is no daily limit of the service talk now.\n")
    back = shell("budget", "remove", "week", "--user", "ada", "--reason", "as all")
    assert back.stdout == "The weekly limit of user ada is now $25.00.\n"
    rows = json.loads(shell("budget", "history", "--json").stdout)["rows"]
    assert [(row["who"], row["limit in USD"], row["by"], row["reason"]) for row in rows][1:3] == [
        ("service talk", "3.000000000000", "bob", "a dear one"),
        ("service talk", None, "bob", "a dear one"),
    ]


def test_a_limit_that_begins_later_is_told_at_once_in_the_shell(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    new_year = "From 2099-01-01 00:00 UTC on the daily limit of the whole system is $9.00 (bob: new year).\n"
    said = ("--from", "2099-01-01", "--by", "bob", "--reason", "new year")
    assert shell("budget", "set", "day", "9", *said).stdout == (
        "The daily limit of the whole system is now $5.00.\n" + new_year
    )
    assert new_year in shell("status").stdout
    assert new_year in shell("budget", "show").stdout
    again = shell("budget", "set", "day", "8", "--from", "2099-01-01T00:00", "--by", "bob", "--reason", "new year")
    assert again.stdout.splitlines()[1:] == [new_year.replace("$9.00", "$8.00").strip()]
    assert "nothing more is admitted" not in again.stdout

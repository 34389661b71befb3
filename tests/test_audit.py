"""Each rule of the audit is broken once on purpose in a real ledger, and the audit names exactly that row."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from podcastqa.clock import WindowKind, day_number, microseconds
from podcastqa.errors import PodcastQAError
from podcastqa.money import ZERO, Usd
from podcastqa.spend.audit import Audit, Proof
from podcastqa.spend.entries import Operation
from podcastqa.wiring import Parts, build
from tests.conftest import A_WEDNESDAY, SetClock, settings_in
from tests.shell import Shell

pytestmark = pytest.mark.both_databases

DAY, WEEK, MONTH = WindowKind
TODAY, NOON_US = day_number(A_WEDNESDAY.date()), microseconds(A_WEDNESDAY)
SOURCES, SERVICES = ("local-meter", "own-estimate"), ("asking", "hearing")


def work_at_random(parts: Parts, clock: SetClock, seed: int, steps: int, *, jumps: bool = False) -> None:
    """A real workload: every verb, refusals, limits that change, the stop, bills; days pass, and weeks and months."""
    rng, budget, holds = random.Random(seed), parts.budget, list[str]()
    users = [parts.users.add(name).id for name in ("ada", "bob", "eve")]

    def pico() -> Usd:
        return Usd.from_pico(rng.randrange(1, 40))

    def what() -> Operation:
        return Operation(rng.choice(users), rng.choice(SERVICES), "o", rng.choice(SOURCES))

    def limit() -> None:
        service = rng.choice(("", "", *SERVICES))
        scope, later = (0 if service else rng.choice((0, *users))), clock.now() + timedelta(hours=rng.randrange(30))
        said = {"by": "ada", "reason": "why", "service": service}
        if rng.random() < 0.3:
            budget.remove_limit(scope, rng.choice(KINDS), **said, valid_from=rng.choice((None, later)))
        else:
            amount = Usd.from_pico(rng.randrange(50, 900))
            budget.set_limit(scope, rng.choice(KINDS), amount, **said, valid_from=rng.choice((None, later)))

    def bill() -> None:
        day = day_number(clock.now().date())
        parts.ledger.put_bill(rng.choice(SOURCES), [(day, 0, pico(), ZERO)], clock.now(), [day])

    steps_of = {
        lambda: holds.append(budget.reserve(what(), pico()).hold_id): 10,
        lambda: holds.append(budget.begin(what(), pico()).hold_id): 10,
        lambda: holds.append(budget.book(what(), pico()).hold_id): 3,
        lambda: budget.start(rng.choice(holds)): 6,
        lambda: budget.settle(rng.choice(holds), pico()): 12,
        lambda: budget.void(rng.choice(holds), rng.choice(("", "never ran"))): 3,
        lambda: budget.correct(rng.choice(holds), Usd.from_pico(rng.randrange(-9, 9)), "mended"): 1,
        lambda: clock.forward(seconds=rng.choice((0, 0, 1, 60, 900, 7200))): 12,
        limit: 1,
        bill: 1,
        lambda: budget.stop(by="ada", reason="a drill"): 0.3,
        lambda: budget.release(by="ada", reason="over"): 2,
    }
    if jumps:  # decisions are numbered apart: what the clock does unseen between them and the entries is not known
        steps_of = dict(list(steps_of.items())[:8]) | {lambda: clock.forward(hours=-rng.randrange(30)): 0.5}
        for scope in (0, *users):
            budget.set_limit(scope, DAY, Usd.from_pico(500), by="ada", reason="why")
    for step in rng.choices(list(steps_of), weights=list(steps_of.values()), k=steps):
        try:
            step()
        except (PodcastQAError, IndexError):  # refused, which writes nothing; or there is no hold yet
            continue


KINDS = (DAY, WEEK, MONTH)


@pytest.fixture
def books(parts: Parts, clock: SetClock) -> Parts:
    """A small ledger: hold `a` of user 1 settled at 30, `b` of user 2 started, `c` open, `d` void, `e` expired."""
    ada, bob = parts.users.add("ada").id, parts.users.add("bob").id
    for hold_id, user, estimate in (("a", ada, 20), ("b", bob, 30), ("c", ada, 40), ("d", bob, 50), ("e", bob, 60)):
        parts.budget.reserve(Operation(user, "asking", "o", "s"), Usd.from_pico(estimate), hold_id)
    for hold_id in ("a", "b"):
        parts.budget.start(hold_id)
    parts.budget.settle("a", Usd.from_pico(30))
    parts.budget.void("d")
    clock.forward(minutes=20)
    with pytest.raises(PodcastQAError):
        parts.budget.start("e")
    parts.budget.correct("a", Usd.from_pico(-5), "it was 25")
    # 1-5 the reserves, 6 and 7 the starts of a and b, 8 settles a, 9 voids d, 10 expires e, 11 corrects a
    assert parts.ledger.last_id() == 11
    assert audited(parts).holds is True  # with all of them in the tail
    parts.ledger.carry()
    assert audited(parts).holds is True
    return parts


def audited(parts: Parts) -> Audit:
    return parts.auditor.run()


def proof(parts: Parts, rule: str) -> Proof:
    """The one rule whose name holds these words."""
    [found] = [one for one in audited(parts).proofs if rule in one.rule]
    return found


def tamper(parts: Parts, *statements: str, without: Sequence[str] = ()) -> None:
    """Write past every guard: triggers are dropped and put back, checks and keys are not looked at."""
    if parts.database.path is None:
        tamper_on_a_server(parts.settings.database, statements, without)
        return
    with closing(sqlite3.connect(parts.settings.home / "podcastqa.sqlite", isolation_level=None)) as raw:
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute("PRAGMA ignore_check_constraints = ON")
        triggers = raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        for index in without:
            raw.execute(f"DROP INDEX {index}")
        for statement in statements:
            raw.execute(statement)
        for _, sql in triggers:
            raw.execute(sql)


def as_owner(parts: Parts, statement: str) -> None:
    """One statement as whoever owns the tables."""
    if parts.database.path is not None:
        parts.database.driver().execute(statement)
        return
    with psycopg.connect(parts.settings.database, autocommit=True) as raw:
        raw.execute(statement)


def tamper_on_a_server(url: str, statements: Sequence[str], without: Sequence[str]) -> None:
    """The same as the login, which owns the tables."""
    with psycopg.connect(url, autocommit=True) as raw:
        triggers = raw.execute(
            "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
        ).fetchall()
        checks = raw.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype IN ('c', 'f')"
            " AND connamespace = current_schema()::regnamespace"
        ).fetchall()
        for table, name, _ in triggers:
            raw.execute(f"DROP TRIGGER {name} ON {table}")
        for table, name in checks:
            raw.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        for index in without:
            raw.execute(f"DROP INDEX {index}")
        for statement in statements:
            raw.execute(statement)
        for _, _, sql in triggers:
            raw.execute(sql)


def row(hold: str, kind: str, amount: int = 0, user: int = 1, at_us: int = NOON_US, **other: object) -> str:
    """The statement that writes one entry by hand."""
    values = {
        "service": "asking",
        "operation": "o",
        "source": "s",
        "day": TODAY,
        "expires_us": 0,
        "reason": "",
        **other,
    }
    values |= {"hold_id": hold, "kind": kind, "amount_pico": amount, "user_id": user, "at_us": at_us}
    return f"INSERT INTO entries ({', '.join(values)}) VALUES ({', '.join(map(repr, values.values()))})"


# ── a healthy ledger ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
def test_a_random_workload_leaves_books_that_hold(parts: Parts, clock: SetClock, seed: int) -> None:
    work_at_random(parts, clock, seed, 1500)
    found = audited(parts)
    assert found.holds, found
    assert found.proofs[1].looked_at == parts.ledger.last_id()
    assert len(list(parts.ledger.entries())) > 300


@pytest.mark.parametrize("seed", range(4))
def test_a_clock_that_is_set_back_accuses_nobody(parts: Parts, clock: SetClock, seed: int) -> None:
    work_at_random(parts, clock, seed, 1500, jumps=True)
    found = audited(parts)
    assert found.holds, found


def test_an_empty_ledger_holds(parts: Parts) -> None:
    found = audited(parts)
    assert found.holds
    assert str(found).splitlines()[-1] == "21 of 21 rules hold."


def test_an_audit_changes_nothing_in_the_ledger(books: Parts) -> None:
    before = list(sqlite3.connect(books.settings.home / "podcastqa.sqlite").iterdump())
    audited(books)
    assert list(sqlite3.connect(books.settings.home / "podcastqa.sqlite").iterdump()) == before


# ── the life of a hold ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "index", "statement", "said"),
    [
        ("reserved exactly once", "uq_entries_step", row("b", "reserve", 30, 2, expires_us=NOON_US + 1),
         "entry 12, hold b: reserved again: entry 2 had reserved it"),
        ("reserved exactly once", "", row("z", "settle", 5),
         "entry 12, hold z: settle of a hold that was never reserved"),
        ("No hold starts twice", "uq_entries_step", row("b", "start", 0, 2),
         "entry 12, hold b: started again: entry 7 had started it"),
        ("No hold is resolved twice", "uq_entries_step", row("d", "settle", 7, 2),
         "entry 12, hold d: settle, though entry 9 had resolved it (void)"),
        ("each in its time", "", row("d", "start", 0, 2),
         "entry 12, hold d: started after entry 9 had resolved it"),
        ("each in its time", "", row("c", "start", 0, 1, NOON_US + 901 * 1_000_000),
         "entry 12, hold c: started after its time had run out"),
        ("each in its time", "", row("b", "expire", 0, 2, NOON_US + 901 * 1_000_000),
         "entry 12, hold b: expired, though entry 7 had started it"),
        ("each in its time", "", row("c", "expire", 0, 1, NOON_US),
         "entry 12, hold c: expired before its time had run out"),
        ("each in its time", "", "UPDATE entries SET id = CASE id WHEN 6 THEN -1 ELSE id END",
         "entry -1, hold a: start before its reserve, entry 1"),
        ("name its user", "", row("b", "settle", 7, 1),
         "entry 12, hold b: user 1, but it was reserved for user 2"),
        ("name its user", "", row("b", "settle", 7, 2, source="t"),
         "entry 12, hold b: source t, but it was reserved against s"),
        ("name its user", "", row("b", "settle", 7, 2, operation="p"),
         "entry 12, hold b: asking p, but it was reserved for asking o"),
        ("name its user", "", row("b", "settle", 7, 2, price="dear"),
         "entry 12, hold b: price dear, but it was reserved at "),
        ("name its user", "", row("b", "settle", 7, 2, day=TODAY + 1),
         "entry 12, hold b: day 2024-02-29, but it was reserved on 2024-02-28"),
        ("name its user", "", row("z", "reserve", 7, 2, day=TODAY + 1),
         "entry 12, hold z: day 2024-02-29, but it was reserved on 2024-02-28"),
        ("say why", "", row("a", "correct", 7, reason=" "),
         "entry 12, hold a: a correction without a reason"),
        ("say why", "", row("b", "void", 0, 2),
         "entry 12, hold b: void without a reason, though entry 7 had started it"),
        ("whole pico-dollars", "", row("b", "settle", -7, 2),
         "entry 12, hold b: settle of $-0.000000000007, which is below zero"),
        ("whole pico-dollars", "", row("b", "settle", 4 * 10**18 + 1, 2),
         "entry 12, hold b: $4000000.000000000001 is more than one entry may hold"),
        ("whole pico-dollars", "", row("b", "void", 7, 2, reason="never ran"),
         "entry 12, hold b: void of $0.000000000007, which moves no money"),
        ("number is known", "", row("z", "reserve", 7, 9),
         "entry 12, hold z: nobody has the number 9"),
        ("number is known", "", row("z", "reserve", 7, 0),
         "entry 12, hold z: nobody has the number 0"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(books: Parts, rule: str, index: str, statement: str, said: str) -> None:
    tamper(books, statement, without=[index] if index else [])
    found = proof(books, rule)
    assert (found.holds, found.broken, found.said) == (False, 1, said)


@pytest.mark.only_sqlite  # a rollback leaves a gap in PostgreSQL's numbers
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM entries WHERE id = 7",
         "entry 8: the one before it is 6: what stood between is gone, or this was not written by the program"),
        ("DELETE FROM entries WHERE id = 11",
         "entry 11: gone: the last one is now 10"),
        ("UPDATE sqlite_sequence SET seq = 4 WHERE name = 'entries'",
         "entry 11: its number can be given again: the next one is 5"),
    ],
)  # fmt: skip
def test_a_gap_in_the_numbers_is_named(books: Parts, statement: str, said: str) -> None:
    tamper(books, statement)
    found = proof(books, "without a gap")
    assert (found.holds, found.broken, found.said) == (False, 1, said)


def test_of_several_wrong_entries_the_first_is_named(books: Parts) -> None:
    tamper(books, *[row(hold, "start", 0, 2) for hold in ("d", "d", "e")], without=["uq_entries_step"])
    found = proof(books, "each in its time")
    assert (found.broken, found.said) == (2, "entry 12, hold d: started after entry 9 had resolved it")


@pytest.mark.only_sqlite
def test_an_amount_that_is_no_whole_number_is_named(books: Parts) -> None:
    tamper(books, "UPDATE entries SET amount_pico = 30.5 WHERE id = 8")
    found = proof(books, "whole pico-dollars")
    assert (found.broken, found.said.split(",")[0]) == (1, "entry 8: columns of the wrong type: id is integer")
    assert "amount_pico is real" in found.said


# ── what is derived ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "statement", "said"),
    [
        ("Open holds", "DELETE FROM open_holds WHERE hold_id = 'c'",
         "entry 3, hold c: not among the open holds, though nothing has resolved it"),
        ("Open holds", f"INSERT INTO open_holds VALUES ('z', 1, 's', {TODAY}, 5, 0, 9)",
         "hold z: open, though there is no reserve of it"),
        ("Open holds", f"INSERT INTO open_holds VALUES ('d', 2, 's', {TODAY}, 50, 0, 9)",
         "entry 4, hold d: open, though entry 9 has resolved it"),
        ("Open holds", "UPDATE open_holds SET amount_pico = 41 WHERE hold_id = 'c'",
         "entry 3, hold c: open at $0.000000000041, reserved at $0.000000000040"),
        ("Open holds", "UPDATE open_holds SET started = 0 WHERE hold_id = 'b'",
         "entry 2, hold b: open as not started, its entries say otherwise"),
        ("Open holds", "UPDATE open_holds SET source = 't' WHERE hold_id = 'b'",
         "entry 2, hold b: its user, source, day or time differs from its reserve"),
        ("Counters are", "UPDATE counters SET booked_pico = 26 WHERE user_id = 1",
         "the counter of user 1 on 2024-02-28 for s: booked $0.000000000026, the entries say $0.000000000025"),
        ("Counters are", "UPDATE counters SET held_pico = 0 WHERE user_id = 2",
         "the counter of user 2 on 2024-02-28 for s: held $0.000000000000, the entries say $0.000000000030"),
        ("Counters are", "UPDATE counters SET bill_pico = 1 WHERE user_id = 0",
         "the counter of the whole system on 2024-02-28 for s: billed $0.000000000001, the bill says $0.000000000000"),
        ("Counters are", "DELETE FROM counters WHERE user_id = 2",
         "the counter of user 2 on 2024-02-28 for s: held $0.000000000000, the entries say $0.000000000030"),
        ("Counters are", f"INSERT INTO counters VALUES (2, {TODAY}, 't', 1, 0, 0)",
         "the counter of user 2 on 2024-02-28 for t: booked $0.000000000001, the entries say $0.000000000000"),
        ("Counters of services", "UPDATE service_counters SET held_pico = 71",  # b 30 and c 40
         "the counter of service asking on 2024-02-28: held $0.000000000071, the entries say $0.000000000070"),
        ("Counters of services", "UPDATE service_counters SET booked_pico = 0",
         "the counter of service asking on 2024-02-28: booked $0.000000000000, the entries say $0.000000000025"),
        ("sum to the total", "UPDATE counters SET booked_pico = 24 WHERE user_id = 0",
         "s on 2024-02-28: booked $0.000000000024, its users together $0.000000000025"),
        ("sum to the total", "UPDATE counters SET held_pico = 69 WHERE user_id = 0",
         "s on 2024-02-28: held $0.000000000069, its users together $0.000000000070"),
    ],
)  # fmt: skip
def test_a_wrong_sum_is_named(books: Parts, rule: str, statement: str, said: str) -> None:
    tamper(books, statement)
    found = proof(books, rule)
    assert (found.holds, found.broken, found.said) == (False, 1, said)


def test_counters_that_are_wrong_hold_again_once_they_are_rebuilt(books: Parts) -> None:
    tamper(books, "UPDATE counters SET booked_pico = 1", "DELETE FROM open_holds", "DELETE FROM service_counters")
    assert audited(books).holds is False
    books.ledger.rebuild()
    assert audited(books).holds is True


# ── what keeps it so ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("table", ["entries", "limits", "stops"])
@pytest.mark.parametrize("action", ["UPDATE", "DELETE"])
def test_a_trigger_that_is_gone_or_does_nothing_is_named(books: Parts, table: str, action: str) -> None:
    name, on = f"{table}_no_{action.lower()}", f" ON {table}" if books.database.path is None else ""
    as_owner(books, f"DROP TRIGGER {name}{on}")
    gone = proof(books, "Tables that only grow")
    assert (gone.holds, gone.broken) == (False, 1)
    assert gone.said.startswith(f"{table}: {action} is not refused")
    does_nothing = "FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()" if on else "BEGIN SELECT 1; END"
    as_owner(books, f"CREATE TRIGGER {name} BEFORE {action} ON {table} {does_nothing}")
    assert proof(books, "Tables that only grow").broken == 1


@pytest.mark.only_sqlite
@pytest.mark.parametrize(
    "body",
    [
        "BEGIN SELECT RAISE(ABORT, 'x') WHERE 0; END",  # it raises never
        "WHEN 0 BEGIN SELECT 1 /* BEFORE DELETE ON stops BEGIN SELECT RAISE(ABORT, */; END",
    ],
)
def test_a_trigger_that_only_looks_like_ours_is_none(books: Parts, body: str) -> None:
    as_owner(books, "DROP TRIGGER stops_no_delete")
    as_owner(books, f"CREATE TRIGGER stops_no_delete BEFORE DELETE ON stops {body}")
    found = proof(books, "Tables that only grow")
    assert (found.holds, found.broken) == (False, 1)
    assert found.said.startswith("stops: DELETE is not refused")


@pytest.mark.only_sqlite
def test_a_trigger_that_is_not_ours_is_named(books: Parts) -> None:
    as_owner(books, "CREATE TRIGGER evil BEFORE INSERT ON stops BEGIN SELECT RAISE(IGNORE); END")
    found = proof(books, "Tables that only grow")
    assert (found.broken, found.said) == (
        1,
        "stops: the trigger evil is none of ours, and may change or drop what is written",
    )


@pytest.mark.only_sqlite  # a rollback leaves a gap in PostgreSQL's numbers
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM limits WHERE id = 1", "limit 2: the one before it is 0: what stood between is gone, or this was"),
        ("DELETE FROM limits WHERE id = 3", "limit 3: gone: the last one is now 2"),
        ("UPDATE limits SET id = 99 WHERE id = 3", "limit 99: the one before it is 2: what stood between is gone"),
        ("DELETE FROM stops", "stop 2: gone: the last one is now 0"),
    ],
)  # fmt: skip
def test_a_decision_that_is_gone_is_named(books: Parts, clock: SetClock, statement: str, said: str) -> None:
    for _ in range(3):
        limited(books, clock, 0, DAY, 200)
    books.budget.stop(by="ada", reason="why")
    books.budget.release(by="ada", reason="why")
    assert audited(books).holds is True
    tamper(books, statement)
    found = proof(books, "So do the numbers")
    assert found.holds is False
    assert found.said.startswith(said)


def test_the_trigger_that_asks_for_a_reserve_is_looked_for_too(books: Parts) -> None:
    as_owner(books, f"DROP TRIGGER entries_need_reserve{' ON entries' if books.database.path is None else ''}")
    assert proof(books, "Tables that only grow").said.startswith("entries: INSERT without a reserve is not refused")


def test_the_index_that_refuses_a_second_end_of_a_hold_is_looked_for_too(books: Parts) -> None:
    as_owner(books, "DROP INDEX uq_entries_step")
    gone = proof(books, "Tables that only grow")
    assert (gone.holds, gone.broken) == (False, 1)
    assert gone.said.startswith("entries: INSERT of a hold's step a second time is not refused")
    as_owner(books, "CREATE INDEX uq_entries_step ON entries (hold_id)")
    assert proof(books, "Tables that only grow").broken == 1


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE limits SET reason = ' '", "limit 1: nobody is named, or no reason"),
        ("UPDATE limits SET amount_pico = -1", "limit 1: an amount that no limit may have"),
        ("UPDATE limits SET from_us = 5", "limit 1: begins before it was said"),
        ("UPDATE stops SET said_by = ''", "stop 1: nobody is named, or no reason"),
    ],
)
def test_a_decision_without_who_or_why_is_named(books: Parts, statement: str, said: str) -> None:
    books.budget.set_limit(0, DAY, Usd("5"), by="ada", reason="why")
    books.budget.stop(by="ada", reason="why")
    tamper(books, statement)
    found = proof(books, "say who and why")
    assert (found.broken, found.said) == (1, said)


# ── limits and the stop, replayed ────────────────────────────────────────────────────────────────────────────────────


def limited(parts: Parts, clock: SetClock, scope: int, kind: WindowKind, pico: int, **more: str) -> None:
    """Set a limit, with enough time on both sides that its order is beyond doubt."""
    clock.forward(minutes=1)
    parts.budget.set_limit(scope, kind, Usd.from_pico(pico), by="ada", reason="why", **more)
    clock.forward(minutes=1)


def admitted_by_hand(parts: Parts, clock: SetClock, pico: int) -> None:
    """A reserve of user 2 that no guard was asked about, with its counters right."""
    now = microseconds(clock.now())
    tamper(parts, row("x", "reserve", pico, 2, now, expires_us=now + 1, day=day_number(clock.now().date())))
    parts.ledger.rebuild()


@pytest.mark.parametrize(
    ("scope", "kind", "whose"),
    [
        (0, DAY, "the whole system in day 2024-02-28"),
        (0, WEEK, "the whole system in week 2024-W09"),
        (0, MONTH, "the whole system in month 2024-02"),
        (2, DAY, "user 2 in day 2024-02-28"),
        (2, WEEK, "user 2 in week 2024-W09"),
        (2, MONTH, "user 2 in month 2024-02"),
    ],
)
def test_an_admission_past_a_limit_that_people_set_is_named(
    books: Parts, clock: SetClock, scope: int, kind: WindowKind, whose: str
) -> None:
    # booked 25 and held b 30, c 40 are 95 for the system; user 2 has b's 30
    most = 95 if scope == 0 else 30
    limited(books, clock, scope, kind, most + 7)
    admitted_by_hand(books, clock, 7)
    assert audited(books).holds is True
    limited(books, clock, scope, kind, most + 9)
    tamper(books, row("y", "reserve", 3, 2, microseconds(clock.now()), expires_us=2 * NOON_US))
    books.ledger.rebuild()
    found = proof(books, "people had set")
    amounts = f"admitted to $0.{most + 10:012} of {whose}, whose limit was $0.{most + 9:012}"
    assert (found.holds, found.broken, found.said) == (False, 1, f"entry 13, hold y: {amounts}")


def test_an_admission_past_the_limit_of_a_service_is_named(books: Parts, clock: SetClock) -> None:
    limited(books, clock, 0, WEEK, 101, service="asking")
    admitted_by_hand(books, clock, 7)
    found = proof(books, "people had set")
    assert found.said == (
        "entry 12, hold x: admitted to $0.000000000102 of the service asking in week 2024-W09, "
        "whose limit was $0.000000000101"
    )


def test_whoever_was_admitted_before_the_limit_was_lowered_is_not_accused(books: Parts, clock: SetClock) -> None:
    limited(books, clock, 0, DAY, 200)
    books.budget.reserve(Operation(2, "asking", "o", "s"), Usd.from_pico(100), "x")
    limited(books, clock, 0, DAY, 50)
    assert audited(books).holds is True


def test_an_overrun_a_late_settle_and_a_bill_fill_a_window_past_its_limit_and_break_nothing(
    books: Parts, clock: SetClock
) -> None:
    limited(books, clock, 0, DAY, 100)
    books.budget.settle("b", Usd.from_pico(400))
    books.budget.settle("e", Usd.from_pico(500))  # had expired
    books.budget.correct("a", Usd.from_pico(600), "forgotten")
    books.ledger.put_bill("s", [(TODAY, 0, Usd("3"), ZERO)], clock.now())
    assert audited(books).holds is True


def test_a_limit_holds_from_its_valid_from_on(books: Parts, clock: SetClock) -> None:
    begins = clock.now() + timedelta(hours=3)
    books.budget.set_limit(0, DAY, Usd.from_pico(96), by="ada", reason="why", valid_from=begins)
    clock.forward(hours=2)
    books.budget.reserve(Operation(2, "asking", "o", "s"), Usd.from_pico(100), "x")
    assert audited(books).holds is True
    clock.forward(hours=2)
    tamper(books, row("y", "reserve", 3, 2, microseconds(clock.now()), expires_us=2 * NOON_US))
    found = proof(books, "people had set")
    assert found.said.startswith("entry 13, hold y: admitted to ")  # 12 was x; nobody needed the room of c


def test_a_limit_of_the_settings_keeps_no_history_so_it_is_not_run(books: Parts, clock: SetClock) -> None:
    lower = build(settings_in(books.settings.home, DAILY_BUDGET_LIMIT="0.000000000100"), clock=clock)
    found = audited(lower)
    assert found.holds is None
    said = proof(lower, "the settings have")
    # a 20, b 30, c 40 are 90; d 50 makes 140, e 60 makes 200
    assert (said.holds, said.broken) == (None, 2)
    assert said.said.startswith(
        "entry 4, hold d: admitted to $0.000000000140 of the whole system in day 2024-02-28, "
        "whose limit was $0.000000000100 by today's settings"
    )
    assert "1 NOT RUN" in str(found)


def test_the_mail_that_a_limit_keeps_its_end_for_is_no_fault(books: Parts, clock: SetClock) -> None:
    limited(books, clock, 0, DAY, 1000)
    books.budget.settle("b", Usd.from_pico(2000))
    now = microseconds(clock.now())

    def mail(hold: str, pico: int) -> str:
        return row(hold, "reserve", pico, 2, now, expires_us=now + 1, service="aws-ses")

    tamper(books, mail("m", 10))  # a hundredth of 1000
    books.ledger.rebuild()
    assert proof(books, "people had set").holds is True
    tamper(books, mail("n", 1))
    books.ledger.rebuild()
    assert proof(books, "people had set").said.startswith("entry 14, hold n")


def test_a_clock_that_is_set_back_before_the_stop_is_pulled_accuses_nobody(books: Parts, clock: SetClock) -> None:
    clock.forward(hours=6)
    books.budget.reserve(Operation(1, "asking", "o", "s"), ZERO)
    clock.forward(hours=-5)
    books.budget.stop(by="ada", reason="a drill")
    clock.forward(minutes=1)
    books.budget.release(by="ada", reason="over")
    limited(books, clock, 0, DAY, 500)
    books.budget.reserve(Operation(1, "asking", "o", "s"), Usd.from_pico(300))
    limited(books, clock, 0, DAY, 50)
    assert audited(books).holds is True


@pytest.mark.parametrize("kind", ["reserve", "start"])
def test_what_runs_under_the_emergency_stop_is_named(books: Parts, clock: SetClock, kind: str) -> None:
    books.budget.stop(by="ada", reason="a strange bill")
    clock.forward(seconds=30)
    hold = "c" if kind == "start" else "x"
    tamper(books, row(hold, kind, 0, 1, microseconds(clock.now()), expires_us=2 * NOON_US))
    clock.forward(seconds=30)
    books.budget.release(by="ada", reason="it was a tax")
    clock.forward(seconds=30)
    books.budget.reserve(Operation(1, "asking", "o", "s"), ZERO)
    found = proof(books, "emergency stop")
    said = f"entry 12, hold {hold}: {kind}, though ada had pressed the emergency stop (number 1)"
    assert (found.holds, found.broken, found.said) == (False, 1, said)


# ── the mirror ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def mirrored(books: Parts) -> Parts:
    books.mirror.sync()
    return books


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE entries SET amount_pico = 31 WHERE id = 8",
         "entry 8, hold a: amount_pico is 30, in the mirror 31"),
        ("UPDATE entries SET reason = 'other' WHERE id = 9",
         "entry 9, hold d: reason is '', in the mirror 'other'"),
        ("DELETE FROM entries WHERE id = 5", "entry 5, hold e: not in the mirror"),
        ("INSERT INTO entries SELECT * FROM entries WHERE id = 5", "entry 5, hold e: 2 times in the mirror"),
        ("INSERT INTO entries SELECT * REPLACE (-3 AS id) FROM entries WHERE id = 5",
         "entry -3: in the mirror, and not in the ledger"),
        ("UPDATE day_sums SET calls = calls + 1 WHERE user_id = 1 AND day = (SELECT min(day) FROM day_sums)",
         "the mirror's sum of 'asking' for user 1 on 2024-02-28: not that of its entries"),
    ],
)  # fmt: skip
def test_a_mirror_that_differs_is_named(mirrored: Parts, statement: str, said: str) -> None:
    with mirrored.mirror.opened() as (copy, _):
        copy.execute(statement)
    found = proof(mirrored, "mirror")
    assert (found.holds, found.broken, found.said) == (False, 1, said)


def test_a_mirror_that_is_deleted_is_made_anew_and_holds(mirrored: Parts) -> None:
    mirrored.mirror.path.unlink()
    assert proof(mirrored, "mirror").holds is True


# ── the shell ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_shell_says_each_rule_and_its_status_is_the_outcome(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    whole = shell("audit")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.splitlines()[-1] == "21 of 21 rules hold."
    assert len(json.loads(shell("audit", "--json").stdout)["rows"]) == 21
    shell("budget", "set", "day", "1", "--reason", "why")
    with closing(sqlite3.connect(tmp_path / "home" / "podcastqa.sqlite")) as raw:
        raw.execute("DROP TRIGGER limits_no_update")
        raw.commit()
    broken = shell("audit")
    assert broken.returncode == 1
    assert "limits: UPDATE is not refused" in broken.stdout
    assert broken.stdout.splitlines()[-1] == "20 of 21 rules hold; 1 NOT: these books are not to be trusted."


def test_a_rule_that_cannot_be_checked_is_status_3(tmp_path: Path) -> None:
    shell, code = Shell(tmp_path), "from podcastqa.wiring import parts; parts().treasury.call('s', 'o', Usd('1'))"
    assert shell(code=f"from podcastqa.money import Usd; {code}").returncode == 0
    assert shell("audit").returncode == 0
    done = shell("audit", USER_DAILY_BUDGET_LIMIT="0.50")
    assert (done.returncode, "whose limit was $0.50 by today's settings" in done.stdout) == (3, True)

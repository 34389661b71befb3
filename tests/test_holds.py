"""A person says what came of a hold that a kill left in doubt: it is booked, mailed and recorded like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from podcastqa.errors import HoldUnknown
from podcastqa.money import Usd
from podcastqa.spend.entries import EntryKind, Hold, Operation
from podcastqa.spend.holds import find_hold, open_holds, shown_age
from podcastqa.wiring import Parts
from tests.conftest import Process, SetClock
from tests.shell import Shell

CENT = Usd("0.01")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def doubtful(shell: Shell, hold_id: str = "h") -> None:
    """A hold of the shell's own user that has started, and whose process is gone."""
    code = f"""
from podcastqa.wiring import parts
from podcastqa.money import Usd
from podcastqa.spend.entries import Operation
p = parts()
user = p.users.ensure(p.settings.user)
p.budget.begin(Operation(user.id, "asking", "o", "s"), Usd("0.01"), {hold_id!r})
"""
    assert shell(code=code).returncode == 0


def entries(shell: Shell) -> list[list[str]]:
    code = """
from podcastqa.wiring import parts
for one in parts().ledger.entries():
    print(one.kind, one.amount, one.reason, sep="|")
"""
    return [line.split("|") for line in shell(code=code).stdout.splitlines()]


# ── what is open ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_open_hold_is_listed_with_who_what_how_long_and_what_is_known_of_it(
    parts: Parts, clock: SetClock
) -> None:
    ada = parts.users.add("ada").id
    held: dict[str, Hold] = {}
    for name in ("reserved", "started", "settled", "void"):
        held[name] = parts.budget.reserve(Operation(ada, "asking", name, "s"), CENT, name)
    parts.budget.begin(Operation(ada, "asking", "at once", "s"), CENT, "at once")
    for name in ("started", "settled"):
        parts.budget.start(name)
    parts.budget.settle("settled", CENT)
    parts.budget.void("void")
    clock.forward(minutes=2)

    def rows() -> list[tuple[object, ...]]:
        return list(open_holds(parts.database, parts.users.names(), clock.now()).table().rows)

    assert rows() == [
        ("reserved", "ada", "asking reserved", CENT, "reserved", "2 min 0 s"),
        ("started", "ada", "asking started", CENT, "runs, or in doubt", "2 min 0 s"),
        ("at once", "ada", "asking at once", CENT, "runs, or in doubt", "2 min 0 s"),
    ]
    parts.ledger.carry()
    assert [row[0] for row in rows()] == ["reserved", "started", "at once"]
    clock.forward(minutes=13)  # a hold that does not start within 15 minutes ends by itself
    assert [row[4] for row in rows()] == ["ran out of time, does not count", "in doubt", "in doubt"]
    notes = open_holds(parts.database, {}, clock.now()).table().notes
    assert notes[0] == "2 started, at $0.02 together, of 3 open holds."
    assert notes[1].startswith("Say what came of one: podcastqa holds settle ID AMOUNT")


def test_what_a_kill_leaves_is_listed_as_it_was(parts: Parts, process: Callable[..., Process]) -> None:
    """A process reserves and starts, and is killed in the middle of its operation."""
    lines = """
p = opened()
user = p.users.ensure("ada")
p.budget.begin(Operation(user.id, "asking", "o", "s"), Usd("0.25"), "h")
print("started", flush=True)
sys.stdin.readline()
"""
    running = process(lines)
    assert running.said() == "started"
    running.kill()
    found = open_holds(parts.database, parts.users.names(), parts.clock.now())
    assert [(one.hold.hold_id, one.hold.estimate, one.started) for one in found.holds] == [("h", Usd("0.25"), True)]


def test_a_hold_is_found_open_or_not(parts: Parts) -> None:
    ada = parts.users.add("ada").id
    hold = parts.budget.reserve(Operation(ada, "asking", "o", "s", "price"), CENT, "h")
    assert (find_hold(parts.database, "h").hold, find_hold(parts.database, "h").started) == (hold, False)
    parts.budget.start("h")
    assert find_hold(parts.database, "h").started is True
    parts.budget.settle("h", CENT)
    assert find_hold(parts.database, "h").started is None
    with pytest.raises(HoldUnknown, match="There is no hold nobody's"):
        find_hold(parts.database, "nobody's")


@pytest.mark.parametrize(
    ("age", "said"),
    [
        ({"seconds": 5}, "0 min 5 s"),
        ({"seconds": 3599}, "59 min 59 s"),
        ({"hours": 1}, "1 h 0 min"),
        ({"hours": 23, "minutes": 59}, "23 h 59 min"),
        ({"days": 2, "hours": 3}, "2 d 3 h"),
        ({"seconds": -5}, "0 min 0 s"),  # clocks of two machines
    ],
)
def test_an_age_is_said_in_its_two_largest_units(age: dict[str, int], said: str) -> None:
    assert shown_age(timedelta(**age)) == said


# ── the shell ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_holds_the_list_is_empty_and_says_so(shell: Shell) -> None:
    assert shell("holds").stdout.splitlines()[-1] == "0 started, at $0.00 together, of 0 open holds."


def test_a_hold_in_doubt_is_settled_with_why_and_who_and_its_overrun_is_mailed(shell: Shell) -> None:
    doubtful(shell)
    [row] = json.loads(shell("holds", "--json").stdout)["rows"]
    assert (row["hold"], row["state"], row["estimate in USD"]) == ("h", "runs, or in doubt", "0.010000000000")
    done = shell("holds", "settle", "h", "0.03", "--reason", "the invoice says so", PODCASTQA_USER="ada")
    assert (done.returncode, done.stdout) == (0, "The hold h is settled at $0.03; $0.01 had been set aside.\n")
    assert entries(shell)[-1] == ["settle", "0.030000000000", "the invoice says so (said by ada)"]
    mails = [file.read_text(encoding="utf-8") for file in (shell.folder / "home").rglob("new/*")]
    assert any("asking o cost $0.02 more than its hold" in " ".join(mail.split()) for mail in mails)
    assert json.loads(shell("holds", "--json").stdout)["rows"] == []
    assert shell("audit").returncode == 0


def test_settling_again_with_another_amount_leads_to_the_correction_which_is_recorded_too(shell: Shell) -> None:
    doubtful(shell)
    shell("holds", "settle", "h", "0.03", "--reason", "the invoice")
    again = shell("holds", "settle", "h", "0.02", "--reason", "no")
    assert (again.returncode, "already settled at $0.03" in again.stderr) == (1, True)
    done = shell("holds", "correct", "h", "-0.01", "--reason", "misread", PODCASTQA_USER="ada")
    assert (done.returncode, done.stdout) == (0, "What is booked for the hold h is corrected by -$0.01.\n")
    assert entries(shell)[-1] == ["correct", "-0.010000000000", "misread (said by ada)"]
    assert shell("audit").returncode == 0


def test_a_hold_for_which_nothing_can_have_been_charged_is_void(shell: Shell) -> None:
    doubtful(shell)
    done = shell("holds", "void", "h", "--reason", "it never left", PODCASTQA_USER="ada")
    assert (done.returncode, done.stdout) == (0, "The hold h is void: $0.01 is given back.\n")
    assert entries(shell)[-1] == ["void", "0.000000000000", "it never left (said by ada)"]
    late = shell("holds", "settle", "h", "0.02", "--reason", "it did")  # money that left is never forgotten
    assert late.returncode == 0
    assert entries(shell)[-1][:2] == [str(EntryKind.CORRECT), "0.020000000000"]
    assert shell("audit").returncode == 0


@pytest.mark.parametrize(
    ("words", "status", "wrong"),
    [
        (["settle", "h", "0.02"], 2, "the following arguments are required: --reason"),
        (["settle", "h", "0.02", "--reason", " "], 2, "This is recorded: say why."),
        (["settle", "h", "-1", "--reason", "w"], 2, "'-1' is below zero"),
        (["settle", "none", "1", "--reason", "w"], 1, "There is no hold none. See which are open"),
        (["correct", "h", "much", "--reason", "w"], 2, "'much' is not an amount of US dollars; write it like 0.02"),
        (["correct", "h", "1", "--reason", "w"], 1, "The hold h is open: nothing is booked for it"),
        (["viod", "h"], 2, "Did you mean void?"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_next_step(
    shell: Shell, words: list[str], status: int, wrong: str
) -> None:
    doubtful(shell)
    done = shell("holds", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert wrong in " ".join(done.stderr.split())
    assert len(entries(shell)) == 2  # the reserve and the start

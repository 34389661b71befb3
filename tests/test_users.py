"""A user is a name for a number: the name can be forgotten, what the number spent cannot."""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_binary_file
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podcastqa.alerts.outbox import outbox
from podcastqa.clock import WindowKind, microseconds
from podcastqa.database import SYSTEM, Scope
from podcastqa.errors import CrossUserRefused, Misuse, UnknownUser, UserExists
from podcastqa.money import Usd
from podcastqa.spend.ledger import NOTHING
from podcastqa.users import SYSTEM_ID, User, checked_name, owner, users_table
from podcastqa.wiring import Parts
from tests.conftest import Process, SetClock, operation, race

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]


def test_users_are_listed_in_the_order_they_were_added_and_the_system_is_nobody(parts: Parts) -> None:
    assert parts.users.list().users == ()
    assert "Nobody yet" in str(parts.users.list())
    bob, ada = parts.users.add("bob", "bob@example.org"), parts.users.add("ada")
    assert parts.users.list().users == (bob, ada) == (User(1, "bob", "bob@example.org"), User(2, "ada"))
    assert parts.users.get("ada") == ada
    assert parts.users.names() == {1: "bob", 2: "ada"}
    assert parts.users.count() == 2
    assert "bob@example.org" in str(parts.users.list())


def test_a_name_is_taken_once(parts: Parts) -> None:
    parts.users.add("ada")
    with pytest.raises(UserExists, match="already is a user ada"):
        parts.users.add("ada", "other@example.org")
    assert parts.users.ensure("ada") == parts.users.ensure("ada") == User(1, "ada")
    assert parts.users.ensure("bob") == User(2, "bob")


def test_who_is_unknown_is_named_with_the_next_step(parts: Parts) -> None:
    with pytest.raises(UnknownUser, match="podcastqa users add eve"):
        parts.users.get("eve")
    with pytest.raises(UnknownUser):
        parts.users.delete("eve")


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "Ada", "a b", "-ada", ".ada", "_ada", "ada\n", "\nada", "ada\r\nBcc: eve@example.org", "a" * 64),
        *(
            "ада",
            "ａda",
            "../../etc/passwd",
            "ada/",
            "a\x00",
            "<b>ada</b>",
            "'; DROP TABLE users; --",
            "ada@example.org",
        ),
    ],
)
def test_what_cannot_stand_in_a_mail_or_a_file_name_is_no_name(parts: Parts, name: str) -> None:
    with pytest.raises(Misuse, match="cannot be a user's name"):
        parts.users.add(name)
    with pytest.raises(Misuse):
        parts.users.ensure(name)
    assert parts.users.count() == 0


@given(name=st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z"))
@settings(max_examples=50, deadline=None, derandomize=False)
def test_every_name_of_the_promised_form_is_one(name: str) -> None:
    assert checked_name(name) == name


@given(name=st.text(max_size=70))
@settings(max_examples=100, deadline=None, derandomize=False)
def test_no_other_name_is(name: str) -> None:
    plain = set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    if 0 < len(name) <= 63 and set(name) <= plain and name[0] not in "._-":
        assert checked_name(name) == name
    else:
        with pytest.raises(Misuse):
            checked_name(name)


@pytest.mark.parametrize(
    "email",
    [
        *("ada", "@example.org", "ada@", "a@b@c", "ada @example.org", "ada@example.org\nBcc: eve@example.org"),
        *("ada@example.org\n", "<ada@example.org>", "a,b@example.org", '"ada"@example.org', "a" * 65 + "@example.org"),
    ],
)
def test_what_is_no_address_is_refused(parts: Parts, email: str) -> None:
    with pytest.raises(Misuse, match="is not an e-mail address"):
        parts.users.add("ada", email)
    assert parts.users.count() == 0


def test_a_deleted_user_is_forgotten_by_name_and_address_while_the_numbers_stay(
    parts: Parts, clock: SetClock, home: Path
) -> None:
    ada, bob = parts.users.add("ada", "ada@example.org"), parts.users.add("bob")
    parts.treasury.call("service", "o", Usd("4.00"), "ada")  # 80 % of 5.00: two mails of Ada's, two of the system's
    parts.treasury.call("service", "o", Usd("0.50"), "bob")
    parts.budget.set_limit(ada.id, WindowKind.DAY, Usd("4.50"), by="bob", reason="test")
    entries_before = list(parts.ledger.entries())
    standing_before = parts.budget.standing(ada.id)
    clock.forward(seconds=1)

    assert parts.users.delete("ada") == ada

    assert parts.users.list().users == (bob,)
    assert parts.users.names() == {ada.id: "deleted user 1", bob.id: "bob"}
    assert parts.users.count() == 1
    with parts.database.read(SYSTEM) as connection:
        row = connection.execute(sa.select(users_table).where(users_table.c.id == ada.id)).one()
        assert (row.name, row.email, row.deleted_us) == (None, "", microseconds(clock.instant))
        assert connection.execute(sa.select(sa.func.count()).where(outbox.c.user_id == ada.id)).scalar() == 0
    assert list(parts.ledger.entries()) == entries_before
    assert parts.budget.standing(ada.id) == standing_before
    assert parts.treasury.spent(WindowKind.DAY) == Usd("4.50")  # 4.00 + 0.50: money that left is never forgotten
    assert "deleted user 1" in str(parts.treasury.by_user(days=1))
    if parts.database.path:
        parts.database.driver().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert "ada@example.org" not in {row[0] for row in parts.database.driver().execute("SELECT email FROM users")}


def test_the_books_of_a_deleted_user_can_still_be_closed(parts: Parts) -> None:
    ada = parts.users.add("ada")
    parts.budget.reserve(operation(ada.id), Usd("1.00"), "running")
    parts.budget.start("running")
    parts.users.delete("ada")
    parts.budget.settle("running", Usd("5.00"))
    assert parts.budget.standing(ada.id)[ada.id, WindowKind.DAY].real == Usd("5.00")
    with pytest.raises(UnknownUser):  # what ran is booked; nothing new begins
        parts.budget.reserve(operation(ada.id), Usd("0.01"))
    with pytest.raises(UnknownUser):
        parts.treasury.call("service", "o", Usd("0.01"), "ada")


def mails(parts: Parts) -> list[str]:
    """The subjects in the mailbox, read as any mail program would."""
    found = []
    for path in sorted((parts.settings.maildir / "new").iterdir()):
        with path.open("rb") as file:
            found.append(str(message_from_binary_file(file)["Subject"]))
    return found


def test_nobody_is_mailed_anew_about_a_user_who_was_deleted(parts: Parts) -> None:
    parts.users.add("ada", "ada@example.org")
    parts.treasury.call("service", "o", Usd("4.00"), "ada")
    before = mails(parts)
    assert before
    parts.users.delete("ada")
    assert parts.treasury.deliver_alerts().sent == ()
    assert mails(parts) == before


def test_a_name_that_was_deleted_is_free_and_its_number_is_not(parts: Parts, clock: SetClock) -> None:
    first = parts.users.add("ada")
    parts.budget.book(operation(first.id), Usd("1.00"))
    parts.users.delete("ada")
    clock.forward(seconds=1)
    second = parts.users.add("ada")
    assert second.id == first.id + 1
    assert parts.budget.standing(second.id)[second.id, WindowKind.DAY] == NOTHING  # she begins with nothing
    parts.users.delete("ada")
    assert parts.users.add("ada").id == second.id + 1
    assert parts.users.names() == {1: "deleted user 1", 2: "deleted user 2", 3: "ada"}


def test_a_user_sees_themself_and_nobody_else(parts: Parts) -> None:
    ada, bob = parts.users.add("ada"), parts.users.add("bob")
    with parts.database.read(Scope(ada.id)) as connection:
        assert [row.name for row in connection.execute(sa.select(users_table))] == ["ada"]
    with pytest.raises(CrossUserRefused), parts.database.write(Scope(ada.id)) as connection:
        connection.execute(users_table.insert().values(id=bob.id + 1, name="eve", created_us=1))


def test_the_column_that_makes_a_table_belong_to_users_points_at_them() -> None:
    column = owner()
    assert (column.name, column.nullable) == ("user_id", False)
    assert {key.target_fullname for key in column.foreign_keys} == {"users.id"}
    assert SYSTEM_ID == 0


ENSURE = """
made = opened()
ready()
print(made.users.ensure("me").id)
"""


def test_a_user_ensured_by_many_processes_at_once_is_one(process: Callable[..., Process], parts: Parts) -> None:
    said = race([process(ENSURE) for _ in range(3)])
    assert {int(line) for line in said} == {parts.users.get("me").id}
    assert parts.users.count() == 1


@given(names=st.lists(st.sampled_from(["ada", "bob", "cleo"]), max_size=12))
@settings(max_examples=15, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck))
def test_added_and_deleted_in_any_order_the_list_is_who_is_left(parts: Parts, names: list[str]) -> None:
    left = [user.name for user in parts.users.list().users]
    for name in names:
        if name in left:
            parts.users.delete(name)
            left.remove(name)
        else:
            parts.users.add(name)
            left.append(name)
    assert [user.name for user in parts.users.list().users] == left

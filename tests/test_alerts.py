"""Alerts: what crosses a threshold becomes exactly one real mail, whoever races, dies or has which name."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default as modern
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.alerts.alert import Alert, Receipt, compose, due, one_line
from podcastqa.alerts.maildir import MaildirMailer
from podcastqa.alerts.outbox import CLAIM, Delivery, Outbox, outbox
from podcastqa.clock import SystemClock, WindowKind, day_number
from podcastqa.database import SYSTEM, Database, Scope, open_database
from podcastqa.errors import MailError, UnknownUser
from podcastqa.money import ZERO, Usd
from podcastqa.users import Users

pytestmark = [pytest.mark.step1, pytest.mark.both_databases]

DAY = date(2026, 11, 23)  # a Monday, so a day and a week begin on it
AT = datetime(2026, 11, 23, 12, 30, 0, 250, tzinfo=UTC)
HOSTILE = (
    "ada\r\nBcc: eve@example.org",
    "ada\n\nSecond body",
    "=?utf-8?q?ada=0D=0ABcc:_eve@example.org?=",
    "<script>alert(1)</script>",
    "ada\x00\x1b[31m",
    "ada\u2028Bcc: x\u202egro",
    "ada\ud800",
    "Ünï cödé 名前 🎧",
    "$(rm -rf /); `id` & 'x' \"y\"",
    "a" * 5000,
    "{threshold} {0} %s",
)


@dataclass(frozen=True)
class ClockAhead:
    """The machine's clock, so much later."""

    ahead: timedelta

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class KeepsCount(MaildirMailer):
    """Delivers for real, and notes each time it was asked to: the mailbox alone would hide a mail sent twice."""

    def send(self, message: EmailMessage) -> Receipt:
        with (self.path.parent / "sends.log").open("a") as log:
            log.write(f"{message['Message-ID']}\n")
        return super().send(message)


class DiesAfterSending(MaildirMailer):
    """Delivers for real, and is killed before anybody can be told."""

    def send(self, message: EmailMessage) -> None:  # type: ignore[override]
        super().send(message)
        os.kill(os.getpid(), signal.SIGKILL)


def an_alert(threshold: str = "80", *, user_id: int = 0, **other: object) -> Alert:
    facts = {"scope": "system", "kind": WindowKind.DAY, "window_start": DAY, "spent": Usd("4.00"), "limit": Usd("5.00")}
    return Alert(user_id=user_id, threshold=threshold, **(facts | other))  # type: ignore[arg-type]


def a_mail(alert: Alert, *, drill: bool = False) -> EmailMessage:
    """The mail as a mail program reads it, from its bytes."""
    sent = compose(alert, recipient="ada@example.org", sender="podcastqa@localhost", at=AT, drill=drill)
    return BytesParser(EmailMessage, policy=modern).parsebytes(sent.as_bytes())


def parsed(file: Path) -> EmailMessage:
    return BytesParser(EmailMessage, policy=modern).parsebytes(file.read_bytes())


def part(mail: EmailMessage, kind: str) -> str:
    found = mail.get_body((kind,))
    assert found is not None
    return str(found.get_content())


@pytest.fixture
def database(tmp_path: Path) -> Database:
    opened = open_database(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture
def mailer(tmp_path: Path) -> MaildirMailer:
    return MaildirMailer(tmp_path / "mail")


def mails_in(mailer: MaildirMailer) -> list[Path]:
    return [file for folder in ("new", "cur") for file in (mailer.path / folder).glob("*")]


# --- the pure part


@given(
    spent=st.integers(1, 10**18),
    limit=st.integers(0, 10**18),
    thresholds=st.lists(st.integers(1, 100), max_size=5).map(tuple),
)
def test_a_threshold_is_due_exactly_when_the_share_has_reached_it(spent, limit, thresholds):
    reached = due(Usd.from_pico(spent), Usd.from_pico(limit), thresholds)
    assert reached == tuple(t for t in thresholds if limit == 0 or Fraction(spent, limit) >= Fraction(t, 100))


def test_one_unit_below_the_threshold_is_not_due():
    limit, at = Usd("5.00"), Usd("4.00")
    assert due(at, limit, (50, 80, 100)) == (50, 80)
    assert due(Usd.from_pico(at.pico - 1), limit, (50, 80, 100)) == (50,)


def test_nothing_is_due_while_nothing_is_spent_even_under_a_limit_of_zero():
    assert due(ZERO, ZERO, (50, 100)) == ()
    assert due(Usd("-1"), Usd("5"), (50,)) == ()


@pytest.mark.parametrize("threshold", ["", "0", "101", "eighty", "refused twice", "²", "8 0"])
def test_a_threshold_that_means_nothing_is_refused(threshold):
    with pytest.raises(ValueError, match="neither a percentage"):
        an_alert(threshold)


def test_an_alert_for_a_window_that_does_not_begin_then_is_refused():
    with pytest.raises(ValueError, match="no week begins"):
        an_alert(kind=WindowKind.WEEK, window_start=date(2026, 11, 24))


def test_the_mail_says_who_which_window_how_much_of_how_much_and_what_to_do_in_both_parts():
    mail = a_mail(an_alert(scope="ada", user_id=7, kind=WindowKind.WEEK, spent=Usd("20.00"), limit=Usd("25.00")))
    assert mail["Subject"] == "podcastqa: 80 % of the weekly budget is spent (ada)"
    assert mail["To"] == "ada@example.org"
    assert mail["From"] == "podcastqa <podcastqa@localhost>"
    assert mail["Date"].datetime == AT.replace(microsecond=0)
    assert mail.get_content_type() == "multipart/alternative"
    assert not mail.defects
    for body in (part(mail, "plain"), part(mail, "html")):
        for said in ("ada", "week 2026-W48", "2026-11-23", "2026-11-30", "UTC", "$20.00 of $25.00 (80 %)"):
            assert said in body
        for command in ("status", "spend --by user", "budget set week AMOUNT --user ada", "budget stop --reason"):
            assert f"podcastqa {command}" in body


@pytest.mark.parametrize(
    ("threshold", "subject", "command"),
    [
        ("100", "100 % of the daily budget is spent", "budget set day AMOUNT --reason WHY"),
        ("refused", "an operation was refused by the daily budget", "budget set day AMOUNT --reason WHY"),
        ("overrun", "an operation cost more than was set aside for it", "spend --variance"),
        ("stop", "the emergency stop is on", "budget release --reason WHY"),
        ("stop 7", "the emergency stop is on", "budget release --reason WHY"),
    ],
)
def test_each_event_has_its_own_words_and_its_own_next_step(threshold, subject, command):
    mail = a_mail(an_alert(threshold, detail="transcribe: $0.40"))
    assert mail["Subject"] == f"podcastqa: {subject} (the whole system)"
    assert f"podcastqa {command}" in part(mail, "plain")
    assert "transcribe: $0.40" in part(mail, "plain")


@pytest.mark.parametrize("threshold", ["50", "refused"])
def test_an_alert_about_a_service_names_it_and_whose_limit_to_change(threshold):
    mail = a_mail(an_alert(threshold, service="speech; rm -rf ~"))
    assert mail["Subject"].endswith("(the service speech; rm -rf ~)")
    assert "podcastqa budget set day AMOUNT --service 'speech; rm -rf ~' --reason WHY" in part(mail, "plain")


def test_alerts_about_the_system_and_about_two_services_are_three(database):
    outbox = Outbox(database, SystemClock())
    three = [an_alert(), an_alert(service="speech"), an_alert(service="search")]
    assert outbox.raise_all([*three, *three]) == tuple(three)
    assert outbox.raise_all(three) == ()
    assert [notice.alert for notice in outbox.pending()] == three
    assert len({compose(one, recipient="a@b", sender="c@d", at=AT)["Message-ID"] for one in three}) == 3


def test_a_drill_says_so_before_anything_else():
    mail = a_mail(an_alert(), drill=True)
    assert mail["Subject"].startswith("[drill] podcastqa: ")
    assert part(mail, "plain").startswith("This is a drill")
    assert "This is a drill" in part(mail, "html")


def test_the_same_alert_composed_again_is_the_same_mail_and_another_is_not():
    ids = {
        compose(alert, recipient=to, sender="a@localhost", at=at)["Message-ID"]
        for alert, to, at in [
            (an_alert(), "ada@example.org", AT),
            (an_alert(spent=Usd("4.10"), detail="later"), "bob@example.org", AT),
        ]
    }
    assert len(ids) == 1
    for other in (an_alert("50"), an_alert(user_id=3), an_alert(kind=WindowKind.WEEK)):
        ids.add(compose(other, recipient="a@localhost", sender="a@localhost", at=AT)["Message-ID"])
    later = AT + timedelta(microseconds=1)  # as another ledger would have raised it
    ids.add(compose(an_alert(), recipient="a@localhost", sender="a@localhost", at=later)["Message-ID"])
    assert len(ids) == 5


class Tags(HTMLParser):
    """Which tags a page really opens."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.seen.add(tag)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_and_no_detail_can_become_a_header_a_body_or_markup(name):
    mail = a_mail(an_alert(scope=name, user_id=7, detail=name))
    usual = a_mail(an_alert(scope="ada", user_id=7, detail="x"))
    assert mail.keys() == usual.keys()
    assert not mail.defects
    assert [p.get_content_type() for p in mail.walk()] == [p.get_content_type() for p in usual.walk()]
    assert len(part(mail, "plain").splitlines()) == len(part(usual, "plain").splitlines())
    assert Tags(part(mail, "html")).seen == Tags(part(usual, "html")).seen
    assert not {letter for letter in mail["Subject"] if ord(letter) < 32}


@given(st.text())
def test_any_text_as_a_name_leaves_the_same_headers(name):
    mail = a_mail(an_alert(scope=name, user_id=7, detail=name))
    assert mail.keys() == a_mail(an_alert()).keys()
    assert "\n" not in mail["Subject"]
    assert len(one_line(name).splitlines()) <= 1


@pytest.mark.parametrize(
    "address", ["", "nobody", "a@b\r\nBcc: c@d", "a@b, c@d", "A <a@b>", "ü@example.org", "a@b c", "a\x00@b"]
)
def test_an_address_that_is_none_is_refused_with_a_next_step(address):
    with pytest.raises(MailError) as caught:
        compose(an_alert(), recipient=address, sender="podcastqa@localhost", at=AT)
    assert "name@example.org" in caught.value.next_step


# --- the mailbox


def test_a_mail_is_delivered_to_a_maildir_that_only_its_owner_reads_and_read_back_from_it(mailer):
    message = compose(an_alert(), recipient="ada@example.org", sender=mailer.sender, at=AT)
    receipt = mailer.send(message)
    found = mailer.read_back(receipt.message_id)
    assert found is not None
    assert found["Subject"] == message["Subject"]
    assert part(found, "plain") == part(message, "plain")
    assert part(found, "html") == part(message, "html")
    assert (receipt.where, mailer.name) == (mailer.account, "Maildir")
    assert {stat.S_IMODE(p.stat().st_mode) for p in (mailer.path, *mailer.path.iterdir())} == {0o700}
    assert [stat.S_IMODE(p.stat().st_mode) for p in mails_in(mailer)] == [0o600]
    assert not list((mailer.path / "tmp").iterdir())


def test_a_mail_that_is_there_already_is_not_delivered_again_even_after_it_was_read(mailer):
    message = compose(an_alert(), recipient="ada@example.org", sender=mailer.sender, at=AT)
    first = mailer.send(message)
    assert mailer.send(message) == first
    (arrived,) = mails_in(mailer)
    arrived.rename(mailer.path / "cur" / f"{arrived.name}:2,S")  # what a mail program does when it is opened
    assert mailer.send(message) == first
    assert len(mails_in(mailer)) == 1
    assert mailer.read_back(first.message_id) is not None


def test_a_mail_sent_from_many_threads_at_once_arrives_once(mailer):
    for number in range(10):
        message = compose(an_alert(str(number + 1)), recipient="ada@example.org", sender=mailer.sender, at=AT)
        with ThreadPoolExecutor(8) as threads:
            assert len({receipt.message_id for receipt in threads.map(mailer.send, [message] * 8)}) == 1
        assert len(mails_in(mailer)) == number + 1
    assert not list((mailer.path / "tmp").iterdir())


def test_a_mail_that_never_came_is_not_read_back(mailer):
    assert mailer.read_back("<nothing@podcastqa.localhost>") is None


def test_a_mailbox_that_cannot_be_made_is_a_sentence_with_a_next_step(tmp_path):
    (tmp_path / "mail").write_text("a file where the folder should be")
    broken = MaildirMailer(tmp_path / "mail")
    message = compose(an_alert(), recipient="ada@example.org", sender=broken.sender, at=AT)
    for attempt in (lambda: broken.send(message), lambda: broken.read_back("<x@y>")):
        with pytest.raises(MailError, match="cannot be used") as caught:
            attempt()
        assert "MAILDIR" in caught.value.next_step


# --- the outbox


def test_an_alert_raised_again_is_not_new(database):
    box = Outbox(database, SystemClock())
    assert box.raise_alert(an_alert())
    assert not box.raise_alert(an_alert(spent=Usd("4.90"), detail="later"))
    new = box.raise_all([an_alert("50"), an_alert("50"), an_alert("80"), an_alert("100")])
    assert [alert.threshold for alert in new] == ["50", "100"]
    assert [notice.alert.spent for notice in box.pending()] == [Usd("4.00")] * 3
    assert box.raise_all([]) == ()


def test_users_and_windows_have_alerts_of_their_own(database):
    users, box = Users(database, SystemClock()), Outbox(database, SystemClock())
    ada, bob = users.add("ada"), users.add("bob")
    for user_id in (0, ada.id, bob.id):
        assert box.raise_alert(an_alert(user_id=user_id))
        assert box.raise_alert(an_alert(user_id=user_id, kind=WindowKind.WEEK))
    assert [n.alert.scope for n in box.pending()] == ["system", "system", "ada", "ada", "bob", "bob"]
    assert {n.alert.user_id for n in box.pending(Scope(ada.id))} == {ada.id}


def test_what_is_delivered_is_in_the_mailbox_and_marked_and_not_sent_twice(database, mailer):
    users, box = Users(database, SystemClock()), Outbox(database, SystemClock())
    ada = users.add("ada", "ada@example.org")
    box.raise_all([an_alert(), an_alert(user_id=ada.id)])
    done = box.deliver(mailer, lambda user_id: ada.email if user_id == ada.id else "")
    assert [n.recipient for n in done.sent] == ["operator@localhost", "ada@example.org"]
    assert not done.failed
    assert done.sent == box.sent()
    assert box.pending() == ()
    assert "sent to ada@example.org by Maildir" in str(done)
    for notice in done.sent:
        mail = mailer.read_back(notice.message_id)
        assert mail is not None
        assert mail["To"] == notice.recipient
        assert notice.sent_at is not None
    assert box.deliver(mailer) == Delivery()
    assert len(mails_in(mailer)) == 2


def test_one_mail_that_fails_is_reported_waits_and_keeps_no_other_from_going(database, mailer):
    users, box = Users(database, SystemClock()), Outbox(database, SystemClock())
    ada = users.add("ada")
    box.raise_all([an_alert("50"), an_alert(user_id=ada.id), an_alert("100")])
    round_one = box.deliver(mailer, lambda user_id: "not an address" if user_id else "")
    assert [n.alert.threshold for n in round_one.sent] == ["50", "100"]
    ((failed, problem),) = round_one.failed
    assert failed.alert.user_id == ada.id
    assert "not an address" in problem
    assert "not sent: 'not an address' is not" in str(round_one)

    def gone(user_id: int) -> str:
        raise UnknownUser(f"There is no user {user_id}.")

    assert len(box.deliver(mailer, gone).failed) == 1
    assert [n.alert.user_id for n in box.deliver(mailer).sent] == [ada.id]  # at once: no claim is left behind


def test_a_mailbox_that_came_back_gets_what_it_missed(database, tmp_path):
    box, mailer = Outbox(database, SystemClock()), MaildirMailer(tmp_path / "mail")
    mailer.path.write_text("in the way")
    box.raise_alert(an_alert())
    assert len(box.deliver(mailer).failed) == 1
    mailer.path.unlink()
    assert len(box.deliver(mailer).sent) == 1


def test_a_drill_of_the_same_alert_in_a_ledger_of_its_own_is_another_mail(database, mailer, tmp_path):
    drill_database = open_database(f"sqlite:///{tmp_path / 'drill.sqlite'}")
    for box in (Outbox(database, SystemClock()), Outbox(drill_database, SystemClock(), drill=True)):
        box.raise_alert(an_alert())
        box.deliver(mailer)
    subjects = sorted(parsed(file)["Subject"] for file in mails_in(mailer))
    assert [subject.startswith("[drill] ") for subject in subjects] == [True, False]
    drill_database.close()


def test_forgetting_a_user_forgets_the_mails_about_them(database, mailer):
    users, box = Users(database, SystemClock()), Outbox(database, SystemClock())
    ada = users.add("ada")
    box.raise_all([an_alert(), an_alert(user_id=ada.id)])
    box.deliver(mailer)
    users.delete("ada")
    assert [n.alert.user_id for n in box.sent()] == [0]


@pytest.mark.parametrize(
    ("constraint", "wrong"),
    [
        ("outbox.user_id, outbox.service, outbox.window_kind, outbox.window_start, outbox.threshold", {}),
        ("ck_outbox_threshold", {"threshold": ""}),
        ("ck_outbox_window", {"window_kind": "year"}),
        ("FOREIGN KEY", {"user_id": 4711}),
        ("NOT NULL", {"detail": None}),
    ],
)
def test_the_database_itself_refuses_a_row_that_cannot_be(database, constraint, wrong):
    Outbox(database, SystemClock()).raise_alert(an_alert())
    row = {"user_id": 0, "window_kind": "day", "window_start": day_number(DAY), "threshold": "80"}
    row |= {"spent_pico": 1, "limit_pico": 2, "detail": "", "created_us": 3} | wrong
    with pytest.raises(sa.exc.IntegrityError, match=constraint), database.write(SYSTEM) as connection:
        connection.execute(sa.insert(outbox).values(row))


def test_an_alert_for_a_user_who_does_not_exist_is_an_error_and_not_just_old_news(database):
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
        Outbox(database, SystemClock()).raise_alert(an_alert(user_id=4711))


def test_the_migrated_table_is_the_table_the_program_knows(database):
    with database.read(SYSTEM) as connection:
        seen = sa.inspect(connection)
        columns = {c["name"]: (str(c["type"]), c["nullable"]) for c in seen.get_columns("outbox")}
        unique = {u["name"]: tuple(u["column_names"]) for u in seen.get_unique_constraints("outbox")}
        checks = {c["name"] for c in seen.get_check_constraints("outbox")}
    assert columns == {c.name: (str(c.type), c.nullable) for c in outbox.columns}
    assert unique == {"uq_outbox_once": ("user_id", "service", "window_kind", "window_start", "threshold")}
    assert checks == {"ck_outbox_threshold", "ck_outbox_window"}


# --- races and crashes, with real processes

OPEN = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from test_alerts import *
here = Path(sys.argv[1])
box = Outbox(open_database(f"sqlite:///{here / 'ledger.sqlite'}"), ClockAhead(timedelta(days=int(sys.argv[3]))))
mailer = MaildirMailer(here / "mail")
"""
RACE = """
(here / f"ready-{sys.argv[2]}").touch()
while not (here / "go").exists():
    time.sleep(0.001)
new, sent, mailer = 0, 0, KeepsCount(mailer.path)
for percent in range(1, 13):
    new += box.raise_alert(an_alert(str(percent)))
    sent += len(box.deliver(mailer).sent)
print(new, sent)
"""
DIE_BEFORE = """
def about_to_send(user_id):
    print("claimed", flush=True)
    time.sleep(60)
box.raise_alert(an_alert())
box.deliver(mailer, about_to_send)
"""
DIE_AFTER = """
box.raise_alert(an_alert())
box.deliver(DiesAfterSending(mailer.path))
"""


def child(code: str, here: Path, *, number: int = 1, days_ahead: int = 0) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", OPEN + code, str(here), str(number), str(days_ahead)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)


def test_32_processes_that_race_for_the_same_alerts_send_each_exactly_once(database, mailer, tmp_path):
    racers = [child(RACE, tmp_path, number=number) for number in range(32)]
    while len(list(tmp_path.glob("ready-*"))) < 32 and all(racer.poll() is None for racer in racers):
        time.sleep(0.005)
    (tmp_path / "go").touch()
    said = [tuple(map(int, racer.communicate(timeout=60)[0].split())) for racer in racers]
    late = Outbox(database, SystemClock()).deliver(mailer)  # what one had claimed and the other's last look passed by
    assert not late.sent
    assert [racer.returncode for racer in racers] == [0] * 32
    assert [sum(column) for column in zip(*said, strict=True)] == [12, 12]
    assert len(mails_in(mailer)) == len((tmp_path / "sends.log").read_text().splitlines()) == 12


def test_a_process_killed_between_claim_and_send_is_taken_over_when_its_claim_has_run_out(database, mailer, tmp_path):
    with child(DIE_BEFORE, tmp_path) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "claimed\n"
        victim.kill()
    assert victim.returncode == -signal.SIGKILL
    early = Outbox(database, ClockAhead(CLAIM - timedelta(seconds=30))).deliver(mailer)
    assert early == Delivery()
    assert len(Outbox(database, ClockAhead(CLAIM + timedelta(seconds=1))).deliver(mailer).sent) == 1
    assert len(mails_in(mailer)) == 1


def test_a_process_killed_between_send_and_mark_leaves_one_mail_and_the_next_marks_it(database, mailer, tmp_path):
    with child(DIE_AFTER, tmp_path) as victim:
        victim.wait(timeout=60)
    assert victim.returncode == -signal.SIGKILL
    assert len(mails_in(mailer)) == 1
    box = Outbox(database, ClockAhead(CLAIM + timedelta(seconds=1)))
    assert len(box.pending()) == 1
    (notice,) = box.deliver(mailer).sent
    assert mailer.read_back(notice.message_id) is not None
    assert len(mails_in(mailer)) == 1
    assert box.pending() == ()


def test_a_claim_from_before_the_clock_was_set_back_does_not_block_for_ever(database, mailer, tmp_path):
    with child(DIE_BEFORE, tmp_path, days_ahead=1) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "claimed\n"
        victim.kill()
    assert len(Outbox(database, SystemClock()).deliver(mailer).sent) == 1

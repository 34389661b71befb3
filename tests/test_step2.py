"""Step 2's criteria: each passes where all is well, fails where what it asks about is broken, and is not asked of
sources that are not in use."""

from __future__ import annotations

import json
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path

import pytest

from podcastqa.clock import SystemClock
from podcastqa.errors import Misuse
from podcastqa.podcasts.listens import listens
from podcastqa.podcasts.sample_podcast import SOURCE, bring_sample, read_sample
from podcastqa.podcasts.tables import episodes
from podcastqa.wiring import Parts, build
from podcastqa.workbook import library_checks
from podcastqa.workbook.criteria import Outcome
from podcastqa.workbook.library_figures import listening_by_day, listening_by_show
from podcastqa.workbook.session import Session
from podcastqa.workbook.step2 import Step2
from podcastqa.workbook.steps import EXPORT, OPML, SPOTIFY, STEPS
from tests.conftest import settings_in
from tests.shell import Shell
from tests.test_listens import exact, short
from tests.test_podcasts import EXTENDED, LIBRARY, SHORT, packed, put

PASS, FAIL, NOT_RUN = Outcome.PASS, Outcome.FAIL, Outcome.NOT_RUN
SAMPLE = files("podcastqa.podcasts").joinpath("sample")


Opened = Callable[..., Step2]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Runs of step 2 behind its gate: `opened(parts, *files)`. What a test leaves open is ended with it, so that the
    run's own cost is booked while its ledger is there."""

    def run(made: Parts, *paths: Path, more: tuple[str, ...] = ()) -> Step2:
        sources = [SOURCE, *([EXPORT] if paths else []), *more]
        components = made.components | {"library": ", ".join(sources)}
        given = {"user": "ada", "files": ";".join(map(str, paths)), "show_rows": 20}
        session = Session(STEPS["step2"].using(components), given, components, made)
        made_run = Step2(session, made, [*paths], sources)
        ends.callback(made_run._run.close)
        return made_run

    with ExitStack() as ends:
        yield run


@pytest.fixture
def made(home: Path) -> Parts:
    return build(settings_in(home), clock=SystemClock())


@pytest.mark.both_databases
def test_every_criterion_of_the_sample_podcast_passes_and_those_of_other_sources_are_not_asked(
    made: Parts, opened: Opened
) -> None:
    run = opened(made)
    found = [
        run.sources_connected(),
        run.recent_episodes(),
        run.user_isolation(),
        run.run_again(),
        run.deleting_a_user(),
        run.speed(),
        run.validation_cost(),
    ]
    assert [(one.criterion.id, one.outcome) for one in found] == [(str(n), PASS) for n in range(1, 8)]
    assert run.asked == {"1", "2", "3", "4", "5", "6", "7"}
    assert made.catalog.history(run.user).listens == ()  # the sample is fetched, and heard by nobody
    raw = made.database.path is None
    # Two look for ada's rows in two tables, and write one; four look for the others', who are lent a login, in three.
    attempts = 2 * (2 + 1) + 4 * (3 + 1) + (2 * 2 + 4 * 3 if raw else 0)
    tried = f"3 users; {attempts} of {attempts} attempts came to nothing"
    assert found[2].measured == f"{tried}; not tried, nobody has any: listening"
    assert library_checks.rows_of(made, made.users.get("validation-1"))["connections"] == 0  # lent, and taken back


def test_a_table_that_lost_its_owner_fails_the_isolation_of_users(made: Parts, opened: Opened) -> None:
    run = opened(made)
    run.sources_connected()
    episodes.info.pop("owner")
    try:
        found = run.user_isolation()
    finally:
        episodes.info["owner"] = "user_id"
    assert found.outcome is Outcome.FAIL


def test_a_recount_sees_listens_that_nobody_can_have_heard_and_rows_that_are_lost() -> None:
    long, later = exact(22, 600_000), exact(30, 600_000)
    both = [*listens([long]), *listens([later])]  # each of ten minutes, eight seconds apart
    assert library_checks.recounted([long, later], both) == (1, 0)
    assert library_checks.recounted([long, exact(700, 600_000)], listens([long])) == (0, 1)
    quick = [short(0, 20_000, nth=1), short(0, 20_000, nth=2)]
    assert library_checks.recounted(quick, listens(quick)) == (0, 0)


def test_with_an_export_listening_is_asked_for_too(made: Parts, tmp_path: Path, opened: Opened) -> None:
    path = packed(tmp_path, {"StreamingHistory_podcast_0.json": [SHORT], "Streaming_History_Audio_1.json": [EXTENDED]})
    run = opened(made, path)
    assert run.asked == {"1", "2", "3", "4", "5", "6", "7", "8"}
    assert run.sources_connected().outcome is PASS
    found = run.listening_history()
    assert (found.outcome, found.measured) == (
        PASS,
        "1 listens of 2 rows told; 0 counted twice, 0 lost; precise to 1 s",
    )
    assert run.run_again().outcome is PASS


def test_an_export_without_listening_leaves_its_criterion_open(made: Parts, tmp_path: Path, opened: Opened) -> None:
    run = opened(made, put(tmp_path, "YourLibrary.json", LIBRARY))
    run.sources_connected()
    assert run.listening_history().outcome is NOT_RUN


def test_a_file_that_cannot_be_used_fails_the_first_criterion(made: Parts, tmp_path: Path, opened: Opened) -> None:
    good, bad = put(tmp_path, "YourLibrary.json", LIBRARY), put(tmp_path, "data.zip", b"no zip")
    found = opened(made, good, bad).sources_connected()
    assert (found.outcome, "1 files could not be used" in found.measured) == (FAIL, True)


def test_what_is_missing_or_comes_again_is_seen(made: Parts, opened: Opened) -> None:
    run = opened(made)
    run.sources_connected()
    with made.database.hot() as driver:
        driver.execute("DELETE FROM episodes WHERE user_id = ? AND uri LIKE '%2-two-walls'", (run.user.id,))
    assert run.recent_episodes().outcome is FAIL
    assert run.run_again().outcome is FAIL  # one was missing, and came in


def test_what_a_deleted_user_leaves_is_seen(made: Parts, opened: Opened) -> None:
    run = opened(made)
    run.sources_connected()
    with made.database.hot() as driver:  # somebody's copy, which no deletion knows of
        driver.execute(
            "CREATE TRIGGER keeps AFTER DELETE ON library BEGIN INSERT INTO library (user_id, source, show, added_us,"
            " digest) VALUES (OLD.user_id, 'a copy', OLD.show, 1, 'a copy'); END"
        )
    found = run.deleting_a_user()
    assert (found.outcome, ", 1 after" in found.measured) == (FAIL, True)


def test_an_app_without_a_consent_leaves_its_criteria_open_and_says_what_to_do(home: Path, opened: Opened) -> None:
    made = build(settings_in(home, SPOTIFY_CLIENT_ID="an-app"), clock=SystemClock())
    run = opened(made, more=(SPOTIFY,))
    assert run.asked == {str(n) for n in range(1, 10)}
    for found in (run.sources_connected(), run.consent_and_tokens()):
        assert (found.outcome, found.next_step) == (NOT_RUN, "Connect: podcastqa connect spotify --user ada")


def test_criteria_belong_to_sources() -> None:
    def asked(library: str) -> set[str]:
        return {one.id for one in STEPS["step2"].using({"library": library}).criteria}

    assert "8" not in asked(f"{SOURCE}, {OPML}")
    assert asked(f"{SOURCE}, {EXPORT}") - asked(SOURCE) == {"8"}
    assert asked(f"{SOURCE}, {SPOTIFY}") - asked(SOURCE) == {"8", "9"}


def test_a_file_that_is_not_there_is_refused_before_anything_runs() -> None:
    from podcastqa.workbook import step2

    with pytest.raises(Misuse, match=r"nothing\.zip is not a file"):
        step2.open(files="/nowhere/nothing.zip")


# ── the sample ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_bundled_feed_names_files_that_are_there_at_their_real_length() -> None:
    content = SAMPLE.joinpath("feed.xml").read_bytes()
    items = ET.fromstring(content).findall("channel/item")
    assert len(items) == 3
    for item in items:
        enclosure = item.find("enclosure")
        assert enclosure is not None
        audio = SAMPLE.joinpath(enclosure.attrib["url"].rsplit("/", 1)[1]).read_bytes()
        assert (len(audio), audio[:4]) == (int(enclosure.attrib["length"]), b"OggS")
        assert b"OpusHead" in audio[:64]


def test_the_feeds_guid_is_the_one_that_the_podcast_namespace_derives_from_its_address() -> None:
    """https://podcastindex.org/namespace/1.0#guid: UUIDv5 of the address without its protocol, in that namespace."""
    channel = ET.fromstring(SAMPLE.joinpath("feed.xml").read_bytes()).find("channel")
    assert channel is not None
    [guid] = [one.text for one in channel if one.tag == "{https://podcastindex.org/namespace/1.0}guid"]
    namespace = uuid.UUID("ead4c236-bf58-58c6-a2c6-a6b28d128cb6")
    assert guid == str(uuid.uuid5(namespace, "sample.podcastqa.invalid/feed.xml"))


def test_transcript_and_chapters_are_of_the_spoken_text() -> None:
    said = json.loads(SAMPLE.joinpath("episodes.json").read_text())["episodes"][0]
    cues = SAMPLE.joinpath("1-every-cent.vtt").read_text().split("\n\n")
    assert cues[0] == "WEBVTT"
    assert [cue.splitlines()[1] for cue in cues[1:]] == said["sentences"]
    chapters = json.loads(SAMPLE.joinpath("1-every-cent.chapters.json").read_text())["chapters"]
    begins = [cues[1 + at].split(" --> ")[0] for at, _ in said["chapters"]]
    assert [f"00:00:{one['startTime']:06.3f}" for one in chapters] == begins


def test_bringing_the_sample_twice_adds_nothing(parts: Parts) -> None:
    ada = parts.users.add("ada")
    assert bring_sample(parts.catalog, ada, parts.clock) == 4  # three episodes and their show
    assert bring_sample(parts.catalog, ada, parts.clock) == 0
    assert [one.released for _, one in parts.catalog.episodes(ada)] == ["2026-11-23", "2026-11-22", "2026-11-21"]
    assert {one.position_ms for one in read_sample(parts.clock).episodes} == {-1}


# ── figures ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_listening_is_drawn_by_day_and_by_show_and_said_in_words(made: Parts, tmp_path: Path, opened: Opened) -> None:
    run = opened(
        made, put(tmp_path, "StreamingHistory_podcast_0.json", [SHORT, SHORT | {"endTime": "2024-08-19 00:00"}])
    )
    run.sources_connected()
    history = made.catalog.history(run.user)
    by_day, by_show = listening_by_day(history), listening_by_show(history)
    assert "2 minutes on 2 days" in repr(by_day)
    assert "A show 2 min" in repr(by_show)


def test_without_listening_a_sentence_stands_where_the_figure_would(made: Parts) -> None:
    history = made.catalog.history(made.users.add("ada"))
    for drawn in (listening_by_day(history), listening_by_show(history)):
        assert "nothing to draw" in repr(drawn)


# ── forgetting ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.notebooks
def test_deleting_a_user_deletes_the_reports_on_that_users_podcasts_and_no_others(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell("users", "add", "ada")
    ran = shell("grace", "ada", code=_TWO_RUNS)
    assert ran.returncode == 0, ran.stderr
    reports = tmp_path / "reports"
    assert len([*reports.glob("*/step2*.html")]) == 2
    done = shell("users", "delete", "ada", "--yes")
    assert "So are 1 reports on that user's podcasts." in done.stdout
    [left] = reports.glob("*/step2*.json")
    assert json.loads(left.read_text())["parameters"]["user"] == "grace"
    assert "ada" not in left.with_suffix(".html").read_text()
    assert (reports / "index.html").read_text().count("step2_spotify") >= 1
    assert shell(code=_VALIDATED).stdout.split() == ["grace"]


# Step 2 for two users behind a gate that is left out: what a run of step 1 opens is another test's.
_TWO_RUNS = """
import sys
from podcastqa import wiring
from podcastqa.settings import Settings
from podcastqa.workbook import gates, runner
settings = Settings.load()
database = wiring.parts(settings).database
components = wiring.parts(settings).components
from podcastqa.workbook.steps import STEPS
step1 = STEPS["step1"]
now = "2026-01-01T00:00:00.000000Z"
gates.record(database, {"run_id": "by hand", "step": "step1", "verdict": "PASS", "criteria_version": 2,
    "fingerprint": gates.fingerprint(components, 2), "started": now, "finished": now, "cost_usd": "0",
    "components": components, "criteria": [], "parameters": {}}, rehearsal=False)
wiring.parts(settings).users.ensure("grace")
for name in sys.argv[1:]:
    done = runner.run("step2", {"user": name}, settings, progress=False)
    assert done.exit_status == 0, done.record
"""
_VALIDATED = """
import json
from sqlalchemy import select
from podcastqa import wiring
from podcastqa.database import SYSTEM
from podcastqa.settings import Settings
from podcastqa.workbook.gates import validations
with wiring.parts(Settings.load()).database.read(SYSTEM) as connection:
    rows = connection.execute(select(validations.c.parameters).where(validations.c.step == "step2"))
    print(*(json.loads(row[0])["user"] for row in rows))
"""

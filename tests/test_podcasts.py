"""A person's own files go in once, only podcasts are read of them, and nobody else sees what they say."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import func, select

from podcastqa.database import SYSTEM
from podcastqa.errors import Misuse, UnknownUser
from podcastqa.podcasts.bring_in import BroughtIn, bring_in
from podcastqa.podcasts.tables import library, listening
from podcastqa.users import User
from podcastqa.wiring import Parts
from tests.shell import Shell

pytestmark = pytest.mark.both_databases

_DATA = os.environ.get("PODCASTQA_TEST_DATA")
real = pytest.mark.skipif(not _DATA, reason="PODCASTQA_TEST_DATA is not set: no real export to import")
HISTORY, SUBSCRIPTIONS = "spotify/StreamingHistory_podcast_0.json", "opml/german-tech-podcasts.opml"

#: The layouts, row by row, as Spotify documents the fields (support.spotify.com, "Understanding your data").
SHORT = {"endTime": "2024-08-17 15:38", "podcastName": "A show", "episodeName": "One", "msPlayed": 61_000}
MIXED = {"endTime": "2021-02-28 23:59", "artistName": "A show", "trackName": "Two", "msPlayed": 1}
MUSIC = {"endTime": "2021-02-28 23:59", "artistName": "A band", "trackName": "A song", "msPlayed": 1}
EXTENDED = {
    "ts": "2024-08-17T15:38:22Z",
    "ms_played": 61_000,
    "platform": "a device",
    "ip_addr": "192.0.2.7",
    "conn_country": "DE",
    "master_metadata_track_name": None,
    "episode_name": "One",
    "episode_show_name": "A show",
    "spotify_episode_uri": "spotify:episode:1",
}
SONG = EXTENDED | {"episode_name": None, "episode_show_name": None, "spotify_episode_uri": None}
LIBRARY = {
    "tracks": [{"artist": "A band", "track": "A song"}],
    "shows": [{"name": "A show", "publisher": "Somebody", "uri": "spotify:show:1"}, {"name": "An old one"}],
    "episodes": [{"name": "Saved", "show": "A show", "uri": "spotify:episode:2"}],
}


@pytest.fixture
def ada(parts: Parts) -> User:
    return parts.users.add("ada")


def put(folder: Path, name: str, content: object) -> Path:
    """A file with that JSON, or with those bytes."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def packed(folder: Path, files: dict[str, object], name: str = "my_spotify_data.zip") -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, content in files.items():
            archive.writestr(inside, content if isinstance(content, bytes) else json.dumps(content))
    return path


def brought(parts: Parts, user: User, *paths: Path) -> BroughtIn:
    return bring_in(parts.catalog, user, paths)


def everything_kept(parts: Parts) -> str:
    """All that stands in the two tables, as one text."""
    with parts.database.read(SYSTEM) as connection:
        return str([connection.execute(select(table)).all() for table in (listening, library)])


# ── layouts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@real
def test_a_real_export_and_real_subscriptions_go_in_whole_and_a_second_time_change_nothing(
    parts: Parts, ada: User
) -> None:
    files = Path(str(_DATA)) / HISTORY, Path(str(_DATA)) / SUBSCRIPTIONS
    first = brought(parts, ada, *files)
    rows = json.loads(files[0].read_text())
    assert (first.new, first.problems, first.refused) == (len(rows) + 111, (), 0)  # 112 outlines, one of them twice
    assert brought(parts, ada, *files).new == 0
    history = parts.catalog.history(ada)
    assert sum(one.played_ms for one in history.listens) == sum(row["msPlayed"] for row in rows)
    assert len(history.listens) == len(rows) == 140
    assert "140 listens" in str(history)
    assert "111 shows and 0 episodes" in str(parts.catalog.library(ada))


def test_podcasts_of_each_layout_are_told_from_music(parts: Parts, ada: User, tmp_path: Path) -> None:
    path = packed(
        tmp_path,
        {
            "MyData/StreamingHistory_podcast_0.json": [SHORT],
            "MyData/StreamingHistory0.json": [MIXED, MUSIC],
            "MyData/StreamingHistory_music_0.json": [MUSIC],
            "MyData/Streaming_History_Audio_2024_1.json": [EXTENDED, SONG],
            "MyData/Streaming_History_Video_2024.json": [EXTENDED | {"ts": "2024-08-18T01:00:00Z", "ms_played": 0}],
            "MyData/YourLibrary.json": LIBRARY,
        },
    )
    found = brought(parts, ada, path)
    told = {(one.name.split("/")[1], one.rows, one.told, one.saved, one.unknown) for one in found.files}
    assert told == {
        ("StreamingHistory_podcast_0.json", 1, 1, 0, 0),
        ("StreamingHistory0.json", 2, 1, 0, 1),  # the show is in the library; the song says no more than a name
        ("Streaming_History_Audio_2024_1.json", 2, 1, 0, 0),
        ("Streaming_History_Video_2024.json", 1, 1, 0, 0),
        ("YourLibrary.json", 3, 0, 3, 0),
    }
    assert "1 rows are music, or of shows that are not known" in str(found)
    assert [(one.episode, one.sources) for one in parts.catalog.history(ada).listens] == [
        ("Two", ("Spotify account data",)),
        ("One", ("Spotify extended history", "Spotify account data")),  # both told of it: one listen
        ("One", ("Spotify extended history",)),
    ]


def test_what_is_no_podcast_is_never_kept(parts: Parts, ada: User, tmp_path: Path) -> None:
    """Neither songs nor addresses, devices and countries, nor a file that speaks of the person."""
    brought(
        parts,
        ada,
        packed(
            tmp_path,
            {
                "Streaming_History_Audio_2024.json": [EXTENDED, SONG | {"master_metadata_track_name": "A song"}],
                "endsong_0.json": [EXTENDED | {"ip_addr_decrypted": "192.0.2.7"}],
                "StreamingHistory0.json": [MUSIC],
                "Userdata.json": {"email": "ada@example.org"},
                "Payments.json": {"card": "4242"},
            },
        ),
    )
    kept = everything_kept(parts)
    assert "spotify:episode:1" in kept
    for secret in ("192.0.2.7", "a device", "A song", "A band", "ada@example.org", "4242"):
        assert secret not in kept


def test_rows_without_a_show_an_episode_or_a_sensible_time_are_named_and_the_others_stand(
    parts: Parts, ada: User, tmp_path: Path
) -> None:
    rows = [
        EXTENDED | {"episode_show_name": None},
        EXTENDED | {"episode_name": None, "episode_show_name": None},  # an address alone
        EXTENDED | {"ts": "yesterday"},
        EXTENDED | {"ms_played": -1},
        EXTENDED | {"ms_played": "long"},
        {"ms_played": 5},
        None,
        EXTENDED | {"ts": "9999-12-31T23:59:59Z"},
        EXTENDED | {"ts": "2024-08-19T00:00:00Z"},
    ]
    found = brought(parts, ada, put(tmp_path, "Streaming_History_Audio_2024.json", rows))
    [file] = found.files
    assert (file.rows, file.told, file.new) == (9, 3, 3)
    assert [problem.split(":")[0] for problem in found.problems] == [
        f"Streaming_History_Audio_2024.json, row {number}" for number in (3, 4, 5, 6, 7, 8)
    ]


def test_a_row_that_stands_twice_in_an_export_is_told_twice_and_never_again(
    parts: Parts, ada: User, tmp_path: Path
) -> None:
    quick = SHORT | {"msPlayed": 0}
    path = packed(tmp_path, {"StreamingHistory_podcast_0.json": [quick], "StreamingHistory_podcast_1.json": [quick]})
    assert brought(parts, ada, path).new == 2
    assert brought(parts, ada, path).new == 0
    again = packed(tmp_path, {"StreamingHistory_podcast_0.json": [quick, quick, quick]}, "a_later_one.zip")
    assert brought(parts, ada, again).new == 1


def test_the_same_file_in_two_folders_of_a_zip_is_one_file(parts: Parts, ada: User, tmp_path: Path) -> None:
    name = "StreamingHistory_podcast_0.json"
    path = packed(tmp_path, {f"a/{name}": [SHORT | {"msPlayed": 5}], f"b/{name}": [SHORT | {"msPlayed": 5}]})
    found = brought(parts, ada, path)
    assert (found.new, found.problems) == (1, (f"b/{name} is there twice; the second is left out",))


def test_what_names_shows_is_read_first_whatever_it_is_packed_in(parts: Parts, ada: User, tmp_path: Path) -> None:
    old = {"endTime": "2021-08-17 15:38", "artistName": "A show", "trackName": "One", "msPlayed": 60_000}
    mixed = packed(tmp_path, {"StreamingHistory0.json": [old, old | {"artistName": "A band"}]}, "a.zip")
    opml = put(tmp_path, "b.opml", b'<opml><body><outline text="A show" xmlUrl="https://example.org/f"/></body></opml>')
    assert brought(parts, ada, mixed, opml).new == 2
    assert brought(parts, ada, mixed, opml).new == 0


def test_one_damaged_file_of_a_zip_is_named_and_the_others_are_kept(parts: Parts, ada: User, tmp_path: Path) -> None:
    path = packed(tmp_path, {"YourLibrary.json": ["no library"], "StreamingHistory_podcast_0.json": [SHORT]})
    found = brought(parts, ada, path)
    assert (found.new, found.refused, len(parts.catalog.history(ada).listens)) == (1, 1, 1)
    assert "YourLibrary.json is not a file of a Spotify export" in found.problems[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_a_sentence_however_it_is_packed(parts: Parts, ada: User, tmp_path: Path, method: int) -> None:
    path = tmp_path / "my_spotify_data.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("StreamingHistory_podcast_0.json", json.dumps([SHORT] * 50))
    content = bytearray(path.read_bytes())
    content[70:110] = bytes(byte ^ 0x5A for byte in content[70:110])
    path.write_bytes(content)
    with pytest.raises(Misuse, match="cannot be read as a zip"):
        brought(parts, ada, path)


def test_names_that_are_blank_halves_of_letters_or_steer_a_terminal_do_no_harm(
    parts: Parts, ada: User, tmp_path: Path
) -> None:
    """RFC 8259, 8.2: JSON may escape half of a letter alone; no database takes it."""
    rows = [
        SHORT | {"episodeName": " \x00 "},
        SHORT | {"episodeName": "half \ud83d", "podcastName": "whole 🎙 \\ud83d"},
        SHORT | {"episodeName": "\x1b[31mred\x1b]0;title\x07 \u202eturned\r\nline"},
    ]
    found = brought(parts, ada, put(tmp_path, "StreamingHistory_podcast_0.json", json.dumps(rows).encode()))
    assert found.problems == ("StreamingHistory_podcast_0.json, row 1: no episode is named; it is left out",)
    heard = {one.episode: one.show for one in parts.catalog.history(ada).listens}
    assert heard == {"half \ufffd": "whole 🎙 \\ud83d", "[31mred ]0;title   turned line": SHORT["podcastName"]}


@pytest.mark.parametrize("codec", ["idna", "undefined", "utf-7", "raw_unicode_escape", "punycode", "utf-16", "no-such"])
def test_an_opml_that_names_an_odd_encoding_is_read_as_what_it_is(
    parts: Parts, ada: User, tmp_path: Path, codec: str
) -> None:
    outline = '<outline text="A show" xmlUrl="https://example.org/feed"/>'
    content = f'<?xml version="1.0" encoding="{codec}"?><opml><body>{outline}</body></opml>'.encode()
    assert brought(parts, ada, put(tmp_path, "x.opml", content)).files[0].saved == 1


@pytest.mark.parametrize("heap", [b"[" + b"0," * 3_000_000 + b"0]", b"[" + b"{}," * 600_000 + b"{}]"])
def test_a_heap_of_tiny_rows_is_refused_before_it_fills_the_memory(
    parts: Parts, ada: User, tmp_path: Path, heap: bytes
) -> None:
    with pytest.raises(Misuse, match="holds more than an export's file does"):
        brought(parts, ada, put(tmp_path, "StreamingHistory_podcast_0.json", heap))


def test_a_file_with_a_mark_at_its_start_or_in_another_encoding_is_read_all_the_same(
    parts: Parts, ada: User, tmp_path: Path
) -> None:
    marked, latin = (
        b"\xef\xbb\xbf" + json.dumps([SHORT]).encode(),
        json.dumps([SHORT | {"episodeName": "Zwölf"}], ensure_ascii=False).encode("latin-1"),
    )
    for content in (marked, latin):
        assert brought(parts, ada, put(tmp_path, "StreamingHistory_podcast_0.json", content)).new == 1
    assert {one.episode for one in parts.catalog.history(ada).listens} == {"One", "Zw\ufffdlf"}


def test_what_a_library_holds_besides_shows_does_not_hide_them(parts: Parts, ada: User, tmp_path: Path) -> None:
    odd = {"shows": [None, {"name": 5}, {"name": "A show"}], "episodes": None}
    found = brought(parts, ada, put(tmp_path, "YourLibrary.json", odd))
    assert (found.new, [one.split(":")[0] for one in found.problems]) == (
        1,
        ["YourLibrary.json, show 1", "YourLibrary.json, show 2"],
    )


@pytest.mark.only_sqlite
def test_a_long_history_is_kept_row_by_row(parts: Parts, ada: User, tmp_path: Path) -> None:
    """More than is written in one go, on either side of its edges."""
    rows = [SHORT | {"msPlayed": number} for number in range(10_003)]
    path = put(tmp_path, "StreamingHistory_podcast_0.json", rows)
    assert brought(parts, ada, path).new == 10_003
    assert brought(parts, ada, path).new == 0
    assert [one.played_ms for one in parts.catalog.told(ada)] == [*range(10_003)]


def test_titles_hold_any_letter_and_no_more_than_fits(parts: Parts, ada: User, tmp_path: Path) -> None:
    title = "a\x00b <script> 'quoted' 🎙 " + "x" * 5_000
    brought(parts, ada, put(tmp_path, "StreamingHistory_podcast_0.json", [SHORT | {"episodeName": title}]))
    [one] = parts.catalog.history(ada).listens
    assert one.episode == title.replace("\x00", "")[:1_000]


@pytest.mark.parametrize(
    ("content", "shows"),
    [
        (b'<opml><body><outline text="A &amp; B" xmlUrl="http://one.example/a?b=1&amp;c=2"/></body></opml>', ["A & B"]),
        (b'<opml><body><outline TEXT="Loud" XMLURL="HTTPS://one.example/"/></body></opml>', ["Loud"]),
        (b'<opml><body><outline text="A folder"><outline xmlUrl="http://one.example/"/></outline></body></opml>', [""]),
        (b'\n<?xml version="1.0"?><opml><body><outline text="Late" xmlUrl="http://one.example/"/>', ["Late"]),
        (
            '<?xml version="1.0" encoding="windows-1251"?><opml><body><outline text="Подкаст" '
            'xmlUrl="http://one.example/"/></body></opml>'.encode("windows-1251"),
            ["Подкаст"],
        ),
        (
            '\ufeff<opml><body><outline text="Wide" xmlUrl="http://one.example/"/></body></opml>'.encode("utf-16"),
            ["Wide"],
        ),
        (b"<opml><body></body></opml>", []),
    ],
    ids=["escaped", "capitals", "in a folder", "cut off", "another encoding", "two bytes a letter", "empty"],
)
def test_subscriptions_are_read_as_podcast_apps_write_them(
    parts: Parts, ada: User, tmp_path: Path, content: bytes, shows: list[str]
) -> None:
    found = brought(parts, ada, put(tmp_path, "subscriptions.opml", content))
    assert found.problems == ()
    assert [one.show for one in parts.catalog.library(ada).saved] == shows


def test_an_address_that_is_none_of_the_web_is_left_out_and_named(parts: Parts, ada: User, tmp_path: Path) -> None:
    content = b'<opml><body><outline text="A" xmlUrl="file:///etc/passwd"/></body></opml>'
    found = brought(parts, ada, put(tmp_path, "subscriptions.opml", content))
    assert found.problems == ("subscriptions.opml: 'file:///etc/passwd' is no web address; it is left out",)
    assert parts.catalog.library(ada).saved == ()


# ── files that are not what they say ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("letter.txt", b"hello", "letter.txt is no file that is known"),
        ("StreamingHistory_podcast_0.json", b"{}", "is not a file of a Spotify export"),
        ("StreamingHistory_podcast_0.json", b'[{"endTime": "2024', "is not a file of a Spotify export"),
        ("YourLibrary.json", b"[]", "is not a file of a Spotify export"),
        ("Streaming_History_Audio_1.json", b"[" * 100_000, "is not a file of a Spotify export"),
        ("StreamingHistory_podcast_0.json", b"", "is not a file of a Spotify export"),
        ("subscriptions.opml", b"<html>a page</html>", "is not an OPML file"),
        ("subscriptions.opml", b"https://one.example/feeds.opml", "is not an OPML file"),
        ("data.zip", b"PK no zip", "data.zip cannot be read as a zip"),
    ],
)
def test_a_foreign_file_is_refused_with_a_sentence(
    parts: Parts, ada: User, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(Misuse, match=said):
        brought(parts, ada, put(tmp_path, name, content))
    assert everything_kept(parts) == "[[], []]"


@pytest.mark.parametrize("name", ["../YourLibrary.json", "/etc/YourLibrary.json", "a\\..\\x.json", "C:\\x.json"])
def test_a_zip_that_leads_out_of_itself_is_not_read_at_all(parts: Parts, ada: User, tmp_path: Path, name: str) -> None:
    path = packed(tmp_path, {name: LIBRARY, "StreamingHistory_podcast_0.json": [SHORT]})
    with pytest.raises(Misuse, match="leads out of it"):
        brought(parts, ada, path)
    assert everything_kept(parts) == "[[], []]"


def test_a_zip_with_a_link_is_not_read_at_all(parts: Parts, ada: User, tmp_path: Path) -> None:
    path = tmp_path / "linked.zip"
    link = zipfile.ZipInfo("YourLibrary.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(Misuse, match="holds a link"):
        brought(parts, ada, path)


def test_a_zip_that_would_burst_is_refused_before_it_unfolds(parts: Parts, ada: User, tmp_path: Path) -> None:
    path = packed(tmp_path, {"YourLibrary.json": b" " * 30_000_000})
    assert path.stat().st_size < 40_000
    with pytest.raises(Misuse, match=r"would unfold from 29,\d+ to 30,000,000 bytes"):
        brought(parts, ada, path)


def test_a_zip_without_podcasts_or_with_too_many_files_is_refused(parts: Parts, ada: User, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="holds no file of a Spotify export"):
        brought(parts, ada, packed(tmp_path, {"Userdata.json": {}}))
    with pytest.raises(Misuse, match=r"2,001 files"):
        brought(parts, ada, packed(tmp_path, {f"{n}.json": b"" for n in range(2_001)}, "many.zip"))


def test_of_several_files_the_good_ones_are_kept(parts: Parts, ada: User, tmp_path: Path) -> None:
    good, bad = put(tmp_path, "StreamingHistory_podcast_0.json", [SHORT]), put(tmp_path, "data.zip", b"no zip")
    found = brought(parts, ada, bad, good)
    assert (found.new, found.refused) == (1, 1)
    assert "data.zip cannot be read as a zip" in found.problems[0]


# ── whose ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_sees_what_another_brought_in(parts: Parts, ada: User, tmp_path: Path) -> None:
    grace = parts.users.add("grace")
    brought(parts, ada, packed(tmp_path, {"StreamingHistory_podcast_0.json": [SHORT], "YourLibrary.json": LIBRARY}))
    assert parts.catalog.history(grace).listens == ()
    assert parts.catalog.library(grace).saved == ()
    assert parts.catalog.shows(grace) == set()
    brought(parts, grace, put(tmp_path, "StreamingHistory_podcast_0.json", [SHORT]))  # the same row, and both have it
    assert len(parts.catalog.history(grace).listens) == len(parts.catalog.history(ada).listens) == 1


def test_deleting_a_user_leaves_nothing_of_what_was_brought_in(parts: Parts, ada: User, tmp_path: Path) -> None:
    grace = parts.users.add("grace")
    path = packed(tmp_path, {"StreamingHistory_podcast_0.json": [SHORT], "YourLibrary.json": LIBRARY})
    for user in (ada, grace):
        brought(parts, user, path)
    parts.users.delete("ada")
    with parts.database.read(SYSTEM) as connection:
        for table, rows in ((listening, 1), (library, 3)):
            counted = select(table.c.user_id, func.count()).group_by(table.c.user_id)
            assert connection.execute(counted).all() == [(grace.id, rows)]
    with pytest.raises(UnknownUser, match="deleted meanwhile"):
        brought(parts, ada, path)


# ── the shell ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.only_sqlite
def test_the_shell_brings_in_shows_and_says_what_it_could_not_use(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    good, bad = put(tmp_path, "StreamingHistory_podcast_0.json", [SHORT]), put(tmp_path, "data.zip", b"no zip")
    nobody = shell("import", "ada", str(good))
    assert (nobody.returncode, "There is no user ada" in nobody.stderr) == (2, True)
    shell("users", "add", "ada")
    done = shell("import", "ada", str(good), str(bad), "--json")
    assert done.returncode == 1  # one file could not be used, the other stands
    assert json.loads(done.stdout)["rows"][0]["new"] == 1
    assert "data.zip cannot be read as a zip" in done.stdout
    heard = json.loads(shell("history", "--user", "ada", "--json").stdout)
    assert heard["rows"] == [
        {"day": "2024-08-17", "show": "A show", "listens": 1, "minutes": "1.0", "told by": "Spotify account data"}
    ]
    assert "Nothing is followed" in shell("library", "--user", "ada").stdout
    assert "Nothing was heard" in shell("history").stdout  # whoever's machine this is: somebody else
    booked = shell("spend", "--by", "user").stdout
    assert "ada" in booked  # the work was metered, and is hers


@pytest.mark.only_sqlite
def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    done = shell("import", "ada", "my_spotify_data.zip")
    assert (done.returncode, "'my_spotify_data.zip' is not a file" in done.stderr) == (2, True)

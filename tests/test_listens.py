"""Each listen is counted once, however many sources tell it, and two that look alike stay two."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podcastqa.podcasts.listens import PLAYING, POSITION, Seen, Told, listens
from podcastqa.podcasts.polls import Listening, Look
from podcastqa.wiring import Parts

_MINUTE, _SECOND = 60_000_000, 1_000_000
_NOON = 1_700_000_000 // 60 * 60 * _SECOND


def short(minute: int, played_ms: int, nth: int = 1, show: str = "Show", episode: str = "One") -> Told:
    """A row of account data: the minute, and names."""
    return Told("account", _NOON + minute * _MINUTE, _MINUTE, show, episode, "", played_ms, nth)


def exact(second: int, played_ms: int, nth: int = 1, show: str = "Show", episode: str = "One", uri: str = "u") -> Told:
    """A row of the extended history: the second, names and the address."""
    return Told("extended", _NOON + second * _SECOND, _SECOND, show, episode, uri, played_ms, nth)


def test_two_sources_that_tell_of_one_listen_count_it_once_and_the_finer_time_stands() -> None:
    [one] = listens([short(1, 61_000), exact(75, 61_000)])
    assert (one.ended_us, one.precision_us, one.uri) == (_NOON + 75 * _SECOND, _SECOND, "u")
    assert one.sources == ("extended", "account")


def test_two_listens_that_end_in_one_minute_stay_two() -> None:
    assert len(listens([short(1, 20_000), short(1, 25_000)])) == 2
    told = [exact(61, 20_000), exact(90, 20_000), short(1, 20_000), short(1, 20_000, nth=2)]
    assert [one.sources for one in listens(told)] == [("extended", "account")] * 2


def test_rows_that_say_the_same_are_one_listen_only_where_they_must_be() -> None:
    assert len(listens([short(1, 61_000), short(1, 61_000, nth=2)])) == 1  # 61 s twice do not end in one minute
    assert len(listens([short(1, 29_000), short(1, 29_000, nth=2)])) == 2
    assert len(listens([short(1, 0, nth=n) for n in range(1, 17)])) == 16
    assert len(listens([exact(1, 1_001), exact(1, 1_001, nth=2)])) == 1


def test_another_time_another_length_or_another_episode_is_another_listen() -> None:
    told = [short(1, 61_000), exact(120, 61_000), exact(75, 61_001), exact(75, 61_000, episode="Two", uri="v")]
    assert len(listens(told)) == 4


def test_names_are_the_same_whatever_their_case_and_spaces() -> None:
    assert len(listens([short(1, 61_000, show=" SHOW ", episode="one"), exact(75, 61_000)])) == 1


def test_a_row_without_a_show_or_with_an_address_only_takes_its_names_from_another() -> None:
    told = [exact(5, 1), exact(600, 7, show=""), exact(700, 8, show="", episode=""), short(1, 9)]
    assert {(one.show, one.episode, one.uri) for one in listens(told)} == {("Show", "One", "u")}


def test_a_row_that_nothing_names_stays_as_it_is() -> None:
    [one] = listens([exact(5, 1, show="", episode="")])
    assert (one.show, one.episode, one.uri) == ("", "", "u")


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (short(0, 600_000, show=""), exact(22, 600_000)),
        (short(0, 600_000), exact(22, 600_000, show="")),
        (short(0, 600_000), exact(22, 600_000, show="", uri="")),
        (short(0, 600_000), exact(22, 600_000, show="", episode="")),  # nothing in common, and longer than the minute
        (short(0, 20_000), exact(22, 20_000, show="")),
    ],
)
def test_a_telling_that_lacks_names_is_of_the_listen_that_has_them(coarse: Told, fine: Told) -> None:
    [one] = listens([coarse, fine])
    assert (one.ended_us, one.show, one.episode, one.played_ms) == (fine.ended_us, "Show", "One", fine.played_ms)
    assert one.sources == ("extended", "account")


def test_tellings_that_need_not_be_of_one_listen_stay_two() -> None:
    assert len(listens([short(0, 20_000), exact(22, 20_000, show="", episode="")])) == 2  # each could have ended there
    assert len(listens([short(0, 600_000), exact(22, 600_000, show="", episode="Two", uri="")])) == 2
    unnamed, other = exact(22, 20_000, show="", uri=""), exact(25, 20_000, show="Other", uri="")
    assert len(listens([short(0, 20_000), unnamed, other])) == 2  # the one without a show is the one that is told twice


def test_an_episode_that_was_renamed_between_two_exports_is_heard_once() -> None:
    renamed = exact(22, 600_000, show="New name", episode="One (again)")
    [one] = listens([exact(22, 600_000), renamed])
    assert (one.uri, one.played_ms) == ("u", 600_000)


def test_names_of_two_addresses_say_neither() -> None:
    told = [exact(5, 1, uri="u"), exact(65, 2, uri="v"), short(9, 3)]
    assert [one.uri for one in listens(told)] == ["u", "v", ""]


_exact = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 4_000)), max_size=30)


@given(_exact)
def test_of_the_same_listens_told_to_the_second_and_to_the_minute_none_counts_twice_and_none_is_lost(
    heard: list[tuple[int, int]],
) -> None:
    fine, coarse = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    told = []
    for second, played_ms in heard:
        fine[second, played_ms] += 1
        coarse[second // 60, played_ms] += 1
        told += [
            exact(second, played_ms, fine[second, played_ms]),
            short(second // 60, played_ms, coarse[second // 60, played_ms]),
        ]
    # Told to the second alone: a row counts again unless it lasted longer than the second in which both ended.
    alone = listens(one for one in told if one.source == "extended")
    assert len(alone) == sum(1 if key[1] > 1000 else count for key, count in fine.items())
    both = listens(told)
    # Beside them the minutes tell nothing new, except of rows that the finer source says cannot all have happened.
    assert len(alone) <= len(both) <= len(heard)
    if max(fine.values(), default=0) <= 1:
        assert [one[:2] for one in both] == [one[:2] for one in alone]
    assert sum(one.played_ms for one in alone) <= sum(one.played_ms for one in both)


@given(_exact, st.randoms())
def test_the_order_in_which_rows_come_changes_nothing(heard: list[tuple[int, int]], chance: object) -> None:
    told = [exact(second, played) for second, played in set(heard)] + [short(s // 60, p) for s, p in {*heard}]
    shuffled = sorted(told, key=lambda _: chance.random())  # type: ignore[attr-defined]
    assert listens(shuffled) == listens(told)


# ── what was seen, and not told ───────────────────────────────────────────────────────────────────────────────────────


def grown(begin: int, end: int, played_ms: int) -> Told:
    """A position that grew between two fetches, in seconds."""
    return Told(f"Spotify{POSITION}", _NOON + begin * _SECOND, (end - begin) * _SECOND, "Show", "One", "u", played_ms)


def polled(last: int, gone: int, played_ms: int) -> Told:
    """A listen that was seen until `last`, and no more at `gone`."""
    return Told(f"Spotify{PLAYING}", _NOON + last * _SECOND, (gone - last) * _SECOND, "Show", "One", "u", played_ms)


def test_a_position_that_grew_while_a_listen_is_known_is_that_listen() -> None:
    assert [one.sources for one in listens([grown(0, 3600, 600_000), exact(900, 580_000)])] == [("extended",)]
    assert [one.sources for one in listens([grown(0, 3600, 600_000), polled(900, 930, 590_000)])] == [
        (f"Spotify{PLAYING}",)
    ]
    assert len(listens([grown(0, 3600, 600_000), exact(7200, 580_000)])) == 2


def test_a_listen_that_was_seen_and_told_is_the_told_one() -> None:
    assert [one.sources for one in listens([polled(900, 930, 590_000), exact(915, 601_000)])] == [("extended",)]
    assert len(listens([polled(900, 930, 590_000), exact(1800, 601_000)])) == 2


def test_a_listen_that_was_seen_in_part_is_the_told_one() -> None:
    """Somebody looked for a minute, or fetched twice, while half an hour was heard: 30 minutes, not 31 or 40."""
    half_hour = exact(1800, 1_800_000)
    for part in (polled(60, 70, 60_000), grown(0, 600, 600_000), grown(600, 1200, 600_000)):
        assert [one.sources for one in listens([half_hour, part])] == [("extended",)]
    assert len(listens([half_hour, polled(1860, 1870, 60_000)])) == 2  # it began when the other had ended
    assert len(listens([half_hour, grown(1801, 3600, 600_000)])) == 2


# ── looks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def look(second: int, progress_ms: int, uri: str = "u") -> Look:
    return Look(_NOON + second * _SECOND, uri, "Show", "One", progress_ms)


def over(began: int, last: int, gone: int, played_ms: int) -> list[Seen]:
    return [Seen(_NOON + began * _SECOND, polled(last, gone, played_ms), True)]


def test_looks_add_up_to_what_was_heard_and_each_tells_how_far_that_is() -> None:
    going, told = Listening("Spotify"), []
    for seen in (look(0, 5_000), look(30, 35_000), look(60, 35_000), look(90, 50_000)):  # a pause in between
        told += going.see(seen)
    so_far = [polled(30, 60, 30_000), polled(60, 90, 30_000), polled(90, 120, 45_000)]  # 30, + 0, + 15 s
    assert told == [Seen(_NOON, one, False) for one in so_far]
    assert going.see(Look(_NOON + 115 * _SECOND)) == over(0, 90, 115, 45_000)
    assert going.see(Look(_NOON + 150 * _SECOND)) == []


def test_a_jump_is_no_listening_and_twice_the_speed_is() -> None:
    going = Listening("Spotify")
    for seen in (look(0, 0), look(30, 600_000), look(60, 660_000), look(90, 10_000), look(120, 40_000)):
        going.see(seen)
    assert going.end(_NOON + 150 * _SECOND) == over(0, 120, 150, 90_000)  # 0 + 60 (at double speed) + 0 + 30 s


def test_another_episode_ends_the_listen_and_begins_one() -> None:
    going = Listening("Spotify")
    going.see(look(0, 0))
    going.see(look(30, 30_000))
    assert going.see(look(60, 0, uri="v")) == over(0, 30, 60, 30_000)
    assert going.end(_NOON + 70 * _SECOND) == []  # one look alone has heard nothing


@pytest.mark.both_databases
def test_a_listen_that_goes_on_is_one_row_that_grows_and_stays_if_nobody_looks_again(parts: Parts) -> None:
    ada, going = parts.users.add("ada"), Listening("Spotify")
    for second in (0, 30, 60):
        parts.catalog.keep_seen(ada, going.see(look(second, second * 1000)))
    assert parts.catalog.told(ada) == [polled(60, 90, 60_000)]  # as after a kill
    again = Listening("Spotify")
    for second in (600, 630):
        parts.catalog.keep_seen(ada, again.see(look(second, second * 1000)))
    parts.catalog.keep_seen(ada, again.end(_NOON + 640 * _SECOND))
    assert parts.catalog.told(ada) == [polled(60, 90, 60_000), polled(630, 640, 30_000)]

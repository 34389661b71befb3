"""A long listening history brought in, beside what its bytes cost at the least: json.load and DuckDB's bulk insert."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa

from podcastqa.clock import from_microseconds
from podcastqa.podcasts.bring_in import bring_in
from tests.bench.guard import parts_in
from tests.bench.rows import Row, timing, watched

_ROUNDS, _ROWS = 5, 100_000
_EPISODES, _SHOWS = 5_000, 120


def run() -> list[Row]:
    """Seconds of ours ÷ the floor's, interleaved, the median of the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Streaming_History_Audio_2022-2024_1.json"
        path.write_text(json.dumps([_row(number) for number in range(_ROWS)]))
        rounds, machine = watched(lambda: [(_floor(path), _ours(path)) for _ in range(_ROUNDS)])
    floor = statistics.median(bare for bare, _ in rounds)
    ratio = statistics.median(ours / bare for bare, ours in rounds)
    return [timing("import-100000-listens", ratio * floor, "s", floor, "<= 5 x", ratio <= 5, machine)]


def _row(number: int) -> dict[str, object]:
    """A row of the extended history, with every field that such a row has."""
    episode = number * 7919 % _EPISODES
    return {
        "ts": f"{from_microseconds((1_640_995_200 + number * 640) * 1_000_000):%Y-%m-%dT%H:%M:%SZ}",
        "platform": "a device of some kind",
        "ms_played": number * 104_729 % 3_600_000,
        "conn_country": "DE",
        "ip_addr": "192.0.2.7",
        "master_metadata_track_name": None,
        "master_metadata_album_artist_name": None,
        "master_metadata_album_album_name": None,
        "spotify_track_uri": None,
        "episode_name": f"Episode {episode}: how long a title of an episode usually is",
        "episode_show_name": f"Show {episode % _SHOWS}",
        "spotify_episode_uri": f"spotify:episode:{episode:022d}",
        "reason_start": "trackdone",
        "reason_end": "endplay",
        "shuffle": False,
        "skipped": False,
        "offline": False,
        "offline_timestamp": None,
        "incognito_mode": False,
    }


def _floor(path: Path) -> float:
    """The same rows and columns, from the file into a table."""
    began = time.perf_counter()
    rows = json.loads(path.read_bytes())
    names = ("ts", "ms_played", "episode_name", "episode_show_name", "spotify_episode_uri")
    held = pa.table({name: [row[name] for row in rows] for name in names})  # noqa: F841 – DuckDB finds it by name
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(str(Path(folder) / "floor.duckdb")) as connection:
        connection.execute("CREATE TABLE listening AS SELECT * FROM held")
        connection.execute("CHECKPOINT")
    return time.perf_counter() - began


def _ours(path: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        made = parts_in(Path(folder))
        user = made.users.add("ada")
        began = time.perf_counter()
        found = bring_in(made.catalog, user, [path])
        seconds = time.perf_counter() - began
        assert found.new == _ROWS
        made.database.close()
    return seconds

"""A power cut leaves what was flushed, and no more: opened from that, the books hold every answer that was given.

A small library in front of the C library's fsync keeps the image. That it can fail is shown by flushing another file
than the log: then answers are lost that a mere kill -9 would not lose.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from podcastqa.clock import SystemClock
from podcastqa.spend.entries import EntryKind
from podcastqa.wiring import build
from tests.conftest import ROOMY, Process, settings_in

pytestmark = pytest.mark.step1

CUTS = int(os.environ.get("PODCASTQA_CUTS", "3"))
WORKS = """
import asyncio, itertools
from pathlib import Path
made = opened()
if sys.argv[2] == "another file":
    from podcastqa.file_lock import OpenFile
    with made.ledger.writing():
        pass
    made.budget.writer.line._log = OpenFile(Path(sys.argv[3] + ".other"))
log = open(sys.argv[3], "a")
what, cent = Operation(1, "service", "o", "s"), Usd("0.01")
async def task(number):
    for i in itertools.count():
        if sys.argv[2] == "the same":  # whoever comes second is told what the first has booked, and writes nothing
            hold = await made.budget.writer.ask(made.budget.booking(what, cent, f"{number:04} {i:015}"))
        else:
            hold = await made.budget.writer.ask(made.budget.beginning(what, cent))
            await made.budget.writer.ask(made.budget.settling(hold.hold_id, cent))
        log.write(hold.hold_id + chr(10))
        log.flush()
async def tasks():
    await asyncio.gather(*(task(number) for number in range(4)))
asyncio.run(tasks())
"""


@pytest.fixture(scope="session")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that keeps the image."""
    if not shutil.which("cc"):
        pytest.skip("not tried: there is no C compiler (cc) here to build the library that stands in front of fsync")
    library = tmp_path_factory.mktemp("synced") / "synced.so"
    source = Path(__file__).with_name("power_loss") / "synced.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


def cut(
    home: Path, image: Path, process: Callable[..., Process], synced: Path, how: str, processes: int = 1
) -> tuple[set[str], set[str]]:
    """(holds whose settle was answered, holds that are settled in what the power cut left)."""
    made = build(settings_in(home, **ROOMY), clock=SystemClock())
    made.users.add("ada")
    made.database.close()
    image.mkdir()
    for file in home.glob("podcastqa.sqlite*"):
        shutil.copy(file, image / file.name)
    logs = [home / f"answers-{number}.log" for number in range(processes)]
    for log in logs:
        log.touch()
    words = {"LD_PRELOAD": str(synced), "SYNCED_TO": str(image), "SYNCED_OF": "podcastqa.sqlite"}
    several = [process(WORKS, how, str(log), **ROOMY, **words) for log in logs]
    while min(log.stat().st_size for log in logs) < 40 * 33 and all(one.popen.poll() is None for one in several):
        select.select([], [], [], 0.001)
    for one in several:  # what is flushed between the kills was answered by nobody who is heard
        one.kill()
    answered = {line for log in logs for line in log.read_text().split("\n")[:-1]}
    for file in image.glob("*-shm"):
        file.unlink()  # memory, whatever its name says
    left = build(settings_in(image, **ROOMY), clock=SystemClock())
    settled = {entry.hold_id for entry in left.ledger.entries() if entry.kind is EntryKind.SETTLE}
    left.ledger.carry()
    kept = left.database.driver().execute("SELECT * FROM counters ORDER BY user_id").fetchall()
    left.ledger.rebuild()
    assert left.database.driver().execute("SELECT * FROM counters ORDER BY user_id").fetchall() == kept
    left.database.close()
    return answered, settled


def test_after_a_power_cut_every_settle_that_was_answered_is_there(
    home: Path, tmp_path: Path, process: Callable[..., Process], synced: Path, migrated: Path
) -> None:
    for number in range(CUTS):
        place = tmp_path / f"home-{number}"
        place.mkdir()
        shutil.copy(migrated, place / "podcastqa.sqlite")
        answered, settled = cut(
            place,
            tmp_path / f"image-{number}",
            lambda lines, *words, place=place, **environ: process(lines, *words, PODCASTQA_HOME=str(place), **environ),
            synced,
            "as it is",
        )
        assert len(answered) >= 40
        assert answered <= settled


def test_what_one_process_booked_and_another_confirmed_is_there_after_a_power_cut(
    home: Path, tmp_path: Path, process: Callable[..., Process], synced: Path
) -> None:
    answered, settled = cut(home, tmp_path / "image", process, synced, "the same", processes=3)
    assert len(answered) >= 40
    assert answered <= settled


def test_without_a_flush_of_its_log_a_power_cut_would_lose_what_was_answered(
    home: Path, tmp_path: Path, process: Callable[..., Process], synced: Path
) -> None:
    answered, settled = cut(home, tmp_path / "image", process, synced, "another file")
    assert answered - settled

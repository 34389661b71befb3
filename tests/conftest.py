"""What the tests of the guard share: a clock that can be set, parts in a folder of their own, and real processes.

A database is made by its migrations once a session and copied from then on: the same bytes, without the wait.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis
import pytest

from podcastqa.alerts.outbox import outbox
from podcastqa.bills.tables import bill_reads
from podcastqa.database import open_database
from podcastqa.money import Usd
from podcastqa.settings import Settings
from podcastqa.settings.reading import CONFIG
from podcastqa.settings.table import TABLE
from podcastqa.spend.entries import Operation
from podcastqa.spend.tables import entries
from podcastqa.wiring import Parts, build
from podcastqa.workbook import gates
from tests.postgres_server import Server, a_server

#: What whoever tests has set for podcastqa, AWS or Spotify. It leads to real accounts, so that only the live tests see
#: it; every other test starts from nothing, and no config.env is found.
THEIRS = {
    name: value for name, value in os.environ.items() if name in TABLE or name.startswith(("AWS_", "SPOTIFY_", CONFIG))
}
for _name in THEIRS.keys() - {"PODCASTQA_HOME", "PODCASTQA_REPORTS"}:  # these keep what tests write in one place
    del os.environ[_name]
os.environ[CONFIG] = os.devnull

# A suite that a script began in the background is deaf to Ctrl-C, and so would be the programs that it interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# An example may take as long as the machine lets it: speed is for the benchmarks.
hypothesis.settings.register_profile(
    "podcastqa", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("podcastqa")

#: A table is declared by the room it belongs to; with these rooms imported, every one is.
ROOMS = (gates.validations, outbox, entries, bill_reads)

#: A Wednesday in a leap year: the day, the week and the month each begin on another day.
A_WEDNESDAY = datetime(2024, 2, 28, 12, 0, tzinfo=UTC)
ROOMY = {
    f"{whose}{window}_BUDGET_LIMIT": "999999" for whose in ("", "USER_") for window in ("DAILY", "WEEKLY", "MONTHLY")
}


class SetClock:
    """Stands still until it is set."""

    def __init__(self, instant: datetime = A_WEDNESDAY) -> None:
        self.instant = instant

    def now(self) -> datetime:
        return self.instant

    def forward(self, **much: float) -> None:
        self.instant += timedelta(**much)


#: Homes whose books are on a server, with what they say of them.
ON_A_SERVER: dict[str, dict[str, str]] = {}


def settings_in(home: Path, **environ: str) -> Settings:
    """Settings from these variables and nothing else: neither config.env nor the environment of whoever tests."""
    books = ON_A_SERVER.get(str(home), {})
    return Settings.load(environ={"PODCASTQA_HOME": str(home), "PODCASTQA_CONFIG": os.devnull, **books, **environ})


def operation(user_id: int, source: str = "s", name: str = "o") -> Operation:
    return Operation(user_id, "service", name, source)


def pico(amount: str) -> int:
    """An amount in dollars as pico-dollars, to see the arithmetic."""
    return Usd(amount).pico


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, made by its migrations."""
    path = tmp_path_factory.mktemp("migrated") / "podcastqa.sqlite"
    open_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of both databases runs on each."""
    marked = metafunc.definition.get_closest_marker
    if marked("both_databases") and not marked("only_sqlite") and "home" in metafunc.fixturenames:
        on_server = pytest.param("postgresql", marks=pytest.mark.postgresql)
        metafunc.parametrize("home", ["sqlite", on_server], indirect=True)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server."""
    with a_server() as server:
        yield server


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path, migrated: Path) -> Iterator[Path]:
    """A folder with a fresh database in it, or (of a test of both databases) with one on a server."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    if getattr(request, "param", os.environ.get("TESTS_ON", "sqlite")) == "sqlite":
        shutil.copy(migrated, folder / "podcastqa.sqlite")
        yield folder
        return
    server: Server = request.getfixturevalue("server")
    url = server.new()
    ON_A_SERVER[str(folder)] = {"DATABASE_URL": url}
    yield folder
    del ON_A_SERVER[str(folder)]
    server.drop(url)


@pytest.fixture
def parts(home: Path, clock: SetClock) -> Iterator[Parts]:
    """Everything, put together by the one place that does so; limits as nobody set them: 5, 25 and 100 dollars."""
    made = build(settings_in(home), clock=clock)
    yield made
    made.database.close()


_PRELUDE = """
import os, sys, signal
from pathlib import Path
from datetime import datetime, timedelta, UTC
from podcastqa.clock import SystemClock, WindowKind
from podcastqa.errors import *
from podcastqa.money import Usd
from podcastqa.settings import Settings
from podcastqa.settings.reading import CONFIG
from podcastqa.settings.table import TABLE
from podcastqa.spend.entries import Operation
from podcastqa.wiring import build

home = Path(sys.argv[1])
def opened():
    return build(Settings.load(), clock=SystemClock())
def ready():
    "Wait, with every other process of the race, for the start."
    print("ready", flush=True)
    sys.stdin.readline()
"""


class Process:
    """A real Python process that imports podcastqa and runs the lines it is given."""

    def __init__(self, home: Path, lines: str, *arguments: str, **environ: str) -> None:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTHONWARN"))}
        books = ON_A_SERVER.get(str(home), {})
        variables |= {"PODCASTQA_HOME": str(home), "PODCASTQA_CONFIG": os.devnull, **books, **environ}
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + lines, str(home), *arguments],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self) -> str:
        """The next line it prints; waits for it."""
        assert self.popen.stdout
        line = self.popen.stdout.readline()
        assert line, self.ended()
        return line.strip()

    def go(self) -> None:
        """Let it past `ready()`."""
        assert self.popen.stdin
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def ended(self) -> tuple[int, str, str]:
        """Its exit status, and all that it printed from here on."""
        out, err = self.popen.communicate(timeout=600)  # a race of 64 takes minutes
        return self.popen.returncode, out, err

    def kill(self) -> None:
        """kill -9, as the kernel does it when memory runs out."""
        self.popen.kill()
        self.popen.communicate(timeout=60)


@pytest.fixture
def process(home: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes on the test's own home; none outlives the test."""
    started: list[Process] = []

    def start(lines: str, *arguments: str, **environ: str) -> Process:
        started.append(Process(home, lines, *arguments, **environ))
        return started[-1]

    yield start
    for one in started:
        if one.popen.poll() is None:
            one.kill()


def in_a_fork(work: Callable[[], bool]) -> bool:
    """Whether the work, done in a forked child, came out true."""
    child = os.fork()
    if child == 0:
        done = False
        try:
            done = work()
        finally:
            os._exit(0 if done else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def race(processes: list[Process]) -> list[str]:
    """Let all of them past `ready()` at once; what each printed afterwards."""
    for one in processes:
        assert one.said() == "ready"
    for one in processes:
        one.go()
    found = []
    for one in processes:
        status, out, err = one.ended()
        assert status == 0, err
        found.append(out)
    return found

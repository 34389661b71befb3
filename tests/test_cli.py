"""The command line as people meet it: real processes, their words, their exit status, their silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from podcastqa.cli import COMMANDS
from podcastqa.words import PAGE, help_page
from tests.shell import Shell

CANARY = "Kq7vTz0pXw3mRb9cLd5e"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


# A command of the test's own, put into the real table, to see what the door does with what comes out of it.
EXTRA = """
import sys, time
from podcastqa.cli import COMMANDS, main
from podcastqa.words import Command
def run(given, settings):
    {body}
COMMANDS["extra"] = Command("Of the test.", run)
sys.exit(main(["extra"]))
"""


def test_the_front_page_names_every_command() -> None:
    assert [name for name in COMMANDS if f"podcastqa {name}" not in PAGE] == []


def test_every_command_and_every_group_has_a_help_of_its_own() -> None:
    for name in COMMANDS:
        assert help_page([*name.split(), "--help"], COMMANDS).startswith(f"usage: podcastqa {name}")
    assert help_page(["budget", "--help"], COMMANDS).count("usage:") == 6
    assert help_page(["bills", "--help"], COMMANDS).count("usage:") == 5
    assert help_page(["nonsense", "--help"], COMMANDS) == PAGE


def test_help_needs_no_settings_and_loads_nothing_heavy(shell: Shell) -> None:
    (shell.folder / "config.env").write_text("this is not a setting\n")
    code = """
import sys
from podcastqa.cli import main
status = main(sys.argv[1:])
heavy = {"duckdb", "pandas", "matplotlib", "papermill", "nbconvert", "sqlalchemy", "pyarrow", "boto3", "dotenv"}
print(sorted(heavy & set(sys.modules)))
sys.exit(status)
"""
    for words in ([], ["--help"], ["help"], ["spend", "--help"], ["--version"]):
        done = shell(*words, code=code)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("words", "wrong", "hint"),
    [
        (["statsu"], "podcastqa has no command 'statsu'.", "Did you mean status?"),
        (["budget", "relase"], "podcastqa budget has no command 'relase'.", "Did you mean release?"),
        (["spend", "--vairance"], "podcastqa spend does not take '--vairance'.", "Did you mean --variance?"),
        (["spend", "--by", "users"], "'users' is not one of user, service, day; did you mean user?", "spend --help"),
        (["spend", "--days", "0"], "'0' is not a number of days from 1 to 3660", "spend --help"),
        (["spend", "--projection", "--days", "9"], "--projection and --days do not go together", "spend --projection"),
        (["spend", "--by", "day", "--focus", "o.parquet"], "--focus and --by do not go", "spend --focus OUT.parquet"),
        (["spend", "--projection", "--focus", "x"], "--projection and --focus do not go together", ""),
        (["bills", "recncile"], "podcastqa bills has no command 'recncile'.", "Did you mean reconcile?"),
        (["bills", "reconcile", "--month", "2026-13"], "'2026-13' is not a month; write it like 2026-10", "--help"),
        (["bills", "reconcile", "--month", "October"], "'October' is not a month", "reconcile --help"),
        (["bills", "import", "no/*.csv"], "'no/*.csv' finds no file and no folder", "import --help"),
        (["bills", "import"], "the following arguments are required: PATH", "import --help"),
        (["bills", "report", "none.csv"], "'none.csv' finds no file and no folder", "report --help"),
        (["bills", "compare", "/"], "'/' is not a file", "compare --help"),
        (["budget", "set", "dya", "5.00"], "'dya' is not one of day, week, month; did you mean day?", "set --help"),
        (["budget", "set", "day", "5,00"], "'5,00' is not an amount of US dollars; write it like 5.00", "set --help"),
        (["budget", "set", "day", "nan"], "is not a finite amount of US dollars", "set --help"),
        (["budget", "set", "day", "-5"], "'-5' is below zero", "set --help"),
        (["budget", "set", "day", "5", "--from", "2027-1-1"], "'2027-1-1' is no day or minute", "set --help"),
        (
            ["budget", "set", "day", "5", "--from", "2020-01-01", "--reason", "r"],
            "A limit cannot begin in the past",
            "Leave its beginning",
        ),
        (["budget", "set", "day", "5", "--service", " "], "a service has a name", "set --help"),
        (["budget", "set", "day", "5"], "the following arguments are required: --reason", "set --help"),
        (
            ["budget", "set", "day", "5", *["--service", "s", "--user", "ada", "--reason", "r"]],
            "do not go together",
            "for all",
        ),
        (
            ["budget", "remove", "day", "--reason", "r"],
            "Nobody has set the daily limit of the whole system.",
            "history",
        ),
        (["budget", "remove", "day"], "the following arguments are required: --reason", "remove --help"),
        (["budget", "stop"], "the following arguments are required: --reason", "stop --help"),
        (["validate", "step9"], "There is no step 'step9'.", "Did you mean step"),
        (["validate", "-p", "users"], "argument -p: expected 2 arguments", "validate --help"),
        (["validate", "-p", "users", "3", "-p", "users", "4"], "The parameter users is given twice.", ""),
        (["validate", "all", "-p", "users", "3"], "they belong to one step", ""),
    ],
)
def test_a_word_not_understood_is_answered_with_the_next_step(
    shell: Shell, words: list[str], wrong: str, hint: str
) -> None:
    done = shell(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert wrong in done.stderr
    assert hint in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_users_come_and_go(shell: Shell) -> None:
    assert shell("users", "add", "ada", "--email", "ada@example.org").stdout == "User ada is added.\n"
    again = shell("users", "add", "ada")
    assert (again.returncode, "already" in again.stderr) == (2, True)
    assert {"user": "ada", "email": "ada@example.org"} in json.loads(shell("users", "--json").stdout)["rows"]
    asked = shell("users", "delete", "ada")
    assert asked.returncode == 2
    assert "podcastqa users delete ada --yes" in asked.stderr
    assert "ada" in shell("users", "list").stdout
    assert shell("users", "delete", "ada", "--yes").returncode == 0
    assert "ada" not in shell("users", "list").stdout
    assert shell("users", "delete", "ada", "--yes").returncode == 2


def test_a_limit_is_set_and_the_stop_is_pulled_and_released(shell: Shell) -> None:
    set_one = shell("budget", "set", "day", "1.25", "--reason", "a quiet week")
    assert set_one.stdout == "The daily limit of the whole system is now $1.25.\n"
    assert '"1.250000000000"' in shell("budget", "show", "--json").stdout
    assert "$1.25" in shell("budget").stdout
    assert "emergency stop is on" in shell("budget", "stop", "--reason", "a strange bill", "--by", "ada").stdout
    status = shell("status")
    assert "a strange bill" in status.stdout
    assert "ada" in status.stdout
    assert shell("budget", "release", "--reason", "it was a tax").returncode == 0
    assert "a strange bill" not in shell("status").stdout
    nobody = shell("budget", "release", "--reason", "again", "--by", "")  # $WHO was empty: no other name is put there
    assert (nobody.returncode, nobody.stderr.splitlines()[0]) == (2, "podcastqa: This is recorded: say who.")
    words = [line.split()[2:] for line in shell("budget", "history").stdout.splitlines()[2:]]
    assert [(*word[1:3], word[-1]) for word in words] == [
        *(("whole", "system", "week"), ("emergency", "stop", "bill"), ("emergency", "stop", "tax")),
    ]
    assert words[1][0] == "ada"
    assert ("pulled" in words[1], "released" in words[2]) == (True, True)


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["spend"],
        ["spend", "--by", "user"],
        ["spend", "--by", "service", "--days", "31"],
        ["spend", "--by", "day"],
        ["spend", "--variance"],
        ["spend", "--projection"],
        ["bills"],
        ["bills", "reconcile"],
        ["budget"],
        ["budget", "history"],
        ["users"],
        ["report"],
    ],
)
def test_every_listing_works_on_empty_books_for_people_and_for_programs(shell: Shell, words: list[str]) -> None:
    people, program = shell(*words), shell(*words, "--json")
    assert (people.returncode, people.stderr, program.returncode, program.stderr) == (0, "", 0, "")
    found = json.loads(program.stdout)
    assert list(found) == ["title", "rows", "notes"]
    assert people.stdout.startswith(found["title"])


def test_without_a_report_there_is_none_to_open(shell: Shell) -> None:
    none = shell("report", "open")
    assert none.returncode == 1
    assert "podcastqa validate step1" in none.stderr


def test_a_later_step_says_which_step_comes_first_and_how_to_get_it(shell: Shell) -> None:
    done = shell("validate", "step2")
    assert (done.returncode, done.stdout) == (3, "")
    assert "Real billing connection" in done.stderr
    assert "podcastqa validate step1" in done.stderr


def test_a_misspelt_parameter_is_refused_before_anything_runs(shell: Shell) -> None:
    done = shell("validate", "step1", "-p", "usres", "5")
    assert done.returncode == 2
    assert "did you mean users?" in done.stderr
    assert not (shell.folder / "reports").exists()


def test_a_broken_config_env_is_refused_with_its_line_and_without_its_secret(shell: Shell) -> None:
    config = shell.folder / "config.env"
    config.write_text(f"AWS_SECRET_ACCESS_KEY={CANARY}\nDAILY_BUDGET_LIMIT=5,00\n")
    done = shell("status", PODCASTQA_CONFIG=str(config))
    assert done.returncode == 2
    assert "line 2" in done.stderr
    assert "DAILY_BUDGET_LIMIT" in done.stderr
    assert CANARY not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "body",
    [
        "raise RuntimeError(f'{settings.aws_secret_access_key!r}')",
        "print('half a line', settings.aws_secret_access_key, end=''); raise RuntimeError",
        "print(settings.aws_secret_access_key, file=sys.stderr); return 1",
        "raise SystemExit(settings.aws_secret_access_key)",
    ],
)
def test_no_secret_leaves_through_output_or_a_fault_of_the_program(shell: Shell, body: str) -> None:
    done = shell(code=EXTRA.format(body=body), AWS_SECRET_ACCESS_KEY=CANARY)
    assert done.returncode == 1
    assert CANARY not in done.stdout + done.stderr
    assert "[redacted]" in done.stdout + done.stderr


def test_a_secret_typed_as_a_command_is_not_repeated(shell: Shell) -> None:
    done = shell(CANARY, AWS_SECRET_ACCESS_KEY=CANARY)
    assert (done.returncode, CANARY in done.stderr) == (2, False)


def test_a_reader_who_leaves_ends_it_quietly(shell: Shell) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        shell.call("users", "list"),
        cwd=shell.folder,
        env=shell.environ,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_control_c_is_a_sentence_and_status_130(shell: Shell) -> None:
    call = shell.call(code=EXTRA.format(body="print('ready', flush=True); time.sleep(60)"))
    with subprocess.Popen(
        call, cwd=shell.folder, env=shell.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert said.startswith("podcastqa: stopped by you.")
    assert len(said.splitlines()) == 1


def test_whoever_types_in_another_encoding_pulls_the_stop_all_the_same(shell: Shell) -> None:
    done = shell("budget", "stop", "--reason", os.fsdecode(b"zu sp\xe4t"))  # Latin-1
    assert (done.returncode, done.stderr) == (0, "")
    assert "zu sp\ufffdt" in shell("status").stdout


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fall(shell: Shell) -> None:
    done = shell("--help", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")

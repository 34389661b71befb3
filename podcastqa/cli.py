"""The shell's door: parse, call, print. No rule lives here, and nothing heavy is loaded before a command needs it."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from podcastqa import __version__
from podcastqa.errors import Misuse, PodcastQAError, ReportError
from podcastqa.words import (
    Command,
    Given,
    amount,
    chosen,
    days,
    decider,
    help_page,
    named_values,
    one_of,
    takes,
    window,
)

if TYPE_CHECKING:
    from podcastqa.display import HasTable
    from podcastqa.settings import Settings
    from podcastqa.wiring import Parts
    from podcastqa.workbook.runner import RunResult


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show "×" is no reason to fall
    if words[0] == "--version":
        print(f"podcastqa {__version__}")
        return 0
    if words[0] == "help" or {"-h", "--help"} & set(words):
        print(help_page(words, COMMANDS), end="")
        return 0
    try:
        status = _obey(words)
        sys.stdout.flush()
    except PodcastQAError as error:
        _say(f"podcastqa: {error.message}", error.next_step)
        return error.exit_status
    except KeyboardInterrupt:
        _say("podcastqa: stopped by you. What had started is booked or held; `podcastqa status` shows it.")
        return 130
    except BrokenPipeError:
        return _reader_left()
    return status


def _obey(words: list[str]) -> int:
    from podcastqa.redaction import Redactor
    from podcastqa.settings import Settings

    settings = Settings.load()
    # From here on whatever is printed, a traceback too, passes the redactor.
    redactor = Redactor(settings.secrets)
    sys.stdout, sys.stderr = redactor.stream(sys.stdout), redactor.stream(sys.stderr)
    name, rest = chosen(words, COMMANDS)
    return COMMANDS[name].run(COMMANDS[name].parser(name).read(rest), settings)


def _say(*lines: str) -> None:
    print(*(line for line in lines if line), sep="\n", file=sys.stderr)


def _reader_left() -> int:
    """`podcastqa spend | head -1`: nobody reads on, so nothing is said; the status is the shell's for it."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141


def _show(result: HasTable, given: Given) -> int:
    table = result.table()
    if given.json:
        import json

        found = {"title": table.title, "rows": table.records(), "notes": list(table.notes)}
        print(json.dumps(found, indent=2))
    else:
        print(table.text())
    return 0


def _parts(settings: Settings) -> Parts:
    from podcastqa.wiring import parts

    return parts(settings)


def _validate(given: Given, settings: Settings) -> int:
    from podcastqa.workbook.steps import STEPS

    if given.step != "all":
        return _run_step(given.step, named_values(given.p), settings)
    if given.p:
        raise Misuse("`validate all` takes no parameters: they belong to one step.")
    for name in (step.id for step in STEPS.values() if step.notebook):
        if status := _run_step(name, {}, settings):
            return status
    return 0


def _run_step(name: str, parameters: dict[str, str], settings: Settings) -> int:
    from podcastqa.workbook.runner import run

    result = run(name, parameters, settings)
    print("\n".join(_verdict_lines(result)))
    return result.exit_status


def _verdict_lines(result: RunResult) -> list[str]:
    """The verdict, what is not passed with its next step, the cost; the report's path is the last line."""
    record = result.record
    criteria: list[dict[str, str]] = record["criteria"]
    passed = sum(criterion["outcome"] == "PASS" for criterion in criteria)
    lines = [f"{record['step']}: {record['verdict']} ({passed} of {len(criteria)} criteria passed)"]
    lines += [str(record[key]) for key in ("speaks_for",) if record.get(key)]
    lines += [f"Note: {notice}" for notice in record.get("notices", [])]
    for criterion in criteria:
        if criterion["outcome"] != "PASS":
            lines += ["", f"{criterion['outcome']}  {criterion['id']} {criterion['name']}"]
            lines += [f"  {key}: {criterion[key]}" for key in ("measured", "asked") if criterion[key]]
            lines += [f"  next: {criterion['next_step']}"] if criterion["next_step"] else []
    return [*lines, "", f"This run cost ${record['cost_usd']}. Its report:", str(result.report.resolve())]


def _status(given: Given, settings: Settings) -> int:
    return _show(_parts(settings).treasury.status(), given)


def _spend(given: Given, settings: Settings) -> int:
    treasury = _parts(settings).treasury
    if given.variance:
        return _show(treasury.variance(given.days), given)
    views = {"user": treasury.by_user, "service": treasury.by_service, "day": treasury.by_day}
    return _show(views.get(given.by, treasury.summary)(given.days), given)


def _budget_show(given: Given, settings: Settings) -> int:
    return _show(_parts(settings).treasury.limits(), given)


def _budget_set(given: Given, settings: Settings) -> int:
    treasury = _parts(settings).treasury
    treasury.set_limit(given.window, given.amount, user=given.user, by=decider(given.by), reason=given.reason)
    whose = f"user {given.user}" if given.user else "the whole system"
    print(f"The {given.window.adjective} limit of {whose} is now {given.amount.shown()}.")
    return 0


def _budget_stop(given: Given, settings: Settings) -> int:
    _parts(settings).treasury.stop(by=decider(given.by), reason=given.reason)
    print("The emergency stop is on: every operation is refused, in every process.")
    print("Release it: podcastqa budget release --reason WHY")
    return 0


def _budget_release(given: Given, settings: Settings) -> int:
    _parts(settings).treasury.release(by=decider(given.by), reason=given.reason)
    print("The emergency stop is off: operations run again, within their limits.")
    return 0


def _users_list(given: Given, settings: Settings) -> int:
    return _show(_parts(settings).users.list(), given)


def _users_add(given: Given, settings: Settings) -> int:
    user = _parts(settings).users.add(given.name, given.email)
    print(f"User {user.name} is added.")
    return 0


def _users_delete(given: Given, settings: Settings) -> int:
    users = _parts(settings).users
    user = users.get(given.name)
    if not given.yes:
        raise Misuse(
            f"Deleting {user.name} forgets the name, the address and the limits; what was spent stays, without a name.",
            next_step=f"Really: podcastqa users delete {user.name} --yes",
        )
    users.delete(user.name)
    print(f"User {user.name} is deleted.")
    return 0


def _report_list(given: Given, settings: Settings) -> int:
    from podcastqa.workbook.history import collect, listing

    return _show(listing(collect(settings.reports)), given)


def _report_open(_: Given, settings: Settings) -> int:
    import webbrowser

    from podcastqa.workbook.history import collect

    runs = collect(settings.reports)
    if not runs:
        raise ReportError("There is no report yet.", next_step="Make one: podcastqa validate step1")
    newest = runs[-1].report.resolve()
    if not webbrowser.open(newest.as_uri()):
        _say("No browser was found here; open the file below in one.")
    print(newest)
    return 0


def _lab(_: Given, settings: Settings) -> int:
    import os
    from importlib.util import find_spec

    if settings.root is None:
        raise Misuse("The notebooks are in the checkout.", next_step="Call this from a folder of the checkout.")
    if find_spec("jupyterlab") is None:
        raise Misuse("JupyterLab is not installed here.", next_step="Install what is needed: make setup")
    # The shell's signals are JupyterLab's own from here on, so this program becomes it instead of starting it.
    opening = [f"--notebook-dir={settings.root}", "--LabApp.default_url=/lab/tree/notebooks"]
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *opening])  # noqa: S606, a literal list


JSON = takes("--json", action="store_true", help="the same as JSON, for a program")
REASON = takes("--reason", required=True, metavar="WHY", help="kept with the decision")
BY = takes("--by", metavar="WHO", help="who decides; you, unless said")
NAME = takes("name", metavar="NAME", help="lower-case letters, digits, dots and dashes")

#: Where a command has several actions, the first of them is meant when none is said.
COMMANDS = {
    "validate": Command(
        "Run a step's notebook on real data, write its report, and print the verdict. The last line is the\n"
        "report's path; its JSON twin stands beside it. Exit status: 0 PASS, 1 FAIL, 3 INCOMPLETE.",
        _validate,
        (
            takes("step", nargs="?", default="step1", metavar="STEP", help="step1 (unless said) to step5, or all"),
            takes("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter"),
        ),
    ),
    "status": Command(
        "What is spent, held and left of each limit today, this week and this month (UTC), for the whole\n"
        "system and for each user, and whether the emergency stop is on.",
        _status,
        (JSON,),
    ),
    "spend": Command(
        "What was spent. Every figure is exact to 1e-12 USD; the parts sum to the whole.",
        _spend,
        (
            takes("--days", type=days, default=7, metavar="N", help="how many days back, today included; 7"),
            takes("--by", type=one_of("user", "service", "day"), help="user, service or day", metavar="WHAT"),
            takes("--variance", action="store_true", help="each operation: estimate, actual, difference"),
            JSON,
        ),
    ),
    "budget show": Command("The limits in force, and the emergency stop.", _budget_show, (JSON,)),
    "budget set": Command(
        "A new limit for a window. The old one stays in the books, with who changed it and why.",
        _budget_set,
        (
            takes("window", type=window, metavar="WINDOW", help="day, week or month"),
            takes("amount", type=amount, metavar="AMOUNT", help="in US dollars, like 5.00"),
            takes("--user", metavar="NAME", help="for this user; the whole system, unless said"),
            BY,
            takes("--reason", default="podcastqa budget set", metavar="WHY", help="kept with the decision"),
        ),
    ),
    "budget stop": Command(
        "The emergency stop: every operation is refused, in every process, until it is released.",
        _budget_stop,
        (REASON, BY),
    ),
    "budget release": Command(
        "End the emergency stop; operations run again, within their limits.", _budget_release, (REASON, BY)
    ),
    "users list": Command("Everybody who may ask and spend.", _users_list, (JSON,)),
    "users add": Command(
        "A new user, with the limits that hold for every user.",
        _users_add,
        (NAME, takes("--email", default="", metavar="ADDRESS", help="where alerts about this user go")),
    ),
    "users delete": Command(
        "Forget a user: name, address and limits. What was spent stays in the books, without a name.",
        _users_delete,
        (NAME, takes("--yes", action="store_true", help="really")),
    ),
    "report list": Command("Every run of every step: verdict, date, cost, report.", _report_list, (JSON,)),
    "report open": Command("Open the newest report in the browser and print its path.", _report_open),
    "lab": Command("Open the notebooks in JupyterLab.", _lab),
}

if __name__ == "__main__":
    sys.exit(main())

"""Criteria, verdicts, parameters and gates: what counts as passed, and for whom."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from podcastqa.display import Table
from podcastqa.errors import GateClosed, Misuse, ParameterError
from podcastqa.money import Usd
from podcastqa.settings import Settings
from podcastqa.wiring import Parts, parts
from podcastqa.workbook import gates, history
from podcastqa.workbook.criteria import (
    CRITERION_MIME,
    OPENING_MIME,
    VERDICT_MIME,
    Criterion,
    Finding,
    Outcome,
    Parameter,
    Verdict,
    checked,
    judge,
)
from podcastqa.workbook.runner import names_set_in
from podcastqa.workbook.session import Session, VerdictFailed, open_session
from podcastqa.workbook.steps import STEPS, step_named

STEP1, STEP2 = STEPS["step1"], STEPS["step2"]
SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLE"  # noqa: S105 - the example of the AWS documentation
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setenv("PODCASTQA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return parts(Settings.load())


@pytest.fixture
def session(made: Parts) -> Session:
    return Session(STEP1, checked(STEP1.parameters, {}), made.components, made)


def finding(outcome: Outcome) -> Finding:
    return Finding(Criterion("1", "A name", "a thing"), outcome, "another thing")


def record_all(session: Session, passed: bool | None = True, but: str = "") -> None:
    for criterion in STEP1.criteria:
        if criterion.id != but:
            session.record(criterion.id, passed, "as asked")


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([], Verdict.INCOMPLETE),
        ([Outcome.PASS], Verdict.PASS),
        ([Outcome.PASS, Outcome.NOT_RUN], Verdict.INCOMPLETE),
        ([Outcome.PASS, Outcome.NOT_RUN, Outcome.FAIL], Verdict.FAIL),
        ([Outcome.FAIL, Outcome.PASS], Verdict.FAIL),
    ],
)
def test_a_verdict_is_pass_only_if_every_criterion_is(outcomes: list[Outcome], verdict: Verdict) -> None:
    assert judge(map(finding, outcomes)) is verdict


def test_each_verdict_has_its_exit_status() -> None:
    assert {verdict.value: verdict.exit_status for verdict in Verdict} == {"PASS": 0, "FAIL": 1, "INCOMPLETE": 3}


def test_a_finding_shows_measured_and_asked_and_carries_itself_for_machines() -> None:
    shown = Finding(Criterion("1", "<b>Bold</b>", "asked & wanted"), Outcome.FAIL, "<script>", "do it")
    bundle = shown._repr_mimebundle_()
    assert bundle[CRITERION_MIME] == {
        "id": "1",
        "name": "<b>Bold</b>",
        "outcome": "FAIL",
        "measured": "<script>",
        "asked": "asked & wanted",
        "next_step": "do it",
    }
    assert "&lt;script&gt;" in bundle["text/html"]
    assert "<script>" not in bundle["text/html"]
    assert "do it" in bundle["text/plain"]


@pytest.mark.parametrize("given", ["5", " 5 ", "+5", 5])
def test_a_whole_number_may_come_as_text_or_as_a_number(given: object) -> None:
    assert Parameter("users", 3, "", 3, 16).parse(given) == 5


@pytest.mark.parametrize("given", ["five", "5.0", 5.0, True, None, "", "2", 17, "9" * 30, [5], "５"])
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused(given: object) -> None:
    with pytest.raises(ParameterError, match="is not a whole number from 3 to 16"):
        Parameter("users", 3, "", 3, 16).parse(given)


def test_choices_and_switches_are_held_to_what_they_may_be() -> None:
    size = Parameter("size", "small", "", choices=("small", "large"))
    assert size.parse("large") == "large"
    with pytest.raises(ParameterError, match="one of small, large"):
        size.parse("huge")
    switch = Parameter("deep", False, "")
    assert (switch.parse("true"), switch.parse("False"), switch.parse(True)) == (True, False, True)
    with pytest.raises(ParameterError, match="true or false"):
        switch.parse("yes")


def test_all_faults_of_the_parameters_are_told_at_once_with_the_nearest_name() -> None:
    with pytest.raises(ParameterError) as raised:
        checked(STEP1.parameters, {"user": 3, "days": "week", "work_rounds": 0})
    told = str(raised.value)
    assert "'user'; did you mean users?" in told
    assert "days: 'week' is not a whole number from 1 to 31" in told
    assert "work_rounds: 0 is not" in told


def test_an_unknown_step_is_answered_with_the_nearest() -> None:
    with pytest.raises(Misuse, match="Did you mean step1"):
        step_named("setp1")


def test_the_notebook_sets_the_parameters_of_its_step_to_their_defaults() -> None:
    for step in STEPS.values():
        if step.notebook:
            cells = json.loads((NOTEBOOKS / step.notebook).read_text(encoding="utf-8"))["cells"]
            tagged = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())]
            assert len(tagged) == 1
            assert names_set_in(tagged[0]) == {p.name: p.default for p in step.parameters}


def test_notebooks_are_thin() -> None:
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            assert len(cell["source"]) <= 15, cell["id"]
            tree = ast.walk(ast.parse("".join(cell["source"])))
            named = [n for n in tree if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
            assert not named, cell["id"]
            assert "sys.exit" not in "".join(cell["source"])


def test_a_session_with_every_criterion_passed_is_a_pass(session: Session) -> None:
    record_all(session)
    session.finish(Usd("0.001"), speaks_for="embedded")
    assert session.closing is not None
    record = session.closing.record
    assert (record["verdict"], record["cost_usd"], record["speaks_for"]) == ("PASS", "0.001000000000", "embedded")
    assert {row["outcome"] for row in record["criteria"]} == {"PASS"}
    bundle = session.closing._repr_mimebundle_()
    assert bundle[VERDICT_MIME] == record
    assert "10 of 10 criteria passed" in bundle["text/plain"]


def test_a_criterion_whose_cell_did_not_run_leaves_the_step_incomplete_and_raises_nothing(session: Session) -> None:
    record_all(session, but="7")
    session.finish(Usd("0"))
    assert session.closing is not None
    assert session.closing.record["verdict"] == "INCOMPLETE"
    [missing] = [row for row in session.closing.record["criteria"] if row["outcome"] != "PASS"]
    assert (missing["id"], missing["outcome"]) == ("7", "NOT RUN")
    assert "its cell did not run" in missing["measured"]


def test_a_failed_step_shows_its_verdict_first_and_then_raises_naming_what_failed(
    session: Session, made: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    record_all(session, but="3")
    session.record("3", False, "nothing was refused", "mend the guard")
    with pytest.raises(VerdictFailed, match="step1 did not pass: 3 Budget protection"):
        session.finish(Usd("0"))
    assert "nothing was refused" in capsys.readouterr().out
    with made.database.read(gates.SYSTEM) as connection:
        rows = connection.execute(gates.validations.select()).mappings().all()
    assert [(row["verdict"], row["rehearsal"], row["run_id"]) for row in rows] == [("FAIL", 1, session.run_id)]


def test_a_criterion_is_recorded_once_and_must_be_one_of_the_step(session: Session) -> None:
    session.record("1", True, "yes")
    with pytest.raises(Misuse, match="already recorded"):
        session.record("1", True, "yes")
    with pytest.raises(Misuse, match="no criterion '11'"):
        session.record("11", True, "yes")


def test_a_failure_without_advice_still_says_a_next_step(session: Session) -> None:
    assert "podcastqa validate step1" in session.record("1", False, "no").next_step


def test_a_secret_leaves_no_trace_in_what_a_session_shows(session: Session) -> None:
    table = Table(f"t {SECRET}", ("a",), ((f"cell {SECRET}",),), (f"note {SECRET}",))
    shown = session.record("1", False, f"measured {SECRET}", f"next {SECRET}", [table])
    assert SECRET not in json.dumps(shown._repr_mimebundle_())


def test_opening_a_session_checks_the_parameters_and_shows_what_is_in_use(
    made: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ParameterError, match="users: 'many'"):
        open_session("step1", {"users": "many"}, made.components, made)
    opened = open_session("step1", {"users": 4}, made.components, made)
    bundle = opened._repr_mimebundle_()[OPENING_MIME]
    assert bundle["parameters"] == {"users": 4, "days": 7, "work_rounds": 1, "console_csv": "", "tests": ""}
    assert bundle["components"] == made.components
    assert "SQLite" in capsys.readouterr().out


def a_run(made: Parts, verdict: str, run_id: str, components: dict[str, str] | None = None) -> dict[str, object]:
    used = components or made.components
    outcome = {"PASS": "PASS", "FAIL": "FAIL", "INCOMPLETE": "NOT RUN"}[verdict]
    criteria = [
        {"id": "7", "name": "Test suite", "outcome": outcome, "measured": "1 skipped", "next_step": "install it"}
    ]
    return {
        "run_id": run_id,
        "step": "step1",
        "verdict": verdict,
        "criteria_version": STEP1.criteria_version,
        "fingerprint": gates.fingerprint(used, STEP1.criteria_version),
        "components": used,
        "criteria": criteria,
        "parameters": {},
        "started": "2026-11-23T03:00:00Z",
        "finished": "2026-11-23T03:00:05.5Z",
        "cost_usd": "0.000000000001",
    }


def test_the_first_step_needs_no_gate(made: Parts) -> None:
    gates.require(STEP1, made.components, made.database)


def test_a_closed_gate_names_what_is_missing_and_how_to_get_it(made: Parts) -> None:
    with pytest.raises(GateClosed, match=r"has not run yet\. Missing: 1 Real billing") as raised:
        gates.require(STEP2, made.components, made.database)
    assert raised.value.next_step == "Run: podcastqa validate step1"
    assert raised.value.exit_status == 3
    gates.record(made.database, a_run(made, "INCOMPLETE", "a"), rehearsal=False)
    with pytest.raises(GateClosed, match=r"7 Test suite \(NOT RUN: 1 skipped\)") as raised:
        gates.require(STEP2, made.components, made.database)
    assert raised.value.next_step == "install it Then run: podcastqa validate step1"


def test_the_newest_run_decides(made: Parts) -> None:
    gates.record(made.database, a_run(made, "FAIL", "a"), rehearsal=False)
    gates.record(made.database, a_run(made, "PASS", "b"), rehearsal=False)
    gates.require(STEP2, made.components, made.database)
    gates.record(made.database, a_run(made, "FAIL", "c"), rehearsal=False)
    with pytest.raises(GateClosed):
        gates.require(STEP2, made.components, made.database)


def test_a_rehearsal_opens_nothing(made: Parts) -> None:
    gates.record(made.database, a_run(made, "PASS", "a"), rehearsal=True)
    with pytest.raises(GateClosed, match="has not run yet"):
        gates.require(STEP2, made.components, made.database)


def test_swapping_a_component_closes_the_gate_and_a_further_one_does_not(made: Parts) -> None:
    gates.record(made.database, a_run(made, "PASS", "a"), rehearsal=False)
    with pytest.raises(GateClosed, match="mail: Maildir then, SES now"):
        gates.require(STEP2, made.components | {"mail": "SES"}, made.database)
    gates.require(STEP2, made.components | {"transcript store": "directory"}, made.database)


def test_a_fingerprint_belongs_to_the_components_and_to_the_words_of_the_criteria() -> None:
    one = gates.fingerprint({"a": "1", "b": "2"}, 1)
    assert one == gates.fingerprint({"b": "2", "a": "1"}, 1)
    assert len({one, gates.fingerprint({"a": "1", "b": "3"}, 1), gates.fingerprint({"a": "1", "b": "2"}, 2)}) == 3


def test_history_reads_twins_passes_over_other_files_and_says_what_changed(made: Parts, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "2026-11-23"
    folder.mkdir(parents=True)
    first = a_run(made, "PASS", "a")
    second = a_run(made, "FAIL", "b", made.components | {"mail": "SES"}) | {"started": "2026-11-23T04:00:00Z"}
    second["finished"] = "2026-11-23T04:00:02Z"
    for name, record in (("step1 cost", first), ("step1-2", second)):
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
        (folder / f"{name}.html").touch()
    (folder / "orphan.json").write_text(json.dumps(first), encoding="utf-8")
    (folder / "other.json").write_text('["not a twin"]', encoding="utf-8")
    (folder / "broken.json").write_text("{", encoding="utf-8")
    runs = history.collect(tmp_path / "reports")
    assert [(run.verdict, run.href) for run in runs] == [
        ("PASS", "2026-11-23/step1%20cost.html"),
        ("FAIL", "2026-11-23/step1-2.html"),
    ]
    assert runs[1].changed == ("7 Test suite: PASS → FAIL", "mail: Maildir → SES")
    assert (runs[0].duration.total_seconds(), runs[0].cost) == (5.5, Usd("0.000000000001"))
    assert "FAIL" in str(history.listing(runs))
    assert history.write_index(tmp_path / "reports").read_text(encoding="utf-8").count("step1-2.html")

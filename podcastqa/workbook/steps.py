"""The five steps, each a question with its criteria; a step without a notebook is not part of this version yet.

`criteria_version` goes up whenever a criterion asks for something else: what passed under the old words has to
pass again. Parameters say how much is run, never how much is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from podcastqa.errors import Misuse
from podcastqa.workbook.criteria import Criterion, Parameter


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way from counting money to answering questions."""

    id: str
    number: int
    title: str
    question: str
    notebook: str | None = None
    parameters: tuple[Parameter, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    criteria_version: int = 1

    def criterion(self, criterion_id: str) -> Criterion:
        """The criterion of that id."""
        for criterion in self.criteria:
            if criterion.id == criterion_id:
                return criterion
        raise Misuse(f"{self.id} has no criterion {criterion_id!r}.")

    def using(self, components: Mapping[str, str]) -> Step:
        """The step as it is asked of these components: criteria belong to the parts that are in use."""
        sources = components.get("library", "").split(", ")
        asked = [one for one in self.criteria if not one.needs or {*one.needs} & {*sources}]
        if components.get("billing source", "").startswith("AWS"):
            asked = [replace(one, asked=one.on_aws or one.asked) for one in asked]
        return replace(self, criteria=tuple(asked))


_STEP1 = Step(
    id="step1",
    number=1,
    title="Cost monitoring and budget protection",
    question="Is every cent counted before it is spent, and does the guard hold?",
    notebook="step1_cost_monitoring.ipynb",
    parameters=(
        Parameter("users", 3, "how many users work at once", 3, 16),
        Parameter("days", 7, "how many UTC days of costs are looked at, today with them", 1, 31),
        Parameter("work_rounds", 1, "how many operations each user runs", 1, 20),
        Parameter("console_csv", "", "Cost Explorer's console download, to compare with AWS's answer"),
        Parameter("tests", "", "some of the tests (pytest -k), for a quick look: the suite is then not proved"),
    ),
    criteria_version=2,
    criteria=(
        Criterion(
            "1",
            "Real billing connection",
            "the billing source in use answers, names itself and its account, and says up to when it is complete",
            "Cost Explorer answers for the account in AWS_ACCOUNT_ID, and says through which day it is complete",
        ),
        Criterion(
            "2",
            "Real cost retrieval",
            "spend of this day, week and month is read back, and each is what was really booked or billed",
            "spend of this day, week and month is read back, each the larger of ledger and bill, source by source",
        ),
        Criterion(
            "3",
            "Budget protection",
            "an operation beyond a limit is refused and its side effect is absent: "
            "day, week, month, user, emergency stop",
        ),
        Criterion(
            "4",
            "User isolation and attribution",
            "at least three users work at once; users and unattributed sum to the total exactly; "
            "reads across users are refused",
        ),
        Criterion(
            "5", "Alerts delivered", "every alert that is due is delivered exactly once, and its receipt is shown"
        ),
        Criterion("6", "Database models", "the schema is migrated, and each constraint refuses a row that breaks it"),
        Criterion(
            "7",
            "Test suite",
            "pytest -m step1 passes, and no test of a component in use is skipped",
            "pytest -m step1 and the live tests (-m aws) pass, and no test of a component in use is skipped",
        ),
        Criterion(
            "8",
            "Books match the bill",
            "ledger, unattributed and bill differ by exactly 0.000000000000 USD",
            "Cost Explorer equals the console's CSV: complete days within $0.01, of a closed month at ten decimals; "
            "no difference between ledger and bill is unexplained, and no entry is missing from a closed day",
        ),
        Criterion("9", "Validation cost", "below $0.10, measured by the guard itself"),
        Criterion("10", "Speed of cost calls", "every cost call answers within 5 s"),
    ),
)

#: The sources that a library may have besides the sample podcast.
EXPORT, OPML, SPOTIFY = "Spotify export", "OPML", "Spotify Web API"
_STEP2 = Step(
    id="step2",
    number=2,
    title="Spotify",
    question="Whose podcasts are these, and what was listened to?",
    notebook="step2_spotify.ipynb",
    criteria_version=2,
    parameters=(
        Parameter("user", "", "whose library; without a name yours"),
        Parameter("files", "", "that user's own files: a Spotify export or OPML, several with ; between them"),
        Parameter("show_rows", 20, "how many rows of a long table are shown", 5, 200),
    ),
    criteria=(
        Criterion(
            "1", "Sources connected", "every source of the library answers, names itself, and says what it is worth"
        ),
        Criterion("2", "Recent episodes", "recent episodes of every source that lists them are stored for each user"),
        Criterion(
            "3",
            "User isolation",
            "at least two users; reads (where there is something to find) and writes across users are refused, on "
            "PostgreSQL also by raw SQL",
        ),
        Criterion("4", "Run again", "bringing the same in a second time adds nothing"),
        Criterion("5", "Deleting a user", "a deleted user leaves no row, no login and no file"),
        Criterion("6", "Speed of calls", "every call of this step answers within 5 s"),
        Criterion("7", "Validation cost", "below $0.10, measured by the guard itself"),
        Criterion(
            "8",
            "Listening history",
            "every listen has its time, how precise that is, and who told it; counted again in another way, none is "
            "counted twice and none is lost",
            needs=(EXPORT, SPOTIFY),
        ),
        Criterion(
            "9",
            "Consent and tokens",
            "the consent stands; its login lies sealed, does not open for another user, and is gone after a disconnect",
            needs=(SPOTIFY,),
        ),
    ),
)

STEPS: dict[str, Step] = {
    step.id: step
    for step in (
        _STEP1,
        _STEP2,
        Step("step3", 3, "Audio discovery", "Where is the whole episode, and can it be downloaded?"),
        Step("step4", 4, "Transcription", "What was said, and when?"),
        Step("step5", 5, "Questions and answers", "What do the podcasts answer, and where is it said?"),
    )
}


def step_named(name: str) -> Step:
    """The step of that id; raises Misuse with the nearest name."""
    if name in STEPS:
        return STEPS[name]
    near = get_close_matches(name, STEPS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Steps: {', '.join(STEPS)}."
    raise Misuse(f"There is no step {name!r}.", next_step=hint)


def step_before(step: Step) -> Step | None:
    """The step that has to pass first; None for the first."""
    return next((other for other in STEPS.values() if other.number == step.number - 1), None)

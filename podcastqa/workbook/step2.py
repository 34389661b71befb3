"""Step 2 asks each source of the library itself, stores what it says for several users, and looks for what leaks.

The sample podcast is always a source: it comes with the program and proves no listening. A person's own files and a
connected Spotify account join it where they are given; criteria of sources that are not in use do not exist in a run.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from podcastqa.display import Table
from podcastqa.errors import Misuse, ProviderError
from podcastqa.money import ZERO, Usd
from podcastqa.podcasts.bring_in import BroughtIn, FileResult, bring_in
from podcastqa.podcasts.fetch import Fetched, fetch
from podcastqa.podcasts.sample_podcast import SOURCE as SAMPLE
from podcastqa.podcasts.sample_podcast import bring_sample, read_sample
from podcastqa.treasury import LOCAL
from podcastqa.users import User
from podcastqa.wiring import Parts, parts
from podcastqa.workbook import library_checks
from podcastqa.workbook.asking import Measured, criterion
from podcastqa.workbook.criteria import Answer
from podcastqa.workbook.library_figures import Figures, listening_by_day, listening_by_show
from podcastqa.workbook.session import Session, open_session
from podcastqa.workbook.steps import EXPORT, OPML, SPOTIFY

MOST = Usd("0.10")
RUN_ESTIMATE = Usd("0.005")
_CALL_SECONDS = 5.0


def open(*, user: str = "", files: str = "", show_rows: int = 20) -> Step2:  # noqa: A001 – notebooks say step2.open(…)
    """Check the parameters, show what is about to be asked of which sources, and start the run."""
    made = parts()
    paths = [Path(one.strip()).expanduser() for one in files.split(";") if one.strip()]
    for path in paths:
        if not path.is_file():
            raise Misuse(f"{path} is not a file.", next_step="Give files as their full paths, with ; between them.")
    sources = [SAMPLE, *sorted({OPML if one.suffix.lower() in (".opml", ".xml") else EXPORT for one in paths})]
    if made.settings.spotify_client_id:
        sources.append(SPOTIFY)
    given = {"user": user, "files": files, "show_rows": show_rows}
    components = made.components | {"library": ", ".join(sources)}
    return Step2(open_session("step2", given, components, made), made, paths, sources)


class Step2(Measured):
    """One run of step 2."""

    def __init__(self, session: Session, parts: Parts, paths: list[Path], sources: list[str]) -> None:
        super().__init__(session, parts)
        self._paths, self._sources = paths, sources
        self._first_entry = parts.ledger.last_id()
        self.unproved = (
            ("1", "2", "4", "6", "8", "9") if SPOTIFY in sources and parts.settings.endpoint_overrides else ()
        )
        self.user = parts.users.ensure(session.parameters["user"] or parts.settings.user)
        session.parameters["user"] = self.user.name  # the report is that user's, and goes with the user
        self._others = [parts.users.ensure(f"validation-{number}") for number in (1, 2)]
        self._brought: BroughtIn | None = None
        self._fetched: Fetched | None = None
        self._provenance: Table | None = None
        parts.meter.run_id = session.run_id
        self._run = ExitStack()
        self._run.enter_context(
            parts.treasury.spending(self.user.name, LOCAL, "validate-step2", RUN_ESTIMATE, background=True)
        )

    @criterion("1")
    def sources_connected(self) -> Answer:
        """Bring in what each source has, and say what it is."""
        catalog, sample = self.parts.catalog, read_sample(self.parts.clock)
        for user in (self.user, *self._others):
            self._timed(f"bring in the sample for {user.name}", partial(self._bring_sample, user))
        rows: list[tuple[object, ...]] = [
            (SAMPLE, f"comes with the program, nobody's listening; feed sha256 {sample.sha256[:16]}…", "3 episodes")
        ]
        if self._paths:
            self._brought = self._timed("bring in files", lambda: bring_in(catalog, self.user, self._paths))
            rows += [(one.layout, f"{one.name}, {_sha256(one.given)}", _gave(one)) for one in self._brought.files]
        answer = self._ask_spotify(rows) if SPOTIFY in self._sources else None
        table = self._provenance = Table("Sources", ("source", "which", "gave"), tuple(rows))
        measured = f"{len(rows)} answered: {', '.join(dict.fromkeys(str(row[0]) for row in rows))}"
        if answer is not None:
            return Answer(None, f"{measured}; {answer[0]}", answer[1], [table])
        refused = self._brought.refused if self._brought else 0
        problems = "; ".join(self._brought.problems[:3]) if self._brought else ""
        return Answer(not refused, f"{measured}; {refused} files could not be used", problems, [table])

    def _ask_spotify(self, rows: list[tuple[object, ...]]) -> tuple[str, str] | None:
        """Fetch from Spotify; what is missing and the next step, where nobody has consented."""
        spotify = self.parts.spotify
        try:
            self._fetched = fetch(spotify, self.parts.catalog, self.user)
        except (Misuse, ProviderError) as problem:
            return f"Spotify: {problem.message}", problem.next_step or "Run it again later."
        finally:
            self._calls += self.parts.payer.calls
        made = spotify.connections.find(self.user)
        which = (
            f"{self.parts.settings.spotify_api_url}, account {made.account[:6]}…, consent until {made.ends_at:%Y-%m-%d}"
        )
        gave = f"{self._fetched.shows} shows, {self._fetched.episodes} recent episodes, {self._fetched.saved} saved"
        rows.append((SPOTIFY, which, gave))
        return None

    @criterion("2")
    def recent_episodes(self) -> Answer:
        """Look into what is stored, user by user and source by source."""
        rows, holds = [], True
        for user in (self.user, *self._others):
            stored = self._timed(f"episodes of {user.name}", partial(self.parts.catalog.episodes, user))
            for source in dict.fromkeys(source for source, _ in stored):
                newest = max(one.released for name, one in stored if name == source)
                rows.append((user.name, source, sum(name == source for name, _ in stored), newest))
            holds = holds and sum(name == SAMPLE for name, _ in stored) == len(read_sample(self.parts.clock).episodes)
        if self._fetched is not None:
            mine = sum(row[2] for row in rows if row[:2] == (self.user.name, "Spotify"))
            holds = holds and mine >= self._fetched.episodes
        measured = "; ".join(
            f"{user}: {count} of {source}, the newest of {newest}" for user, source, count, newest in rows
        )
        return Answer(
            holds, measured, "", [Table("Episodes stored", ("user", "source", "episodes", "newest"), tuple(rows))]
        )

    @criterion("3")
    def user_isolation(self) -> Answer:
        """For each pair of users: read the other's rows, write in the other's name, on PostgreSQL by raw SQL too."""
        users = [self.user, *self._others]
        tried, nothing = library_checks.cross_access(self.parts, users)
        refused = sum(one.refused for one in tried)
        left_out = f"; not tried, nobody has any: {', '.join(nothing)}" if nothing else ""
        table = Table(
            "Across users", ("who", "tries", "refused"), tuple((one.who, one.what, one.refused) for one in tried)
        )
        return Answer(
            refused == len(tried),
            f"{len(users)} users; {refused} of {len(tried)} attempts came to nothing{left_out}",
            "",
            [table],
        )

    @criterion("4")
    def run_again(self) -> Answer:
        """Bring the same in once more, and count."""
        before = library_checks.rows_of(self.parts, self.user)
        added = sum(self._bring_sample(user) for user in (self.user, *self._others))
        if self._paths:
            added += self._timed("the files again", lambda: bring_in(self.parts.catalog, self.user, self._paths)).new
        if self._fetched is not None:
            added += fetch(self.parts.spotify, self.parts.catalog, self.user).new
        after = library_checks.rows_of(self.parts, self.user)
        table = Table(
            f"Rows of {self.user.name}", ("table", "before", "after"), tuple((n, before[n], after[n]) for n in before)
        )
        return Answer(added == 0 and before == after, f"{added} new the second time", "", [table])

    @criterion("5")
    def deleting_a_user(self) -> Answer:
        """Give a new user everything, delete that user, and look for what is left."""
        name = f"validation-gone-{secrets.token_hex(4)}"
        gone = self.parts.users.add(name)
        self._bring_sample(gone)
        if self._paths:
            bring_in(self.parts.catalog, gone, self._paths)
        library_checks.keep_a_login(self.parts, gone)
        before = library_checks.rows_of(self.parts, gone)
        self._timed("delete a user", lambda: self.parts.users.delete(name))
        after, files = library_checks.rows_of(self.parts, gone), library_checks.files_naming(self.parts, name)
        table = Table(
            "What a deleted user leaves",
            ("table", "rows before", "rows after"),
            tuple((n, before[n], after[n]) for n in before),
        )
        measured = f"{sum(before.values())} rows before, {sum(after.values())} after; {len(files)} files name the user"
        return Answer(
            sum(before.values()) > 0 and not any(after.values()) and not files, measured, "; ".join(files), [table]
        )

    @criterion("8")
    def listening_history(self) -> Answer:
        """Every listen of the user with its time, and the sources' rows beside it."""
        told = self.parts.catalog.told(self.user)
        history = self._timed("listening history", lambda: self.parts.catalog.history(self.user))
        timed = all(one.ended_us > 0 and one.precision_us > 0 and one.sources for one in history.listens)
        twice, lost = library_checks.recounted(told, history.listens)
        rows = history.table().rows[-self.session.parameters["show_rows"] :]
        table = Table("Listening, the last days", history.table().columns, rows, history.table().notes)
        precision = sorted({one.precision_us // 1_000_000 for one in history.listens})
        seconds = " and ".join(map(str, precision)) or "no"
        recount = f"{twice} counted twice, {lost} lost"
        measured = f"{len(history.listens)} listens of {len(told)} rows told; {recount}; precise to {seconds} s"
        if not told:
            return Answer(
                None, measured, "Give an export that has listening in it, or listen and fetch again.", [table]
            )
        return Answer(timed and twice == lost == 0, measured, "", [table])

    @criterion("9")
    def consent_and_tokens(self) -> Answer:
        """Look at the login at rest; move a copy of it to another user and delete it, in books of its own."""
        try:
            made = self.parts.connections.find(self.user)
            login = self.parts.connections.login(self.user)
        except (Misuse, ProviderError) as problem:
            return Answer(None, problem.message, problem.next_step)
        found = library_checks.try_login(self.parts, self.session.run_id, login)
        holds = [name for name, right in found if right]
        measured = f"consent until {made.ends_at:%Y-%m-%d}; {len(holds)} of {len(found)} hold: {', '.join(holds)}"
        return Answer(len(holds) == len(found), measured)

    @criterion("6")
    def speed(self) -> Answer:
        """The slowest of the calls of this run."""
        if not self._calls:
            return Answer(None, "no call was made", "Run the cells in order.")
        name, slowest = max(self._calls, key=lambda call: call[1])
        return Answer(slowest < _CALL_SECONDS, f"{len(self._calls)} calls, the slowest {slowest:.3f} s ({name})")

    @criterion("7")
    def validation_cost(self) -> Answer:
        """Settle what this run set aside for itself, and add up its rows on the bill."""
        self._run.close()
        cost = self._cost()
        measured = f"{cost.shown()} on the bill for this run; {RUN_ESTIMATE.shown()} had been set aside for it"
        return Answer(ZERO < cost < MOST, measured)

    @property
    def asked(self) -> frozenset[str]:
        """The criteria of this run."""
        return frozenset(one.id for one in self.session.step.criteria)

    def plot_days(self) -> Figures:
        """Minutes heard by day."""
        return listening_by_day(self.parts.catalog.history(self.user))

    def plot_shows(self) -> Figures:
        """Minutes heard by show."""
        return listening_by_show(self.parts.catalog.history(self.user))

    def close(self) -> None:
        """Show the verdict, and remember the run; raises VerdictFailed if a criterion failed."""
        self._run.close()
        speaks_for = f"With {', '.join(self.session.components.values())}."
        missing = [one for one in (EXPORT, OPML, SPOTIFY) if one not in self._sources]
        said = [f"{one}: not given in this run" for one in missing]
        if self.parts.database.path is not None:
            said.append("PostgreSQL and its row-level security: the database is SQLite")
        self.session.finish(self._cost(), self._provenance, speaks_for, said)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _bring_sample(self, user: User) -> int:
        return bring_sample(self.parts.catalog, user, self.parts.clock)


def _sha256(given: Path) -> str:
    """Of the file that was given; a member of a zip is named with it."""
    with given.open("rb") as file:
        return f"{given.name} sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}…"


def _gave(one: FileResult) -> str:
    return f"{one.told} listens, {one.saved} shows and episodes; {one.new} new"

"""An audit proves the ledger at hand: each rule holds, or the first row that breaks it is named with what is wrong.

Everything is read once, from one consistent state, and nothing is changed. A rule that cannot be checked says so: it
is NOT RUN, which is no proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podcastqa.clock import WindowKind
from podcastqa.database import Database
from podcastqa.display import Table, Tabular
from podcastqa.money import Usd
from podcastqa.spend.admission import Kept
from podcastqa.spend.audit_copy import copy_ledger
from podcastqa.spend.audit_limits import Faults, replay, while_stopped
from podcastqa.spend.audit_mirror import compared
from podcastqa.spend.audit_rules import PREPARED, RULES, first_broken
from podcastqa.spend.mirror import Mirror

_PASSED = "No admission passed a limit that"
_STOPPED = "Nothing was admitted or started under the emergency stop"
_NO_HISTORY = "they may have said more that day, and keep no history"
_WORDS = {True: "holds", False: "NOT", None: "NOT RUN"}


@dataclass(frozen=True, slots=True)
class Proof:
    """One rule: whether it holds (None: it could not be checked), how many rows were looked at, how many break it."""

    rule: str
    looked_at: int
    holds: bool | None
    broken: int = 0
    said: str = ""
    """The first row that breaks it and how, or why it could not be checked."""


@dataclass(frozen=True, slots=True)
class Audit(Tabular):
    """What was proved of a ledger."""

    place: str
    proofs: tuple[Proof, ...]

    @property
    def holds(self) -> bool | None:
        """Whether every rule does; None where none is broken and one could not be checked."""
        found = [proof.holds for proof in self.proofs]
        return False if False in found else None if None in found else True

    def table(self) -> Table:
        """One row a rule."""
        rows = tuple((p.rule, _WORDS[p.holds], p.looked_at, p.broken, p.said or None) for p in self.proofs)
        counts = {word: sum(row[1] == word for row in rows) for word in _WORDS.values()}
        note = f"{counts['holds']} of {len(rows)} rules hold"
        note += f"; {counts['NOT']} NOT: these books are not to be trusted" * bool(counts["NOT"])
        note += f"; {counts['NOT RUN']} NOT RUN, which is no proof" * bool(counts["NOT RUN"])
        columns = ("rule", "outcome", "rows looked at", "rows that break it", "the first of them")
        return Table(f"Audit of {self.place}", columns, rows, (f"{note}.",))


@dataclass(frozen=True, slots=True)
class Auditor:
    """What an audit reads: the ledger, its mirror, and the limits that hold where nobody set one."""

    database: Database
    mirror: Mirror
    system_limits: Mapping[WindowKind, Usd]
    user_limits: Mapping[WindowKind, Usd]
    kept: Kept | None = None

    def run(self) -> Audit:
        """Prove what can be proved."""
        import duckdb

        connection = duckdb.connect(":memory:")
        try:
            guards, faults = copy_ledger(self.database, connection)
            for sql in PREPARED:
                connection.execute(sql)
            proofs = [_guarded(guards, faults)]
            for rule in RULES:
                looked_at, broken, said = first_broken(connection, rule)
                proofs.append(Proof(rule.says, looked_at, not broken, broken, said))
            proofs += self._replayed(connection)
            proofs.append(_mirrored(connection, self.mirror))
        finally:
            connection.close()
        return Audit(self.database.place, tuple(proofs))

    def _replayed(self, connection: Any) -> list[Proof]:
        system, user = ([_pico(one, kind) for kind in WindowKind] for one in (self.system_limits, self.user_limits))
        admissions, people, settings = replay(connection, system, user, self.kept)
        steps, stopped = while_stopped(connection)
        said = _first(connection, settings) + f" by today's settings; {_NO_HISTORY}" if settings.count else ""
        return [
            _judged(connection, f"{_PASSED} people had set", admissions, people),
            Proof(f"{_PASSED} the settings have", admissions, None if said else True, settings.count, said),
            _judged(connection, _STOPPED, steps, stopped),
        ]


def _guarded(guards: int, faults: Sequence[str]) -> Proof:
    said = faults[0] if faults else ""
    return Proof("Tables that only grow refuse every change", guards, not faults, len(faults), said)


def _judged(connection: Any, rule: str, looked_at: int, faults: Faults) -> Proof:
    return Proof(rule, looked_at, not faults.count, faults.count, _first(connection, faults))


def _first(connection: Any, faults: Faults) -> str:
    if not faults.count:
        return ""
    [(place,)] = connection.execute("SELECT place FROM entries WHERE id = ?", [faults.first_id]).fetchall()
    return f"{place}: {faults.said}"


def _mirrored(connection: Any, mirror: Mirror) -> Proof:
    rule, found = "The mirror holds what the ledger holds", compared(connection, mirror)
    if found is None:
        return Proof(rule, 0, None, 0, "another program has the mirror open; close it, and audit again")
    looked_at, broken, said = found
    return Proof(rule, looked_at, not broken, broken, said)


def _pico(limits: Mapping[WindowKind, Usd], kind: WindowKind) -> int | None:
    return limits[kind].pico if kind in limits else None

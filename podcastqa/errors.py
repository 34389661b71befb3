"""Every error a person can meet: a sentence that says what is wrong, and the next step.

PodcastQAError                 exit status 1, unless a branch says otherwise
├── Misuse                     2: the call's words are off, nothing was done
│   ├── SettingsError          config.env or the environment
│   ├── ParameterError         a notebook's parameter
│   └── UnknownUser, UserExists
├── ScopeError                 data asked for without saying whose, or another's
│   ├── ScopeMissing
│   └── CrossUserRefused
├── Refused                    the guard said no; nothing ran, nothing was charged
│   ├── OverLimit              with the window that has no room
│   ├── EmergencyStopped
│   ├── LimitMissing
│   ├── BadEstimate
│   ├── UnknownPrice
│   └── LedgerUnavailable
├── HoldError                  the life of a hold was walked in the wrong order
│   ├── HoldUnknown, HoldIdReused, HoldResolved, HoldExpired
├── BillError                  a bill that cannot be read
├── MirrorBusy                 another program holds the DuckDB copy
├── MailError                  a mail that was not accepted
├── ProviderError              AWS or a mail server said no, or nothing; says whether it may have been done all the same
├── GateClosed                 an earlier step has not passed with the components in use
└── ReportError                a run or a report that cannot be shown
"""

from __future__ import annotations

import inspect


class PodcastQAError(Exception):
    """Something went wrong."""

    exit_status = 1

    def __init__(self, message: str = "", *, next_step: str = "") -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "").split("\n\n", maxsplit=1)[0]
        self.next_step = next_step
        super().__init__(f"{self.message} {next_step}".strip())


class Misuse(PodcastQAError):
    """That call cannot be understood."""

    exit_status = 2


class SettingsError(Misuse):
    """A setting in config.env or the environment cannot be used."""


class ParameterError(Misuse):
    """A notebook parameter cannot be used."""


class UnknownUser(Misuse):
    """There is no such user."""


class UserExists(Misuse):
    """There already is a user of that name."""


class ScopeError(PodcastQAError):
    """Data may be read and written only for the user it belongs to."""


class ScopeMissing(ScopeError):
    """A table that belongs to users was asked for without saying for whom."""


class CrossUserRefused(ScopeError):
    """That belongs to another user."""


class Refused(PodcastQAError):
    """The budget guard refused the operation; nothing ran and nothing was charged."""


class OverLimit(Refused):
    """The operation would exceed a spending limit."""

    def __init__(
        self, message: str = "", *, next_step: str = "", scope: str = "", window: str = "", brief: str = ""
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.scope, self.window, self.brief = scope, window, brief or message

    def for_user(self) -> OverLimit:
        """The same as a user may hear it: what all together have spent says what the others have."""
        if self.scope == "user":
            return self
        return OverLimit(self.brief, next_step=self.next_step, scope=self.scope, window=self.window)


class EmergencyStopped(Refused):
    """The emergency stop is on: every operation is refused until it is released."""


class LimitMissing(Refused):
    """A window has no limit, so nothing may be spent in it."""


class BadEstimate(Refused):
    """An estimate must be a finite amount of US dollars that is not negative."""


class UnknownPrice(Refused):
    """There is no price for that operation, so it may not run."""


class LedgerUnavailable(Refused):
    """The ledger cannot be reached, so nothing may be spent."""


class HoldError(PodcastQAError):
    """That cannot be done with this hold."""


class HoldUnknown(HoldError):
    """There is no hold of that id."""


class HoldIdReused(HoldError):
    """That id already names a hold for another operation."""


class HoldResolved(HoldError):
    """That hold is already settled, voided or expired."""


class HoldExpired(HoldError):
    """That hold ran out of time before its operation started."""


class BillError(PodcastQAError):
    """A bill cannot be read."""


class MirrorBusy(PodcastQAError):
    """Another program has the DuckDB mirror open."""


class MailError(PodcastQAError):
    """A mail was not accepted."""


class ProviderError(PodcastQAError):
    """A provider did not do what it was asked to do."""

    def __init__(
        self,
        message: str = "",
        *,
        next_step: str = "",
        kind: str = "other",
        in_doubt: bool = False,
        again: bool = False,
    ) -> None:
        """`in_doubt`: it may have been done and charged all the same; `again`: another attempt may succeed."""
        super().__init__(message, next_step=next_step)
        self.kind, self.in_doubt, self.again = kind, in_doubt, again


class GateClosed(PodcastQAError):
    """An earlier step has not passed with the components in use now."""

    exit_status = 3


class ReportError(PodcastQAError):
    """There is no such report."""


class VerdictFailed(PodcastQAError):
    """The step did not pass."""

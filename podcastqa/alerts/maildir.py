"""A mail is in the mailbox once, whole and on disk, before anybody is told that it was sent.

A Maildir is a folder that every mail program reads. A mail's file is named after its Message-ID, and linking a file to
a name that is taken fails: the same mail sent twice (a crash between delivery and its record) arrives once.
"""

from __future__ import annotations

import email.policy
import hashlib
import os
import uuid
from email.message import EmailMessage
from email.parser import BytesParser
from mailbox import Maildir
from pathlib import Path

from podcastqa.alerts.alert import Receipt
from podcastqa.errors import MailError

_FOLDERS = ("tmp", "new", "cur")


class MaildirMailer:
    """Delivers to the Maildir at `path`, which it makes on first use, readable by its owner only."""

    name = "Maildir"

    def __init__(self, path: Path, sender: str = "podcastqa@localhost") -> None:
        self.path, self.sender = path, sender

    @property
    def account(self) -> str:
        """The mailbox's folder."""
        return str(self.path)

    def send(self, message: EmailMessage) -> Receipt:
        """Put the mail into the mailbox, unless it is there already; raises MailError."""
        message_id = str(message["Message-ID"])
        try:
            self._make()
            if _name(message_id) not in self._box():
                self._deliver(message, self.path / "new" / _name(message_id))
        except OSError as problem:
            raise self._unusable(problem) from problem
        return Receipt(message_id, str(self.path))

    def read_back(self, message_id: str) -> EmailMessage | None:
        """The mail as it lies in the mailbox, opened or not; None where there is none of that id."""
        try:
            self._make()
            raw = self._box().get_bytes(_name(message_id))
        except KeyError:
            return None
        except OSError as problem:
            raise self._unusable(problem) from problem
        return BytesParser(EmailMessage, policy=email.policy.default).parsebytes(raw)

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in _FOLDERS:
            (self.path / folder).mkdir(mode=0o700, exist_ok=True)

    def _box(self) -> Maildir:
        return Maildir(self.path, create=False)

    def _deliver(self, message: EmailMessage, target: Path) -> None:
        draft = self.path / "tmp" / f"{os.getpid()}.{uuid.uuid4().hex}"
        try:
            with draft.open("xb") as file:
                draft.chmod(0o600)
                file.write(message.as_bytes(policy=message.policy.clone(linesep="\n")))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, target)
            except FileExistsError:
                return  # another process delivered it just now
            _sync_folder(target.parent)
        finally:
            draft.unlink(missing_ok=True)

    def _unusable(self, problem: OSError) -> MailError:
        return MailError(
            f"The mailbox {self.path} cannot be used ({problem.strerror or problem}).",
            next_step="Check that MAILDIR names a folder you may write to, with room on its disk.",
        )


def _name(message_id: str) -> str:
    """The mail's file: a digest, because a Message-ID may hold any character."""
    return f"{hashlib.sha256(message_id.encode()).hexdigest()[:32]}.podcastqa"


def _sync_folder(folder: Path) -> None:
    """A new name is safe only when its folder is on disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

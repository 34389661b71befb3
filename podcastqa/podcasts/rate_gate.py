"""When a provider says to wait, nothing is sent before that time, by any process of this home, however long it is.

The time stands in a file, so that a program that ends and begins again still keeps to it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

from podcastqa.clock import Clock
from podcastqa.errors import ProviderError

#: Where a provider says to wait and not how long.
_USUAL_SECONDS = 30


@dataclass(frozen=True, slots=True)
class RateGate:
    """One provider's gate."""

    provider: str
    file: Path
    clock: Clock

    def until(self) -> datetime | None:
        """When it opens; None while it is open."""
        try:
            found = datetime.fromisoformat(self.file.read_text().strip())
        except (OSError, ValueError):  # no word, or half of one: the provider will say it again
            return None
        return found if found > self.clock.now() else None

    def check(self) -> None:
        """Raises ProviderError, kind `throttled`, while it is closed."""
        until = self.until()
        if until is not None:
            raise self._closed(until)

    def seconds(self) -> float:
        """How long until it opens."""
        until = self.until()
        return 0.0 if until is None else (until - self.clock.now()).total_seconds()

    def wait(self, most_seconds: float, say: Callable[[str], None]) -> bool:
        """Wait until it opens, and say so; False, at once, where that takes longer."""
        until, seconds = self.until(), self.seconds()
        if seconds > most_seconds:
            return False
        if until is not None:
            say(f"{self.provider} asks for no requests before {until:%H:%M:%S} UTC: waiting")
            time.sleep(max(seconds, 0))
        return True

    def close(self, retry_after: str) -> ProviderError:
        """Close it as the answer's Retry-After says (RFC 9110, 10.2.3: seconds or a date); returns what to raise."""
        until = max(_instant(retry_after, self.clock.now()), self.until() or self.clock.now())
        made = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        made.write_text(until.isoformat())
        os.replace(made, self.file)
        return self._closed(until)

    def _closed(self, until: datetime) -> ProviderError:
        return ProviderError(
            f"{self.provider} asks for no requests before {until:%Y-%m-%d %H:%M:%S} UTC.",
            next_step="Run it again after that; what was fetched is kept.",
            kind="throttled",
        )


def _instant(retry_after: str, now: datetime) -> datetime:
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return now + timedelta(seconds=min(int(text.lstrip("0")[:12] or 0), 10 * 365 * 86_400))
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return now + timedelta(seconds=_USUAL_SECONDS)
    return found if found.tzinfo else found.replace(tzinfo=UTC)

"""The one table of settings: what each is called, what it may be, its default, and what it is for.

config.env.example is made from it, and so is the check of every value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from podcastqa.money import Usd

Parse = Callable[[str, Path], Any]
"""Text, and the folder that relative paths start from, to a value; a ValueError ends the sentence "'x' …"."""


def any_text(text: str, _: Path) -> str:
    """Anything."""
    return text


def a_path(text: str, base: Path) -> Path:
    """A file or folder."""
    return base / Path(text).expanduser()


def _amount(text: str, _: Path) -> Usd:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,12})?", text):
        raise ValueError("is not an amount of US dollars; write it like 5.00")
    if int(text.split(".", maxsplit=1)[0]) >= 1_000_000:
        raise ValueError("is too much for a limit; it must be below 1000000.00")
    return Usd(text)


def _percents(text: str, _: Path) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,3}", part) and 1 <= int(part) <= 100 for part in parts):
        raise ValueError("is not a list of percentages from 1 to 100; write it like 50,80,100")
    return tuple(sorted({int(part) for part in parts}))


def _whole(low: int, high: int) -> Parse:
    def parse(text: str, _: Path) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return int(text)

    return parse


def _choice(*words: str) -> Parse:
    def parse(text: str, _: Path) -> str:
        if text not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return text

    return parse


def _matching(pattern: str, fault: str) -> Parse:
    def parse(text: str, _: Path) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(fault)
        return text

    return parse


def a_database(text: str, base: Path) -> str:
    """The URL of a PostgreSQL database or of an SQLite file."""
    if text.startswith(("postgresql://", "postgres://")):
        try:
            path = urlsplit(text).path
        except ValueError:
            raise ValueError("has a [ or ] that belongs to no IPv6 address; write them as %5B and %5D") from None
        if "@" in path:
            raise ValueError("has a / in its login or password; write it as %2F")
        if not path.strip("/"):
            raise ValueError("does not name a database; write it like postgresql://login:password@host/database")
        return text
    if not text.startswith("sqlite:///"):
        raise ValueError("is not a database; write it like postgresql://login:password@host/database or sqlite:///FILE")
    file = text.removeprefix("sqlite:///")
    if file in ("", ":memory:") or "?" in file:
        raise ValueError("does not name a file, and other processes have to find the same books")
    return f"sqlite:///{base / file}"


def secrets_in(text: str) -> set[str]:
    """The text of a secret setting, and the password in it if it is a URL."""
    try:
        password = unquote((urlsplit(text).password if "://" in text else "") or "")
    except ValueError:  # it is no URL
        password = ""
    return {text, password} if len(password) >= 4 else {text}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name, what it may be, its default, and what the example file says of it."""

    name: str
    parse: Parse
    default: str
    comment: str
    secret: bool = False
    example: str | None = None
    """Stands switched on in config.env.example with this value; one that is not the default counts as unset."""

    @property
    def field(self) -> str:
        """Its name in `Settings`."""
        return self.name.removeprefix("PODCASTQA_").lower()

    def is_unset(self, text: str) -> bool:
        """Whether that is the example file's placeholder, or nothing at all where nothing is a fair answer."""
        if self.example in (None, self.default):
            return text == "" and (self.default == "" or self.parse is any_text)
        return not text or text.lower().startswith(("your_", "your-email@"))


_ACCOUNT = _matching("[0-9]{12}", "is not an account number of 12 digits")
_ADDRESS = _matching(r"[^@\s<>,;:\"]+@[^@\s<>,;:\"]+", "is not one mail address")
_PRICE = _matching("[a-z0-9][a-z0-9._-]*", "is not the id of a price")
_NAME = _matching(r"\S(.{0,62}\S)?", "is not a name of at most 64 characters")
_SOURCE = _choice("auto", "local", "aws")
_MAILER = _choice("auto", "maildir", "smtp", "ses")
_SECURITY = _choice("starttls", "ssl", "none")
_HOST = _matching(r"[A-Za-z0-9:][A-Za-z0-9.:-]*", "is not the name of a mail server")
_REGION = _matching("[a-z]{2}(-[a-z]+)+-[0-9]", "is not the name of a region; write it like us-east-1")
_TAG = _matching(r"[\w .:/=+@-]{1,128}", "is not the key of a cost allocation tag")
_DAY = 86_400

# fmt: off  (a row a setting: read it as a table)
GROUPS: dict[str, tuple[Setting, ...]] = {
    "AWS: with a key and its secret set, the bill comes from Cost Explorer and mail goes by Amazon SES": (
        Setting("AWS_ACCESS_KEY_ID", any_text, "", "Key id of an IAM user.", True, "your_aws_access_key_here"),
        Setting("AWS_SECRET_ACCESS_KEY", any_text, "", "Its secret.", True, "your_aws_secret_access_key_here"),
        Setting("AWS_SESSION_TOKEN", any_text, "", "Only with temporary credentials.", True),
        Setting("AWS_REGION", _REGION, "us-east-1", "Where mail is sent and machines run.", False, "us-east-1"),
        Setting("AWS_ACCOUNT_ID", _ACCOUNT, "", "The account whose bill is read.", False, "123456789012"),
        Setting("AWS_USER_TAG", _TAG, "podcastqa:user", "The cost allocation tag that names the user."),
        Setting("BILL_REFRESH_HOURS", _whole(1, 720), "8", "How old Cost Explorer's answer may be; each costs $0.01."),
        Setting("BILL_REFRESH_MOST", _amount, "0.09", "The most that one answer may cost; each page is $0.01."),
    ),
    "Spotify: with an app of your own (developer.spotify.com, redirect address http://127.0.0.1/callback)": (
        Setting(
            "SPOTIFY_CLIENT_ID", any_text, "", "The app's client id; it has no secret.", False, "your_spotify_client_id"
        ),
        Setting("SPOTIFY_PORT", _whole(0, 65_535), "0", "The port of the redirect address; 0: any that is free."),
        Setting(
            "PODCASTQA_KEYS",
            any_text,
            "",
            "Keys that logins are sealed with: 32 bytes each in base64, the one in use first; unless set, a file.",
            True,
        ),
    ),
    "Limits, in US dollars: the most that may be spent in a UTC day, an ISO week, a calendar month": (
        Setting("DAILY_BUDGET_LIMIT", _amount, "5.00", "Everyone together, in a day.", False, "5.00"),
        Setting("WEEKLY_BUDGET_LIMIT", _amount, "25.00", "Everyone together, in a week.", False, "25.00"),
        Setting("MONTHLY_BUDGET_LIMIT", _amount, "100.00", "Everyone together, in a month.", False, "100.00"),
        Setting("USER_DAILY_BUDGET_LIMIT", _amount, "5.00", "Each user, in a day."),
        Setting("USER_WEEKLY_BUDGET_LIMIT", _amount, "25.00", "Each user, in a week."),
        Setting("USER_MONTHLY_BUDGET_LIMIT", _amount, "100.00", "Each user, in a month."),
    ),
    "Alerts": (
        Setting("COST_ALERT_EMAIL", _ADDRESS, "", "Who gets the alerts.", False, "your-email@example.com"),
        Setting("COST_ALERT_SENDER", _ADDRESS, "", "Who they come from; unless set, who gets them."),
        Setting("ALERT_THRESHOLDS", _percents, "50,80,100", "At which shares of a limit to mail, in percent."),
        Setting("SMTP_HOST", _HOST, "", "A mail server; with one set, alerts go through it."),
        Setting("SMTP_PORT", _whole(1, 65_535), "587", "Its port: 587 with starttls, 465 with ssl."),
        Setting("SMTP_SECURITY", _SECURITY, "starttls", "starttls, ssl or none."),
        Setting("SMTP_USER", any_text, "", "The login, if it asks for one."),
        Setting("SMTP_PASSWORD", any_text, "", "The login's password.", True),
    ),
    "Parts": (
        Setting("BILLING_SOURCE", _SOURCE, "auto", "The bill: auto, local (this machine's own meter) or aws."),
        Setting("MAILER", _MAILER, "auto", "Mail: auto, maildir (a folder that any mail program reads), smtp or ses."),
        Setting("LOCAL_METER_PRICE", _PRICE, "local-vcpu-hour", "The price list's entry for this machine's time."),
        Setting("PODCASTQA_USER", _NAME, "me", "Who asks and pays when no user is named."),
    ),
    "Places: a relative path starts from the folder of this file": (
        Setting("PODCASTQA_HOME", a_path, "", "The books and the mailbox; unless set, .podcastqa in the checkout."),
        Setting("PODCASTQA_REPORTS", a_path, "", "The reports; unless set, reports in the checkout."),
        Setting("MAILDIR", a_path, "", "The mailbox; unless set, maildir in the home."),
        Setting(
            "DATABASE_URL",
            a_database,
            "",
            "postgresql://login:password@host/database; unless set, an SQLite file in the home.",
            True,
        ),
    ),
    "Times, in seconds": (
        Setting("HOLD_SECONDS", _whole(1, _DAY), "900", "How long money stays aside for work that has not begun."),
        Setting("CELL_TIMEOUT_SECONDS", _whole(10, _DAY), "600", "How long one cell of a notebook may run."),
    ),
}
# fmt: on
TABLE = {setting.name: setting for group in GROUPS.values() for setting in group}


def example() -> str:
    """The text of config.env.example."""
    lines = [
        "# Settings of podcastqa. Copy this file to config.env and change what you need; without one, all of it works.",
        "# Lines that start with # are off and show the default; your_… and your-email@… count as not set.",
        "# A variable of the same name in the environment wins. PODCASTQA_CONFIG (there only) names another file.",
    ]
    for title, group in GROUPS.items():
        lines += ["", f"# --- {title} ---"]
        for setting in group:
            off = "# " if setting.example is None else ""
            lines += [f"# {setting.comment}", f"{off}{setting.name}={setting.example or setting.default}"]
    return "\n".join(lines) + "\n"

"""Settings are read once, from config.env and the environment, into one frozen value; nothing else reads os.environ.

The environment wins over the file, and a fault in either is refused. All faults are told at once, each with its
line, and never with the value of a secret. `table` lists the settings; `reading` finds what was said of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from podcastqa.errors import SettingsError
from podcastqa.money import Usd
from podcastqa.settings.reading import CONFIG, in_environment, in_file, resolved
from podcastqa.settings.table import TABLE, a_path, example

__all__ = ["Settings", "child_environment", "example"]


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Everything that can be set, read and checked; `Settings.load()` makes one."""

    root: Path | None
    """The checkout, found from any folder inside it; None for a package installed without one."""
    env_file: Path | None
    """The config.env in use."""
    home: Path
    reports: Path
    maildir: Path
    database_url: str
    user: str
    daily_budget_limit: Usd
    weekly_budget_limit: Usd
    monthly_budget_limit: Usd
    user_daily_budget_limit: Usd
    user_weekly_budget_limit: Usd
    user_monthly_budget_limit: Usd
    cost_alert_email: str
    cost_alert_sender: str
    smtp_host: str
    smtp_port: int
    smtp_security: str
    smtp_user: str
    smtp_password: str
    alert_thresholds: tuple[int, ...]
    billing_source: str
    mailer: str
    local_meter_price: str
    hold_seconds: int
    cell_timeout_seconds: int
    aws_access_key_id: str
    aws_secret_access_key: str
    aws_session_token: str
    aws_region: str
    aws_account_id: str
    aws_user_tag: str
    bill_refresh_hours: int
    bill_refresh_most: Usd
    spotify_client_id: str
    spotify_port: int
    keys: str
    spotify_api_url: str
    spotify_accounts_url: str
    """Where Spotify is asked; another place than its own is an override."""
    endpoint_overrides: tuple[str, ...]
    """Variables that point a provider's client elsewhere: this run checks a contract and validates no provider."""
    under_pytest: bool
    secrets: tuple[str, ...]
    """Every secret value that was read, in use or not, longest first."""

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, start: Path | None = None) -> Settings:
        """Read config.env and the environment; what is wrong in them is raised as one SettingsError."""
        here = (start or _working_folder()).absolute()
        root = _checkout(here)
        variables = os.environ if environ is None else environ
        env_file = _env_file(variables, here, root)
        said = [*(in_file(env_file) if env_file else ()), *in_environment(variables, here)]
        under_pytest = "PYTEST_VERSION" in variables
        values, secrets, faults = resolved(said, rehearsal=under_pytest)
        if faults:
            raise SettingsError("\n".join(faults), next_step="config.env.example shows every setting.")
        overrides = tuple(sorted(name for name in variables if _is_override(name) and variables[name]))
        if under_pytest and not values["home"]:
            values["home"] = _temporary_home()
            if environ is None:
                os.environ["PODCASTQA_HOME"] = str(values["home"])  # so that child processes share it
        _place(values, root or here, rehearsal=under_pytest, contract_check=bool(overrides))
        return cls(
            root=root,
            env_file=env_file,
            spotify_api_url=(variables.get("SPOTIFY_API_URL") or "https://api.spotify.com/v1").rstrip("/"),
            spotify_accounts_url=(variables.get("SPOTIFY_ACCOUNTS_URL") or "https://accounts.spotify.com").rstrip("/"),
            endpoint_overrides=overrides,
            under_pytest=under_pytest,
            secrets=tuple(sorted(secrets, key=lambda secret: (-len(secret), secret))),
            **values,
        )

    @property
    def database(self) -> str:
        """The URL of the database in use."""
        return self.database_url or f"sqlite:///{self.home / 'podcastqa.sqlite'}"

    def __repr__(self) -> str:
        hidden = {setting.field for setting in TABLE.values() if setting.secret} | {"secrets"}
        shown = (
            f"{f.name}={'[set]' if f.name in hidden and getattr(self, f.name) else repr(getattr(self, f.name))}"
            for f in fields(self)
        )
        return f"Settings({', '.join(shown)})"


def child_environment(without: tuple[str, ...] = (), **extra: str) -> dict[str, str]:
    """The environment for a program that we start, less the names that begin so: here, for only settings read it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(without)} | extra


def _place(values: dict[str, Any], base: Path, *, rehearsal: bool, contract_check: bool) -> None:
    """Where state is kept: beside the checkout, in a folder of their own for tests and for contract checks."""
    home = values["home"] or base / ".podcastqa"
    values["reports"] = values["reports"] or (home / "reports" if rehearsal else base / "reports")
    if contract_check:  # nothing that an override answered may ever be read by another run
        home, values["maildir"], values["database_url"] = home / "contract-check", "", ""
    values["home"], values["maildir"] = home, values["maildir"] or home / "maildir"


@cache
def _temporary_home() -> Path:
    import atexit
    import shutil
    import tempfile

    home, maker = Path(tempfile.mkdtemp(prefix="podcastqa-pytest-")), os.getpid()

    def remove() -> None:
        if os.getpid() == maker:  # not a fork of it
            shutil.rmtree(home, ignore_errors=True)

    atexit.register(remove)
    return home


def _is_override(name: str) -> bool:
    return name.startswith("AWS_ENDPOINT_URL") or name in ("SPOTIFY_API_URL", "SPOTIFY_ACCOUNTS_URL")


def _env_file(variables: Mapping[str, str], here: Path, root: Path | None) -> Path | None:
    if named := variables.get(CONFIG, ""):
        return a_path(named, here)  # one that is named must be there: reading it says so
    usual = (root or here) / "config.env"
    return usual if usual.exists() else None


def _checkout(start: Path) -> Path | None:
    own = _own_folder()
    return next((folder for folder in (start, *start.parents, own) if _is_checkout(folder)), None)


def _is_checkout(folder: Path) -> bool:
    try:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"""^name\s*=\s*["']podcastqa["']""", text, re.MULTILINE) is not None


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was deleted under us
        return _own_folder()


def _own_folder() -> Path:
    """The folder that holds this package."""
    return Path(__file__).resolve().parents[2]

"""Settings: read once, the environment before the file, faults with their line and never with a secret."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from podcastqa.errors import SettingsError
from podcastqa.money import Usd
from podcastqa.settings import Settings, example
from podcastqa.settings.table import TABLE

pytestmark = pytest.mark.step1

REPOSITORY = Path(__file__).resolve().parent.parent
CANARY = "wJalrXUtnFEMI/K7MDENG"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "podcastqa"\n')
    return tmp_path


Load = Callable[..., Settings]


@pytest.fixture
def load(checkout: Path) -> Load:
    def load(file: str | None = None, **environ: str) -> Settings:
        if file is not None:
            (checkout / "config.env").write_text(file, encoding="utf-8")
        return Settings.load(environ, start=checkout)

    return load


def refusal(load: Load, file: str | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(file, **environ)
    assert caught.value.exit_status == 2
    assert "config.env.example" in caught.value.next_step
    return caught.value.message


def test_no_config_env_at_all_works(load: Load, checkout: Path) -> None:
    settings = load()
    assert settings.env_file is None
    assert settings.root == checkout
    assert settings.home == checkout / ".podcastqa"
    assert settings.reports == checkout / "reports"
    assert settings.maildir == settings.home / "maildir"
    assert settings.database == f"sqlite:///{settings.home}/podcastqa.sqlite"
    assert settings.daily_budget_limit == settings.user_daily_budget_limit == Usd("5.00")
    assert settings.weekly_budget_limit == settings.user_weekly_budget_limit == Usd("25.00")
    assert settings.monthly_budget_limit == settings.user_monthly_budget_limit == Usd("100.00")
    assert settings.alert_thresholds == (50, 80, 100)
    assert (settings.user, settings.billing_source, settings.mailer) == ("me", "auto", "auto")
    assert (settings.hold_seconds, settings.cell_timeout_seconds) == (900, 600)
    assert settings.local_meter_price == "local-vcpu-hour"
    assert settings.cost_alert_email == ""
    assert settings.secrets == settings.endpoint_overrides == ()
    assert not settings.under_pytest


def test_reading_settings_makes_no_file(load: Load, checkout: Path) -> None:
    load()
    assert [path.name for path in checkout.iterdir()] == ["pyproject.toml"]


def test_the_committed_example_is_the_one_the_table_makes() -> None:
    assert (REPOSITORY / "config.env.example").read_text(encoding="utf-8") == example()


def test_the_example_copied_unchanged_means_the_defaults(load: Load) -> None:
    before, after = load(AWS_ACCOUNT_ID="123456789012"), load(example())
    assert after.env_file is not None
    assert repr(after).replace(repr(after.env_file), "None") == repr(before)
    assert after.secrets == ()
    assert after.aws_access_key_id == after.cost_alert_email == ""
    assert after.aws_account_id == "123456789012"  # it may be somebody's: AWS is asked whose the credentials are


def test_the_example_with_every_line_switched_on_is_accepted(load: Load) -> None:
    lines = [re.sub(r"^# (?=[A-Z_]+=)", "", line) for line in example().splitlines()]
    assert sum(line.partition("=")[0] in TABLE for line in lines) == len(TABLE)
    assert load("\n".join(lines)).alert_thresholds == (50, 80, 100)


def test_the_owners_names_stand_in_the_example() -> None:
    for line in (
        "AWS_ACCESS_KEY_ID=your_aws_access_key_here",
        "AWS_SECRET_ACCESS_KEY=your_aws_secret_access_key_here",
        "AWS_REGION=us-east-1",
        "AWS_ACCOUNT_ID=123456789012",
        "DAILY_BUDGET_LIMIT=5.00",
        "WEEKLY_BUDGET_LIMIT=25.00",
        "MONTHLY_BUDGET_LIMIT=100.00",
        "COST_ALERT_EMAIL=your-email@example.com",
    ):
        assert line in example().splitlines()


def test_the_file_is_read_and_the_environment_wins(load: Load) -> None:
    file = """
        # limits
        export DAILY_BUDGET_LIMIT=1.25   # a comment
        WEEKLY_BUDGET_LIMIT = "2.50"
        ALERT_THRESHOLDS='90, 10,90'
        PODCASTQA_USER=ada
        COST_ALERT_EMAIL=ada@example.org
        HOLD_SECONDS=60
    """
    settings = load(file, PODCASTQA_USER="bo")
    assert settings.daily_budget_limit == Usd("1.25")
    assert settings.weekly_budget_limit == Usd("2.50")
    assert settings.alert_thresholds == (10, 90)
    assert settings.user == "bo"
    assert settings.cost_alert_email == "ada@example.org"
    assert settings.hold_seconds == 60


def test_a_file_saved_on_windows_is_read(load: Load) -> None:
    assert load("\ufeffDAILY_BUDGET_LIMIT=1.25\r\nPODCASTQA_USER=ada\r\n").user == "ada"


def test_a_malformed_value_is_refused_with_line_key_and_fault(load: Load) -> None:
    assert refusal(load, "\n\n# a comment\n\nDAILY_BUDGET_LIMIT=5,00\n") == (
        "config.env line 5: DAILY_BUDGET_LIMIT: '5,00' is not an amount of US dollars; write it like 5.00."
    )


def test_every_fault_is_told_at_once(load: Load) -> None:
    file = "DAILY_BUDGET_LIMIT=lots\nHOLD_SECONDS=0\n"
    assert [line.partition(":")[0] for line in refusal(load, file, MAILER="pigeon").splitlines()] == [
        "config.env line 1",
        "config.env line 2",
        "environment",
    ]


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("DAILY_BUDGET_LIMIT", "-1", "is not an amount of US dollars"),
        ("DAILY_BUDGET_LIMIT", "$5", "is not an amount of US dollars"),
        ("DAILY_BUDGET_LIMIT", "NaN", "is not an amount of US dollars"),
        ("DAILY_BUDGET_LIMIT", "1e3", "is not an amount of US dollars"),
        ("DAILY_BUDGET_LIMIT", "1_0", "is not an amount of US dollars"),
        ("DAILY_BUDGET_LIMIT", "٥", "is not an amount of US dollars"),
        ("DAILY_BUDGET_LIMIT", "1000000", "is too much"),
        ("DAILY_BUDGET_LIMIT", "", "is empty"),
        ("DAILY_BUDGET_LIMIT", "your_limit", "is not an amount of US dollars"),
        ("ALERT_THRESHOLDS", "50,101", "is not a list of percentages"),
        ("ALERT_THRESHOLDS", "50,,80", "is not a list of percentages"),
        ("ALERT_THRESHOLDS", "0", "is not a list of percentages"),
        ("HOLD_SECONDS", "86401", "is not a whole number from 1 to 86400"),
        ("HOLD_SECONDS", "1.5", "is not a whole number from 1 to 86400"),
        ("CELL_TIMEOUT_SECONDS", "9", "is not a whole number from 10 to 86400"),
        ("BILLING_SOURCE", "azure", "is not one of auto, local, aws"),
        ("MAILER", "sendmail", "is not one of auto, maildir, smtp, ses"),
        ("AWS_REGION", "Virginia", "is not the name of a region"),
        ("AWS_USER_TAG", "a\tb", "control character"),
        ("BILL_REFRESH_HOURS", "0", "is not a whole number from 1 to 720"),
        ("SMTP_PORT", "70000", "is not a whole number from 1 to 65535"),
        ("SMTP_HOST", "mail server", "is not the name of a mail server"),
        ("COST_ALERT_SENDER", "a@b, c@d", "is not one mail address"),
        ("COST_ALERT_EMAIL", "nobody", "is not one mail address"),
        ("COST_ALERT_EMAIL", "a@b, c@d", "is not one mail address"),
        ("AWS_ACCOUNT_ID", "12", "is not an account number"),
        ("LOCAL_METER_PRICE", "a b", "is not the id of a price"),
        ("PODCASTQA_USER", "x" * 65, "is not a name"),
        ("PODCASTQA_USER", "a\x07b", "control character"),
        ("DATABASE_URL", "mysql://u:hunter22@h/x", "is not a database"),
        ("DATABASE_URL", "postgresql://u:hunter22@h", "does not name a database"),
        ("DATABASE_URL", "postgresql://u:hunter22@[h/x", "belongs to no IPv6 address"),
        ("DATABASE_URL", "sqlite:///:memory:", "does not name a file"),
        ("AWS_SECRET_ACCESS_KEY", "abc", "too short"),
    ],
)
def test_a_wrong_value_is_refused_in_the_environment_and_in_the_file(
    load: Load, name: str, value: str, fault: str
) -> None:
    for told in (refusal(load, **{name: value}), refusal(load, f"{name}={value}\n")):
        assert name in told
        assert fault in told
        assert not TABLE[name].secret or value not in told


def test_a_misspelt_name_is_refused_with_the_right_one(load: Load) -> None:
    told = refusal(load, "DAILY_BUDJET_LIMIT=3\ndaily_budget_limit=3\nSOMETHING_ELSE=3\n")
    assert "line 1: DAILY_BUDJET_LIMIT is not a setting; did you mean DAILY_BUDGET_LIMIT?" in told
    assert "line 2: daily_budget_limit is not a setting; did you mean DAILY_BUDGET_LIMIT?" in told
    assert "line 3: SOMETHING_ELSE is not a setting." in told


def test_a_name_that_is_set_twice_is_refused(load: Load) -> None:
    assert refusal(load, "HOLD_SECONDS=5\n\nHOLD_SECONDS=6\n") == (
        "config.env line 3: HOLD_SECONDS is already set in line 1."
    )


@pytest.mark.parametrize(
    "file",
    [
        f"{CANARY}\n",
        f"{CANARY}=\n",
        f"AWS_SECRET_ACCESS_KEY {CANARY}\n",
        f'AWS_SECRET_ACCESS_KEY="{CANARY}\n',
        f"AWS_SECRET_ACCESS_KEY={CANARY}\nAWS_SECRET_ACCESS_KEY={CANARY}\n",
        f"AWS_SECRET_ACESS_KEY={CANARY}\n",
        f"AWS_ACCOUNT_ID={CANARY * 2}\n",
        f"PODCASTQA_USER='x\nAWS_SECRET_ACCESS_KEY={CANARY}\nPODCASTQA_REPORTS='\n",
        f"AWS_SECRET_ACCESS_KEY={CANARY}\x07\n",
        f"DATABASE_URL=postgresql://u:{CANARY}@h\n",
    ],
)
def test_no_fault_quotes_a_secret(load: Load, file: str) -> None:
    assert CANARY not in refusal(load, file)


def test_secrets_are_gathered_from_both_places_longest_first_and_never_shown(load: Load) -> None:
    settings = load(
        f"AWS_SECRET_ACCESS_KEY={CANARY}\nAWS_ACCESS_KEY_ID=AKIDOFFILE\n", AWS_ACCESS_KEY_ID="AKIDOFENVIRONMENT"
    )
    assert settings.aws_access_key_id == "AKIDOFENVIRONMENT"
    assert settings.secrets == (CANARY, "AKIDOFENVIRONMENT", "AKIDOFFILE")
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert not any(secret in shown for secret in settings.secrets)
        assert "aws_secret_access_key=[set]" in shown


def test_a_password_that_only_looks_like_an_address_is_a_password(load: Load) -> None:
    assert load("SMTP_PASSWORD=hunter://[22\n").secrets == ("hunter://[22",)


def test_an_empty_text_is_unset_so_the_environment_can_switch_off_what_the_file_sets(load: Load) -> None:
    settings = load(f"AWS_SECRET_ACCESS_KEY={CANARY}\n", AWS_SECRET_ACCESS_KEY="")
    assert settings.aws_secret_access_key == ""
    assert settings.secrets == (CANARY,)


def test_settings_are_found_from_any_folder_of_the_checkout(load: Load, checkout: Path) -> None:
    (checkout / "config.env").write_text("PODCASTQA_USER=ada\n")
    deep = checkout / "notebooks" / "drafts"
    deep.mkdir(parents=True)
    settings = Settings.load({}, start=deep)
    assert (settings.user, settings.root) == ("ada", checkout)
    assert settings.home == checkout / ".podcastqa"


def test_outside_a_checkout_the_one_that_holds_the_package_is_used(tmp_path: Path) -> None:
    assert Settings.load({"PODCASTQA_CONFIG": os.devnull}, start=tmp_path).root == REPOSITORY


def test_paths_start_from_where_they_were_said(load: Load, checkout: Path) -> None:
    settings = load("PODCASTQA_HOME=state\nDATABASE_URL=sqlite:///books.sqlite\n", PODCASTQA_REPORTS="out")
    assert settings.home == checkout / "state"
    assert settings.maildir == checkout / "state" / "maildir"
    assert settings.reports == checkout / "out"
    assert settings.database == f"sqlite:///{checkout}/books.sqlite"


def test_another_file_can_be_named_and_must_then_be_there(load: Load, checkout: Path) -> None:
    (checkout / "other.env").write_text("PODCASTQA_USER=bo\n")
    assert load("PODCASTQA_USER=ada\n", PODCASTQA_CONFIG="other.env").user == "bo"
    with pytest.raises(SettingsError, match=r"missing\.env cannot be read"):
        load(PODCASTQA_CONFIG="missing.env")
    assert "environment only" in refusal(load, "PODCASTQA_CONFIG=other.env\n")


def test_a_file_that_is_no_text_is_refused(load: Load, checkout: Path) -> None:
    (checkout / "config.env").write_bytes(b"PODCASTQA_USER=\xff\xfe\n")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load()


def test_under_an_endpoint_override_the_books_are_others(load: Load, checkout: Path) -> None:
    file = "DATABASE_URL=sqlite:///real.sqlite\nMAILDIR=real\n"
    settings = load(
        file, AWS_ENDPOINT_URL_SES="http://localhost:9", SPOTIFY_API_URL="http://localhost:9", AWS_ENDPOINT_URL=""
    )
    assert settings.endpoint_overrides == ("AWS_ENDPOINT_URL_SES", "SPOTIFY_API_URL")
    assert settings.home == checkout / ".podcastqa" / "contract-check"
    assert settings.maildir == settings.home / "maildir"
    assert settings.database == f"sqlite:///{settings.home}/podcastqa.sqlite"


def test_under_pytest_no_file_leads_to_real_books(load: Load, checkout: Path) -> None:
    file = "PODCASTQA_HOME=real\nPODCASTQA_REPORTS=real\nMAILDIR=real\nDATABASE_URL=sqlite:///real.sqlite\nPODCASTQA_USER=ada\n"
    settings = load(file, PYTEST_VERSION="9")
    assert settings.under_pytest
    assert settings.user == "ada"
    for place in (
        settings.home,
        settings.reports,
        settings.maildir,
        Path(settings.database.removeprefix("sqlite:///")),
    ):
        assert not place.is_relative_to(checkout)
        assert not place.is_relative_to(REPOSITORY)
    assert load(PYTEST_VERSION="9", PODCASTQA_HOME="mine").reports == checkout / "mine" / "reports"


def test_a_tree_of_test_processes_shares_one_temporary_home_that_is_removed() -> None:
    say = "from podcastqa.settings import Settings; print(Settings.load().home, flush=True)"
    program = f"{say}\nimport subprocess, sys; subprocess.run([sys.executable, '-c', {say!r}], check=True)"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PODCASTQA_")}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**environ, "PYTEST_VERSION": "9", "PODCASTQA_CONFIG": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = map(Path, ran.stdout.splitlines())
    assert first == second
    assert not first.is_relative_to(REPOSITORY)
    assert not first.exists()


def test_this_very_test_runs_away_from_the_real_home() -> None:
    settings = Settings.load()
    assert settings.under_pytest
    assert not settings.home.is_relative_to(REPOSITORY)

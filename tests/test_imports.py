"""What an import loads is what a start waits for: the heavy libraries come with the first call that needs them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import podcastqa

pytestmark = pytest.mark.step1
PACKAGE = Path(podcastqa.__file__).parent
HEAVY = {
    *("alembic", "boto3", "botocore", "duckdb", "matplotlib", "nbclient", "nbconvert", "nbformat", "numpy", "pandas"),
    *("papermill", "pyarrow", "sqlalchemy", "whisper", "torch", "IPython", "ipykernel", "jupyter_client", "jupyterlab"),
    *("traitlets", "jinja2", "pygments", "tqdm", "requests"),
}
TELL = "\nimport sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))\n"


def loaded_by(lines: str, home: Path) -> set[str]:
    """The top-level modules in a fresh process that has run these lines, with every warning an error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTHONWARN"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", lines + TELL],
        env=kept | {"PODCASTQA_HOME": str(home), "PODCASTQA_CONFIG": os.devnull},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = loaded_by("import podcastqa", tmp_path / "home")
    assert loaded & HEAVY == set()
    assert "podcastqa" in loaded


def test_importing_the_package_reads_no_settings_and_makes_no_home(tmp_path: Path) -> None:
    loaded_by(
        "import podcastqa\npodcastqa.get_cost_tracker, podcastqa.Usd, podcastqa.PodcastQAError", tmp_path / "home"
    )
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("module", ["cli", "settings", "wiring", "money", "clock", "errors", "display", "redaction"])
def test_what_a_shell_command_starts_with_loads_nothing_heavy(module: str, tmp_path: Path) -> None:
    assert loaded_by(f"import podcastqa.{module}", tmp_path / "home") & HEAVY == set()


def test_money_can_be_asked_for_without_a_database_and_comes_with_the_package(tmp_path: Path) -> None:
    loaded = loaded_by("from podcastqa import Usd\nassert f'{Usd(\"0.1\"):.2f}' == '0.10'", tmp_path / "home")
    assert loaded & HEAVY == set()


def test_the_budgets_status_needs_neither_the_mirror_nor_the_notebook(tmp_path: Path) -> None:
    home = tmp_path / "home"
    status = "from podcastqa.wiring import parts\nmade = parts().treasury\nprint(made.status())\n"
    work = "from podcastqa import Usd\nwith made.spending(None, 'local-compute', 'work', Usd('0.01')): pass"
    loaded_by(status + work, home)  # the first start makes the tables, with Alembic, and the first row of a bill
    assert (home / "local-meter.focus.csv").exists()
    assert loaded_by(status, home) & (HEAVY - {"sqlalchemy"}) == set()


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    }
    assert readers == {"settings"}


def test_every_module_begins_with_the_rule_it_keeps() -> None:
    silent = [
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_every_public_name_is_there() -> None:
    assert set(podcastqa.__all__) == {"PodcastQAError", "Usd", "__version__", "get_cost_tracker"}
    assert all(hasattr(podcastqa, name) for name in podcastqa.__all__)

"""The checkout around the package: setting it up, and the check that keeps notebooks free of what a run leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shell import ROOT


def bare_tree(folder: Path, *programs: str) -> dict[str, str]:
    """A checkout in `folder/tree`, and an environment whose PATH holds these programs and no other."""
    (folder / "tree/.ci").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in (".ci/setup", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / "tree" / name)
    for program in ("sh", "dirname", "cat", "cksum", "id", "tail", "rm", *programs):
        found = shutil.which(program)
        assert found
        (folder / "bin" / program).symlink_to(found)
    return {"PATH": str(folder / "bin"), "HOME": str(folder)}


def set_up(folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    call = [str(folder / "bin/sh"), ".ci/setup"]
    return subprocess.run(
        call, cwd=folder / "tree", env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_set_up_names_the_apt_line_for_what_is_missing(tmp_path: Path) -> None:
    done = set_up(tmp_path, bare_tree(tmp_path))
    assert done.returncode == 1
    assert "there is no Python of 3.11 or newer" in done.stderr
    assert "apt install python3 python3-venv" in done.stderr
    assert not (tmp_path / "tree/.venv").exists()


def test_set_up_that_is_done_says_nothing_and_starts_nothing(tmp_path: Path) -> None:
    environ = bare_tree(tmp_path)
    tree = tmp_path / "tree"
    (tree / ".venv/bin").mkdir(parents=True)
    (tree / ".venv/bin/python").symlink_to(sys.executable)
    wanted = subprocess.run(
        ["sh", "-c", "pwd -P; cat pyproject.toml .ci/setup | cksum"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    )
    (tree / ".venv/set-up").write_text(wanted.stdout)
    done = set_up(tmp_path, environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with (tree / "pyproject.toml").open("a") as file:
        file.write("# another wish\n")
    assert set_up(tmp_path, environ).returncode == 1  # there is no Python on this PATH, so it must have tried


def notebook(folder: Path, **cell: object) -> None:
    code = {"cell_type": "code", "id": "a", "metadata": {}, "source": "1", "execution_count": None, "outputs": []}
    whole = {"cells": [code | cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "one.ipynb").write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("left", "said", "status"),
    [
        ({}, "1 checked, nothing stored", 0),
        ({"execution_count": 3}, "cell 1: an execution count is stored", 1),
        ({"outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]}, "cell 1: outputs are stored", 1),
        ({"metadata": {"papermill": {}}}, "cell 1: metadata.papermill is stored", 1),
    ],
)
def test_a_notebook_that_stores_what_a_run_left_is_refused(
    tmp_path: Path, left: dict[str, object], said: str, status: int
) -> None:
    notebook(tmp_path, **left)
    call = [sys.executable, str(ROOT / ".ci/check-notebooks"), str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout) == (status, True)


def test_a_folder_without_a_notebook_is_refused_too(tmp_path: Path) -> None:
    call = [sys.executable, str(ROOT / ".ci/check-notebooks"), str(tmp_path)]
    assert subprocess.run(call, capture_output=True, check=False).returncode == 1

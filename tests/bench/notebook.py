"""From a small real notebook to a report: our runner beside the stock papermill and nbconvert commands."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from tests.bench.rows import Row, timing, watched

_ROUNDS = 5
_CELLS = (
    "import duckdb, pandas as pd, matplotlib.pyplot as plt",
    "rows = duckdb.sql('SELECT range AS day, (range * 7919) % 101 AS cents FROM range(30)').df()",
    "rows.describe()",
    "rows.plot(x='day', y='cents')",
)
_OURS = """
import sys
from pathlib import Path
from podcastqa.settings import Settings
from podcastqa.workbook.runner import run
print(run("step1", {}, Settings.load(), notebook=Path(sys.argv[1]), progress=False).report)
"""


def run() -> list[Row]:
    """Wall time, warm, interleaved, the median of the ratios; then the size of our page without its figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        notebook = folder / "small.ipynb"
        cells = [nbformat.v4.new_code_cell(source) for source in _CELLS]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=_KERNEL), notebook)
        _stock(notebook, folder), _ours(notebook, folder)  # warm
        taken, machine = watched(lambda: [(_stock(notebook, folder), _ours(notebook, folder)) for _ in range(_ROUNDS)])
    ratio = statistics.median(ours / stock for stock, ours in taken)
    stock = statistics.median(stock for stock, _ in taken)
    return [timing("notebook-to-report", ratio * stock, "s", stock, "<= 0.6 x", ratio <= 0.6, machine)]


_KERNEL = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}


def _stock(notebook: Path, folder: Path) -> float:
    tool, done = Path(sys.executable).parent, folder / "done.ipynb"
    began = time.perf_counter()
    _call([str(tool / "papermill"), str(notebook), str(done)], folder)
    _call([str(tool / "jupyter-nbconvert"), "--to", "html", str(done)], folder)
    return time.perf_counter() - began


def _ours(notebook: Path, folder: Path) -> float:
    began = time.perf_counter()
    page = _call([sys.executable, "-c", _OURS, str(notebook)], folder).strip()
    taken = time.perf_counter() - began
    twin = json.loads(Path(page).with_suffix(".json").read_text(encoding="utf-8"))
    assert twin["step"] == "step1", "the run wrote no JSON twin"
    return taken


def _call(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbconvert finds its kernel there
    own = {"PATH": path, "PODCASTQA_HOME": str(folder / "home"), "PODCASTQA_REPORTS": str(folder / "reports")}
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **own}).stdout

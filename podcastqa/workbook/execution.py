"""A notebook is run by papermill in this process, and every cell is watched: which ended well, which stopped the run.

Levers, each measured: one process instead of two commands, the one import that costs Jupyter a second left out, the
report's exporter warmed while the kernel boots, no history database, no waiting for the kernel to say goodbye.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podcastqa.settings import child_environment
from podcastqa.workbook.criteria import VERDICT_MIME

_VERDICT_FAILED = "VerdictFailed"
_BANNERS = ("papermill-error-cell-tag", "papermill-error-cell-link-tag")
_STDERR_SHOWN = 4000


@dataclass(frozen=True, slots=True)
class Stop:
    """Where and why a notebook stopped short; `number` counts code cells from 1, `index` all cells from 0."""

    number: int
    index: int
    cell_id: str
    error: str

    @property
    def sentence(self) -> str:
        """For people."""
        return f"The notebook stopped at code cell {self.number}: {self.error}."

    def record(self) -> dict[str, Any]:
        """For the JSON twin."""
        return {"cell": self.number, "id": self.cell_id, "index": self.index, "error": self.error}


@dataclass(frozen=True, slots=True)
class Execution:
    """An executed notebook, and where it stopped; a closing cell that fails the step on purpose is no stop."""

    notebook: Any
    stopped: Stop | None


@dataclass(slots=True)
class _Watch:
    """What was seen while the cells ran."""

    notebook: Any = None
    current: int = 0
    ended: set[int] = field(default_factory=set)

    def on_cell_execute(self, cell: Any, cell_index: int) -> None:  # noqa: ARG002 - nbclient's signature
        """A code cell was sent to the kernel."""
        self.current = cell_index

    def on_cell_executed(self, cell: Any, cell_index: int, execute_reply: Any) -> None:  # noqa: ARG002 - nbclient's signature
        """The kernel answered."""
        if execute_reply["content"]["status"] == "ok":
            self.ended.add(cell_index)


def execute(source: Path, parameters: Mapping[str, Any], *, timeout: int, label: str, progress: bool) -> Execution:
    """Run the notebook with these parameters; whatever goes wrong inside it is in the result, not raised."""
    _prepare_imports()
    import nbformat
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillException, PapermillExecutionError

    watch = _Watch(notebook=nbformat.read(source, as_version=4))  # type: ignore[no-untyped-call]
    warming = threading.Thread(target=_warm, daemon=True)
    problem: Exception | None = None
    with tempfile.TemporaryFile() as kernel_log:
        try:
            warming.start()
            _execute_with_papermill(source, parameters, watch, kernel_log, timeout, _bar(label, progress))
        except PapermillExecutionError:
            pass  # the cell's own output says it
        except CellTimeoutError:
            problem = TimeoutError(f"it ran longer than {timeout} s (CELL_TIMEOUT_SECONDS)")
        except (DeadKernelError, PapermillException, RuntimeError, KeyError, OSError) as caught:
            problem = caught
        _strip_banners(watch.notebook)
        if problem is not None:
            _show_problem(watch, problem, kernel_log)
    warming.join()
    return Execution(watch.notebook, _stop(watch))


def _prepare_imports() -> None:
    # jsonschema would build some thirty Earley parsers at import (0.9 s of CPU) for a format that no notebook uses;
    # with a None here it does without, as it does where the package is not installed.
    if "rfc3987_syntax" not in sys.modules:
        modules: dict[str, Any] = sys.modules
        modules["rfc3987_syntax"] = None
    for name in ("papermill", "traitlets"):  # what they warn of is in the report
        logging.getLogger(name).addHandler(logging.NullHandler())


def _warm() -> None:
    from podcastqa.workbook import report

    report.warm()


def _bar(label: str, progress: bool) -> dict[str, Any] | bool:
    return {"desc": label, "file": sys.stderr, "leave": False} if progress and sys.stderr.isatty() else False


def _execute_with_papermill(
    source: Path,
    parameters: Mapping[str, Any],
    watch: _Watch,
    kernel_log: Any,
    timeout: int,
    bar: dict[str, Any] | bool,
) -> None:
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import Engine, papermill_engines
    from papermill.execute import execute_notebook
    from traitlets.config import Config

    class Watched(Engine):  # type: ignore[misc]  # papermill has no types
        """papermill's own engine, with the notebook kept in hand when a kernel dies."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **_: Any) -> None:
            watch.notebook = nb_man.nb
            client = PapermillNotebookClient(
                nb_man,
                kernel_name=kernel_name,
                log=logging.getLogger("papermill"),
                timeout=timeout,
                startup_timeout=60,
                shutdown_kernel="immediate",
                coalesce_streams=True,
                extra_arguments=["--HistoryManager.enabled=False"],
                # Encrypted, for the kernel listens on TCP; without it ipykernel warns on stderr.
                config=Config({"KernelManager": {"transport_encryption": "auto"}}),
                on_cell_execute=watch.on_cell_execute,
                on_cell_executed=watch.on_cell_executed,
            )
            env = child_environment(PYDEVD_DISABLE_FILE_VALIDATION="1")
            client.execute(env=env, stdout=kernel_log, stderr=subprocess.STDOUT)

    papermill_engines.register("podcastqa", Watched)
    execute_notebook(str(source), None, dict(parameters), engine_name="podcastqa", progress_bar=bar)


def _strip_banners(notebook: Any) -> None:
    """papermill's red banners shift the cells, and the report has its own."""
    notebook.cells = [c for c in notebook.cells if not set(_BANNERS) & set(c.metadata.get("tags", ()))]
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.strip():
            cell.outputs = []
    notebook.metadata.get("papermill", {}).pop("input_path", None)
    notebook.metadata.get("papermill", {}).pop("output_path", None)


def _show_problem(watch: _Watch, problem: Exception, kernel_log: Any) -> None:
    """What no cell could say (the kernel died, the cell took too long) is put into the cell that ran."""
    import nbformat

    kernel_log.seek(0)
    said = kernel_log.read().decode("utf-8", "replace")[-_STDERR_SHOWN:]
    cell = watch.notebook.cells[watch.current]
    if cell.cell_type != "code":
        cell = next(c for c in watch.notebook.cells if c.cell_type == "code")
    name, text = type(problem).__name__, str(problem).strip() or "no reason given"
    trace = [f"{name}: {text}", *said.splitlines()]
    shown = nbformat.v4.new_output("error", ename=name, evalue=text, traceback=trace)  # type: ignore[no-untyped-call]
    cell.outputs.append(shown)
    watch.ended.discard(watch.current)


def _stop(watch: _Watch) -> Stop | None:
    """The first code cell that did not run to its end."""
    number = 0
    for index, cell in enumerate(watch.notebook.cells):
        if cell.cell_type != "code":
            continue
        number += 1
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if errors and errors[-1].ename == _VERDICT_FAILED and _says_fail(cell):
            return None  # the closing cell: it said its verdict, and this is its way to fail
        if cell.source.strip() and (index not in watch.ended or errors):
            return Stop(number, index, str(cell.get("id", "")), _reason(errors))
    return None


def _says_fail(cell: Any) -> bool:
    said = [output.data[VERDICT_MIME] for output in cell.outputs if VERDICT_MIME in output.get("data", {})]
    return bool(said) and said[-1]["verdict"] == "FAIL"


def _reason(errors: list[Any]) -> str:
    if not errors:
        return "it did not run to its end"
    error = errors[-1]
    if error.ename == "SystemExit":
        return f"it called sys.exit({error.evalue}), which ends no validation"
    return f"{error.ename}: {error.evalue}".strip().rstrip(":.")

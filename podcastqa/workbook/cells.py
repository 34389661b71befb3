"""The cells of an executed notebook as HTML in which nothing can run, load or pose as part of the page.

nbconvert lays them out; what it would let through (scripts, ids, styles, remote pictures) is taken out here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from podcastqa.workbook.criteria import CRITERION_MIME, FIGURE_MIME, VERDICT_MIME

TEMPLATES = Path(__file__).parent / "template"
#: How a closing cell says that criteria failed: the report says so on top, so a sentence is enough below.
_VERDICT_ERROR = "VerdictFailed"
_TAGS = frozenset(
    """a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6
    hr i img kbd li ol p pre s samp small span strong sub summary sup table tbody td tfoot th thead tr u ul""".split()  # noqa: SIM905 - fifty quotes would hide the words
)
_CLASSES = frozenset({"number", "dataframe", "criterion pass", "criterion fail", "criterion not-run"})
_PLAIN_ATTRIBUTES = frozenset({"alt", "aria-label", "colspan", "rowspan", "scope", "start", "title"})


@dataclass(frozen=True, slots=True)
class Cells:
    """What a report takes from a notebook."""

    html: str
    figures: tuple[Mapping[str, Any], ...]
    anchors: Mapping[str, str]


def read_cells(notebook: Any, stopped_index: int | None = None) -> Cells:
    """Lay out the notebook's cells; its figures and its verdict are taken out, for they stand elsewhere on the page.

    `notebook` is an executed NotebookNode, already redacted; it is not changed. The cell of `stopped_index` (all cells
    count, from 0) is marked as where it stopped. Code cells are named by their number among code cells, from 1.
    """
    working = copy.deepcopy(notebook)
    working.metadata["language_info"] = {"name": "python", "pygments_lexer": "python"}
    figures: list[Mapping[str, Any]] = []
    anchors: dict[str, str] = {}
    for number, index, cell in _code_cells(working):
        anchors |= {str(data["id"]): f"cell-{number}" for data in _bundles(cell, CRITERION_MIME)}
        see = [("#verdict", "The verdict stands at the top of this page")] if any(_bundles(cell, VERDICT_MIME)) else []
        for figure in _bundles(cell, FIGURE_MIME):
            figures.append(figure)
            see.append((f"#figure-{len(figures)}", f"Figure: {figure.get('title', '')}"))
        cell.outputs = [_shown(output) for output in cell.get("outputs", []) if not _elsewhere(output)]
        cell.metadata = {
            "podcastqa": {
                "anchor": f"cell-{number}",
                "label": f"cell {number}",
                "took": _took(cell),
                "stopped": index == stopped_index,
                "see": see,
            }
        }
    html = _exporter().from_notebook_node(working)[0] if working.cells else ""
    return Cells(html, tuple(figures), anchors)


def warm() -> None:
    """Pay for the first conversion ahead of time: call it in a thread while the kernel starts."""
    import nbformat

    v4: Any = nbformat.v4  # its makers have no types
    table = v4.new_output("display_data", {"text/html": "<table><tr><td>1</td></tr></table>"})
    cells = [v4.new_markdown_cell("# *warm*"), v4.new_code_cell("x = 1", outputs=[table])]
    read_cells(v4.new_notebook(cells=cells))


def _code_cells(notebook: Any) -> Iterator[tuple[int, int, Any]]:
    number = 0
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            number += 1
            yield number, index, cell


def _bundles(cell: Any, mime: str) -> list[Mapping[str, Any]]:
    return [output["data"][mime] for output in cell.get("outputs", []) if mime in output.get("data", {})]


def _elsewhere(output: Any) -> bool:
    return any(mime in output.get("data", {}) for mime in (FIGURE_MIME, VERDICT_MIME))


def _shown(output: Any) -> Any:
    """A failed verdict is a sentence, not a traceback; a result is shown as any other output."""
    if output.get("ename") == _VERDICT_ERROR:
        output["traceback"] = [output.get("evalue", "")]
    return output


def _took(cell: Any) -> str:
    seconds = cell.get("metadata", {}).get("papermill", {}).get("duration")
    return f" · {seconds:.2f} s" if isinstance(seconds, int | float) else ""


@cache
def _exporter() -> Any:
    """One exporter for all reports: its first conversion costs a third of a second, every further one milliseconds."""
    from nbconvert.exporters.html import HTMLExporter
    from traitlets.config import Config

    shown = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
    maker: Any = HTMLExporter  # it has no types
    return maker(
        config=Config({"NbConvertBase": {"display_data_priority": shown}}),
        extra_template_paths=[str(TEMPLATES)],
        template_name="basic",
        template_file="cells.html.j2",
        default_preprocessors=[],
        sanitize_html=True,
        exclude_anchor_links=True,
        filters={"clean_html": clean, "demoted": demoted},
    )


def clean(html: object) -> str:
    """Keep words, tables, links and embedded pictures; the rest is escaped.

    nbconvert's own filter would write out `<h1>` and `<caption>` as text, and would keep ids.
    """
    return str(_cleaner().clean(str(html)))


@cache
def _cleaner() -> Any:
    from bleach.sanitizer import Cleaner  # type: ignore[import-untyped] # it ships none

    return Cleaner(tags=_TAGS, attributes=_allowed, protocols={"http", "https", "mailto", "data"})


def _allowed(tag: str, name: str, value: str) -> bool:
    rules = {
        "class": lambda: value in _CLASSES,
        "href": lambda: tag == "a" and value.startswith(("https://", "http://", "mailto:")),
        "src": lambda: tag == "img" and value.startswith("data:image/"),
    }
    return rules[name]() if name in rules else name in _PLAIN_ATTRIBUTES


def demoted(html: str) -> str:
    """Headings two levels down: the page's own are above them."""
    return re.sub(r"<(/?)h([1-6])\b", lambda found: f"<{found[1]}h{min(6, int(found[2]) + 2)}", html)

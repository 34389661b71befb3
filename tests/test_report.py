"""The report: the verdict first, nothing loaded, nothing run, no text from outside taken for markup."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest

from podcastqa.bills.bill import Bill, BillLine, Provenance
from podcastqa.bills.days import DayReconciliation, reconcile_days
from podcastqa.clock import day_number
from podcastqa.display import Table
from podcastqa.money import Usd
from podcastqa.spend.entries import Entry, EntryKind, Operation
from podcastqa.spend.projection import project
from podcastqa.workbook import bill_figures, figures, report
from podcastqa.workbook.cells import clean, demoted
from podcastqa.workbook.criteria import VERDICT_MIME, Criterion, Finding, Outcome
from podcastqa.workbook.history import Run

HOSTILE = '</script><script>alert(1)</script><img src="http://evil.example/x.png" onerror="alert(2)">'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Chromium asks its maker for the time, its sign-in state and updates, whatever page is open: these hosts and no other.
ERRANDS = re.compile(
    r"\w+ (?:https?://)?(?:(?:accounts|clients\d|android\.clients)\.google\.com"
    r"|(?:update|optimizationguide-pa|safebrowsing)\.googleapis\.com)[:/]"
)
NOON = datetime(2024, 2, 28, 12, tzinfo=UTC)
SPENT = [("the day", Usd("0.000412"), Usd("5")), ("the month", Usd("104.5"), Usd("100"))]


class Tags(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in names]


def notebook(*outputs: Any, source: str = "x = 1", markdown: str = "# Title") -> Any:
    make = nbformat.v4
    return make.new_notebook(
        cells=[make.new_markdown_cell(markdown), make.new_code_cell(source, outputs=list(outputs))]
    )


def shown(thing: Any) -> Any:
    return nbformat.v4.new_output("display_data", thing._repr_mimebundle_())


def finding(outcome: Outcome = Outcome.PASS, measured: str = "nine", next_step: str = "") -> Finding:
    return Finding(Criterion("1", "Books match", "nothing differs"), outcome, measured, next_step)


def record(verdict: str = "PASS", *findings: Finding, **more: Any) -> dict[str, Any]:
    return {
        "step": "step1",
        "title": "Cost monitoring",
        "question": "Does the guard hold?",
        "run_id": "step1-20261123T043112Z-9f31ab02",
        "criteria_version": 1,
        "fingerprint": "ab12" * 16,
        "verdict": verdict,
        "criteria": [one.record() for one in findings or (finding(),)],
        "components": {"database": "SQLite"},
        "parameters": {"users": 3},
        "cost_usd": "0.000411934512",
        "started": "2026-11-23T04:31:12.000000Z",
        "finished": "2026-11-23T04:31:59.400000Z",
        "report": "2026-11-23/step1_cost_monitoring.html",
        "speaks_for": "On the embedded default; AWS not validated.",
        "not_part_of_this_run": ["Amazon SES"],
        "notices": [],
        "provenance": [{"figure": "spend", "component": "local meter"}],
        "stopped_at": None,
        **more,
    }


def a_bill(*lines: BillLine) -> Bill:
    return Bill("aws", lines, (), Provenance("c", "a", "", NOON, NOON))


def charged(
    day: int, amount: str, service: str = "AWS Cost Explorer", user: str = "", category: str = "Usage"
) -> BillLine:
    return BillLine(date(2024, 2, day), user, "", service, category, Usd(amount))


def booked(day: int, amount: str) -> Entry:
    what = Operation(1, "aws-cost-explorer", "GetCostAndUsage", "aws")
    return Entry(day, f"hold {day}", EntryKind.SETTLE, what, Usd(amount), day_number(date(2024, 2, day)), NOON, "")


def three_days(*, by_service: bool = False) -> DayReconciliation:
    """A day that matches, one on which less was billed than booked, one that is late."""
    told = a_bill(charged(1, "0.02"), charged(2, "0.01"), charged(3, "0.01"), charged(3, "1", "Tax", category="Tax"))
    return reconcile_days(
        *("aws", [booked(1, "0.02"), booked(2, "0.03"), booked(3, "0.05")], told),
        first=date(2024, 2, 1),
        end=date(2024, 3, 1),
        complete_through=date(2024, 2, 2),
        closed_before=None,
        by_service=by_service,
    )


def month_so_far(limit: str = "0.5") -> figures.Figure:
    days = [(date(2024, 2, day), Usd("0.01")) for day in range(1, 20)]
    found = project(days, date(2024, 2, 20), Usd("0.19"))
    return drawn(bill_figures.projection_against_limit(days, found, Usd(limit)))


def drawn(figure: figures.Figure | figures.NoFigure) -> figures.Figure:
    assert isinstance(figure, figures.Figure)
    return figure


def all_figures() -> list[figures.Figure]:
    return [
        figures.spend_against_limits(SPENT),
        figures.estimate_against_actual([("ask", Usd("0.00004"), Usd("0.00005"))]),
        figures.spend_per_user([("ada", Usd("0.1")), ("unattributed", Usd("0.02"))]),
        drawn(bill_figures.spend_on_bill(a_bill(charged(1, "0.02"), charged(2, "1", "Tax")), "service")),
        drawn(bill_figures.bill_against_ledger(three_days())),
        month_so_far(),
    ]


def test_the_verdict_stands_before_everything_it_rests_on() -> None:
    html = report.render(notebook(shown(finding()), shown(all_figures()[0])), record())
    places = [html.index(f'id="{name}"') for name in ("verdict", "criteria", "figures", "provenance", "notebook")]
    assert places == sorted(places)
    assert html.index("PASS</p>") < html.index("1 of 1 criteria passed.") < html.index("On the embedded default")


def test_measured_asked_and_next_step_stand_side_by_side() -> None:
    failed = finding(Outcome.FAIL, "off by one", "count again")
    html = report.render(notebook(shown(failed)), record("FAIL", failed))
    row = html[html.index('id="criterion-1"') :].split("</tr>")[0]
    assert all(words in row for words in ("✘ FAIL", "off by one", "nothing differs", "count again", "#cell-1"))
    assert 'href="#criterion-1"' in html


@pytest.mark.parametrize("key", ["title", "question", "run_id", "speaks_for"])
def test_a_hostile_text_in_the_record_is_text(key: str) -> None:
    html = report.render(notebook(), record(**{key: HOSTILE}))
    tags = Tags(html)
    assert [attributes.get("id") for attributes in tags.of("script")] == ["podcastqa-verdict"]
    assert not tags.of("img")


def test_a_hostile_text_in_the_notebook_neither_runs_nor_loads_nor_poses_as_the_page() -> None:
    mimicry = (
        f'<p id="verdict" class="verdict PASS" style="color:red">{HOSTILE}</p><table><caption>kept</caption></table>'
    )
    html = report.render(
        notebook(
            nbformat.v4.new_output("display_data", {"text/html": mimicry}),
            nbformat.v4.new_output("stream", name="stdout", text=HOSTILE),
            nbformat.v4.new_output("display_data", {"application/javascript": "alert(3)", "text/plain": "js"}),
            shown(finding(measured=HOSTILE)),
            source=f"title = {HOSTILE!r}",
            markdown=HOSTILE,
        ),
        record("PASS", finding(measured=HOSTILE)),
        [HOSTILE],
    )
    tags = Tags(html)
    assert len(tags.of("script")) == 1
    assert not [1 for _, attributes in tags.found if any(name.startswith("on") for name in attributes)]
    assert not [1 for attributes in tags.of("img") if (attributes.get("src") or "data:").split(":")[0] != "data"]
    assert html.count('id="verdict"') == 1
    assert "<caption>kept</caption>" in html


def test_the_page_forbids_itself_every_load_and_names_no_address() -> None:
    html = report.render(notebook(*map(shown, all_figures())), record())
    policy = next(a["content"] for a in Tags(html).of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", html)
    assert not re.findall(r"url\((?!%23)", html)  # a clip path inside a drawing is no address
    assert "@import" not in html


def test_the_twin_in_the_page_is_the_record_whatever_it_holds() -> None:
    given = record(title=HOSTILE, notices=["<!-- <script>"])
    inside = re.search(r'id="podcastqa-verdict">(.*?)</script>', report.render(notebook(), given), re.DOTALL)
    assert inside is not None
    assert json.loads(inside[1]) == given


def test_a_stopped_notebook_is_marked_linked_and_its_code_is_open() -> None:
    error = nbformat.v4.new_output(
        "error", ename="NameError", evalue="no x", traceback=["\x1b[31mNameError\x1b[0m: no x"]
    )
    stop = {"cell": 1, "id": "c", "index": 1, "error": "NameError: no x"}
    missing = "Cost not measured: the run stopped before its closing cell."
    html = report.render(notebook(error), record("FAIL", stopped_at=stop, notices=[missing]))
    assert '<a href="#cell-1">cell 1</a>.</strong> NameError: no x' in html
    assert 'class="cell code stopped"' in html
    assert "<details open" in html
    assert 'class="ansi-red-fg"' in html
    assert "not measured" in html
    assert "$0.000412" not in html


def test_a_page_says_its_language_its_landmarks_and_a_text_for_every_picture() -> None:
    png = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "a plot"})
    tags = Tags(report.render(notebook(png, *map(shown, all_figures())), record()))
    assert tags.of("html") == [{"lang": "en"}]
    assert [len(tags.of(name)) for name in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    assert len(tags.of("img")) == 1 + len(all_figures())
    assert all(attributes.get("alt") for attributes in tags.of("img"))


def test_figures_stand_once_above_and_are_linked_from_their_cell() -> None:
    closing = nbformat.v4.new_output("display_data", {"text/html": "<p>twice</p>", VERDICT_MIME: {"a": 1}})
    html = report.render(notebook(*map(shown, all_figures()), closing), record())
    assert html.count("<figure ") == len(all_figures())
    assert 'href="#figure-3"' in html
    assert "twice" not in html


def test_a_report_without_figures_is_small() -> None:
    many = [shown(finding(measured="x" * 80)) for _ in range(30)]
    assert len(report.render(notebook(*many), record())) < 60 * 1024


def test_a_figure_says_in_words_and_in_a_table_what_it_draws() -> None:
    figure = figures.spend_against_limits(SPENT)
    assert "the day 0.0082 %: $0.000412 of $5.00" in figure.alt
    assert figure.table.rows[1] == ("the month", Usd("104.5"), Usd("100"), "104 %")
    assert figure._repr_mimebundle_()["text/plain"].startswith("Spend against limits")
    assert "$0.000412 of $5.00" in figure.svg  # text stays text, and dollars make no formula
    assert "prefers-color-scheme:dark" in figure.svg


def test_the_same_rows_draw_the_same_figure_byte_by_byte() -> None:
    assert [one.svg for one in all_figures()] == [one.svg for one in all_figures()]


def test_a_hostile_label_stays_a_label_in_a_drawing() -> None:
    figure = figures.spend_per_user([("<script>$x$&", Usd("1"))])
    assert "<script" not in figure.svg
    assert "&lt;script&gt;$x$&amp;" in figure.svg
    assert "<script" not in figure._repr_mimebundle_()["text/html"]


def test_figures_of_nothing_and_of_many_rows_are_drawn() -> None:
    assert figures.spend_per_user([]).svg.startswith("<svg")
    assert figures.spend_against_limits([("day", Usd("1"), Usd("0"))]).table.rows[0][-1] == "100 %"
    many = figures.estimate_against_actual([(f"op {i}", Usd("1"), Usd("2")) for i in range(60)])
    assert "24 with the largest differences of 60" in many.caption
    assert len(many.table.rows) == 60


def test_a_bill_is_drawn_by_service_and_by_user_with_the_most_first() -> None:
    told = a_bill(
        *(charged(1, "0.02", user="1"), charged(2, "0.03", user="1"), charged(2, "1.5", "Tax")),
        *(charged(3, "-1", category="Credit"), charged(3, "-0.25", "EC2 $5")),
    )
    by_service = drawn(bill_figures.spend_on_bill(told, "service"))
    assert by_service.alt == (  # 0.05 + 1.5 - 0.25
        "Bars of spend per service, $1.30 in all. Tax $1.50; AWS Cost Explorer $0.05; EC2 $5 -$0.25."
    )
    assert by_service.caption == "Gross: without credits and refunds. With credits and refunds it comes to $0.30."
    assert by_service.table.rows[-1] == ("all", Usd("1.3"))
    by_user = drawn(bill_figures.spend_on_bill(told, "user", {"1": "ada"}))
    assert by_user.alt == "Bars of spend per user, $1.30 in all. unattributed $1.25; ada $0.05."
    assert by_user.caption.startswith("Gross")
    many = drawn(bill_figures.spend_on_bill(a_bill(*(charged(1, "1", f"s{n}") for n in range(60))), "service"))
    assert "The first 24 of 60 are drawn" in many.caption
    assert many.alt.endswith("36 others $36.00.")
    assert len(many.table.rows) == 61


def test_bill_and_ledger_are_drawn_by_day_and_said_by_kind() -> None:
    figure = drawn(bill_figures.bill_against_ledger(three_days()))
    assert figure.alt == (
        "Bars of the bill and rings of the ledger on 3 days from 2024-02-01 to 2024-02-03: $1.04 billed, $0.10 booked. "
        "matched 1 day ($0.00 ledger less bill); late 1 day (-$0.96 ledger less bill); "
        "unexplained 1 day ($0.02 ledger less bill). Wrong: unexplained: 2024-02-02, $0.03 booked, $0.01 billed."
    )
    assert figure.table.rows[2] == (date(2024, 2, 3), Usd("1.01"), Usd("0.05"), Usd("-0.96"), "late")
    assert all(f"--{colour}" in figure.svg for colour in ("spent", "over", "soft"))
    assert "US dollars" in figure.svg
    by_service = drawn(bill_figures.bill_against_ledger(three_days(by_service=True)))
    assert "late 2 rows" in by_service.alt
    assert by_service.table.rows == figure.table.rows


def test_a_projection_is_drawn_with_its_interval_and_the_limit_where_it_is_near() -> None:
    near, far = month_so_far("0.2"), month_so_far("100")
    assert near.alt == (
        "$0.19 spent until 2024-02-20; projected to end at $0.29, between $0.29 and $0.29 (80 % interval), "
        "above the month's limit of $0.20."
    )
    assert "within the month's limit of $100.00" in far.alt
    assert far.caption.endswith("The limit of $100.00 is far above the drawing.")
    assert "a projection, not a bill" in far.caption
    assert near.table.rows[18:] == (
        *((date(2024, 2, 19), Usd("0.19")), (date(2024, 2, 20), Usd("0.19"))),
        *((f"2024-02-29, {end}", Usd("0.29")) for end in ("low", "expected", "high")),
        ("limit", Usd("0.2")),
    )


def test_where_there_is_nothing_to_draw_from_a_sentence_says_so() -> None:
    nothing = reconcile_days(
        *("aws", [], a_bill()),
        first=date(2024, 2, 1),
        end=date(2024, 3, 1),
        complete_through=None,
        closed_before=None,
    )
    none = project([], date(2024, 2, 20), Usd("0"))
    said = [
        bill_figures.spend_on_bill(a_bill(), "user"),
        bill_figures.bill_against_ledger(nothing),
        bill_figures.projection_against_limit([], none, Usd("5")),
    ]
    assert all(isinstance(one, figures.NoFigure) for one in said)
    html = report.render(notebook(*map(shown, said)), record())
    assert "The bill has no charges" in html
    assert "Neither has anything from 2024-02-01 to 2024-02-29." in html
    assert "No projection yet" in html
    assert "<figure " not in html


def test_headings_go_below_the_pages_own_and_links_keep_only_safe_schemes() -> None:
    assert demoted("<h1>a</h1><h6>b</h6>") == "<h3>a</h3><h6>b</h6>"
    assert clean('<a href="javascript:alert(1)">x</a>') == "<a>x</a>"
    assert clean('<a href="https://example.org">x</a>') == '<a href="https://example.org">x</a>'
    table = Table("t", ("n",), ((1,),)).html()
    assert clean(table) == table


def test_the_index_lists_the_newest_first_with_what_changed_and_a_trend() -> None:
    old = Run(record(), Path("a.html"), "2026-11-23/a.html")
    newer = record("FAIL", started="2026-11-24T04:31:12Z", finished="2026-11-24T04:32:12Z")
    new = Run(newer, Path("b.html"), "2026-11-24/b.html", ("1 Books match: PASS → FAIL",))
    html = report.index_html([old, new])
    table = html[html.index('id="runs"') :]
    assert table.index("2026-11-24/b.html") < table.index("2026-11-23/a.html")
    assert "PASS → FAIL" in html
    trend = html[html.index('class="trend"') :].split("</ol>")[0]
    assert trend.index('aria-label="PASS') < trend.index('aria-label="FAIL')
    assert "60.0 s" in html


def test_an_index_of_nothing_says_how_to_begin() -> None:
    assert "podcastqa validate step1" in report.index_html([])


class Listener:
    """A proxy that answers nobody and counts who called."""

    def __enter__(self) -> Listener:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.asked: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self.socket.accept()
            except OSError:
                return
            with caller:
                self.asked.append(caller.recv(300).decode("latin-1").split("\r\n")[0])
                caller.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def opened(page: Path, profile: Path, port: int) -> str:
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --disable-extensions --dump-dom"
    proxy = [f"--proxy-server=127.0.0.1:{port}", "--proxy-bypass-list=<-loopback>", f"--user-data-dir={profile}"]
    call = [str(CHROMIUM), *flags.split(), *proxy, page.as_uri()]
    return subprocess.run(call, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed here: whether the page asks the network is not shown"
)
def test_a_real_browser_opens_the_page_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    page, control = tmp_path / "report.html", tmp_path / "control.html"
    html = nbformat.v4.new_output("display_data", {"text/html": HOSTILE})
    page.write_text(report.render(notebook(html, *map(shown, all_figures())), record(title=HOSTILE)), encoding="utf-8")
    control.write_text('<img src="http://control.example/x.png">', encoding="utf-8")
    with Listener() as listener:
        opened(control, tmp_path / "one", listener.port)
        assert any("control.example" in line for line in listener.asked), "the proof itself does not work"
        listener.asked.clear()
        dom = opened(page, tmp_path / "two", listener.port)
    assert "criteria passed" in dom
    assert {line for line in listener.asked if not ERRANDS.match(line)} == set()

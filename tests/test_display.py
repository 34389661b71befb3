"""One table, three readers; whatever a cell holds is text for all of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podcastqa.display import Table, Tabular, plain, show
from podcastqa.money import Usd

SPEND = Table(
    "Spend today",
    ("user", "spent_usd", "calls"),
    (("ada", Usd("0.25"), 3), ("bo", Usd("12"), 11), ("cy", None, 0)),
    ("complete through 2026-11-23",),
)
HOSTILE = "<script>alert('x')</script> & \"co\""


@dataclass(frozen=True)
class Spend(Tabular):
    shown: Table = SPEND

    def table(self) -> Table:
        return self.shown


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.data: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 (the parser gives it)
        self.opened.append(tag)

    def handle_data(self, data: str) -> None:
        self.data.append(data)


def _parsed(html: str) -> _Tags:
    tags = _Tags()
    tags.feed(html)
    tags.close()
    return tags


def test_a_shell_sees_words_to_the_left_and_amounts_to_the_right() -> None:
    assert SPEND.text().splitlines() == [
        "Spend today",
        "user  spent_usd  calls",
        "ada       $0.25      3",
        "bo       $12.00     11",
        "cy            –      0",
        "complete through 2026-11-23",
    ]


def test_a_table_without_rows_still_shows_its_columns() -> None:
    empty = Table("Nothing yet", ("user", "spent_usd"), ())
    assert empty.text() == "Nothing yet\nuser  spent_usd"
    assert empty.records() == []
    assert "<tbody></tbody>" in empty.html()


def test_a_program_sees_exact_amounts() -> None:
    assert SPEND.records()[0] == {"user": "ada", "spent_usd": "0.250000000000", "calls": 3}
    assert json.loads(json.dumps(SPEND.records()))[2]["spent_usd"] is None


def test_nothing_in_a_cell_title_column_or_note_becomes_markup() -> None:
    page = _parsed(Table(HOSTILE, (HOSTILE,), ((HOSTILE,),), (HOSTILE,)).html())
    assert set(page.opened) == {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
    assert page.data == [HOSTILE] * 4


# The letters that mean something to HTML, and some that do not; a carriage return is a newline to an HTML parser.
@settings(max_examples=50)
@given(st.text(st.sampled_from("<>&\"'/=!-;#xa é\n"), min_size=1))
def test_any_text_in_a_cell_is_read_back_as_it_was(text: str) -> None:
    assert "".join(_parsed(Table("", ("c",), ((text,),)).html()).data) == f"c{text}"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Table("", ("a", "b"), ((1,),)).records()


def test_a_result_shows_itself_in_a_notebook_a_shell_and_pandas() -> None:
    result = Spend()
    assert result._repr_html_() == SPEND.html()
    assert str(result) == SPEND.text()
    frame = result.to_frame()
    assert list(frame.columns) == ["user", "spent_usd", "calls"]
    assert frame["spent_usd"][1] == Decimal("12")
    assert isinstance(frame["spent_usd"][0], Decimal)


@pytest.mark.parametrize(
    ("value", "shown", "for_json"),
    [
        (None, "–", None),
        (Usd("0.1"), "$0.10", "0.100000000000"),
        (True, "True", True),
        (7, "7", 7),
        ("x", "x", "x"),
        (Decimal("1.5"), "1.5", "1.5"),
        ((Usd("1"), {"a": None}), "(Usd('1.000000000000'), {'a': None})", ["1.000000000000", {"a": None}]),
    ],
)
def test_a_value_has_one_form_for_people_and_one_for_json(value: object, shown: str, for_json: object) -> None:
    assert show(value) == shown
    assert plain(value) == for_json


def test_letters_that_steer_a_terminal_stay_out_of_a_table_and_long_cells_are_cut() -> None:
    table = Table("Of \x1b[2Jada", ("show",), (("\x1b[31mred\r\nline\u202e",), ("x" * 500,)))
    title, _, first, second = table.text().splitlines()
    assert (title, first) == ("Of [2Jada", "[31mred line")
    assert second == "x" * 199 + "…"
    assert table.records()[1]["show"] == "x" * 500  # a program gets all of it

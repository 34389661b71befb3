"""Redaction: a secret is gone in every spelling, and what is no secret stays as it was."""

from __future__ import annotations

import base64
import html
import io
import json
import sys
from urllib.parse import quote, quote_plus, urlencode

import markupsafe
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.ultratb import VerboseTB

from podcastqa.redaction import REDACTED, Redactor

CANARY = "wJal/rXUtn+FEMI=K7\\MD'EN\"G <bPx>&é"
PLAIN = "canary-4711-Xy"
SPELLINGS = {
    "as it is": str,
    "repr": repr,
    "ascii": ascii,
    "JSON": json.dumps,
    "JSON in its own letters": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON within JSON": lambda text: json.dumps(json.dumps({"key": text})),
    "HTML": html.escape,
    "HTML as Jinja escapes it": lambda text: str(markupsafe.escape(text)),
    "HTML without quotes": lambda text: html.escape(text, quote=False),
    "a URL": quote,
    "a part of a URL": lambda text: quote(text, safe=""),
    "a form": quote_plus,
    "a query": lambda text: urlencode({"key": text}),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}
secrets = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=12, max_size=40)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("secret", [CANARY, PLAIN, "a%b", "key\twith\ttabs", "snow☃man"])
def test_a_secret_is_gone_in_every_spelling(spelling: str, secret: str) -> None:
    spelt = SPELLINGS[spelling](secret)
    told = Redactor([secret]).text(f"before {spelt} after")
    assert spelt not in told
    assert secret not in told
    assert REDACTED in told
    assert told.startswith("before ")
    assert told.endswith(" after")


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("after", ["", "x", "xy"])
def test_a_secret_inside_a_longer_encoded_text_is_gone(before: str, after: str) -> None:
    encoded = base64.b64encode(f"{before}{CANARY}{after}".encode()).decode()
    told = Redactor([CANARY]).text(encoded)
    assert REDACTED in told
    assert len(told) - len(REDACTED) <= 10  # what encodes the neighbours, and the bits they share


@given(secrets, st.sampled_from(list(SPELLINGS)))
def test_any_secret_is_gone_in_any_spelling(secret: str, spelling: str) -> None:
    spelt = SPELLINGS[spelling](secret)
    assert spelt not in Redactor([secret]).text(f"({spelt})")


@given(st.text(st.characters(codec="utf-8", exclude_characters="0123456789"), max_size=200))
def test_a_text_without_secrets_stays_as_it_was(text: str) -> None:
    redactor = Redactor([CANARY, PLAIN])
    assert redactor.text(text) == text or "://" in text
    assert Redactor([]).text("nothing to hide") == "nothing to hide"


def test_of_two_secrets_of_which_one_starts_the_other_nothing_is_left() -> None:
    assert Redactor(["canary", "canary-long"]).text("canary-long canary") == f"{REDACTED} {REDACTED}"


def test_redacting_twice_changes_nothing_more() -> None:
    redactor = Redactor([PLAIN])
    once = redactor.text(f"{PLAIN} postgresql://ada:{PLAIN}x@host/books Bearer abcdefghijklmnopqrstuvwxyz")
    assert redactor.text(once) == once


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("key AKIAIOSFODNN7EXAMPLE.", f"key {REDACTED}."),
        ("key ASIAIOSFODNN7EXAMPLE.", f"key {REDACTED}."),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPx", f"aws_secret_access_key = {REDACTED}"),
        ('"AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYaD=="', f'"AWS_SESSION_TOKEN": "{REDACTED}"'),
        ('{"SecretAccessKey": "x"}', '{"SecretAccessKey": "x"}'),
        ("Authorization: Bearer abc.def-ghi_jkl~mno", f"Authorization: Bearer {REDACTED}"),
        ("postgresql://ada:pa55@db.example:5432/books", f"postgresql://ada:{REDACTED}@db.example:5432/books"),
        ("see https://example.com:8080/a@b for more", "see https://example.com:8080/a@b for more"),
        ("the bearer of bad news", "the bearer of bad news"),
    ],
)
def test_tokens_of_well_known_shapes_are_gone_unasked(text: str, told: str) -> None:
    assert Redactor([]).text(text) == told


def test_a_tree_is_redacted_down_to_its_keys() -> None:
    tree = {
        "cells": [{"source": f"key = {PLAIN!r}", "outputs": ({"text": [PLAIN, "fine"]},)}],
        PLAIN: None,
        "count": 3,
        "cost": 1.5,
        "done": True,
        7: "seven",
    }
    told = Redactor([PLAIN]).tree(tree)
    assert told == {
        "cells": [{"source": f"key = '{REDACTED}'", "outputs": [{"text": [REDACTED, "fine"]}]}],
        REDACTED: None,
        "count": 3,
        "cost": 1.5,
        "done": True,
        7: "seven",
    }
    assert tree["cells"][0]["source"] == f"key = {PLAIN!r}"  # type: ignore[index]  # the tree itself is left alone


def test_colours_within_a_secret_do_not_save_it() -> None:
    highlighted = f"\x1b[31m{PLAIN[:4]}\x1b[39m{PLAIN[4:]}\x1b[0m"
    assert Redactor([PLAIN]).text(highlighted) == REDACTED
    assert Redactor([PLAIN]).text("\x1b[31mred\x1b[0m") == "\x1b[31mred\x1b[0m"


def test_a_highlighted_traceback_keeps_no_secret() -> None:
    canary = "%scanary\\n4711{x}"
    try:
        raise ValueError(f"the key {canary} was refused")
    except ValueError:
        shown = VerboseTB(theme_name="linux").text(*sys.exc_info())
    told = Redactor([canary]).text(shown)
    assert "ValueError" in told
    assert "4711" not in told


def test_what_is_written_through_a_stream_is_redacted_even_in_pieces() -> None:
    below = io.StringIO()
    stream = Redactor([PLAIN]).stream(below)
    assert stream.write(f"one {PLAIN[:6]}") == 10
    assert below.getvalue() == ""
    stream.write(f"{PLAIN[6:]} two\nthree")
    assert below.getvalue() == f"one {REDACTED} two\n"
    stream.writelines([" four\n", f"{PLAIN}"])
    stream.flush()
    assert below.getvalue() == f"one {REDACTED} two\nthree four\n{REDACTED}"


def test_print_and_a_traceback_go_through_a_stream() -> None:
    below = io.StringIO()
    stream = Redactor([PLAIN]).stream(below)
    print("the key is", PLAIN, file=stream)
    assert below.getvalue() == f"the key is {REDACTED}\n"


def test_a_stream_is_otherwise_the_one_below_it() -> None:
    below = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    stream = Redactor([PLAIN]).stream(below)
    assert stream.encoding == "utf-8"
    assert not stream.isatty()
    stream.write("held")
    stream.close()
    assert below.closed

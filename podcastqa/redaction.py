"""A secret is gone from a text in every spelling it may have taken on the way: quoted, escaped, encoded.

The values that must not be seen are known (`Settings.secrets`), so they are looked for as such, the longest first;
shapes of well-known tokens are a second net for those that never stood in a setting.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, TextIO, cast
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"

#: What a stranger's secret looks like; the group named `keep` says what it was and stays.
_SHAPES = tuple(
    re.compile(pattern, re.IGNORECASE if pattern.startswith("(?P<keep>") else 0)
    for pattern in (
        r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        r"(?P<keep>aws_?(?:secret_?access_?key|session_?token)\\?[\"']?\s*[=:]\s*\\?[\"']?)[A-Za-z0-9/+=_%-]{16,}",
        r"(?P<keep>\bbearer\s+)[A-Za-z0-9._~+/=-]{16,}",
        r"(?P<keep>://[^\s/:@\"'<>]*:)[^\s/@\"'<>]+(?=@)",
    )
)


#: Colours, which a highlighter may put inside a quoted secret.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Redactor:
    """Takes secrets out of text, of nested data, and of whatever is written to a stream."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
        longest_first = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """The same text without a secret in it."""
        if self._known is not None:
            if "\x1b[" in text and self._known.search(plain := _COLOUR.sub("", text)):
                text = plain  # better without colours than with half a secret on either side of one
            text = self._known.sub(REDACTED, text)
        for shape in _SHAPES:
            text = shape.sub(_kept, text)
        return text

    def tree(self, data: Any) -> Any:
        """The same JSON-like data with every text in it redacted, keys too."""
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, Mapping):
            return {self.tree(key): self.tree(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.tree(item) for item in data]
        return data

    def stream(self, stream: TextIO) -> TextIO:
        """A stream that writes to `stream` what is left without secrets."""
        return cast(TextIO, RedactedStream(stream, self))  # all that it does not do, `stream` does


class RedactedStream:
    """A text stream that passes on whole lines only, for a secret may come in two writes.

    A line still open is held back until its end, a `flush` or the `close`; all else is the stream's own.
    """

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream, self._redactor, self._open_line = stream, redactor, ""

    def write(self, text: str) -> int:
        """Take the text, and pass on the lines that it ends."""
        whole, newline, self._open_line = (self._open_line + text).rpartition("\n")
        if newline:
            self._stream.write(self._redactor.text(whole + newline))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Take each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on the open line too: somebody waits for it (a prompt, a progress bar)."""
        held, self._open_line = self._open_line, ""
        if held:
            self._stream.write(self._redactor.text(held))
        self._stream.flush()

    def close(self) -> None:
        """Pass on what is held, then close the stream."""
        self.flush()
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # isatty, encoding, fileno: as the stream itself says


def _kept(match: re.Match[str]) -> str:
    return match.groupdict().get("keep", "") + REDACTED


def _spellings(secret: str) -> Iterator[str]:
    """The ways in which this secret may turn up, itself first."""
    for text in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        # Once more, for a text that is quoted inside a quoted text: JSON in a JSON string, a repr in a traceback.
        yield from (text, json.dumps(text)[1:-1], text.replace("/", "\\/"))
        markup = escape(text)
        yield from (markup, escape(text, quote=False))
        yield markup.replace("&#x27;", "&#39;").replace("&quot;", "&#34;")  # as Jinja writes them
    yield from (repr(secret)[1:-1], ascii(secret)[1:-1])
    yield repr(f"'{secret}\"")[3:-2]  # as in a longer text that has both kinds of quotes
    for url in (quote(secret), quote(secret, safe=""), quote_plus(secret)):
        yield from (url, re.sub("%..", lambda code: code[0].lower(), url))
    yield from _base64(secret.encode("utf-8", "surrogatepass"))


def _base64(secret: bytes) -> Iterator[str]:
    """The secret by itself, and the characters that encode nothing else wherever it starts in a longer text."""
    for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
        alone = encode(secret).decode()
        yield from (alone, alone.rstrip("="))
        for shift, first in enumerate((0, 2, 3)):  # those before `first` hold bits of what precedes it
            whole = encode(bytes(shift) + secret).decode()
            last = len(whole) if whole[-1] != "=" else len(whole.rstrip("=")) - 1  # and so at the end
            if last - first >= 6:  # fewer could be anybody's
                yield whole[first:last]

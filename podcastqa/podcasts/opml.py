"""An OPML file is a list of subscriptions: each outline that names a feed is a show, whatever else it lacks.

Nothing is fetched: an address is only kept here.
"""

from __future__ import annotations

import re

from podcastqa.errors import Misuse
from podcastqa.podcasts.found import Saved, shortened

SOURCE = "OPML"
#: Nobody follows more; a file that says so was made to hurt.
_MOST_FEEDS = 20_000
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)""")


def read_opml(name: str, content: bytes) -> tuple[list[Saved], list[str]]:
    """The shows, and what cannot be used of the file; raises Misuse where it is no OPML."""
    import listparser

    # As bytes: a text that begins like an address would be fetched.
    text = _text(content)
    feeds = listparser.parse(text.encode(errors="replace")).feeds
    if not feeds and "<opml" not in text.lower():
        raise Misuse(f"{name} is not an OPML file.", next_step="Export your subscriptions from your podcast app.")
    if len(feeds) > _MOST_FEEDS:
        raise Misuse(f"{name} holds {len(feeds):,} feeds; more than {_MOST_FEEDS:,} are not taken.")
    saved, problems = [], []
    for feed in feeds:
        url = str(feed["url"]).strip()
        if url.lower().startswith(("http://", "https://")):
            saved.append(Saved(SOURCE, show=shortened(str(feed.get("title") or "")), feed_url=shortened(url)))
        else:
            problems.append(f"{name}: {url[:80]!r} is no web address; it is left out")
    return saved, problems


def _text(content: bytes) -> str:
    """As the file says it is encoded, else as UTF-8; what cannot be read stands as a question mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    said = _DECLARED.match(content[:200].removeprefix(b"\xef\xbb\xbf"))
    plain = content.decode("utf-8-sig", errors="replace")
    try:
        text = content.decode(said.group(1).decode(), errors="replace") if said else plain
    except (LookupError, UnicodeError):
        return plain
    return text if "<opml" in text.lower() else plain  # some say utf-16 of what is not

"""Text for a terminal. Names and messages may come out of files, and a terminal obeys control characters."""

from __future__ import annotations

LONGEST = 2000
"""Characters of one text."""


def shown(text: object) -> str:
    """A text in one line of at most LONGEST characters, in which nothing but printable characters is left: the others are
    escaped as Python escapes them, \\x1b or \\u202e."""
    given = str(text)
    cut = given[:LONGEST]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in cut)
    return safe if len(given) <= LONGEST else f"{safe} ... ({len(given) - LONGEST:,} characters more)"

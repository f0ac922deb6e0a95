"""A request's query and form fields, and names in its path.

`urllib.parse` would do, but costs each rank a megabyte (with `ipaddress`) if imported at the start, and cannot be
imported later: a worker whose Python is on a file system that hangs must still show its stacks.
"""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


def unquoted(text: str) -> str:
    """Return text with its %XX decoded as UTF-8; invalid bytes are replaced."""
    return _ESCAPED.sub(_decoded, text) if "%" in text else text


def pairs_of(query: str, most: int) -> list[tuple[str, str]]:
    """Return names and values in order, including blank values.

    Raises:
        ValueError: there are more than `most`.
    """
    if query.count("&") >= most:
        raise ValueError(f"more than {most} fields")
    found = []
    for field in query.split("&"):
        if field:
            name, _, value = field.replace("+", " ").partition("=")
            found.append((unquoted(name), unquoted(value)))
    return found


def _decoded(escaped: re.Match[str]) -> str:
    return bytes.fromhex(escaped[0].replace("%", "")).decode("utf-8", "replace")

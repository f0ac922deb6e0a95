"""Text that people read and type: control characters, time spans, HOST:PORT."""

from __future__ import annotations

import re

# C0 and C1 controls, DEL, bidirectional overrides, line separators and lone surrogates:
# anything that could move the cursor, recolor the screen, reorder a line or break the output's encoding.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


# Characters of host names and of IPv4 and IPv6 addresses with a zone; none that a shell or a URL could misread.
HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_IN_BRACKETS = re.compile(r"\[([^\]]*)\]:(\d{1,5})")
_PLAIN = re.compile(r"([^:\[\]]*):(\d{1,5})")


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """Return `text` with every control character replaced by a visible escape (``\\x1b``).

    Args:
        text: anything from a worker, a file or a store.
        keep_newlines: keep line feeds and tabs, for multi-line text.
    """

    def show(match: re.Match[str]) -> str:
        char = match[0]
        if keep_newlines and char in "\n\t":
            return char
        code = ord(char)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _UNSAFE.sub(show, text)


def duration(seconds: float) -> str:
    """Return a time span as every screen and message writes it: ``0.87ms``, ``3.8s``, ``45s``, ``3m20s``, ``2h05m``."""
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.3g}ms"
    if seconds < 60:
        return f"{min(seconds, 59.9):.1f}".removesuffix(".0") + "s"
    whole = int(seconds)
    for size, unit, below, below_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{unit}" + (f"{rest:02}{below_unit}" if rest else "")
    raise AssertionError(seconds)


def host_port(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_host_port(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: no port, a port outside 1 to 65535, or a host with invalid characters.
    """
    match = _IN_BRACKETS.fullmatch(text) or _PLAIN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not HOST:PORT; write node1:25000, or [::1]:25000 for IPv6")
    host, port = match[1], int(match[2])
    if not HOST.fullmatch(host) or host.startswith("-"):
        raise ValueError(f"{host!r} is not a host name or an address")
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is not a TCP port: 1 to 65535")
    return host, port

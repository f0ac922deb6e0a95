"""Text from workers made safe for a terminal."""

from __future__ import annotations

import re

# C0 and C1 controls, DEL, bidirectional overrides, line separators and lone surrogates:
# what could move the cursor, recolour the screen, reorder a line or break the output's encoding.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """Return `text` with every control character shown as an escape (``\\x1b``) instead of sent raw.

    Args:
        text: anything a worker, a file or a store has sent.
        keep_newlines: leave line feeds and tabs as they are, for text of several lines.
    """

    def show(match: re.Match[str]) -> str:
        char = match[0]
        if keep_newlines and char in "\n\t":
            return char
        code = ord(char)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _UNSAFE.sub(show, text)

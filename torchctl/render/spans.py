"""Lines of styled text: colored on a terminal and plain in a pipe, which does not load rich."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from typing import IO

from torchctl.text import printable

Span = tuple[str, str]  # text and rich style
Line = list[Span]

_PIPE_WIDTH = 200


def line_width(file: IO[str] | None = None) -> int:
    """Return how many columns a line may have: the terminal's, COLUMNS, or 200 for a pipe."""
    out = file or sys.stdout
    if out.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return max(20, shutil.get_terminal_size().columns)
    return _PIPE_WIDTH


def print_lines(lines: Iterable[Line], file: IO[str] | None = None) -> None:
    """Print lines without cutting them, because they already fit the width."""
    out = file or sys.stdout
    if not out.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        out.writelines(plain(line) + "\n" for line in lines)
        out.flush()
        return
    from rich.text import Text

    from torchctl.render.console import console

    screen = console(out)
    for line in lines:
        screen.print(Text.assemble(*((printable(text), style) for text, style in line)), soft_wrap=True)


def plain(line: Line) -> str:
    """Return only a line's text, control characters escaped."""
    return printable("".join(text for text, _ in line)).rstrip()


def shorten(text: str, room: int) -> str:
    """Return text cut to `room` characters, with ``…`` at the cut."""
    return text if len(text) <= room else text[: max(0, room - 1)] + "…"


def shorten_path(path: str, room: int) -> str:
    """Return a path cut at the front, because its end says more; the cut is before a whole name if one fits."""
    if len(path) <= room:
        return path
    end = path[len(path) - max(0, room - 1) :]
    return "…" + end[max(end.find("/"), 0) :]

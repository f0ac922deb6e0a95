"""The rich console, which treats everything that a worker sends as text, never as markup."""

from __future__ import annotations

import os
import sys
from typing import IO

from rich.console import Console
from rich.text import Text

from torchctl.text import printable

_PIPE_WIDTH = 200  # a pipe has no visible edge, and a cropped cell loses information


def console(file: IO[str] | None = None) -> Console:
    """Return a console on stdout that respects NO_COLOR, the terminal's width and, for a pipe, COLUMNS."""
    out = file or sys.stdout
    width = None if out.isatty() or os.environ.get("COLUMNS", "").isdigit() else _PIPE_WIDTH
    return Console(file=out, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def text(value: object, style: str = "") -> Text:
    """Return a cell or line with anything a worker sent, control characters escaped."""
    return Text(printable(str(value)), style=style)

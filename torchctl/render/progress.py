"""A progress bar: one line on a terminal's stderr that is cleared at the end."""

from __future__ import annotations

import shutil
import sys
import time
from typing import IO

from torchctl.text import printable

_QUIET_S = 0.3  # anything shorter needs no bar
_BAR = 20


class ProgressLine:
    """Draws ``[#####     ] 940 of 1024, waiting for rank 17``.

    Args:
        out: a terminal.
    """

    def __init__(self, out: IO[str] | None = None) -> None:
        self._out = out or sys.stderr
        self._began = time.monotonic()
        self._drawn = False

    def update(self, done: int, total: int, slowest: str) -> None:
        """Draw the line, unless asking has only just begun."""
        if time.monotonic() - self._began < _QUIET_S:
            return
        filled = _BAR * done // max(total, 1)
        text = f"[{'#' * filled}{' ' * (_BAR - filled)}] {done} of {total}"
        text += f", waiting for {printable(slowest)}" if slowest else ""
        self._out.write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
        self._out.flush()
        self._drawn = True

    def close(self) -> None:
        """Clear the line."""
        if self._drawn:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._drawn = False

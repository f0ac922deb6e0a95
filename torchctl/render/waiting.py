"""A progress line on stderr: rewritten in place on a terminal, otherwise one line per change."""

from __future__ import annotations

import os
import sys

import click

from torchctl.text import duration

_QUIET_S = 10.0  # without a terminal, repeat an unchanged state this often, so that a log shows activity


class WaitLine:
    """Shows a state with the elapsed time."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._terminal = self._stream.isatty()
        self._shown = ""
        self._shown_s = 0.0
        self._width = 0

    def show(self, state: str, elapsed_s: float) -> None:
        """Show `state`, which must be printable, after `elapsed_s` seconds."""
        if self._terminal:
            text = _clipped(state, f", {duration(round(elapsed_s))}", _columns(self._stream.fileno()) - 1)
            self._stream.write("\r" + text.ljust(self._width))
            self._stream.flush()
            self._width = len(text)
        elif state != self._shown or elapsed_s - self._shown_s >= _QUIET_S:
            click.echo(f"{state}, {duration(round(elapsed_s))}", err=True)
            self._shown, self._shown_s = state, elapsed_s

    def close(self) -> None:
        """End the line, if there is one."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0


def _columns(descriptor: int) -> int:
    """Return the width of the terminal; a terminal that does not know its width says 0."""
    return os.get_terminal_size(descriptor).columns or 80


def _clipped(state: str, elapsed: str, columns: int) -> str:
    """Return one line that the screen does not wrap, because a wrapped line cannot be overwritten."""
    room = columns - len(elapsed)
    if len(state) > room:
        state = f"{state[: max(0, room - 3)]}..."
    return (state + elapsed)[:columns]

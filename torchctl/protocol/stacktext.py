"""The text format of a process's stacks: faulthandler's, which torch's server and ours send too.

The patterns are strings, not compiled: every rank imports this to write stacks, but only the command line reads them.

Source: CPython's Python/traceback.c, _Py_DumpTracebackThreads (3.11 to 3.14).
"""

from __future__ import annotations

JSON_SCHEMA = "torchctl.stacks/1"  # the other format in which our server sends stacks
MAIN_THREAD = "MainThread"
OWN_THREADS = "torchctl-"  # prefix of the names of the server's own threads

# These match whole lines. Only our server and Python 3.14 name threads.
HEADING = r"(?:Current thread|Thread) 0x([0-9a-fA-F]{1,16})(?: \[(.*)\])? \(most recent call first\):"
FRAME = r'  File "(.*)", line (\d{1,9}|\?\?\?) in (.+)'
FRAMES_CUT = "  ..."  # the outer frames of the thread above are omitted
CALLS_LINE = "# torchctl.calls "  # from our server, on request; the rest of the line is the document of `calls`
CALLS_PARAMETER = "calls"  # "true" requests that line
THREADS_CUT = "..."  # at the end: more threads, the oldest ones, are omitted


def heading(ident: int, name: str, *, current: bool) -> str:
    """Return the heading above a thread's frames; `name` may be ""."""
    label = f" [{name}]" if name else ""
    return f"{'Current thread' if current else 'Thread'} 0x{ident:016x}{label} (most recent call first):"


def frame(file: str, line: int | None, function: str) -> str:
    """Return the text line of one frame; `line` is None if unknown."""
    return f'  File "{file}", line {"???" if line is None else line} in {function}'

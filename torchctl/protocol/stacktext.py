"""The text form of a process's stacks: faulthandler's grammar, which torch's server and ours send too.

The patterns are strings, not compiled: every rank imports this to write stacks, but only the command line reads them.

Source: CPython's Python/traceback.c, _Py_DumpTracebackThreads (3.11 to 3.14).
"""

from __future__ import annotations

JSON_SCHEMA = "torchctl.stacks/1"  # of the other form in which our server writes stacks
MAIN_THREAD = "MainThread"
OWN_THREADS = "torchctl-"  # the names of the server's own threads begin with it

# Of whole lines. Only our server and Python 3.14 name the threads.
HEADING = r"(?:Current thread|Thread) 0x([0-9a-fA-F]{1,16})(?: \[(.*)\])? \(most recent call first\):"
FRAME = r'  File "(.*)", line (\d{1,9}|\?\?\?) in (.+)'
FRAMES_CUT = "  ..."  # the outer frames of the thread above are left out
CALLS_LINE = "# torchctl.calls "  # of our server, if asked for; the rest of the line is the document of `calls`
CALLS_PARAMETER = "calls"  # by which it is asked for: "true"
THREADS_CUT = "..."  # at the end: more threads are left out, the oldest ones


def heading(ident: int, name: str, *, current: bool) -> str:
    """Return the line above a thread's frames; `name` may be ""."""
    label = f" [{name}]" if name else ""
    return f"{'Current thread' if current else 'Thread'} 0x{ident:016x}{label} (most recent call first):"


def frame(file: str, line: int | None, function: str) -> str:
    """Return the line of one frame; `line` is None if it is not known."""
    return f'  File "{file}", line {"???" if line is None else line} in {function}'

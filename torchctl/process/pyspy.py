"""py-spy, which reads a process's stacks from outside: where to find it, how to call it, what its errors mean.

Callers start it in different ways: the command line as a child, the sentinel without waiting for it, and the worker's
own server detached, since a trainer must not find a child that it did not start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

TIMEOUT_S = 10.0  # for a dump without native frames, on a busy machine
UNNOTICED = ("--nonblocking", "--full-filenames")  # do not stop the process
_MAX_CHARS = 300


def find_pyspy() -> str | None:
    """Return py-spy's path, beside the running interpreter or else on PATH, or None if it is not installed."""
    beside = [os.path.dirname(sys.executable)] if sys.executable else []
    for folder in beside + os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, "py-spy")  # not shutil.which: shutil imports three compressors into a trainer
        if folder and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def dump_command(program: str, pid: int, options: Sequence[str] = UNNOTICED) -> list[str]:
    """Return the command that writes a process's stacks to stdout."""
    return [program, "dump", *options, "--pid", str(pid)]


def complaint(text: str) -> str:
    """Return py-spy's error message as one line, without its own stack trace, which explains nothing."""
    return " ".join(text.partition("Stack backtrace:")[0].split())[:_MAX_CHARS]

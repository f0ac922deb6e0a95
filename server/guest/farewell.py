"""The last word of a worker whose main function has raised; the sentinel cannot write it, since it sees a clean exit.

The process may yet survive the exception: readers of last words ignore those of processes that are still alive.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

from torchctl.process import lastword
from torchctl.protocol import runtimedir
from torchctl.server.guest import identity, step


def keep(error: BaseException, address: str) -> None:
    """Save what ends this process for `torchctl ps`; do nothing on a clean exit or if it cannot be saved.

    Args:
        address: the server's, as the operator would write it.
    """
    cause = in_words(error)
    if not cause:
        return
    with contextlib.suppress(Exception):
        where, last = identity.place(), step.last
        word = lastword.LastWord(
            os.getpid(),
            time.time(),
            cause,
            where.rank,
            where.world_size,
            identity.job_id(),
            socket.gethostname(),
            None if last is None else last[0],
            endpoint=address,
        )
        lastword.write(os.path.abspath(runtimedir.runtime_dir()), word)


def in_words(error: BaseException) -> str:
    """Return "exit code 3" for `sys.exit(3)`, "uncaught ValueError" for an exception, or "" for a clean exit."""
    if isinstance(error, GeneratorExit):
        return ""
    if not isinstance(error, SystemExit):
        return f"uncaught {type(error).__name__}"
    code = error.code
    if code is None or code == 0:
        return ""
    return f"exit code {code & 0xFF if isinstance(code, int) else 1}"

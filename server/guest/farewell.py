"""The last word of a worker whose main function has raised: it says it itself, as its sentinel sees an orderly end.

Whether the process ends by that is not known yet: who reads last words passes over those of processes that live on.
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
    """Keep what ends this process, for `torchctl ps`; quietly nothing where it ends in order or nothing can be kept.

    Args:
        address: of the server, as the operator would write it.
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
    """Return "exit code 3" for `sys.exit(3)`, "uncaught ValueError" for an exception; "" for an end in order."""
    if isinstance(error, GeneratorExit):
        return ""
    if not isinstance(error, SystemExit):
        return f"uncaught {type(error).__name__}"
    code = error.code
    if code is None or code == 0:
        return ""
    return f"exit code {code & 0xFF if isinstance(code, int) else 1}"

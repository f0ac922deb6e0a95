"""The last word of a worker whose main function has raised or returned: the sentinel sees only a clean exit.

How this works: nothing here runs code of the job, which may hang or touch a device. So an exception's message is read
only if Python itself writes it, from plain values. Frames are kept as they are: the reader knows which are the user's.
The process may yet survive an exception: readers of last words ignore those of processes that are still alive.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from types import TracebackType

from torchctl.process import lastword
from torchctl.process.lastword import LastWord, Raised
from torchctl.process.samples import start_ticks
from torchctl.process.started import start_time
from torchctl.protocol import runtimedir
from torchctl.protocol.masking import masked_text
from torchctl.server.guest import identity, step

_PLAIN = (str, int, float, bool, type(None))
_WRITTEN_IN_C = type(BaseException.__str__)
_MAX_NAME = 200  # characters of a type, a function
_MAX_FILE = 1000  # characters of a path
_MOST_HANDLED, _MAX_HANDLED = 3, 200  # exceptions, and characters of their messages


def keep(error: BaseException | None, address: str) -> None:
    """Save how the main function ended, for `torchctl ps` and `torchctl diagnose`; do nothing if that fails.

    Args:
        error: what it raised; None if it returned. An orderly end is kept only of a rank among others, since they may
            still need it.
        address: the server's, as the operator would write it.
    """
    now = time.time()
    cause = "exit code 0" if error is None else in_words(error)
    if isinstance(error, GeneratorExit):
        return
    with contextlib.suppress(Exception):
        where, last = identity.place(), step.last
        orderly = cause == "exit code 0"
        if orderly and (where.rank is None or (where.world_size or 1) < 2):
            return
        exits = error is None or isinstance(error, SystemExit)
        interrupted = isinstance(error, KeyboardInterrupt)
        word = LastWord(
            os.getpid(),
            now,
            cause,
            where.rank,
            where.world_size,
            identity.job_id(),
            socket.gethostname(),
            None if last is None else last[0],
            endpoint=address,
            exit_code=_code(error) if exits else None if interrupted else 1,
            signal="SIGINT" if interrupted else "",
            exception="" if exits else type(error).__name__[:_MAX_NAME],
            message="" if error is None else message_of(error),
            handled=() if error is None or orderly else handled_by(error),
            frames=() if error is None or orderly else frames_of(error.__traceback__),
            started=start_time(start_ticks(os.getpid())),
            attempt=identity.attempt(),
            orderly=orderly,
            witness="worker",
        )
        lastword.write(os.path.abspath(runtimedir.runtime_dir()), word)


def in_words(error: BaseException) -> str:
    """Return "exit code 3" for `sys.exit(3)`, or "uncaught ValueError" for an exception."""
    if isinstance(error, SystemExit):
        return f"exit code {_code(error)}"
    return f"uncaught {type(error).__name__[:_MAX_NAME]}"


def message_of(error: BaseException) -> str:
    """Return an exception's message, cut and without secrets; "" if there is none or it takes the job's code to tell.

    `sys.exit("why")` has one too.
    """
    given = BaseException.args.__get__(error)  # type: ignore[attr-defined]
    if isinstance(error, SystemExit):
        given = tuple(one for one in given if type(one) is str)
    plain = all(type(one) in _PLAIN for one in given)
    try:
        if plain and type(type(error).__str__) is _WRITTEN_IN_C:
            text = str(error) if given else ""
        else:
            text = next((one for one in given if type(one) is str), "")
    except Exception:  # an int with too many digits, for example
        return ""
    return masked_text(text[: lastword.MAX_MESSAGE])[: lastword.MAX_MESSAGE]


def handled_by(error: BaseException) -> tuple[tuple[str, str], ...]:
    """Return type and message of the exceptions that were being handled when an exception was raised, latest first.

    A rank that exits since it has lost another shows there what it has lost.
    """
    chain: list[BaseException] = [error]
    while len(chain) <= _MOST_HANDLED:
        before = chain[-1].__cause__ or chain[-1].__context__
        if before is None or any(before is one for one in chain):  # no __eq__ of the job's
            break
        chain.append(before)
    return tuple((type(one).__name__[:_MAX_NAME], message_of(one)[:_MAX_HANDLED]) for one in chain[1:])


def frames_of(trace: TracebackType | None) -> tuple[Raised, ...]:
    """Return the frames that an exception passed through, innermost first, as many as there is room for."""
    passed = []
    while trace is not None:
        code = trace.tb_frame.f_code
        passed.append(Raised(code.co_filename[-_MAX_FILE:], trace.tb_lineno or 0, code.co_name[:_MAX_NAME]))
        trace = trace.tb_next
    kept: list[Raised] = []
    room = lastword.MAX_FRAMES_BYTES
    for frame in reversed(passed):
        room -= len(frame.file.encode("utf-8", "replace")) + len(frame.function.encode("utf-8", "replace")) + 16
        if room < 0:
            break
        kept.append(frame)
    return tuple(kept)


def _code(error: BaseException | None) -> int:
    """Return the exit code that `SystemExit` or a return leads to."""
    code = error.code if isinstance(error, SystemExit) else None
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1

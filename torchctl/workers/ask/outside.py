"""Inspect processes without a server from outside: stacks from py-spy, identity from /proc.

How this works: a process gets the same questions as a worker. Instead of a reply over a socket, the answer is
py-spy's text or what /proc shows, so both appear on one screen. The process is never stopped (``--nonblocking``).
"""

from __future__ import annotations

import os
import subprocess
import time

from torchctl import protocol
from torchctl.errors import (
    AccessDeniedError,
    DeadlineError,
    HandlerError,
    RefusedError,
    UnreachableError,
    WorkerError,
)
from torchctl.process.memory import ControlGroup
from torchctl.process.pyspy import complaint, dump_command, find_pyspy
from torchctl.process.reasons import reasons
from torchctl.process.samples import sample, start_ticks
from torchctl.process.sockets import listening_path
from torchctl.process.started import age_s, start_time
from torchctl.protocol.identity import MAX_JOB_CHARS, Identity
from torchctl.protocol.info import info_document
from torchctl.protocol.launchers import job_in, place_in
from torchctl.text import duration
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import Request
from torchctl.workers.endpoint import Endpoint


def send(endpoint: Endpoint, request: Request, deadline: float) -> Reply:
    """Answer a request on behalf of a process; only stacks and `info` are available from outside.

    Raises:
        WorkerError: the process does not exist or may not be read, py-spy is missing or failed, or time ran out.
    """
    assert endpoint.pid is not None
    identity = identity_of(endpoint)
    began = time.monotonic()
    if request.handler == "dump_traceback":
        body = _pyspy(endpoint, deadline)
    elif request.handler == "info":
        body = _info(identity, start_ticks(endpoint.pid))
    else:
        what = request.handler or "a list of handlers"
        words = f"is read from outside, which cannot provide {what}"
        raise HandlerError(words, endpoint=str(endpoint), status=501, hint=_instead(endpoint.pid))
    elapsed = time.monotonic() - began
    now = sample(endpoint.pid, [endpoint.pid])
    found = reasons(now, now, 0, (ControlGroup(), ControlGroup()))
    if found:
        # It could be read from outside, but it is blocked: do not count it as running.
        identity = identity._replace(degraded="; ".join(one.text for one in found))
    return Reply(200, body, "", elapsed, identity, time.time())


def _instead(pid: int) -> str:
    """Return a hint for what is not available from outside."""
    path = listening_path(pid)
    if path:
        return f"the process listens at {path}: give that with --socket instead of --pid"
    return (
        "`torchctl traceback`, `ps`, `collect` and `diagnose` can use --pid; the rest requires a server in the process"
    )


def identity_of(endpoint: Endpoint) -> Identity:
    """Return a process's identity according to its environment.

    Raises:
        RefusedError: there is no such process.
    """
    try:
        with open(f"/proc/{endpoint.pid}/environ", "rb") as file:
            pairs = (line.partition(b"=") for line in file.read(1 << 20).split(b"\0"))
            settings = {name.decode("latin-1"): value.decode("utf-8", "replace") for name, _, value in pairs}
    except FileNotFoundError:
        raise RefusedError("does not exist", endpoint=str(endpoint), hint="") from None
    except OSError:
        return Identity(endpoint.rank, endpoint.pid) if endpoint.rank is not None else Identity(pid=endpoint.pid)
    where, job = place_in(settings), job_in(settings)
    rank = endpoint.rank if where.rank is None else where.rank
    return Identity(rank, endpoint.pid, where.world_size, job[:MAX_JOB_CHARS] if job else None)


def _pyspy(endpoint: Endpoint, deadline: float) -> bytes:
    assert endpoint.pid is not None
    program = find_pyspy()
    if program is None:
        hint = "pip install 'torchctl[pyspy]'"
        raise UnreachableError(
            "cannot be read from outside: py-spy is not installed", endpoint=str(endpoint), hint=hint
        )
    arguments = dump_command(program, endpoint.pid)
    began = time.monotonic()
    try:
        left = max(0.01, deadline - began)
        result = subprocess.run(arguments, capture_output=True, stdin=subprocess.DEVNULL, timeout=left)
    except subprocess.TimeoutExpired:
        took = time.monotonic() - began
        raise DeadlineError(f"could not be read by py-spy within {duration(took)}", endpoint=str(endpoint)) from None
    if result.returncode == 0:
        return result.stdout
    raise _refused(endpoint, result.stderr.decode("utf-8", "replace"))


def _refused(endpoint: Endpoint, text: str) -> WorkerError:
    words = complaint(text)
    if "ermission" in text:
        hint = "py-spy needs ptrace rights: run as root, or with CAP_SYS_PTRACE, or see kernel.yama.ptrace_scope"
        return AccessDeniedError(f"cannot be read: {words}", endpoint=str(endpoint), hint=hint)
    return UnreachableError(f"could not be read by py-spy: {words}", endpoint=str(endpoint), hint="")


def _info(identity: Identity, ticks: int | None) -> bytes:
    document = info_document(
        identity,
        host=os.uname().nodename,
        time=time.time(),
        start_time=start_time(ticks),
        uptime_s=age_s(ticks),
        server_version="none",
    )
    return protocol.compact_json(document).encode()

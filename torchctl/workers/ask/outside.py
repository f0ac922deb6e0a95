"""Processes without a server, asked from outside: stacks by py-spy, identity from /proc.

How this works: a process is asked the same questions as a worker. Where a worker would answer over a socket, py-spy's
text or what /proc tells stands in, so both appear on one screen. The process is never stopped (``--nonblocking``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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
from torchctl.process.reasons import reasons
from torchctl.process.samples import sample
from torchctl.protocol.identity import MAX_JOB_CHARS, Identity
from torchctl.protocol.launchers import job_in, place_in
from torchctl.workers.ask.question import Request
from torchctl.workers.ask.reply import Reply
from torchctl.workers.endpoint import Endpoint


def send(endpoint: Endpoint, request: Request, deadline: float) -> Reply:
    """Answer a request in the place of a process; only stacks and `info` can be had from outside.

    Raises:
        WorkerError: there is no such process, it may not be read, py-spy is missing or failed, or the deadline came.
    """
    assert endpoint.pid is not None
    identity = identity_of(endpoint)
    began = time.monotonic()
    if request.handler == "dump_traceback":
        body = _pyspy(endpoint, deadline)
    elif request.handler == "info":
        body = _info(endpoint, identity)
    else:
        what = request.handler or "its handlers"
        raise HandlerError(f"has no server, which {what} would need", endpoint=str(endpoint), status=501)
    elapsed = time.monotonic() - began
    now = sample(endpoint.pid, [endpoint.pid])
    found = reasons(now, now, 0, (ControlGroup(), ControlGroup()))
    if found:
        # Read from outside it stands still all the same: not one of those that run.
        identity = identity._replace(degraded="; ".join(one.text for one in found))
    return Reply(200, body, "", elapsed, identity, time.time())


def identity_of(endpoint: Endpoint) -> Identity:
    """Return what a process's environment says of its place.

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
    program = os.path.join(os.path.dirname(sys.executable), "py-spy")
    found = program if os.access(program, os.X_OK) else shutil.which("py-spy")
    if found is None:
        hint = "pip install 'torchctl[pyspy]'"
        raise UnreachableError("has no server, and py-spy is not installed", endpoint=str(endpoint), hint=hint)
    arguments = [found, "dump", "--nonblocking", "--full-filenames", "--pid", str(endpoint.pid)]
    began = time.monotonic()
    try:
        left = max(0.01, deadline - began)
        result = subprocess.run(arguments, capture_output=True, stdin=subprocess.DEVNULL, timeout=left)
    except subprocess.TimeoutExpired:
        took = time.monotonic() - began
        raise DeadlineError(f"was not read by py-spy within {took:.1f} s", endpoint=str(endpoint)) from None
    if result.returncode == 0:
        return result.stdout
    raise _refused(endpoint, result.stderr.decode("utf-8", "replace"))


def _refused(endpoint: Endpoint, text: str) -> WorkerError:
    words = " ".join(text.partition("Stack backtrace:")[0].split())[:300]  # py-spy's own stack explains nothing
    if "ermission" in text:
        hint = "py-spy needs ptrace rights: run as root, or with CAP_SYS_PTRACE, or see kernel.yama.ptrace_scope"
        return AccessDeniedError(f"may not be read: {words}", endpoint=str(endpoint), hint=hint)
    return UnreachableError(f"could not be read by py-spy: {words}", endpoint=str(endpoint), hint="")


def _info(endpoint: Endpoint, identity: Identity) -> bytes:
    started = None
    try:
        with open(f"/proc/{endpoint.pid}/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="utf-8") as file:
            started = float(file.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        pass
    document = {
        "schema": "torchctl.info/1",
        "rank": identity.rank,
        "world_size": identity.world_size,
        "job_id": identity.job_id,
        "pid": identity.pid,
        "host": os.uname().nodename,
        "uptime_s": started,
        "server_version": "none",
    }
    return protocol.compact_json(document).encode()
